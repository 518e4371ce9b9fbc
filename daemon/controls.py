"""The owner's controls of one node: settings that change while it runs, and rules that pause it.

Owns the rules' memory and what they say now; the settings in force are the node's. A change is checked by the
rules of config.py, written to config.toml, applied to whatever is running, and told as an event, in this
order: what is refused, by the rules or by the disk, changes nothing. A change that has begun is carried out,
also where whoever asked for it no longer waits. The owner's own pause is in owner_pause.py.

Rules are looked at every LOOK_S; what they look at is measured beside that, in threads. What they decide goes
to the island, which pauses or goes on, and, for rules about the network, to `network`, which whoever fetches
or serves states and texts asks first. What is under way when the network closes ends; control messages
always go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from atoll.daemon import gpu, memory_cap, rules
from atoll.daemon.config import LIVE, Config, Settings, changed, size_of
from atoll.daemon.config_file import write_settings
from atoll.daemon.errors import AtollError
from atoll.daemon.hosting import caps_of
from atoll.daemon.hours import Wall
from atoll.daemon.machine import Kept
from atoll.daemon.owner_pause import OwnerPause
from atoll.daemon.surroundings import ProcessorUse, on_battery
from atoll.daemon.welcome import threads_of
from atoll.web_ui.interface import CommandError
from atoll.web_ui.owner_types import Controls as ControlsView
from atoll.web_ui.owner_types import PausedBy, Rule, SettingView

if TYPE_CHECKING:
    from atoll.daemon.node import Node

T = TypeVar("T")
LOOK_S = 1.0
LOAD_S = 5.0
"""Between two measures of the processor."""
CAPS = ("up", "down", "gb_per_week", "state_rate", "data_cap", "connections", "threads", "memory", "device")
HOURS = ("train_hours", "network_hours")
CONDITIONS = ("pause_on_battery", "pause_on_load", "pause_on_gpu")
_LASTING = ("config.toml", "default")


class Network:
    """Whether the owner lets this node use the network for more than control messages."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.waiting = 0
        """So many things wait for it."""

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    def set(self, is_open: bool) -> None:
        if is_open:
            self._open.set()
        else:
            self._open.clear()

    async def wait(self) -> None:
        """Returns when it is open."""
        self.waiting += 1
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1


