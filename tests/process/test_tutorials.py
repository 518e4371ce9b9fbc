"""Every command in the tutorials, in order, on real nodes: what they promise works.

`TICKET` is what the last `atoll ticket` printed, `NODE` the guest's id. `run` and `join` go on in the
background; each tutorial's reader is at one machine, the guest's data dir is another one. Other commands may
be tried until they work: a reader waits as well, for the first round or for the page.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import Daemon, atoll, must, wait_until

pytestmark = pytest.mark.process
DOCS = Path(__file__).parents[2] / "docs" / "tutorials"
Start = Callable[..., Daemon]


def commands(name: str) -> list[list[str]]:
    """The words after `atoll` of each line that begins with a prompt."""
    text = (DOCS / f"{name}.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    assert lines and all(line.startswith("$ atoll ") for line in lines), lines
    return [shlex.split(line.removeprefix("$ atoll ")) for line in lines]


def works(folder: Path, words: list[str]) -> str:
    """What a command printed, as soon as it works."""
    said: list[str] = []

    def attempt() -> bool:
        done = atoll(*words, "--data-dir", str(folder), timeout_s=120)
        said[:] = [done.stdout, done.stderr]
        return done.returncode == 0

    try:
        wait_until(attempt, f"atoll {shlex.join(words)}")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{said}") from error
    return said[0]


class Reader:
    """Who follows a tutorial: `here` is the reader's machine, `there` the other's."""

    def __init__(self, start: Start, here: Path, ticket: str = "") -> None:
        self._start = start
        self._here = here
        self.ticket = ticket
        self.here: Daemon | None = None
        self.there: Daemon | None = None

    def follow(self, words: list[str]) -> None:
        words = [self.ticket if word == "TICKET" else word for word in words]
        if "NODE" in words:
            assert self.there is not None
            status = self.there.wait_for(lambda s: s["version"] >= 1, "the guest is in")
            words[words.index("NODE")] = status["node_id"]
        if words[0] == "run":
            if self.here is not None:
                self.here.process.wait(timeout=30)
            self.here = self._start(self._here.name, *words)
        elif words[0] == "join" and "--dry-run" not in words:
            name = self._here.name if self.here is None else "guest"
            daemon = self._start(name, *words)
            if self.here is None:
                self.here = daemon
            else:
                self.there = daemon
        elif words[0] == "leave":
            assert self.here is not None
            self.here.wait_for_version(1)
            works(self._here, words)
            assert self.here.process.wait(timeout=60) == 0
        else:
            if words[0] == "export":
                words[words.index("--out") + 1] = str(self._here / "out.safetensors")
            elif "--out" in words:
                words[words.index("--out") + 1] = str(self._here / "out.svg")
            said = works(self._here, words)
            assert said.strip(), words
            if words[0] == "ticket" and "show" not in words:
                self.ticket = said.strip().splitlines()[-1]


@pytest.mark.timeout(600)
def test_a_volunteer(start: Start, tmp_path: Path) -> None:
    must(
        "init", "lab", "--private", "--data-dir", str(tmp_path / "org"), "--inner-steps", "5", "--batch", "2"
    )
    organiser = start("org", "run")
    organiser.ticket()
    ticket = must("ticket", "--data-dir", str(organiser.folder)).strip().splitlines()[-1]
    reader = Reader(start, tmp_path / "me", ticket)
    for words in commands("volunteer"):
        if words[0] == "receipts":
            assert reader.here is not None
            reader.here.wait_for(lambda s: s["token_account"]["accepted"] > 0, "an accepted update")
        reader.follow(words)
    assert reader.here is not None
    reader.here.wait_for(lambda s: s["peers"] == 1, "it is back without a ticket")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["organiser", "researcher"])
def test_who_makes_a_swarm(start: Start, tmp_path: Path, name: str) -> None:
    reader = Reader(start, tmp_path / "me")
    for words in commands(name):
        reader.follow(words)
    assert (tmp_path / "me" / "out.safetensors").stat().st_size > 1e6
