"""The libp2p host: real p2pd processes that start, refuse, and never outlive this one."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError

from atoll.peers import identity, p2pd, process
from atoll.peers.p2pd import Host, HostError
from atoll.protocol.signing import peer_text

from .hosts import DEADLINE_S, Hosts, connect

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


async def test_the_peer_id_is_what_libp2p_makes_of_the_key_file(hosts: Hosts):
    host, keyring = await hosts.start("a")
    assert host.peer_id == keyring.peer_id
    addresses = await host.addresses()
    assert addresses and all(a.endswith(f"/p2p/{peer_text(keyring.peer_id)}") for a in addresses)


async def test_two_hosts_connect(hosts: Hosts):
    (a, _), (b, _) = await hosts.start("a"), await hosts.start("b")
    await connect(a, b)
    assert b.peer_id in {info.peer_id.to_bytes() for info in await a.p2p.list_peers()}


async def test_two_that_dialled_each_other_at_the_same_moment_try_again(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
):
    """The crossing itself can't be made at will; what p2pd said when one was seen is raised by the client."""
    (a, _), (b, _) = await hosts.start("a"), await hosts.start("b")
    real, said = a.p2p._client.connect, []

    async def crossed(peer_id, addresses):
        if not said:
            said.append(peer_id)
            raise P2PDaemonError(
                "failed to negotiate security protocol: error reading handshake message: "
                "noise: message is too short"
            )
        await real(peer_id, addresses)

    monkeypatch.setattr(a.p2p._client, "connect", crossed)
    monkeypatch.setattr(p2pd, "_BACKOFF_S", 0.0)
    await connect(a, b)
    assert said and b.peer_id in {info.peer_id.to_bytes() for info in await a.p2p.list_peers()}


async def test_what_else_fails_is_not_tried_again(hosts: Hosts, monkeypatch: pytest.MonkeyPatch):
    (a, _), (b, _) = await hosts.start("a"), await hosts.start("b")
    tries = []

    async def refused(peer_id, addresses):
        tries.append(peer_id)
        raise P2PDaemonError("connection refused")

    monkeypatch.setattr(a.p2p._client, "connect", refused)
    with pytest.raises(P2PDaemonError):
        await connect(a, b)
    assert len(tries) == 1


async def test_a_host_that_is_started_again_is_where_it_was(hosts: Hosts):
    (a, keyring), (b, _) = await hosts.start("a"), await hosts.start("b")
    before = await a.addresses()
    a.process.send_signal(signal.SIGKILL)
    await a.process.wait()
    await a.restart()
    assert await a.addresses() == before and a.peer_id == keyring.peer_id
    await connect(b, a)


