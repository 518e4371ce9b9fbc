"""p2pd is started again, however often it ends meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError

from atoll.daemon import network as module
from atoll.daemon.config import Settings
from atoll.daemon.network import Network
from atoll.daemon.storage.data_dir import DataDir
from atoll.peers import p2pd
from atoll.peers.p2pd import HostError

FAILURES = (
    HostError("no port"),
    ConnectionRefusedError(),
    EOFError(),
    P2PDaemonError("gone"),
    TimeoutError(),
)


class Host:
    """A p2pd that ends once by itself; each start fails in another way, the last one does not."""

    def __init__(self) -> None:
        self.p2p = None
        self.process = self
        self.starts = 0
        self._ended = False

    async def wait(self) -> int:
        if self._ended:
            await asyncio.Event().wait()
        self._ended = True
        return -9

    async def restart(self) -> None:
        self.starts += 1
        if self.starts <= len(FAILURES):
            raise FAILURES[self.starts - 1]

    async def addresses(self) -> list[str]:
        return ["/ip4/127.0.0.1/tcp/1"]


async def test_a_p2pd_that_is_killed_at_its_start_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it is up, then when it has just come up; the third one lives."""
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.0)
    until_up, attach, turns = p2pd._until_up, p2pd._attach, []

    async def killed_first(process: asyncio.subprocess.Process) -> None:
        turns.append(process)
        if len(turns) == 1:
            process.kill()
        await until_up(process)

    async def killed_second(folder: Path, control: str) -> Any:
        if len(turns) == 2:
            turns[-1].kill()
            await turns[-1].wait()
        return await attach(folder, control)

    monkeypatch.setattr(p2pd, "_until_up", killed_first)
    monkeypatch.setattr(p2pd, "_attach", killed_second)
    folder = DataDir(tmp_path / "node")
    folder.create()
    keyring = folder.keyring(folder.identity)
    told: list[str] = []
    events: Any = SimpleNamespace(emit=lambda kind, text: told.append(text))
    alerts: Any = SimpleNamespace()
    async with asyncio.timeout(60), AsyncExitStack() as undo:
        network = Network(folder, events, alerts, None)
        await network.open(undo, Settings(host="127.0.0.1"), keyring, [], lambda: None)
        assert network.host.process.returncode is None and network.addresses
        assert len(turns) == 3 and len(told) == 2 and "signal 9" in told[0]
    assert all(process.returncode is not None for process in turns)


async def test_whatever_fails_while_p2pd_starts_again_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.0)
    told: list[str] = []
    raised: list[str] = []
    cleared = asyncio.Event()
    alerts: Any = SimpleNamespace(
        raise_=lambda code, text, fix: raised.append(code), clear=lambda code: cleared.set()
    )
    events: Any = SimpleNamespace(emit=lambda kind, text: told.append(text))
    folder: Any = SimpleNamespace()
    network = Network(folder, events, alerts, None)
    host: Any = Host()
    network.host = host

    async def close() -> None:
        return None

    async def create(*arguments: object) -> object:
        return SimpleNamespace(close=close)

    monkeypatch.setattr(module.Discovery, "create", create)
    network._discovery = await create()  # type: ignore[assignment]
    finder: Any = SimpleNamespace(attach=lambda discovery: None, look_now=lambda: None)
    network.finder = finder
    work = asyncio.create_task(network.keep_up(lambda: 0.0))
    async with asyncio.timeout(20):
        await cleared.wait()
    work.cancel()
    assert host.starts == len(FAILURES) + 1 and raised == ["p2pd_ended"]
    assert len(told) == len(FAILURES) + 1 and told[-1] == "The libp2p process runs again."
    assert network.addresses == ["/ip4/127.0.0.1/tcp/1"]
