"""Fixtures of the tests with real daemons."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .harness import Daemon, is_alive


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons in folders of this test; all are gone when it ends."""
    daemons: list[Daemon] = []

    def begin(name: str, *arguments: str, **more: str) -> Daemon:
        daemon = Daemon(tmp_path / name, *arguments, **more)
        daemons.append(daemon)
        return daemon

    yield begin
    for daemon in daemons:
        if daemon.process.poll() is None:
            below = daemon.kill()
            assert not [pid for pid in below if is_alive(pid) and not _gone_soon(pid)]


def _gone_soon(pid: int) -> bool:
    from .harness import wait_until

    wait_until(lambda: not is_alive(pid), f"process {pid} ends with its daemon", 10.0)
    return True


@pytest.fixture
def stock_dht(tmp_path: Path) -> Iterator[str]:
    """The multiaddr of a running `hivemind-dht`, as its users start it."""
    import os
    import signal
    import subprocess
    import sys

    from .harness import descendants, wait_until

    log = tmp_path / "hivemind-dht.log"
    command = Path(sys.executable).with_name("hivemind-dht")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                str(command),
                "--host_maddrs",
                "/ip4/127.0.0.1/tcp/0",
                "--identity_path",
                str(tmp_path / "dht.id"),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HIVEMIND_COLORS": "never"},
            start_new_session=True,
        )

    def address() -> str | None:
        assert process.poll() is None, log.read_text()
        words = log.read_text(errors="replace").replace(",", " ").split()
        return next((w for w in words if w.startswith("/ip4/127.0.0.1/tcp/") and "/p2p/" in w), None)

    try:
        yield wait_until(address, "hivemind-dht is up")
    finally:
        # It forks helpers that outlive it: end the whole tree.
        for pid in [*descendants(process.pid), process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
