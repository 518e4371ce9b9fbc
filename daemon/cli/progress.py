"""What a person sees while a command takes long: a bar in a terminal, now and then a line elsewhere.

`follow` accompanies a node from its start until it takes part: the sentence, and a bar while a state or a
text is on its way. `steps` accompanies work on this machine. Bars go to stderr, and only where that is a
terminal; rich is imported there only. Lines go to the log, so that they have its format.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atoll.daemon.status import State

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress

LOOK_S = 0.25
SILENCE_S = 30.0
"""Longer than this, nobody should have to wonder."""
PART = 10
"""Of a download in percent, after which there is a line."""
_TAKES_PART = frozenset({State.TRAINING, State.AVERAGING, State.WAITING, State.PAUSED})

log = logging.getLogger("atoll")


@dataclass(frozen=True)
class Look:
    """What a node does at one moment. `fetched`: bytes here and in all, while something is on its way."""

    state: State
    sentence: str
    fetched: tuple[int, int] | None = None

    @property
    def percent(self) -> int | None:
        return 100 * self.fetched[0] // self.fetched[1] if self.fetched and self.fetched[1] else None


class Lines:
    """Decides when a line is due. Pure but for what it was told before."""

    def __init__(self) -> None:
        self._said: Look | None = None
        self._at = 0.0

    def due(self, now_s: float, look: Look) -> bool:
        """Whether to say this: another state, the next tenth of a download, or silence for long."""
        before = self._said
        due = (
            before is None
            or look.state != before.state
            or (look.percent or 0) // PART != (before.percent or 0) // PART
            or now_s - self._at >= SILENCE_S
        )
        if due:
            self._said, self._at = look, now_s
        return due


class Waiting:
    """Shows what a node waits for. `look`: asks it, None while it can't say.

    `pause` and `go_on` make room for a question to the person.
    """

    def __init__(self, look: Callable[[], Look | None], in_terminal: bool) -> None:
        self._look = look
        self._bar = Bar() if in_terminal else None
        self._lines = Lines()
        self._paused = False

    async def follow(self) -> None:
        """Shows it until the node takes part or ends. Cancelling it takes the bar away."""
        try:
            while (look := self._look()) is None or look.state not in (*_TAKES_PART, State.STOPPING):
                if look is not None and not self._paused:
                    self.show(time.monotonic(), look)
                await asyncio.sleep(LOOK_S)
        finally:
            self.pause()

    def show(self, now_s: float, look: Look) -> None:
        """Draws the bar, or says a line if one is due."""
        if self._bar is not None:
            self._bar.show(look)
        elif self._lines.due(now_s, look):
            log.info("%s", look.sentence, extra={"event": {"kind": "progress"}})

    def pause(self) -> None:
        self._paused = True
        if self._bar is not None:
            self._bar.clear()

    def go_on(self) -> None:
        self._paused = False


class Bar:
    """The sentence and, while bytes come, how many, how fast and for how long still."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._total = 0

    def show(self, look: Look) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.text import Text

        if self._live is None:
            self._live = Live(console=Console(stderr=True), transient=True, refresh_per_second=4)
            self._live.start()
        parts: list[Any] = [Spinner("dots", Text(look.sentence))]
        if look.fetched is None or not look.fetched[1]:
            self._progress = None
        else:
            parts.append(self._download(*look.fetched))
        self._live.update(Group(*parts), refresh=True)

    def _download(self, here: int, total: int) -> Progress:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        if self._progress is None or total != self._total:  # another download
            self._total = total
            self._progress = Progress(
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                auto_refresh=False,
            )
            self._progress.add_task("", total=total)
        self._progress.update(self._progress.task_ids[0], completed=here)
        return self._progress

    def clear(self) -> None:
        """Takes it away; `show` brings it back."""
        if self._live is not None:
            self._live.stop()
            self._live = self._progress = None


@contextmanager
def steps(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work on this machine; what it yields is told how many bytes are done, and of how many."""
    if not sys.stderr.isatty():
        yield lambda here, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    text, console = TextColumn("{task.description}", markup=False), Console(stderr=True)
    columns = (text, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda here, total: bar.update(task, completed=here, total=total)


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """Something that turns while nobody knows how long it takes."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
