"""A cap on the memory of the trainer: the kernel refuses it more, and it halves its micro-batch.

The limit (RLIMIT_DATA, Linux) counts what a process allocates for itself, its libraries' code not. An
allocation beyond it fails as on a machine without more memory, so what the trainer does then is what it does
anyway: fewer sequences at a time, the same effective batch, said once. It can be changed while it runs; what
a process has already is not taken from it, so whoever owns it ends one that `is_over`.

Only training on the processor is capped: on a GPU it is that one's memory which counts, and drivers reserve
address space that they never use. A script of one's own looks after its memory by itself.
"""

from __future__ import annotations

import logging
import re
import resource
import sys
from pathlib import Path

from atoll.daemon.status import size

SUPPORTED = sys.platform == "linux"

log = logging.getLogger(__name__)


class MemoryCap:
    """Of the trainers of one node, one after the other. `cap_bytes`: 0 for none."""

    def __init__(self, cap_bytes: int = 0) -> None:
        self.cap_bytes = cap_bytes
        self._pid: int | None = None

    @property
    def holds(self) -> bool:
        """Whether a trainer runs under it."""
        return SUPPORTED and self.cap_bytes > 0 and self._pid is not None

    def begins(self, pid: int, on_gpu: bool) -> None:
        """The built-in trainer has its model and is about to train."""
        self._pid = None if on_gpu else pid
        self._apply()

    @property
    def is_over(self) -> bool:
        """Whether the trainer has more than it may already."""
        return self.holds and (allocated_bytes(self._pid or 0) or 0) > self.cap_bytes

    def ended(self) -> None:
        """It is gone."""
        self._pid = None

    def change(self, cap_bytes: int) -> None:
        """Another cap from now on."""
        self.cap_bytes, before = cap_bytes, self.cap_bytes
        if cap_bytes or before:
            self._apply(lift=not cap_bytes)

    def _apply(self, lift: bool = False) -> None:
        if not (SUPPORTED and self._pid is not None and (self.cap_bytes or lift)):
            return
        try:
            _, most = resource.prlimit(self._pid, resource.RLIMIT_DATA)
            wanted = most if lift else self.cap_bytes
            wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
            resource.prlimit(self._pid, resource.RLIMIT_DATA, (wanted, most))
        except OSError as error:  # it has just ended, or this system forbids it
            log.warning("the memory of process %d can't be capped: %s", self._pid, error)

    @property
    def too_small(self) -> str:
        """Why a trainer that has made its batches as small as can be does not run, and what to do."""
        return (
            f"the model does not fit into the memory cap of {size(self.cap_bytes)}, even with one sequence "
            "at a time: raise the cap `memory`, or take it away"
        )


def allocated_bytes(pid: int) -> int | None:
    """What counts against the limit of a process; None where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmData:\s+(\d+) kB$", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else None
