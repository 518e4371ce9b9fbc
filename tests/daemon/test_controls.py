"""The owner's controls: settings that change while a node runs, and rules that pause it."""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atoll.daemon import controls
from atoll.daemon.config import LIVE, MAX_CONNECTIONS, Config, Settings, load
from atoll.daemon.controls import CAPS, CONDITIONS, HOURS, Controls
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.reading import WhileOpen
from atoll.daemon.status import State
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.view import View
from atoll.peers.line import FRAMING, Line
from atoll.peers.links import MAX_LINKS
from atoll.web_ui import owner_types
from atoll.web_ui.interface import CommandError

NOON_S = 4 * 86_400.0 + 12 * 3600
"""Monday."""


class Island:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.held = False
        self.threads: list[int] = []
        self.memory: list[int] = []
        self.paused: str | None = None
        self.paused_until = None
        self.finishing = False

    def hold(self, held: bool) -> None:
        self.held = held

    def use_threads(self, count: int) -> None:
        self.threads.append(count)

    def resume(self) -> None:
        self.paused = None

    on_gpu = False

    def cap_memory(self, cap_bytes: int) -> None:
        self.memory.append(cap_bytes)


class Store:
    def __init__(self) -> None:
        self.caps: list[int] = []

    def check_cap(self, cap_bytes: int) -> None:
        if 0 < cap_bytes < 1000:
            raise AtollError(Exit.PREFLIGHT, "data_cap", "No room.", "Set data_cap to 1000 or more.")

    def limit(self, cap_bytes: int) -> None:
        self.caps.append(cap_bytes)