async def test_nothing_is_left_when_a_host_closes(hosts: Hosts):
    host, _ = await hosts.start("a")
    folder = host._running.folder
    assert list(folder.iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700
    await hosts.close()
    assert host.process.returncode is not None
    assert not folder.exists()


async def test_a_folder_with_a_long_path_still_works(tmp_path: Path):
    run_dir = tmp_path / ("x" * 60) / ("y" * 60)
    key = tmp_path / "key"
    identity.create(key)
    host = await Host.start(key, [LOOPBACK], run_dir)
    folder = host._running.folder
    assert run_dir not in folder.parents and folder.exists()
    await host.close()
    assert not folder.exists()


async def test_a_temporary_folder_with_a_long_path_still_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    long = tmp_path / ("x" * 60) / ("y" * 60)
    long.mkdir(parents=True)
    monkeypatch.setattr(p2pd.tempfile, "tempdir", str(long))
    key = tmp_path / "key"
    identity.create(key)
    host = await Host.start(key, [LOOPBACK], long / "run")
    folder = host._running.folder
    assert long not in folder.parents and folder.exists()
    await host.close()
    assert not folder.exists() and list(long.iterdir()) == [long / "run"]


async def test_what_a_kill_left_in_the_temporary_folder_goes_with_the_next_start(tmp_path: Path):
    run_dir = tmp_path / ("x" * 60) / ("y" * 60)
    left = p2pd._socket_folder(run_dir)
    (left / "p2pd.sock").touch()
    again = p2pd._socket_folder(run_dir)
    assert not left.exists() and again.exists()
    mine = tmp_path / "atoll-p2p-not-in-the-temporary-folder"
    mine.mkdir()
    (run_dir / "p2p").unlink()
    (run_dir / "p2p").symlink_to(mine)
    last = p2pd._socket_folder(run_dir)
    assert mine.exists(), "a link to elsewhere is not followed"
    for folder in (again, last):
        folder.rmdir()


@pytest.mark.parametrize("shares", [False, True])
async def test_a_taken_port_is_told_apart(tmp_path: Path, shares: bool):
    key = tmp_path / "key"
    identity.create(key)
    with socket.socket() as holder:
        if shares:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(HostError) as caught:
            await Host.start(key, [f"/ip4/127.0.0.1/tcp/{port}"], tmp_path / "run")
    assert caught.value.port_taken
    assert not (tmp_path / "run" / "p2p").exists()


async def test_a_damaged_key_is_another_error(tmp_path: Path):
    key = tmp_path / "key"
    key.write_bytes(b"no key")
    with pytest.raises(HostError) as caught:
        await Host.start(key, [LOOPBACK], tmp_path / "run")
    assert not caught.value.port_taken
    assert not (tmp_path / "run" / "p2p").exists()


async def test_a_missing_binary_is_another_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(p2pd, "files", lambda package: tmp_path)
    with pytest.raises(HostError, match="can't be started"):
        await Host.start(tmp_path / "key", [LOOPBACK], tmp_path / "run")
    assert not (tmp_path / "run" / "p2p").exists()


async def test_a_start_that_is_cancelled_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    key = tmp_path / "key"
    identity.create(key)
    started: list[asyncio.subprocess.Process] = []
    spawned = asyncio.Event()

    async def never_up(process: asyncio.subprocess.Process) -> None:
        started.append(process)
        spawned.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(p2pd, "_until_up", never_up)
    start = asyncio.create_task(Host.start(key, [LOOPBACK], tmp_path / "run"))
    await spawned.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert started[0].returncode is not None
    assert not (tmp_path / "run" / "p2p").exists()


@pytest.mark.parametrize("steps", range(5))
async def test_a_start_that_is_cancelled_as_it_comes_up_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
):
    """A node that was asked to stop at that very moment went on for ever."""
    key = tmp_path / "key"
    identity.create(key)
    waits, up = asyncio.Event(), asyncio.get_running_loop().create_future()
    really_up = p2pd._until_up

    async def until_up(process: asyncio.subprocess.Process) -> None:
        await really_up(process)
        waits.set()
        await up

    monkeypatch.setattr(p2pd, "_until_up", until_up)
    start = asyncio.create_task(Host.start(key, [LOOPBACK], tmp_path / "run"))
    await waits.wait()
    up.set_result(None)
    for _ in range(steps):
        await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not (tmp_path / "run" / "p2p").exists()


async def test_a_host_that_is_not_up_in_time_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    key = tmp_path / "key"
    identity.create(key)
    monkeypatch.setattr(p2pd, "START_TIMEOUT_S", 0.0)
    with pytest.raises(HostError, match="was not up"):
        await Host.start(key, [LOOPBACK], tmp_path / "run")
    assert not (tmp_path / "run" / "p2p").exists()


CHILD = """
import asyncio, sys
from pathlib import Path
from atoll.peers import identity
from atoll.peers.p2pd import Host

async def main():
    folder = Path(sys.argv[1])
    identity.create(folder / "key")
    host = await Host.start(folder / "key", ["/ip4/127.0.0.1/tcp/0"], folder / "run")
    print(host.process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PDEATHSIG is Linux's")
async def test_p2pd_dies_with_its_parent_whatever_kills_it(tmp_path: Path):
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        pid = int(await parent.stdout.readline())
    handle = os.pidfd_open(pid)  # ready to be read when that very process ends
    try:
        ended = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(handle, lambda: ended.done() or ended.set_result(None))
        parent.send_signal(signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            await ended
    finally:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)
        await parent.wait()
        left = p2pd._socket_folder(tmp_path / "run")
        shutil.rmtree(left)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PDEATHSIG is Linux's")
def test_a_child_whose_parent_died_before_it_was_tied_to_it_ends_at_once(monkeypatch: pytest.MonkeyPatch):
    tied = process.die_with_parent()
    assert subprocess.run(["true"], preexec_fn=tied, check=False).returncode == 0
    monkeypatch.setattr(process.os, "getpid", lambda: -1)  # nobody's: as if the parent were another by now
    orphaned = process.die_with_parent()
    assert subprocess.run(["true"], preexec_fn=orphaned, check=False).returncode == 1


def test_an_address_by_way_of_a_relay_is_written_as_go_reads_it():
    """The peer id as a multihash (0x0024 and the key), not as a CID around it (multiformats)."""
    relay = "12D3KooWPMmqKAtJZytrPwREYpc7jXpp1ppxuknbK8GJFPAuYyKK"
    written = p2pd._circuit(f"/ip4/127.0.0.1/tcp/31337/p2p/{relay}/p2p-circuit").to_bytes()
    assert written[:8].hex() == "047f000001067a69" and written[8:11].hex() == "a50326"
    assert written[11:17].hex() == "002408011220" and written[-2:].hex() == "a202" and len(written) == 51
