"""What systemd is told, and the unit that expects it."""

from __future__ import annotations

import asyncio
import configparser
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.daemon.errors import Exit
from atoll.daemon.service_manager import ServiceManager

UNIT = Path(__file__).parents[2] / "docker" / "atoll.service"


class Systemd:
    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.settimeout(10)

    def hears(self) -> str:
        return self.socket.recv(4096).decode()


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Systemd, str]]:
    name = str(tmp_path / "n") if request.param == "file" else f"@{tmp_path}"
    heard = Systemd(f"\0{name[1:]}" if name.startswith("@") else name)
    yield heard, name
    heard.socket.close()


async def test_it_says_that_it_is_ready_what_it_does_and_that_it_lives(systemd: tuple[Systemd, str]) -> None:
    heard, name = systemd
    manager = ServiceManager(
        {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "300000", "WATCHDOG_PID": str(os.getpid())}
    )
    manager.tell(READY="1")
    assert heard.hears() == "READY=1" and manager.watchdog_s == 0.3
    doing = "Training: step 1.\nnot a line of its own"
    work = asyncio.create_task(manager.keep(lambda: doing))
    assert await asyncio.to_thread(heard.hears) == "STATUS=Training: step 1."
    for _ in range(3):
        assert await asyncio.to_thread(heard.hears) == "WATCHDOG=1"
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_without_systemd_nothing_is_said_and_nobody_is_waited_for(tmp_path: Path) -> None:
    nowhere = ServiceManager({"WATCHDOG_USEC": "300000"})
    nowhere.tell(READY="1")
    await nowhere.keep(lambda: "x")
    assert nowhere.watchdog_s == 0 and not nowhere.is_there
    gone = ServiceManager(
        {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_PID": "1", "WATCHDOG_USEC": "9"}
    )
    gone.tell(READY="1")
    assert gone.watchdog_s == 0, "another process is watched"


def test_the_unit_knows_our_exit_statuses() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    final = {int(status) for status in service["RestartPreventExitStatus"].split()}
    assert final == set(Exit) - {Exit.OK, Exit.BUG, Exit.TEMPORARY}
    assert service["Type"] == "notify" and int(service["TimeoutStopSec"]) > 20


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("TESTS_REQUIRE_ALL") == "1":
            pytest.fail("systemd-analyze is not installed, and TESTS_REQUIRE_ALL=1")
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "atoll.service"
    unit.write_text(UNIT.read_text().replace("/opt/atoll/bin/atoll", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60
    )
    told = [line for line in done.stderr.splitlines() if "atoll.service" in line]
    # Debian 12 is older than steps of restarts; it says so and goes on.
    assert not [line for line in told if "RestartSteps" not in line and "RestartMaxDelaySec" not in line]
