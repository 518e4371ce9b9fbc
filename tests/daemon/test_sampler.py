"""The box to try the model in: one text at a time, checked prompts, an end in any case."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from atoll.daemon.sampler import MAX_PROMPT_BYTES, Sampler
from atoll.web_ui.interface import CommandError


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": 3},
        {"prompt": "x" * (MAX_PROMPT_BYTES + 1)},
        {"prompt": "x", "temperature": "hot"},
        {"prompt": "x", "temperature": True},
        {"prompt": "x", "temperature": -0.1},
        {"prompt": "x", "temperature": float("nan")},
    ],
)
async def test_bad_arguments_are_refused(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(CommandError) as refused:
        await Sampler(tmp_path).write(arguments)
    assert refused.value.code == "bad-argument"


async def test_a_child_that_fails_says_why_and_the_next_waits(tmp_path: Path) -> None:
    now = 100.0
    sampler = Sampler(tmp_path / "nothing", clock=lambda: now)
    first = asyncio.create_task(sampler.write({"prompt": "a"}))
    await asyncio.sleep(0)
    with pytest.raises(CommandError) as busy:
        await sampler.write({"prompt": "b"})
    assert busy.value.code == "busy"
    with pytest.raises(CommandError, match="atoll: There is no swarm") as failed:
        await first
    assert failed.value.code == "no-sample"
    with pytest.raises(CommandError) as soon:
        await sampler.write({"prompt": "c"})
    assert soon.value.code == "too-soon"
    now = 200.0
    with pytest.raises(CommandError) as again:
        await sampler.write({"prompt": "d"})
    assert again.value.code == "no-sample"


def child(script: str) -> list[str]:
    """A command that does this instead of writing, whatever it is given."""
    return [sys.executable, "-c", script]


SAY = "import sys, json, os, time\ndef say(**x): print(json.dumps(x), flush=True)\n"
SLEEPS = f"""{SAY}
say(version=3)
say(hex="4869")
open(sys.argv[2] + "/pid", "w").write(str(os.getpid()))
time.sleep(600)"""


async def pid_of_child(folder: Path) -> int:
    """The process that sleeps, once it has begun to."""
    file = folder / "pid"
    async with asyncio.timeout(60):
        while not (file.exists() and file.read_text()):
            await asyncio.sleep(0)
    return int(file.read_text())


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_at_its_deadline_it_ends(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as late:
        await Sampler(tmp_path, deadline_s=0.0).write({"prompt": "a"})
    assert late.value.code == "no-sample" and "in time" in late.value.message


async def test_a_child_is_gone_at_the_deadline_and_what_it_wrote_is_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines = []

    def timeout(_: float) -> asyncio.Timeout:
        """The deadline comes when the test says so."""
        deadlines.append(asyncio.Timeout(None))
        return deadlines[0]

    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "timeout", timeout)
        writing = asyncio.create_task(Sampler(tmp_path, command=child(SLEEPS)).write({"prompt": "a: "}))
        while not deadlines:
            await asyncio.sleep(0)
    pid = await pid_of_child(tmp_path)
    for _ in range(10):  # what the child has said before is read
        await asyncio.sleep(0)
    deadlines[0].reschedule(asyncio.get_running_loop().time())
    found = await writing
    assert (found["text"], found["version"], found["cut"]) == ("a: Hi", 3, True) and is_gone(pid)


async def test_a_child_is_gone_when_whoever_asked_is(tmp_path: Path) -> None:
    writing = asyncio.create_task(Sampler(tmp_path, command=child(SLEEPS)).write({"prompt": "a"}))
    pid = await pid_of_child(tmp_path)
    assert not is_gone(pid)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert is_gone(pid)


async def test_a_child_that_talks_much_is_listened_to(tmp_path: Path) -> None:
    script = f"{SAY}sys.stderr.write('x' * (1 << 20)); say(version=3); say(hex='4869')"
    found = await Sampler(tmp_path, command=child(script)).write({"prompt": ""})
    assert (found["text"], found["cut"]) == ("Hi", False)


@pytest.mark.parametrize(
    "script",
    [
        "print('no JSON', flush=True)",
        "print('[' * 60000, flush=True)",
        "print('[3]', flush=True)",
        "print('x' * (1 << 20), flush=True)",
        "say(version=3); say(hex='no hex')",
        "say(version=3); say(hex=5)",
        "say(version='3')",
    ],
)
async def test_what_can_not_be_read_is_said(tmp_path: Path, script: str) -> None:
    with pytest.raises(CommandError, match="can't be read") as unreadable:
        await Sampler(tmp_path, command=child(f"{SAY}{script}")).write({"prompt": ""})
    assert unreadable.value.code == "no-sample"
