"""The owner's own pause: `atoll pause`, `resume` and `finish`, also before training begins and after a crash.

A pause with its end (Unix seconds) is kept in node.json, so that whatever ends the process does not end the
pause. While there is no island yet it waits here and is passed on to the one that comes. A disk that refuses
does not keep anybody from pausing: the answer says that the pause ends with the daemon.

`finish` is not kept: it asks for one contribution of this run. Nor is a pause that the node began by itself
(the last version is reached, it has finished): it follows from the run, not from a person.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from atoll.daemon.errors import AtollError
from atoll.daemon.status import duration
from atoll.web_ui.interface import CommandError

if TYPE_CHECKING:
    from atoll.daemon.events import Events
    from atoll.daemon.island import Island
    from atoll.daemon.storage.data_dir import DataDir

MAX_PAUSE_S = 30 * 24 * 3600.0
BECAUSE = "you asked for it"
_END_OF_TIME_S = 1e12
FACT = "pause"
"""Its name in node.json."""


@dataclass(frozen=True)
class Pause:
    """What the owner asked for. `until_s`: Unix seconds; None: until the owner resumes."""

    until_s: float | None = None

    def left_s(self, now_s: float) -> float | None:
        """Seconds until it ends; None where only the owner ends it."""
        return None if self.until_s is None else max(0.0, self.until_s - now_s)

    def is_over(self, now_s: float) -> bool:
        return self.until_s is not None and now_s >= self.until_s

    def fact(self) -> dict[str, float | None]:
        """As node.json has it."""
        return {"until": self.until_s}


def read(fact: Any, now_s: float) -> Pause | None:
    """The pause that node.json tells of, if it still holds; None for anything else that may stand there."""
    if not isinstance(fact, dict) or "until" not in fact:
        return None
    until = fact["until"]
    if until is None:
        return Pause()
    if isinstance(until, bool) or not isinstance(until, int | float):
        return None
    # Where the clock is not set yet, as on a board without one of its own, the end may seem far away.
    return Pause(float(until)) if now_s < until < _END_OF_TIME_S else None


def pause_s(value: Any) -> float | None:
    """`for_s` of the command, checked. Raises CommandError."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= MAX_PAUSE_S:
        raise CommandError(
            "bad-argument", f"for_s must be more than 0 and at most {MAX_PAUSE_S:.0f} (30 days).", "Seconds."
        )
    return float(value)


class _Node(Protocol):
    folder: DataDir
    events: Events
    island: Island | None


class OwnerPause:
    """That of one node."""

    def __init__(self, node: _Node, clock: Callable[[], float]) -> None:
        self.asked: Pause | None = None
        self._finishing = False
        """Asked for while there was no island."""
        self._node = node
        self._clock = clock
        self._met: Island | None = None
        self._saving = asyncio.Lock()
        self._tasks: set[asyncio.Task[str]] = set()

    def restore(self) -> None:
        """The pause of an earlier run, if it still holds. Blocking."""
        self.asked = read(self._node.folder.node_facts().get(FACT), self._clock())

    def look(self) -> None:
        """Passes on what was asked to an island that has come since, and notes when a pause is over."""
        island = self._node.island
        if self.asked is not None and self.asked.is_over(self._clock()):
            self._forget()
            if island is not None and island.paused is not None:
                island.resume()
        if island is None:
            return
        if island is not self._met:
            self._met = island
            if self.asked is not None:
                island.pause(BECAUSE, self.asked.left_s(self._clock()))
            island.finishing = island.finishing or self._finishing
            self._finishing = False
        elif self.asked is not None and island.paused is None:
            self._forget()  # by the island's own clock, which no one sets, it was over first

    # ---- commands

    async def command(self, name: str, arguments: Mapping[str, Any], overridden: bool) -> str:
        """pause, resume, finish; what to say before the sentence. Raises CommandError.

        `overridden`: resuming was of some use already, for a rule paused.
        """
        self.look()
        match name:
            case "pause":
                return await self._pause(pause_s(arguments.get("for_s")))
            case "resume":
                return await self._resume(overridden)
            case _:
                return self._finish()

    async def _pause(self, for_s: float | None) -> str:
        self.asked = Pause(None if for_s is None else self._clock() + for_s)
        self._finishing = False
        island = self._node.island
        if island is not None:
            island.pause(BECAUSE, for_s)
            return await self._saved()
        self._node.events.emit("paused", f"Paused: {BECAUSE}.")
        until = f"for {duration(for_s)}" if for_s else "until you resume"
        return f"It goes on joining, and does not train {until}. {await self._saved()}"

    async def _resume(self, overridden: bool) -> str:
        island = self._node.island
        busy = island is not None and (island.paused is not None or island.finishing)
        if not (busy or overridden or self.asked is not None or self._finishing):
            raise CommandError("not-paused", "This node is not paused.", "Nothing has to be done.")
        before, self.asked, self._finishing = self.asked, None, False
        if island is not None and busy:
            island.resume()
        elif before is not None:
            self._node.events.emit("resumed", "It trains as soon as it can.")
        return await self._saved() if before is not None else ""

    def _finish(self) -> str:
        island = self._node.island
        if self.asked is not None or (island is not None and island.paused is not None):
            raise CommandError("paused", "This node is paused already.", "Nothing has to be done.")
        if island is None:
            self._finishing = True
            said = "When it trains, it contributes once, then pauses."
        elif island.held:
            island.finishing = True
            said = "A rule of yours pauses it now. When that is over, it contributes once more, then pauses."
        else:
            island.finishing = True
            said = "It contributes to this round, then pauses."
        self._node.events.emit("finishing", said)
        return f"{said} "

    # ---- node.json

    def _forget(self) -> None:
        self.asked = None
        self._begin_to_save()

    async def _saved(self) -> str:
        """Writes what holds now, even if whoever asked no longer waits; what a person should know of it."""
        return await asyncio.shield(self._begin_to_save())

    def _begin_to_save(self) -> asyncio.Task[str]:
        task = asyncio.create_task(self._save())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _save(self) -> str:
        async with self._saving:
            fact = None if self.asked is None else self.asked.fact()
            try:
                await asyncio.to_thread(self._node.folder.remember, **{FACT: fact})
            except AtollError as error:
                if fact is None:
                    return f"A restart may bring the pause back: {error.message} "
                return f"The pause ends with the daemon: {error.message} "
        return ""