class Controls:
    """Those of one node. Clocks and measures are parameters, for tests."""

    def __init__(
        self,
        node: Node,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
        wall: Wall = datetime.fromtimestamp,
        battery: Callable[[], bool | None] = on_battery,
        load: Callable[[], float | None] | None = None,
        gpu_programs: Callable[[], int | None] | None = None,
    ) -> None:
        self.network = Network()
        self.active: tuple[rules.Reason, ...] = ()
        """Rules that are on, the overridden ones among them."""
        self._node = node
        self._monotonic = monotonic
        self._clock = clock
        self._wall = wall
        self._memory = rules.Memory()
        self._policy = rules.Policy.of(node.settings)
        use = ProcessorUse(self._trainer_process)
        load = load or use.look
        gpu_programs = gpu_programs or (lambda: gpu.other_programs(use.processes))
        self._battery = Kept(self._if_watched(rules.Code.BATTERY, battery), LOOK_S, None)
        self._load = Kept(self._if_watched(rules.Code.OTHER_LOAD, load), LOAD_S, None)
        self._gpu = Kept(self._if_watched(rules.Code.OTHER_GPU, gpu_programs), gpu.EVERY_S, None)
        self.measures: tuple[Kept[Any], ...] = (self._battery, self._load, self._gpu)
        self.owner = OwnerPause(node, clock)
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[dict[str, Any]]] = set()

    # ---- the rules

    @property
    def pausing(self) -> tuple[rules.Reason, ...]:
        """Rules that pause this node now."""
        return tuple(reason for reason in self.active if not reason.overridden)

    async def watch(self) -> None:
        """Looks at the rules, and measures what they look at. Runs until cancelled."""
        await asyncio.gather(self._looks(), *(measure.keep() for measure in self.measures))

    async def _looks(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Decides anew, and acts where that is another decision."""
        self.owner.look()
        before = {reason.code for reason in self.pausing}
        policy = self._policy
        self.active, self._memory = rules.decide(
            policy, self._facts(policy), self._monotonic(), self._memory, self._wall
        )
        pausing = self.pausing
        was_open = self.network.is_open
        self.network.set(not any(reason.code in rules.QUIET for reason in pausing))
        if self._node.island is not None:
            # Each time: it may have come since.
            self._node.island.hold(bool(pausing))
        now = {reason.code for reason in pausing}
        if now != before:
            self._tell(pausing)
        if self.network.is_open != was_open and self._node.neighbours is not None:
            self._node.neighbours.tell_everyone()

    def _facts(self, policy: rules.Policy) -> rules.Facts:
        traffic = self._node.traffic
        counted = traffic is not None and policy.watched(rules.Code.WEEKLY_TRAFFIC)
        return rules.Facts(
            self._clock(),
            self._battery.look(),
            self._load.look(),
            self._gpu.look(),
            traffic.days() if traffic is not None and counted else {},
        )

    def _if_watched(self, code: rules.Code, read: Callable[[], T | None]) -> Callable[[], T | None]:
        """Only what a rule asks for is measured."""
        return lambda: read() if self._policy.watched(code) else None

    def _trainer_process(self) -> int | None:
        return self._node.island.process if self._node.island is not None else None

    def _tell(self, pausing: tuple[rules.Reason, ...]) -> None:
        codes = [reason.code.value for reason in pausing]
        if pausing:
            because, following = rules.joined(pausing)
            self._node.events.emit("paused", f"Paused: {because}. {following}.", codes=codes)
        else:
            self._node.events.emit("resumed", "No rule of yours pauses this node any more.", codes=codes)
        if self._node.neighbours is not None:
            self._node.neighbours.tell_soon()

    def override(self) -> bool:
        """A person resumes: what pauses now does not until it has been over. Whether anything did."""
        self.look()
        if not self.pausing:
            return False
        self._memory = self._memory.override()
        self.look()
        return True

    # ---- settings

    async def change(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The command `set`: changes settings for good. Raises CommandError, and nothing has changed then.

        A disk may take longer than whoever asked waits: the file would be written, and nothing else done.
        """
        task = asyncio.create_task(self._change(given))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _change(self, given: Mapping[str, Any]) -> dict[str, Any]:
        async with self._changing:
            try:
                values = self._checked(given)
                await asyncio.to_thread(write_settings, self._node.folder.config, values)
            except AtollError as error:
                raise CommandError(error.code, error.message, error.fix) from error
            notes = self._apply(values)
        named = ", ".join(f"{name} = {_said(value)}" for name, value in values.items())
        self._node.events.emit("settings", f"You set {named}.", values=values)
        self.look()
        return {"done": "set", "changed": values, "sentence": " ".join([f"Set {named}.", *notes])}

    def _checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with their types. Raises AtollError, CommandError."""
        if not given:
            raise CommandError("nothing_to_set", "No setting was given.", f"There are {', '.join(LIVE)}.")
        made = changed(self._node.settings, given)
        for name in given:
            if name not in LIVE:
                raise CommandError(
                    "not_live",
                    f"Setting {name} can't be changed while the node runs.",
                    "Write it to config.toml, and start the node again.",
                )
        store = self._node.reader.store if self._node.reader is not None else None
        if store is not None and "data_cap" in given:
            store.check_cap(made.data_cap)
        return {name: getattr(made, name) for name in given}

    def _apply(self, values: Mapping[str, Any]) -> list[str]:
        """Puts checked settings into force; what else a person should know of that."""
        node, notes = self._node, []
        origins = dict(node.config.origins)
        for name in values:
            if origins[name] in _LASTING:
                origins[name] = "config.toml"
            else:
                again = "and wins at the next start: change it there as well."
                notes.append(f"The {origins[name]} gives {name}, too, {again}")
        node.use(Config(changed(node.settings, values), origins))
        self._policy = rules.Policy.of(node.settings)
        self._memory = self._memory.without([rules.RULE_OF[name] for name in values if name in rules.RULE_OF])
        if node.network is not None and ("up" in values or "down" in values):
            node.network.host.line.limit(caps_of(node.settings))
        if node.reader is not None and node.reader.store is not None and "data_cap" in values:
            node.reader.store.limit(node.settings.data_cap)
        if node.recovery is not None and "state_rate" in values:
            node.recovery.limit(node.settings.state_rate)
        if node.neighbours is not None and "connections" in values:
            node.neighbours.links.limit(node.settings.connections)
        if "memory" in values:
            notes += self._cap_memory()
        if "device" in values:
            notes.append("The device takes effect at the next start.")
        if "threads" in values and node.island is not None and node.manifest is not None:
            node.island.use_threads(threads_of(node.manifest, node.settings.threads))
            notes.append(
                "The trainer uses so many threads from its next step on."
                if node.trains_by_itself
                else "Your own training script decides on its threads by itself."
            )
        return notes

    def _cap_memory(self) -> list[str]:
        """Puts the cap on the trainer's memory into force; what a person should know of it."""
        node = self._node
        if not node.trains_by_itself:
            return ["Your own training script decides on its memory by itself."]
        if not memory_cap.SUPPORTED:
            return ["Only Linux can hold the trainer to a cap on its memory."]
        if node.island is not None:
            node.island.cap_memory(size_of(node.settings.memory) or 0)
            if node.island.on_gpu:
                return ["It trains on a GPU, whose memory this does not cap."]
        return []

    # ---- what people see

    def paused_by(self) -> list[PausedBy]:
        """The rules that pause it now, for the snapshot."""
        return [{"code": r.code.value, "text": r.text, "until": r.until_s} for r in self.pausing]

    def view(self) -> ControlsView:
        """What the owner set up, for the snapshot."""
        active = {reason.code: reason for reason in self.active}
        return {
            "caps": {name: self._setting(name) for name in CAPS},
            "hours": {name: self._setting(name) for name in HOURS},
            "conditions": {name: self._setting(name) for name in CONDITIONS},
            "rules": [self._rule(code, active.get(code)) for code in rules.Code],
        }

    def _setting(self, name: str) -> SettingView:
        origin = self._node.config.origins[name]
        return {
            "value": getattr(self._node.settings, name),
            "doc": _DOCS[name],
            "origin": origin,
            "lasting": origin in _LASTING,
        }

    def _rule(self, code: rules.Code, reason: rules.Reason | None) -> Rule:
        return {
            "code": code.value,
            "watched": self._policy.watched(code),
            "active": reason is not None,
            "overridden": reason is not None and reason.overridden,
            "text": reason.text if reason is not None else rules.described(code, self._policy),
            "until": reason.until_s if reason is not None else None,
        }


_DOCS = {f.name: str(f.metadata["doc"]) for f in fields(Settings)}


def _said(value: Any) -> str:
    """A value as a person would write it."""
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if value == "" else str(value)
