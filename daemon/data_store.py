"""The data on this node: fetches the shards that are wanted, one after the other, and gives them to peers.

Owns the files in data/shards (storage/shard_files.py). Sources are asked in order: a path on this machine,
the organiser's web server, peers. The validation shard comes first, then the one to train on, then the one
that is likely to be next, so that training need not wait. Under a disk cap what was used least recently makes
room; a lower one makes room at once, whatever is on its way or waits for the network.

When no source has a shard, or the disk refuses, that is an alert, and it is tried again after a pause that
grows; training goes on with the shards that are here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from atoll.daemon.alerts import Alerts
from atoll.daemon.data_sources import Unavailable
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import Events
from atoll.daemon.status import State, size
from atoll.daemon.storage.shard_files import ShardFiles
from atoll.peers.fetching import Progress
from atoll.peers.files import ServedFile

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
UNAVAILABLE = "data_unavailable"


class Source(Protocol):
    """Where shards come from; `fetch` tells `progress` (bytes here, bytes in all)."""

    @property
    def name(self) -> str: ...

    async def fetch(self, index: int, progress: Progress) -> None:
        """Puts a shard in its place. Raises Unavailable, AtollError."""


class DataStore:
    """The shards of one node. `run` does the work; `want` says what for."""

    def __init__(
        self,
        files: ShardFiles,
        name: str,
        sources: Sequence[Source],
        events: Events,
        alerts: Alerts,
        cap_bytes: int = 0,
    ) -> None:
        self.files = files
        self.fetched: tuple[int, int] | None = None
        """(bytes here, bytes in all) of the shard that is on its way."""
        self._name = name
        self._sources = sources
        self._events = events
        self._alerts = alerts
        self._cap_bytes = cap_bytes
        self._too_small = 0  # bytes of a cap that was asked for and can't be kept to
        self._removing = asyncio.Lock()
        self._shrink_due = asyncio.Event()
        self._unshrunk: tuple[str, str, str] | None = None
        self._wishes: tuple[int, ...] = ()
        self._reading: int | None = None
        self._asked: set[int] = set()
        self._passed: set[int] = set()
        self._trouble = ""
        self._alerted: set[str] = set()
        self._kick = asyncio.Event()
        self._news = asyncio.Event()

    def open(self) -> None:
        """Makes the folder ready. Blocking. Raises AtollError.

        A cap that is too small to train was saved when nobody could know that; ending for it would end every
        start, so the smallest one that works holds instead, and an alert says so.
        """
        self.files.create()
        self.files.tidy()
        if 0 < self._cap_bytes < self.least_cap:
            self._too_small, self._cap_bytes = self._cap_bytes, self.least_cap

    @property
    def least_cap(self) -> int:
        """Bytes of the smallest cap: room for the validation shard and the two largest others."""
        return sum(sorted(self.files.sizes[:-1])[-2:]) + self.files.sizes[-1]

    def check_cap(self, cap_bytes: int) -> None:
        """Raises AtollError where a cap is too small to train."""
        least = self.least_cap
        if cap_bytes and cap_bytes < least:
            raise AtollError(
                Exit.PREFLIGHT,
                "data_cap",
                f"A disk cap of {cap_bytes} bytes has no room for the validation shard and two others.",
                f"Set data_cap to {least} or more, or to 0.",
            )

    def limit(self, cap_bytes: int) -> None:
        """Another cap from now on; what is above it goes at once."""
        self._cap_bytes, self._too_small = cap_bytes, 0
        self._alerts.clear("data_cap_too_small")
        self._passed.clear()
        self._shrink_due.set()
        self._kick.set()

    # ---- what is wanted, and what is here

    def want(self, shards: Sequence[int]) -> None:
        """The shard to train on, then those that come next."""
        if self._wishes != tuple(shards):
            self._wishes = tuple(shards)
            self._passed.clear()
            self._kick.set()

    def read(self, index: int) -> None:
        """The trainer reads this shard from now on."""
        self._reading = index
        try:
            self.files.used(index)
        except AtollError as error:
            self._tell(error.code, error.message, error.fix)

    def served(self, index: int) -> ServedFile | None:
        """A shard for a peer, None if it is not here; one that was not checked yet will be."""
        if not 0 <= index < len(self.files.digests):
            return None
        if self.files.has(index):
            return ServedFile(self.files.path(index), index)
        if self.files.path(index).exists():
            self._asked.add(index)
            self._kick.set()
        return None

    def _progress(self, here: int, total: int) -> None:
        self.fetched = (here, total)
        self._events.changed()

    async def ready(self, enter: Callable[[State, str], None]) -> None:
        """Returns when there is something to train on and to validate on; says meanwhile what is lacking."""
        while not (self.files.has(self.files.validation) and self.files.training()):
            if self._trouble:
                enter(State.CONNECTING, f"the text can't be had yet ({self._trouble})")
            else:
                enter(State.FETCHING, f"the text {self._name} is on its way")
            self._news.clear()
            await self._news.wait()

    # ---- the work

    async def run(self) -> None:
        """Fetches and checks what is wanted, and keeps to the cap, until cancelled."""
        if self._too_small:
            self._alerts.raise_(
                "data_cap_too_small",
                f"data_cap is {self._too_small} bytes, which has no room for the validation shard and two "
                f"others: a cap of {self._cap_bytes} holds instead.",
                f"Set data_cap to {self._cap_bytes} or more, or to 0 for no cap.",
            )
        await asyncio.gather(self._fetching(), self._shrinking())

    async def _shrinking(self) -> None:
        """Keeps to a cap that was lowered: beside what is fetched, which may wait for hours."""
        while True:
            await self._shrink_due.wait()
            self._shrink_due.clear()
            failed = self._unshrunk is not None
            try:
                async with self._removing:
                    await asyncio.to_thread(self.files.shrink, self._cap_bytes, self._kept())
            except AtollError as error:
                self._unshrunk = (error.code, error.message, error.fix)
                self._tell(*self._unshrunk)
                failed = not failed
            else:
                self._unshrunk = None
            if failed:  # for the first time, or no longer: the next pass tries again, or ends the alert
                self._kick.set()

    async def _fetching(self) -> None:
        pause = FIRST_RETRY_S
        while True:
            self._kick.clear()
            failed = await self._pass()
            self._news.set()
            if not failed:
                pause = FIRST_RETRY_S
                await self._kick.wait()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._kick.wait()
            pause = min(2 * pause, LONGEST_RETRY_S)

    async def _pass(self) -> bool:
        """Gets all that can be had; whether something was wanted and could not."""
        trouble: list[tuple[str, str, str]] = []
        tried: set[int] = set()
        if self._unshrunk is not None:
            trouble.append(self._unshrunk)
            self._shrink_due.set()
        while (index := self._next(tried)) is not None:
            tried.add(index)
            try:
                await self._obtain(index)
            except Unavailable as error:
                text = f"No source has shard {index} of the text {self._name}: {error}."
                fix = "Connect to nodes that have it, or give --data PATH with the organiser's text."
                trouble.append((UNAVAILABLE, text, fix))
            except AtollError as error:
                trouble.append((error.code, error.message, error.fix))
            self.fetched = None
            self._news.set()
        self._trouble = "; ".join(text for _, text, _ in trouble)
        for code in self._alerted - {code for code, _, _ in trouble}:
            self._alerts.clear(code)
        self._alerted.clear()
        for code, text, fix in trouble:
            self._tell(code, text, fix)
        return bool(trouble)

    def _tell(self, code: str, text: str, fix: str) -> None:
        self._alerted.add(code)
        self._alerts.raise_(code, text, fix)

    def _next(self, tried: set[int]) -> int | None:
        wanted = (self.files.validation, *self._wishes, *sorted(self._asked))
        done = tried | self._passed
        return next((i for i in wanted if i not in done and not self.files.has(i)), None)

    def _kept(self) -> set[int]:
        """Shards that are never removed to make room."""
        return {i for i in (self._reading, *self._wishes[:1]) if i is not None}

    async def _obtain(self, index: int) -> None:
        """Checks a shard that is here, or fetches it. Raises Unavailable, AtollError."""
        self._asked.discard(index)
        if await asyncio.to_thread(self.files.check, index):
            return
        if index not in (self.files.validation, *self._wishes):
            return
        cap = self._cap_bytes
        async with self._removing:
            fits = await asyncio.to_thread(self.files.make_room, index, cap, self._kept())
        if not fits:
            self._passed.add(index)  # the next one, too early
            return
        reasons = []
        for source in self._sources:
            try:
                await source.fetch(index, self._progress)
            except Unavailable as error:
                reasons.append(f"{source.name}: {error}")
                continue
            if await asyncio.to_thread(self.files.check, index):
                what = f"Shard {index} of the text ({size(self.files.sizes[index])})"
                self._events.emit("data", f"{what} is here, from {source.name}.")
                if self._cap_bytes != cap:  # lowered meanwhile, perhaps
                    self._shrink_due.set()
                return
            reasons.append(f"{source.name}: what it gave is not it")
        raise Unavailable("; ".join(reasons))
