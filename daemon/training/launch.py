"""The daemon as a child process beside a training script of one's own.

Owns the process and the thread that reads its output: the last lines are kept for an error message, all
lines go on to a text stream. The child runs in its own session, so Ctrl-C reaches the script alone, which
then ends the child in order. If the script is killed, the child sees the end of the control channel.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import IO, TextIO

from atoll.daemon.training.errors import DaemonStartError

STOP_TIMEOUT_S = 25.0
"""A daemon checkpoints and says goodbye within 20 s; after this it is killed."""

_KEPT_LINES = 20
_LINE_LIMIT = 2000
_EXIT_WAIT_S = 5.0


class DaemonProcess:
    """A running child. `forward` gets its output (None: nobody does)."""

    def __init__(self, command: Sequence[str], pass_fds: Sequence[int], forward: TextIO | None) -> None:
        """Starts the child. Raises DaemonStartError if the program is not there."""
        self._forward = forward
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise DaemonStartError(f"The daemon can't be started: {error}.") from error
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self, output: IO[str]) -> None:
        while line := output.readline(_LINE_LIMIT):
            self._last.append(line.rstrip("\n"))
            if self._forward is not None:
                self._forward.write(line if line.endswith("\n") else line + "\n")
                self._forward.flush()
        output.close()

    def failure(self) -> DaemonStartError:
        """Why the child closed its channel: its exit code, if it exited, and the last lines that it wrote."""
        try:
            code: int | None = self._process.wait(_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            return DaemonStartError("The daemon closed the control channel but still runs.", self._tail())
        self._reader.join(_EXIT_WAIT_S)
        return DaemonStartError(f"The daemon ended with exit code {code}.", self._tail(), exit_code=code)

    def _tail(self) -> str:
        return "Its last lines:\n" + "\n".join(self._last) if self._last else "It wrote nothing."

    def stop(self, asked_us: bool = False) -> int:
        """Ends the child and returns its exit code. `asked_us`: it is on its way out by itself already.

        A second signal would make it drop what it is doing, so it gets one at most, then SIGKILL.
        """
        try:
            if not asked_us:
                self._process.terminate()
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join(_EXIT_WAIT_S)
        return code


def run_command(command: Sequence[str], timeout_s: float) -> str:
    """Runs a short command to its end and returns its output. Raises DaemonStartError with its last lines."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DaemonStartError(f"{' '.join(command[:4])} did not work: {error}.") from error
    if done.returncode:
        lines = "\n".join(done.stderr.splitlines()[-_KEPT_LINES:])
        raise DaemonStartError(
            f"{' '.join(command[:4])} ended with exit code {done.returncode}.",
            lines,
            exit_code=done.returncode,
        )
    return done.stdout


def atoll_command(*arguments: str) -> list[str]:
    """`atoll ARGUMENTS` in this Python."""
    return [sys.executable, "-m", "atoll", *arguments]
