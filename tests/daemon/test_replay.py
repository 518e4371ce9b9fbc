"""A recorded log drives the same page: its state at each moment, its rounds, and nothing that breaks it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.daemon import replay as module
from atoll.daemon import state_log
from atoll.daemon.cli import main
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import Events, older_than, snapshots_beside
from atoll.daemon.replay import Recording, ReplayNode, read_recording
from atoll.daemon.state_log import MAX_BYTES, WHOLE_EVERY, StateLog
from atoll.web_ui.interface import CommandError
from atoll.web_ui.rounds import with_ids
from atoll.web_ui.server import WebServer
from tests.web.fake_node import PEER_IDS, FakeNode, make_round, make_rounds, make_state
from tests.web.schema import problems

START = 1_760_000_000.0


class Time:
    """Seconds of a test: `sleep` passes them, and remembers for how long."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Rig:
    """A fake node whose life is recorded."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.jsonl"
        self.snapshots = snapshots_beside(self.path)
        self.now = START
        self.events = Events(self.path, lambda: self.now)
        self.node = FakeNode(0)
        self.log = StateLog(self.state, lambda: self.node.snapshot["state"], self.events, lambda: self.now)

    def state(self) -> dict[str, Any]:
        return dict(copy.deepcopy(self.node.state()))

    def round(self, version: int) -> None:
        """A round ends, 10 s after whatever was before; its loss is known 1 s later."""
        self.now += 10
        self.node.advance()
        entry = with_ids(make_rounds(version)[-1], PEER_IDS)
        self.events.emit("round", f"Round {version} ended certified.", record={"round": entry})
        self.log.round_ended()
        self.now += 1
        self.events.emit("validation", "Measured.", version=version, val_loss=float(entry["val_loss"]))

    def recording(self) -> Recording:
        return read_recording(self.path)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def replay_of(recording: Recording, speed: float = 10.0) -> tuple[ReplayNode, Time]:
    time = Time()
    return ReplayNode(recording, speed, clock=time.clock, sleep=time.sleep), time


# ---- what is recorded


def test_snapshots_say_what_changed(rig: Rig) -> None:
    rig.log.write()
    rig.node.snapshot["loss"] = 1.25
    rig.node.snapshot["peers"][2]["version"] = 77
    rig.log.write()
    rig.node.snapshot["peers"].pop()
    rig.log.write()
    first, second, third = (json.loads(line) for line in rig.snapshots.read_text().splitlines())
    assert first["whole"] and len(first["peers"]) == 3 and first["state"]["swarm_name"] == "shakespeare"
    assert not {"peers", "rounds_revision", "bootstrap", "sequence"} & set(first["state"])
    assert second["state"] == {"loss": 1.25} and [p["version"] for p in second["peers"]] == [77]
    assert not second["whole"] and third["gone"] == [PEER_IDS[2]] and third["peers"] == []


def test_some_are_whole_and_a_new_file_begins_with_one(rig: Rig) -> None:
    for _ in range(WHOLE_EVERY + 1):
        rig.log.write()
    lines = [json.loads(line) for line in rig.snapshots.read_text().splitlines()]
    assert [n for n, line in enumerate(lines) if line["whole"]] == [0, WHOLE_EVERY]
    rig.events.snapshots.part += 1
    rig.log.write()
    assert json.loads(rig.snapshots.read_text().splitlines()[-1])["whole"]


def test_a_big_swarm_makes_no_big_record(rig: Rig) -> None:
    peers = rig.node.snapshot["peers"]
    peers += [{**peers[1], "id": f"12D3KooW{n:044d}"} for n in range(1000)]
    rig.log.write()
    assert rig.snapshots.stat().st_size < MAX_BYTES + 1000
    record = json.loads(rig.snapshots.read_text())
    assert record["peers"][0]["self"] and 10 < len(record["peers"]) < 1000


def test_rounds_that_end_fast_are_not_all_followed_by_one(rig: Rig) -> None:
    for _ in range(20):
        rig.now += state_log.AFTER_ROUND_S / 10
        rig.log.round_ended()
    assert len(rig.snapshots.read_text().splitlines()) == 2


def test_one_is_due_when_the_last_is_old_or_the_node_does_something_else(rig: Rig) -> None:
    def written() -> int:
        rig.log.look()
        return len(rig.snapshots.read_text().splitlines())

    assert written() == 1 and written() == 1
    for word in ("averaging", "waiting", "training"):  # as in every round
        rig.now += state_log.AFTER_ROUND_S
        rig.node.snapshot["state"] = word
        assert written() == 1
    rig.node.snapshot["state"] = "paused"
    assert written() == 2 and written() == 2
    rig.now += state_log.EVERY_S
    assert written() == 3


# ---- what is played


async def test_it_ends_in_the_state_that_was_recorded(rig: Rig) -> None:
    rig.log.write()
    for version in range(1, 6):
        rig.round(version)
    rig.log.write()
    node, _ = replay_of(rig.recording())
    await node.play()
    played, recorded = dict(node.state()), rig.state()
    assert problems(played, "State") == []
    kept = set(recorded) - {"sequence", "time", "started", "software", "rounds_revision", "api"}
    assert {name: played[name] for name in kept} == {name: recorded[name] for name in kept}
    assert played["time"] == rig.now and played["software"] == "atoll 0.1.0, replayed from events.jsonl"
    reports = node.rounds(0, 100)
    assert problems(reports, "Rounds") == [] and reports["run"] == played["started"]
    assert [r["version"] for r in reports["rounds"]] == [1, 2, 3, 4, 5]
    assert all(r["val_loss"] > r["loss"] and r["digest"] for r in reports["rounds"])
    events, _ = node.events().since(0)
    assert [e["kind"] for e in events] == ["round", "validation"] * 5 + ["replay"]


async def test_snapshots_are_played_at_their_time_and_alone_or_in_one_file_as_well(
    rig: Rig, tmp_path: Path
) -> None:
    rig.log.write()
    rig.round(1)
    rig.round(2)
    kinds = [record["kind"] for record in rig.recording().records]
    assert kinds == ["snapshot", "round", "snapshot", "validation", "round", "snapshot", "validation"]
    one = tmp_path / "one.jsonl"
    one.write_text("".join(json.dumps(record) + "\n" for record in rig.recording().records))
    ends = []
    for path in (rig.path, one, rig.snapshots):
        node, _ = replay_of(read_recording(path))
        await node.play()
        ends.append({**node.state(), "software": "", "sequence": 0, "time": 0, "rounds_revision": 0})
    assert ends[0] == ends[1]
    assert [end["version"] for end in ends] == [2, 2, 2]
    rig.snapshots.unlink()
    assert {record["kind"] for record in rig.recording().records} == {"round", "validation"}


def test_files_that_are_rotated_apart_are_played_over_the_time_of_the_events(rig: Rig) -> None:
    rig.log.write()
    rig.round(1)
    rig.snapshots.rename(older_than(rig.snapshots))
    rig.events.snapshots.part += 1
    rig.round(2)
    rig.path.rename(older_than(rig.path))
    rig.round(3)
    older = read_recording(older_than(rig.path)).records
    assert [record["time"] - START for record in older] == [0, 10, 10, 11, 21, 21, 22]
    newest = rig.recording().records
    # Of before, what the first event needs: from the last whole one on.
    assert [(record["time"] - START, record["kind"]) for record in newest] == [
        (21, "snapshot"),
        (32, "round"),
        (32, "snapshot"),
        (33, "validation"),
    ]


async def test_what_a_page_says_of_itself_is_not_taken_over(rig: Rig) -> None:
    rig.events.emit("start", "It starts.")
    rig.events.note_snapshot(
        {"whole": True, "state": {"number": 7, "public": True, "version": 3}, "peers": []}
    )
    node, _ = replay_of(rig.recording())
    await node.play()
    state = node.state()
    assert state["version"] == 3 and not state.get("public") and not state.get("number")


async def test_gaps_are_divided_by_the_speed_and_long_ones_shortened(rig: Rig) -> None:
    rig.events.emit("start", "It starts.")
    rig.round(1)
    rig.now += 86_400
    rig.events.emit("stop", "It ended.")
    rig.now -= 90_000  # a clock that was set back
    rig.events.emit("start", "It starts again.")
    node, time = replay_of(rig.recording(), speed=20)
    await node.play()
    assert time.slept == [0.5, 0.05, module.MAX_GAP_S]
    assert node.ended and node.state()["time"] == rig.now


async def test_time_goes_on_between_events_at_the_speed(rig: Rig) -> None:
    rig.events.emit("start", "It starts.")
    node, time = replay_of(rig.recording(), speed=20)
    node._apply(rig.recording().records[0])
    time.now = 2.0
    assert node.state()["time"] == START + 40


async def test_a_log_without_snapshots_shows_its_rounds_and_what_is_said(rig: Rig) -> None:
    rig.events.emit("start", "It starts.")
    entry = with_ids(make_rounds(7)[-1], PEER_IDS)
    rig.events.emit("round", "Round 7 ended certified.", record={"round": entry})
    rig.events.emit("validation", "Measured.", version=7, val_loss=2.5)
    node, _ = replay_of(rig.recording())
    await node.play()
    state = node.state()
    assert problems(state, "State") == []
    assert (state["version"], state["val_loss"], state["val_loss_version"]) == (7, 2.5, 7)
    assert state["sentence"] == "Replaying: Measured."


async def test_figures_over_time_are_those_of_the_snapshots(rig: Rig) -> None:
    rig.log.write()
    losses = []
    for version in range(1, 6):
        rig.round(version)
        losses.append(rig.node.snapshot["loss"])
    node, _ = replay_of(rig.recording())
    assert await node.past(None, START, START + 60, 60) == {"names": []}
    await node.play()
    assert {"loss", "tokens_per_s", "swarm_tokens_per_s", "sent_bps", "memory_bytes", "peers"} <= set(
        (await node.past(None, START, START + 60, 60))["names"]
    )
    found = await node.past("loss", START, START + 60, 60)
    # Snapshots are 11 s apart, so that each has a bucket of ten seconds of its own.
    assert [bucket["mean"] for bucket in found["buckets"]] == losses and found["bucket_s"] == 10
    sent = await node.past("sent_bps", START, START + 60, 60)
    assert sent["buckets"][-1]["mean"] == pytest.approx(8 * 1_214_000 / 11)


async def test_without_snapshots_rounds_tell_losses_and_what_was_moved(rig: Rig) -> None:
    for version in range(1, 6):
        rig.round(version)
    rig.snapshots.unlink()
    node, _ = replay_of(rig.recording())
    await node.play()
    reports = make_rounds(5)
    losses = await node.past("loss", START, START + 60, 60)
    assert [bucket["mean"] for bucket in losses["buckets"]] == [r["loss"] for r in reports]
    measured = await node.past("val_loss", START, START + 60, 60)
    assert measured["buckets"][-1]["mean"] == reports[-1]["val_loss"]
    for name, moved in (("sent_bps", 8 * 1_214_000), ("swarm_tokens_per_s", reports[-1]["tokens"])):
        found = await node.past(name, START, START + 60, 60)
        assert len(found["buckets"]) == 4 and found["buckets"][-1]["mean"] == pytest.approx(moved / 11)


async def test_commands_are_refused(rig: Rig) -> None:
    rig.events.emit("start", "It starts.")
    node, _ = replay_of(rig.recording())
    server = WebServer(node, port=0, token="t")
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            client.headers["Authorization"] = "Bearer t"
            reply = await client.post("/api/v1/commands/pause")
            assert (reply.status_code, reply.json()["error"]["code"]) == (409, "replay")
            assert (await client.get("/api/v1/history?name=loss")).status_code == 200
            assert (await client.get("/readyz")).json() == {"ready": False, "reason": "replay"}
            assert (await client.get("/metrics")).status_code == 200
            await node.play()
            assert (await client.get("/api/v1/log")).json()["events"][-1]["kind"] == "replay"
            assert problems((await client.get("/api/v1/rounds")).json(), "Rounds") == []
    finally:
        await server.close()
    with pytest.raises(CommandError):
        await node.command("leave", {})


# ---- what is damaged


async def test_damaged_lines_are_counted_and_left_out(rig: Rig) -> None:
    rig.log.write()
    rig.round(1)
    bad = [
        b"\xff\xfe\x00",
        b"{",
        b"[1, 2]",
        b'"text"',
        b"[" * 100_000,
        b'{"time": "x", "kind": "a", "text": ""}',
        b'{"time": -1, "kind": "a", "text": ""}',
        b'{"time": NaN, "kind": "a", "text": ""}',
        b'{"time": true, "kind": "a", "text": ""}',
        b'{"time": 1, "kind": "", "text": ""}',
        b'{"time": 1, "kind": 3, "text": ""}',
        b'{"time": 1, "kind": "a"}',
        b'{"time": 1, "kind": "a", "text": "cut o',
    ]
    for path in (rig.path, rig.snapshots):
        lines = path.read_bytes().splitlines()
        path.write_bytes(b"\n".join([bad[0], *lines, b"", *bad[1:]]))
    recording = rig.recording()
    assert recording.damaged == 2 * len(bad) and len(recording.records) == 4
    node, _ = replay_of(recording)
    await node.play()
    assert node.state()["version"] == 1


def test_a_line_without_end_is_read_in_pieces(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.events.emit("start", "It starts.")
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    with rig.path.open("ab") as file:
        file.write(b'{"time": 1, "kind": "a", "text": "' + b"x" * 5000 + b'"}\n')
    rig.events.emit("stop", "It ended.")
    assert len(rig.recording().records) == 2 and rig.recording().damaged == 6


_NASTY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_hostile_records_keep_the_form(data: st.DataObject) -> None:
    """Fields of records that are otherwise sound, replaced by anything."""
    state, entry = dict(make_state(5)), with_ids(make_round(5, module_random()), PEER_IDS)
    for target in (state, entry, state["peers"][0]):
        for name in data.draw(st.lists(st.sampled_from(sorted(target)), max_size=4)):
            target[name] = data.draw(_NASTY)
    peers = state.pop("peers") if isinstance(state.get("peers"), list) else data.draw(_NASTY)
    records = [
        {"kind": "snapshot", "whole": True, "state": state, "peers": peers, "gone": data.draw(_NASTY)},
        {"kind": "round", "round": entry},
        {"kind": "validation", "version": data.draw(_NASTY), "val_loss": data.draw(_NASTY)},
        {"kind": "snapshot", "state": data.draw(_NASTY), "peers": data.draw(_NASTY), "whole": 3},
    ]
    lines = [json.dumps({"time": START, "text": "", **record}).encode() for record in records]
    found = [record for line in lines if (record := module._record(line)) is not None]
    node, _ = replay_of(Recording("it", found, 0))
    for record in found:
        node._apply(record)
    assert problems(node.state(), "State") == [] and problems(node.rounds(0, 10), "Rounds") == []


def module_random() -> Any:
    import random

    return random.Random(1)


def test_a_file_that_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (None, b"", b"not a log\n"):
        path = tmp_path / "x.jsonl"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(AtollError) as caught:
            read_recording(path)
        assert caught.value.exit_status is Exit.USAGE and caught.value.fix
    with pytest.raises(AtollError, match="can't be read"):
        read_recording(tmp_path)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 5)
    with pytest.raises(AtollError, match="larger than"):
        read_recording(path)


# ---- the command


def test_the_command_prints_the_end(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.log.write()
    for version in (1, 2):
        rig.round(version)
    with rig.path.open("ab") as file:
        file.write(b'not json\n{"time": 1760000099, "kind": "note", "text": "\\ud800"}\n')
    assert main(["replay", str(rig.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["damaged_lines"] == 1 and found["state"]["version"] == 2
    assert [r["version"] for r in found["rounds"]] == [1, 2]
    assert found["rounds"][0]["planned"] == list(PEER_IDS)


def test_the_command_refuses_what_makes_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "none"), "--json"]) == 2
    assert main(["replay", "--data-dir", str(tmp_path), "--json"]) == 2  # nothing has run there
    for speed in ("0", "-1", "nan", "1e9"):
        assert main(["replay", str(tmp_path / "none"), "--speed", speed]) == 2
        assert "--speed" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "none"), "--port", "70000"]) == 2


def test_the_page_is_served_until_it_is_ended(rig: Rig) -> None:
    """The whole command: it prints a link, plays, stays after the end, and goes in order."""
    rig.log.write()
    rig.round(1)
    command = [sys.executable, "-m", "atoll", "replay", str(rig.path), "--no-browser", "--speed", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "Replaying 4 records" in process.stdout.readline()
        link = process.stdout.readline().split()[1]
        with httpx.Client(trust_env=False, timeout=30) as browser:
            assert browser.get(link).status_code == 200
            base = link.split("/login")[0]
            with browser.stream("GET", f"{base}/api/v1/events?since=0") as events:
                assert any("The recording events.jsonl ends here." in line for line in events.iter_lines())
            assert browser.get(f"{base}/api/v1/state").json()["version"] == 1
        process.terminate()
        assert process.wait(30) == 0
