"""What the machine tells of itself, where it does: memory, disk, temperature (Linux).

Reading never fails: what can't be read is None. Disks and sensors may take their time, or hang, so they are
read in threads now and then (`Kept`), and whoever looks gets what was read last.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from atoll.daemon import gpu

T = TypeVar("T")
THERMAL = Path("/sys/class/hwmon")
DISK_EVERY_S = 30.0
SENSORS_EVERY_S = 10.0
_HOTTEST_C, _COLDEST_C = 150.0, -40.0
"""Sensors that are not connected say what no machine survives."""


def resident_bytes(pids: list[str]) -> int | None:
    """Resident memory of processes together ("self" or numbers); None where the system does not tell."""
    try:
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


MEMINFO = Path("/proc/meminfo")
CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
"""Limit and use of a container's memory, in versions 2 and 1."""


def available_bytes(meminfo: Path = MEMINFO, cgroups: Sequence[tuple[Path, Path]] = CGROUPS) -> int | None:
    """Memory that new processes can have, a container's limit regarded; None where nothing tells."""
    found = []
    try:
        lines = meminfo.read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    for limit, used in cgroups:
        try:
            found.append(max(0, int(limit.read_text()) - int(used.read_text())))
        except (OSError, ValueError):  # there is no such limit, or it is "max"
            continue
    return min(found, default=None)


def temperature_c(folder: Path = THERMAL) -> float | None:
    """The hottest sensor in degrees Celsius; None where there is none."""
    found = []
    for path in folder.glob("hwmon*/temp*_input"):
        try:
            degrees = int(path.read_text()) / 1000
        except (OSError, ValueError):
            continue
        if _COLDEST_C < degrees < _HOTTEST_C:
            found.append(degrees)
    return round(max(found), 1) if found else None


Sleep = Callable[[float], Awaitable[object]]


class Kept(Generic[T]):
    """What `read` said last, `first` until then; `keep` reads it in a thread, with pauses of `every_s`."""

    def __init__(self, read: Callable[[], T], every_s: float, first: T) -> None:
        self._read = read
        self._every_s = every_s
        self._known = first

    def look(self) -> T:
        """Never waits."""
        return self._known

    def read(self) -> None:
        """Reads it anew. Blocking."""
        self._known = self._read()

    async def keep(self, sleep: Sleep = asyncio.sleep) -> None:
        """Reads it again and again, until cancelled."""
        while True:
            await asyncio.to_thread(self.read)
            await sleep(self._every_s)


class MachineFacts:
    """What one node's page, alerts and metrics say of its machine."""

    def __init__(self, root: Path, on_gpu: Callable[[], bool] = lambda: False) -> None:
        """`on_gpu`: whether it trains on one, which is then asked how hot it is."""
        self.disk = Kept(lambda: disk_use(root), DISK_EVERY_S, {"used_bytes": 0, "free_bytes": 0})
        self.free_bytes = Kept[int | None](lambda: free_bytes(root), DISK_EVERY_S, None)
        self.temperature_c = Kept[float | None](lambda: _hottest(on_gpu()), SENSORS_EVERY_S, None)

    async def keep(self) -> None:
        """Keeps them all, each by itself: one that hangs makes only itself old. Runs until cancelled."""
        await asyncio.gather(self.disk.keep(), self.free_bytes.keep(), self.temperature_c.keep())


def disk_use(folder: Path) -> dict[str, int]:
    """`used_bytes` by a folder and `free_bytes` beside it; zeros where the disk does not answer."""
    try:
        return {"used_bytes": _size_of(folder), "free_bytes": shutil.disk_usage(folder).free}
    except OSError:
        return {"used_bytes": 0, "free_bytes": 0}


def free_bytes(folder: Path) -> int | None:
    """What is free where a folder lies; None where the disk does not answer."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _hottest(with_gpu: bool) -> float | None:
    found = [temperature_c(), gpu.temperature_c() if with_gpu else None]
    return max((degrees for degrees in found if degrees is not None), default=None)


def _size_of(folder: Path) -> int:
    """What the files in a folder take on the disk; files that go meanwhile don't count."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(path, name).lstat().st_blocks * 512
            except FileNotFoundError:
                continue
    return total
