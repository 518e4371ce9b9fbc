"""Text from the present outer parameters, written by a child process beside the training.

One at a time, at low priority, with a pause after each: the box on the page is for trying, training goes
first. The child reads the last checkpoint and the commits after it, as `atoll generate` does, so nothing of
the daemon waits for it. It dies with the daemon, with whoever asked, and at its deadline, which gives what
was written by then. What it says is read with bounds; what is not as expected is refused as `no-sample`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from atoll.peers.process import die_with_parent
from atoll.web_ui.interface import CommandError

SIZE_BYTES = 240
MAX_PROMPT_BYTES = 2000
MAX_TEMPERATURE = 2.0
DEADLINE_S = 25.0
PAUSE_S = 2.0
NICE = 10
MAX_LINE_BYTES = 64 * 1024
MAX_COMPLAINT_BYTES = 64 * 1024
COMMAND = (sys.executable, "-m", "atoll", "generate")


class Sampler:
    """Writes for one node whose data dir is `folder`. `clock`: monotonic seconds; `command`: what writes."""

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
        deadline_s: float = DEADLINE_S,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._command = (*command, "--data-dir", str(folder), "--json")
        self._clock = clock
        self._deadline_s = deadline_s
        self._busy = False
        self._again_at = 0.0

    async def write(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """`{"text", "version", "took_s", "cut"}` of `prompt` and `temperature`. Raises CommandError."""
        prompt, temperature = _checked(arguments)
        if self._busy:
            raise CommandError("busy", "It is writing already.", "Wait until that is done.")
        if self._clock() < self._again_at:
            raise CommandError("too-soon", "Training goes first.", f"Try again in {PAUSE_S:.0f} s.")
        self._busy, began = True, self._clock()
        try:
            found = await self._run(prompt, temperature)
        finally:
            self._busy, self._again_at = False, self._clock() + PAUSE_S
        return {**found, "took_s": round(self._clock() - began, 1)}

    async def _run(self, prompt: str, temperature: float) -> dict[str, Any]:
        # Another text each time, as whoever tries it twice expects.
        seed = str(int(time.time()) % 2**31)
        given = ["--prompt", "-", "--bytes", str(SIZE_BYTES), "--temperature", f"{temperature:g}"]
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *given,
            "--seed",
            seed,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=_low_and_mortal(),
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        version: int | None = None
        text, why, cut = b"", "", False
        # Read beside the text: a child whose complaints nobody takes would wait for that, and not write.
        complaints = asyncio.ensure_future(_last_line(process.stderr))
        try:
            async with asyncio.timeout(self._deadline_s):
                process.stdin.write(prompt.encode())
                process.stdin.close()
                while line := await process.stdout.readline():
                    found = _said(line)
                    if isinstance(found, bytes):
                        text += found
                    else:
                        version = found
                await process.wait()
                why = await complaints
        except TimeoutError:
            cut = True
        except (ValueError, RecursionError) as error:  # of a line without end, too
            raise CommandError("no-sample", "What it wrote can't be read.", "See the node's log.") from error
        finally:
            complaints.cancel()
            if process.returncode is None:
                process.kill()
            await process.wait()
        if not cut and process.returncode != 0:
            raise CommandError("no-sample", why or "It could not write.", "See the node's log.")
        if version is None:
            raise CommandError("no-sample", "It came to nothing in time.", "Try again when less is going on.")
        return {"text": prompt + text.decode("utf-8", "replace"), "version": version, "cut": cut}


def _said(line: bytes) -> int | bytes:
    """The version from which it writes, said first, or a piece of the text. Raises ValueError."""
    match json.loads(line):
        case {"version": int(version)}:
            return version
        case {"hex": str(piece)}:
            return bytes.fromhex(piece)
    raise ValueError("neither a version nor a piece of text")


async def _last_line(stream: asyncio.StreamReader) -> str:
    """What was said last, once all is."""
    tail = b""
    while more := await stream.read(MAX_COMPLAINT_BYTES):
        tail = (tail + more)[-MAX_COMPLAINT_BYTES:]
    lines = tail.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


def _checked(arguments: dict[str, Any]) -> tuple[str, float]:
    """Prompt and temperature. Raises CommandError."""
    prompt, temperature = arguments.get("prompt", ""), arguments.get("temperature", 0.8)
    if not isinstance(prompt, str) or len(prompt.encode("utf-8", "replace")) > MAX_PROMPT_BYTES:
        raise CommandError(
            "bad-argument", f"prompt must be a text of at most {MAX_PROMPT_BYTES} bytes.", "Shorten it."
        )
    good = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not good or not 0 <= temperature <= MAX_TEMPERATURE:
        raise CommandError(
            "bad-argument", f"temperature must be 0 to {MAX_TEMPERATURE:g}.", "0.8 is a good one."
        )
    # A lone surrogate has no bytes; the model reads bytes.
    return prompt.encode("utf-8", "replace").decode(), float(temperature)


def _low_and_mortal() -> Callable[[], None]:
    die = die_with_parent()

    def prepare() -> None:
        os.nice(NICE)
        if die is not None:
            die()

    return prepare