class Rig:
    """A node that is nothing but its controls, and what they act upon."""

    def __init__(self, root: Path, environ: dict[str, str] | None = None, **arguments: Any) -> None:
        self.now, self.time_s = 0.0, NOON_S
        self.battery: bool | None = None
        self.load: float | None = None
        self.gpu_programs: int | None = None
        self.days: dict[int, int] = {}
        self.said: list[tuple[str, str]] = []
        folder = DataDir(root)
        folder.create()
        config = load(folder.config, environ or {}, arguments)
        self.line, self.store, self.island = Line(), Store(), Island()
        self.node: Any = SimpleNamespace(
            folder=folder,
            events=SimpleNamespace(emit=lambda kind, text, **_: self.said.append((kind, text))),
            config=config,
            settings=config.settings,
            use=self.use,
            island=self.island,
            neighbours=None,
            network=SimpleNamespace(host=SimpleNamespace(line=self.line)),
            traffic=SimpleNamespace(days=lambda: self.days),
            reader=SimpleNamespace(store=self.store, fetched=None),
            manifest=SimpleNamespace(body=SimpleNamespace(parameters=10**6)),
            trains_by_itself=True,
            state=State.TRAINING,
            reason="",
            recovery=None,
            finder=None,
            driver=SimpleNamespace(state=SimpleNamespace(head=SimpleNamespace(version=3))),
        )
        self.controls = self.node.controls = Controls(
            self.node,
            monotonic=lambda: self.now,
            clock=lambda: self.time_s,
            wall=lambda moment_s: datetime(1970, 1, 1) + timedelta(seconds=moment_s),
            battery=lambda: self.battery,
            load=lambda: self.load,
            gpu_programs=lambda: self.gpu_programs,
        )

    def use(self, config: Config) -> None:
        self.node.config, self.node.settings = config, config.settings

    def pass_(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now, self.time_s = self.now + 1, self.time_s + 1
            for measure in self.controls.measures:
                measure.read()
            self.controls.look()

    @property
    def codes(self) -> list[str]:
        return [entry["code"] for entry in self.controls.paused_by()]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    (tmp_path / "config.toml").write_text('# mine\nup = "10Mbit"\n')
    return Rig(tmp_path)


async def test_caps_hold_at_once_and_lastingly(rig: Rig) -> None:
    done = await rig.controls.change({"up": "20Mbit", "down": "", "threads": "3", "data_cap": 5000})
    assert done["changed"] == {"up": "20Mbit", "down": "", "threads": 3, "data_cap": 5000}
    assert done["sentence"] == (
        'Set up = 20Mbit, down = "", threads = 3, data_cap = 5000. '
        "The trainer uses so many threads from its next step on."
    )
    assert rig.line.up.slice_bytes(0) and rig.line.caps.up_bps == 2e7 and not rig.line.down.active
    assert rig.line.up._cap.bytes_per_s == pytest.approx(2e7 / 8 / FRAMING)
    assert rig.island.threads == [3] and rig.store.caps == [5000]
    again = load(rig.node.folder.config, {}, {})
    assert (again.settings.up, again.settings.threads, again.origins["threads"]) == (
        "20Mbit",
        3,
        "config.toml",
    )
    assert rig.node.folder.config.read_text().startswith("# mine\n")
    assert [kind for kind, _ in rig.said] == ["settings"]


async def test_fewer_links_at_once_and_another_device_at_the_next_start(rig: Rig) -> None:
    most: list[int] = []
    rig.node.neighbours = SimpleNamespace(links=SimpleNamespace(limit=most.append))
    done = await rig.controls.change({"connections": "32", "device": "cpu"})
    assert most == [32] and done["changed"] == {"connections": 32, "device": "cpu"}
    assert done["sentence"] == (
        "Set connections = 32, device = cpu. The device takes effect at the next start."
    )
    again = load(rig.node.folder.config, {}, {}).settings
    assert (again.connections, again.device) == (32, "cpu")
    assert Settings().connections == MAX_CONNECTIONS == MAX_LINKS, "what a round in a large swarm needs"


async def test_a_cap_on_memory_holds_at_once_where_it_can(rig: Rig) -> None:
    assert (await rig.controls.change({"memory": "1.5GiB"}))["sentence"] == "Set memory = 1.5GiB."
    await rig.controls.change({"memory": ""})
    assert rig.island.memory == [3 << 29, 0]
    rig.island.on_gpu = True
    assert "It trains on a GPU" in (await rig.controls.change({"memory": "2GiB"}))["sentence"]
    rig.node.trains_by_itself = False
    assert "Your own training script" in (await rig.controls.change({"memory": "3GiB"}))["sentence"]
    assert rig.island.memory == [3 << 29, 0, 2 << 30]
    with pytest.raises(CommandError, match="128MiB or more"):
        await rig.controls.change({"memory": "4MiB"})


async def test_the_rate_of_states_and_texts_changes_at_once(rig: Rig) -> None:
    rates: list[int] = []
    rig.node.recovery = SimpleNamespace(limit=rates.append, fetched=None, retry_at=None)
    await rig.controls.change({"state_rate": 1_000_000})
    with pytest.raises(CommandError, match="65536 or more"):
        await rig.controls.change({"state_rate": 10})
    assert rates == [1_000_000]


async def test_as_many_threads_as_suit_the_model(rig: Rig) -> None:
    await rig.controls.change({"threads": 0})
    assert rig.island.threads == [1], "a small one"
    rig.node.trains_by_itself = False
    assert "Your own training script" in (await rig.controls.change({"threads": 2}))["sentence"]


@pytest.mark.parametrize(
    ("given", "code", "word"),
    [
        ({}, "nothing_to_set", "threads"),
        ({"upp": "1Mbit"}, "config_invalid", "'up'"),
        ({"up": "fast"}, "config_invalid", "20Mbit"),
        ({"up": 3}, "config_invalid", "up"),
        ({"up": "20Mbit", "down": "1kbit"}, "config_invalid", "down"),
        ({"threads": -1}, "config_invalid", "1024"),
        ({"threads": 2.5}, "config_invalid", "a whole number"),
        ({"threads": None}, "config_invalid", "a whole number"),
        ({"threads": True}, "config_invalid", "a whole number"),
        ({"gb_per_week": "much"}, "config_invalid", "must be a number"),
        ({"gb_per_week": "nan"}, "config_invalid", "gb_per_week"),
        ({"gb_per_week": -1}, "config_invalid", "gb_per_week"),
        ({"gb_per_week": 10**400}, "config_invalid", "gb_per_week"),
        ({"gb_per_week": "9" * 400}, "config_invalid", "gb_per_week"),
        ({"threads": 10**400}, "config_invalid", "threads"),
        ({"threads": 10**5000}, "config_invalid", "threads"),
        ({"threads": float("inf")}, "config_invalid", "threads"),
        ({"data_cap": 10**400}, "config_invalid", "data_cap"),
        ({"data_cap": "9" * 5000}, "config_invalid", "data_cap"),
        ({"pause_on_load": 10**400}, "config_invalid", "pause_on_load"),
        ({"train_hours": "mo 10-12"}, "config_invalid", "neither"),
        ({"network_hours": "always"}, "config_invalid", "mon-fri"),
        ({"pause_on_load": 101}, "config_invalid", "100"),
        ({"pause_on_battery": "perhaps"}, "config_invalid", "true or false"),
        ({"data_cap": 10}, "data_cap", "1000"),
        ({"port": 1}, "not_live", "config.toml"),
        ({"connections": 0}, "config_invalid", "96"),
        ({"connections": 97}, "config_invalid", "96"),
        ({"device": "abacus"}, "config_invalid", "cuda:N"),
        ({"up": ["20Mbit"]}, "config_invalid", "up"),
    ],
)
async def test_what_is_refused_changes_nothing(rig: Rig, given: dict[str, Any], code: str, word: str) -> None:
    before = rig.node.folder.config.read_bytes()
    with pytest.raises(CommandError) as caught:
        await rig.controls.change(given)
    assert caught.value.code == code and word in f"{caught.value.message} {caught.value.fix}"
    assert rig.node.folder.config.read_bytes() == before
    assert rig.node.settings.up == "10Mbit" and not rig.said and not rig.store.caps


async def test_a_file_that_cant_be_written_changes_nothing(rig: Rig) -> None:
    rig.node.folder.config.write_text("up = \n")
    with pytest.raises(CommandError, match=r"config\.toml"):
        await rig.controls.change({"up": "20Mbit"})
    assert rig.node.settings.up == "10Mbit" and rig.line.caps.up_bps == 0


async def test_a_change_that_nobody_waits_for_any_more_is_carried_out_whole(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, goes_on, write = asyncio.Event(), threading.Event(), controls.write_settings
    loop = asyncio.get_running_loop()

    def slowly(path: Path, values: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(began.set)
        goes_on.wait(30)
        write(path, values)

    monkeypatch.setattr(controls, "write_settings", slowly)
    asked = asyncio.create_task(rig.controls.change({"up": "20Mbit"}))
    await began.wait()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert asked.cancelled() and rig.node.settings.up == "10Mbit"
    goes_on.set()
    await asyncio.gather(*rig.controls._changes)
    assert rig.node.settings.up == "20Mbit" and rig.line.caps.up_bps == 2e7
    assert load(rig.node.folder.config, {}, {}).settings.up == "20Mbit"
    assert rig.said == [("settings", "You set up = 20Mbit.")]


async def test_what_the_command_line_or_the_environment_gives_wins_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {"ATOLL_UP": "5Mbit"}, down="6Mbit")
    done = await rig.controls.change({"up": "20Mbit", "down": "30Mbit", "threads": 1})
    assert "The environment gives up, too, and wins at the next start" in done["sentence"]
    assert "The command line gives down, too" in done["sentence"] and "gives threads" not in done["sentence"]
    assert rig.line.caps.up_bps == 2e7, "until then it holds"
    caps = rig.controls.view()["caps"]
    assert (caps["up"]["origin"], caps["up"]["lasting"]) == ("environment", False)
    assert (caps["threads"]["origin"], caps["threads"]["lasting"]) == ("config.toml", True)


async def test_hours_that_close_pause_with_a_code_and_open_again(rig: Rig) -> None:
    rig.controls.look()
    assert rig.codes == [] and not rig.island.held
    done = await rig.controls.change({"train_hours": "mon 22:00-23:00"})
    assert done["changed"] == {"train_hours": "mon 22:00-23:00"}
    assert rig.codes == ["schedule"] and rig.island.held
    (entry,) = rig.controls.paused_by()
    assert entry["text"] == "It is outside your training hours (mon 22:00-23:00). It resumes at 22:00."
    assert entry["until"] == NOON_S + 10 * 3600
    assert rig.controls.network.is_open
    sentence, _ = View(rig.node).sentence()
    assert sentence.state is State.PAUSED
    assert sentence.text == (
        "Paused: it is outside your training hours (mon 22:00-23:00). It resumes at 22:00."
    )
    rig.time_s = NOON_S + 10 * 3600
    rig.pass_(1)
    assert rig.codes == [] and not rig.island.held
    assert [kind for kind, _ in rig.said] == ["settings", "paused", "resumed"]


async def test_resume_overrides_what_pauses_now(rig: Rig) -> None:
    await rig.controls.change({"train_hours": "mon 22:00-23:00", "pause_on_battery": True})
    assert rig.controls.override()
    assert rig.codes == [] and not rig.island.held and not rig.controls.override()
    (rule,) = [r for r in rig.controls.view()["rules"] if r["active"]]
    assert rule["code"] == "schedule" and rule["overridden"]
    rig.battery = True
    rig.pass_(11)
    assert rig.codes == ["battery"] and rig.island.held
    await rig.controls.change({"train_hours": "mon 23:00-24:00"})
    assert rig.codes == ["schedule", "battery"], "a setting that is new counts"


async def test_resume_is_of_use_where_a_rule_or_the_owner_pauses(rig: Rig) -> None:
    view = View(rig.node)
    view.state = lambda: {"sentence": view.sentence()[0].text}  # type: ignore[method-assign]
    rig.node.driver.machine = SimpleNamespace(situation=lambda now: None)
    await rig.controls.change({"train_hours": "mon 22:00-23:00"})
    rig.island.paused = "you asked for it"
    rig.island.begun, rig.island.trouble, rig.island.restart_at = False, None, None  # type: ignore[attr-defined]
    await view.command("resume", {})
    assert rig.island.paused is None and not rig.island.held, "both"
    with pytest.raises(CommandError, match="not paused"):
        await view.command("resume", {})


async def test_the_network_is_left_alone_outside_its_hours_and_when_the_week_is_used_up(rig: Rig) -> None:
    await rig.controls.change({"network_hours": "mon 22:00-23:00"})
    assert rig.codes == ["network_schedule"] and not rig.controls.network.is_open and rig.island.held
    asked: list[int] = []

    async def fetch(index: int, progress: object) -> None:
        asked.append(index)

    source = WhileOpen(SimpleNamespace(name="peers", fetch=fetch), rig.controls.network.wait)
    work = asyncio.create_task(source.fetch(3, lambda *_: None))
    await asyncio.sleep(0)
    assert source.name == "peers" and rig.controls.network.waiting == 1 and not asked
    rig.node.state = State.CONNECTING
    assert "network hours" in View(rig.node).sentence()[0].because, "at the start, too"
    rig.node.state = State.STOPPING
    assert View(rig.node).sentence()[0].state is State.STOPPING
    await rig.controls.change({"network_hours": ""})
    rig.node.state = State.CONNECTING
    assert View(rig.node).sentence()[0].state is State.CONNECTING, "before whoever waits has noticed"
    await work
    assert asked == [3] and rig.controls.network.waiting == 0 and rig.codes == []
    rig.days = {4: 1_100_000_000}
    await rig.controls.change({"gb_per_week": 1})
    assert rig.codes == ["weekly_traffic"] and not rig.controls.network.is_open
    rig.days = {4: 100_000_000}
    rig.pass_(1)
    assert rig.codes == [] and rig.controls.network.is_open


async def test_only_what_a_rule_asks_for_is_measured(rig: Rig) -> None:
    rig.load = 0.9
    rig.pass_(100)
    await rig.controls.change({"pause_on_load": 80})
    rig.pass_(29)
    assert rig.codes == []
    rig.pass_(6)
    assert rig.codes == ["other_load"]
    rig.load = 0.1
    rig.pass_(125)
    assert rig.codes == []


async def test_another_program_on_the_gpu_pauses_where_the_owner_wants_it(rig: Rig) -> None:
    rig.gpu_programs = 1
    rig.pass_(100)
    assert rig.codes == []
    await rig.controls.change({"pause_on_gpu": True})
    rig.pass_(31)
    assert rig.codes == ["other_gpu"] and rig.island.held


async def test_the_state_since_when_it_pauses_is_not_renewed_by_its_words(rig: Rig) -> None:
    await rig.controls.change({"gb_per_week": 1})
    view = View(rig.node)
    rig.days = {4: 1_100_000_000}
    rig.pass_(1)
    view.sentence()
    since = view._since
    rig.days = {4: 1_200_000_000}
    rig.pass_(1)
    assert "1.2 GB in seven days" in view.sentence()[0].because and view._since == since


def test_the_snapshot_is_of_the_kinds_that_the_page_reads(rig: Rig) -> None:
    found = rig.controls.view()
    assert set(found) == set(owner_types.Controls.__annotations__)
    settings = {**found["caps"], **found["hours"], **found["conditions"]}
    assert set(settings) == set(LIVE) == {*CAPS, *HOURS, *CONDITIONS}
    for entry in settings.values():
        assert set(entry) == set(owner_types.SettingView.__annotations__) and entry["doc"]
    for rule in found["rules"]:
        assert set(rule) == set(owner_types.Rule.__annotations__) and rule["text"].endswith(".")
    assert not any(rule["watched"] or rule["active"] for rule in found["rules"])
