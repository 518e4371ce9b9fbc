"""The trainer as the daemon sees it: a process (or somebody's own script) behind a control channel.

Owns the process, the channel and the rule that `committed` is not written while the trainer reads it: from
Begin or Committed until Merged. The built-in trainer is a child that dies with the daemon; a script of one's
own brought its socket along and owns itself. When the channel ends, `ended` is called once with the reason.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

from atoll.daemon.training import channel
from atoll.daemon.training.channel import Begin, Committed, FromDaemon, FromTrainer, Merged, Progress, Ready
from atoll.daemon.training.errors import ChannelError
from atoll.peers.process import die_with_parent

STOP_TIMEOUT_S = 12.0
MERGE_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 5.0
"""So long a trainer whose channel has ended may take to exit by itself."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmTrainer:
    """A trainer's process that has not been told anything yet: it loads its libraries meanwhile."""

    process: asyncio.subprocess.Process
    socket: socket.socket

    @classmethod
    async def start(cls) -> WarmTrainer:
        ours, theirs = socket.socketpair()
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "atoll.daemon.training.trainer",
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Idle OpenMP threads sleep instead of spinning: several nodes may share a machine.
                env={"OMP_WAIT_POLICY": "passive", **os.environ, channel.FD_VARIABLE: str(theirs.fileno())},
                preexec_fn=die_with_parent(),
                start_new_session=True,
            )
        return cls(process, ours)

    @property
    def usable(self) -> bool:
        """One that nobody talks to ends by itself after a while."""
        return self.process.returncode is None and self.socket.fileno() >= 0

    async def close(self) -> None:
        """Ends it, if no `Trainer` has taken it."""
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        self.socket.close()


class Trainer:
    """One trainer's life. `message` gets what it says, `ended` why its channel closed."""

    def __init__(self, message: Callable[[FromTrainer], None], ended: Callable[[str], None]) -> None:
        self._message = message
        self._ended = ended
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.Task[None] | None = None
        self._sent = self._answered = 0  # of Begin and Committed, each of which Merged answers
        self._begun = 0  # which of them was the last Begin
        self._merged = asyncio.Event()
        self._merged.set()
        self._stopping = False
        self._greeted = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def was_killed(self) -> bool:
        """Whether signal 9 ended it: the kernel's, where memory is short, or a person's."""
        return self._process is not None and self._process.returncode == -signal.SIGKILL

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than in order."""
        return self._process is not None and self._process.returncode not in (None, 0)

    async def start(self, warm: WarmTrainer | None = None) -> None:
        """Starts the built-in trainer, or goes on with one whose process is there already."""
        if warm is None or not warm.usable:
            warm = await WarmTrainer.start()
        self._process = warm.process
        await self.attach(warm.socket)

    async def attach(self, connected: socket.socket) -> None:
        """Speaks over a socket whose other end a trainer holds."""
        connected.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(
            sock=connected, limit=channel.MAX_LINE_BYTES
        )
        self._reader = asyncio.create_task(self._read(reader), name="trainer-channel")
        self._reader.add_done_callback(self._reader_over)

    def send(self, message: FromDaemon) -> None:
        """Sends a message; after the channel's end it goes nowhere, and `ended` has said so."""
        if self._writer is None or self._writer.is_closing():
            return
        if isinstance(message, Begin | Committed):
            self._sent += 1
            self._begun = self._sent if isinstance(message, Begin) else self._begun
            self._merged.clear()
        self._writer.write(channel.encode(message))

    async def merged(self) -> None:
        """Returns when the trainer no longer reads `committed`. Raises TimeoutError."""
        async with asyncio.timeout(MERGE_TIMEOUT_S):
            await self._merged.wait()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        reason = "the trainer closed its channel"
        try:
            while line := await reader.readline():
                try:
                    message = channel.decode_from_trainer(line)
                except ChannelError as error:
                    reason = f"the trainer sent something unreadable: {error}"
                    break
                self._greeted = True
                if isinstance(message, Merged):
                    self._answered = min(self._answered + 1, self._sent)
                    if self._answered == self._sent:
                        self._merged.set()
                if not self._is_past(message):
                    self._message(message)
        except ValueError:  # the reader's own limit
            reason = "the trainer sent a line that is too long"
        except OSError as error:
            reason = f"the trainer's channel broke: {error}"
        await self._over(reason)

    def _is_past(self, message: FromTrainer) -> bool:
        """Whether the trainer said this before it read what it was told last, which made it void.

        A snapshot that a commit has crossed was meant for another anchor; the trainer says Ready anew after
        its next phase. What it counted before a Begin belongs to a life that is over.
        """
        if isinstance(message, Ready):
            return self._answered < self._sent
        return isinstance(message, Progress) and self._answered < self._begun

    def _reader_over(self, task: asyncio.Task[None]) -> None:
        """A bug on our side of the channel must not leave the trainer unheard."""
        if not task.cancelled() and task.exception() is not None:
            log.error("the trainer's channel failed", exc_info=task.exception())
            self._merged.set()
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
            if not self._stopping:
                self._ended(f"its channel failed: {task.exception()!r}")

    async def _over(self, reason: str) -> None:
        """The channel has ended: nobody reads `committed` any more, and the process ends too."""
        self._merged.set()
        if self._process is not None:
            try:
                async with asyncio.timeout(EXIT_TIMEOUT_S):
                    status = await self._process.wait()
            except TimeoutError:
                self._process.kill()
                status = await self._process.wait()
            if status:
                reason = f"{reason}; it ended with {_status(status)}"
        if not self._stopping:
            self._ended(reason)

    def kill(self) -> None:
        """Ends the process at once; `ended` is called as if anybody had done it."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def stop(self, save: bool) -> None:
        """Ends the trainer at its next step; a trainer that does not end is killed."""
        self._stopping = True
        self.send(channel.Stop(save=save))
        if not self._greeted and self._process is not None and self._process.returncode is None:
            # It still loads its libraries, and has nothing to save.
            self._process.kill()
        if self._reader is not None:
            _, late = await asyncio.wait([self._reader], timeout=STOP_TIMEOUT_S)
            if late and self._process is not None:
                log.warning("the trainer did not stop in %.0f s and is killed", STOP_TIMEOUT_S)
                self._process.kill()
                await asyncio.wait([self._reader], timeout=STOP_TIMEOUT_S)
            self._reader.cancel()
        if self._writer is not None:
            self._writer.close()


def _status(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"
