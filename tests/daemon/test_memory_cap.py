"""A cap on memory: a process is refused more, as long as the cap holds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from atoll.daemon.config import size_of
from atoll.daemon.memory_cap import SUPPORTED, MemoryCap

CHILD = """
import sys
for line in sys.stdin:
    try:
        print(len(bytearray(int(line))), flush=True)
    except MemoryError:
        print("refused", flush=True)
"""
MANY, FEW = 400 << 20, 1 << 20
CAP = 256 << 20

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="only Linux can cap another process")


class Child:
    """Allocates what it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def gets(self, size: int) -> bool:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip() == str(size)


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.process.kill()
    child.process.communicate()


def test_it_holds_from_the_begin_of_training_until_it_is_lifted(child: Child) -> None:
    cap = MemoryCap(CAP)
    assert child.gets(MANY) and not cap.holds
    cap.begins(child.process.pid, on_gpu=False)
    assert cap.holds and not child.gets(MANY) and child.gets(FEW)
    cap.change(2 * MANY)
    assert child.gets(MANY)
    cap.change(CAP)
    assert not child.gets(MANY) and not cap.is_over
    cap.change(1 << 20)
    assert cap.is_over, "as any process is"
    cap.change(0)
    assert child.gets(MANY) and not cap.holds


def test_it_leaves_a_trainer_on_a_gpu_alone(child: Child) -> None:
    cap = MemoryCap(CAP)
    cap.begins(child.process.pid, on_gpu=True)
    assert not cap.holds and child.gets(MANY)


def test_a_process_that_has_ended_is_no_trouble(child: Child) -> None:
    child.process.kill()
    child.process.wait()
    cap = MemoryCap(CAP)
    cap.begins(child.process.pid, on_gpu=False)
    cap.ended()
    assert not cap.holds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 0),
        ("0", 0),
        ("4GiB", 4 << 30),
        ("1.5 gb", 1_500_000_000),
        ("800MB", 800_000_000),
        ("1TiB", 1 << 40),
        ("4", None),
        ("4G", None),
        ("-4GiB", None),
        ("4 GiB more", None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    assert size_of(text) == size
