"""The libp2p host: one p2pd process (go-libp2p, from hivemind's wheel) that dies with this one.

hivemind's own launcher leaves p2pd running when its parent is killed, and its sockets in the temporary
folder. Here the process is started with PDEATHSIG, its sockets are in a private folder that is removed, and
hivemind's P2P client attaches to it. Nothing public is contacted: no IPFS bootstrap, no NAT port mapping
unless asked for.

Fails with HostError: the binary is missing, the port is taken, or p2pd said something else before it was up.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError
from hivemind.utils.multiaddr import Multiaddr

from atoll.peers.addresses import RELAY, bare, direct, scope
from atoll.peers.line import Line
from atoll.peers.ports import try_port
from atoll.peers.process import die_with_parent

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
_MAX_SOCKET_PATH = 100  # a Unix socket's path has at most 107 bytes
_TEMPORARY = "atoll-p2p-"
_CROSSED = "noise: message is too short"
"""What go-libp2p says where both sides began the handshake."""
_BACKOFF_S = 5.2
"""libp2p's own pause after a failed dial, and a little."""

log = logging.getLogger(__name__)


class HostError(RuntimeError):
    """p2pd did not start. `port_taken`: the commonest cause; `transient`: what another try may mend."""

    def __init__(self, message: str, port_taken: bool = False, transient: bool = False) -> None:
        super().__init__(message)
        self.port_taken = port_taken
        self.transient = transient


GONE = (HostError, P2PDaemonError, OSError, EOFError, TimeoutError)
"""What is raised by whatever speaks to a p2pd that has ended, or does not start."""


@dataclass(frozen=True)
class _Launch:
    """How p2pd is started."""

    identity: Path
    listen: tuple[str, ...]
    run_dir: Path
    announce: tuple[str, ...]
    nat_port_map: bool


@dataclass(frozen=True)
class _Running:
    """What was started."""

    p2p: P2P
    process: asyncio.subprocess.Process
    folder: Path
    reader: asyncio.Task[None]


class Host:
    """A running p2pd with a client attached. Made by `start`, ended by `close`."""

    def __init__(self, launch: _Launch, running: _Running) -> None:
        self._launch = launch
        self._running = running
        self.line = Line()
        """What this host's streams may take, and took; to be replaced before there are any."""

    @property
    def p2p(self) -> P2P:
        """The client; another one after `restart`."""
        return self._running.p2p

    @property
    def process(self) -> asyncio.subprocess.Process:
        return self._running.process

    @classmethod
    async def start(
        cls,
        identity: Path,
        listen: Sequence[str],
        run_dir: Path,
        announce: Sequence[str] = (),
        nat_port_map: bool = False,
    ) -> Host:
        """Starts p2pd with this identity, listening on these multiaddrs. Raises HostError."""
        launch = _Launch(identity, tuple(listen), run_dir, tuple(announce), nat_port_map)
        host = cls(launch, await _run(launch))
        try:
            if not announce:
                # Should it be started again, then where its peers know it to be.
                host._launch = replace(launch, listen=_settled(launch.listen, await host.addresses()))
        except BaseException:
            await host.close()
            raise
        return host

    async def restart(self) -> None:
        """Starts p2pd again, after it ended or to replace it. All streams are gone. Raises HostError."""
        await self.close()
        self._running = await _run(self._launch)

    @property
    def peer_id(self) -> bytes:
        return bytes(self.p2p.peer_id.to_bytes())

    async def addresses(self) -> list[str]:
        """Multiaddrs, with peer id, at which p2pd believes it can be reached by TCP."""
        try:
            found = [str(a) for a in await self.p2p.get_visible_maddrs(latest=True)]
            # QUIC is there for holes in routers (punching.py), which nobody finds by an address alone.
            return [address for address in found if "/udp/" not in address]
        except (ValueError, OSError):
            return []

    async def connect(self, peer_id: bytes, addresses: Sequence[str]) -> None:
        """Opens a connection, if there is none. Raises hivemind's P2PDaemonError, or OSError.

        Two that dial each other at the same moment, from the ports they listen on, make one TCP connection
        (RFC 9293, section 3.5) in which each believes it asked; both handshakes fail, and libp2p dials that
        address no more for 5 s. Then they try again, one after the other.
        """
        stripped = [_circuit(a) if scope(a) == RELAY else Multiaddr(bare(a)) for a in addresses]
        try:
            await self.p2p._client.connect(PeerID(peer_id), stripped)
        except P2PDaemonError as error:
            if _CROSSED not in str(error):
                raise
            await asyncio.sleep(_BACKOFF_S if self.peer_id < peer_id else _BACKOFF_S + 1)
            await self.p2p._client.connect(PeerID(peer_id), stripped)

    async def ways(self, peer_id: bytes) -> list[str]:
        """Far ends of the connections to a peer; through a relay they have /p2p-circuit in them."""
        found = await self.p2p.list_peers()
        return [str(x) for info in found if bytes(info.peer_id.to_bytes()) == peer_id for x in info.addrs]

    async def is_direct(self, peer_id: bytes) -> bool:
        """Whether there is a connection to a peer without a relay."""
        return bool(direct(await self.ways(peer_id)))

    async def disconnect(self, peer_id: bytes) -> None:
        """Ends all connections to a peer. Raises P2PDaemonError."""
        await self.p2p._client.disconnect(PeerID(peer_id))

    @property
    def quic_port(self) -> int:
        """UDP port where it speaks QUIC; 0 where it does not."""
        ports = [x.split("/udp/")[1].split("/")[0] for x in self._launch.listen if "/udp/" in x]
        return int(ports[0]) if ports else 0

    async def close(self) -> None:
        """Ends the client and p2pd and removes the sockets."""
        self._running.reader.cancel()
        # A client whose p2pd is gone has nobody to say goodbye to.
        with suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self.p2p.shutdown()
        await _end(self.process, self._running.folder)


def _circuit(address: str) -> Multiaddr:
    """An address by way of a relay; go-libp2p reads peer ids as multihashes, hivemind writes them as CIDs."""
    return Multiaddr(Multiaddr(address).to_bytes().replace(_ID_AS_CID, _ID_AS_MULTIHASH))


_ID_AS_CID, _ID_AS_MULTIHASH = bytes.fromhex("a503280172"), bytes.fromhex("a50326")
"""Code of /p2p, length, and for a CID its version and codec; then come the 38 bytes of an Ed25519 peer id."""


async def _run(launch: _Launch) -> _Running:
    """Raises HostError."""
    with ExitStack() as claims:
        for address in launch.listen:
            if "/tcp/" not in address:
                continue  # of UDP p2pd shares no port; where it is taken, it does without
            claims.enter_context(_claim(address))
        return await _run_claimed(launch, claims)


async def _run_claimed(launch: _Launch, claims: ExitStack) -> _Running:
    folder = _socket_folder(launch.run_dir)
    control = f"/unix{folder}/p2pd.sock"
    arguments = [
        str(files("hivemind.hivemind_cli") / "p2pd"),
        f"-listen={control}",
        f"-id={launch.identity}",
        f"-hostAddrs={','.join(launch.listen)}",
        "-b=0",
        "-dhtServer=1",
        "-tls=1",
        "-autonat=1",
        "-relay=1",
        # Only the relay that libp2p has by itself, with its own bounds: p2pd's takes its place where p2pd
        # believes to be reached by anybody, and lets each circuit carry 4 GiB for 30 minutes.
        "-relayService=0",
        "-connManager=1",
        f"-natPortMap={int(launch.nat_port_map)}",
        "-idleTimeout=30s",
    ]
    if launch.announce:
        arguments.append(f"-announceAddrs={','.join(launch.announce)}")
    process = await _spawn(arguments, folder)
    try:
        # Not wait_for: where both come at once it takes what was waited for and drops the cancellation
        # (Python before 3.12), and a node that was asked to stop goes on.
        async with asyncio.timeout(START_TIMEOUT_S):
            await _until_up(process)
        claims.close()
        p2p = await _attach(folder, control)
    except TimeoutError as error:
        await _end(process, folder)
        # The machine may have slept meanwhile.
        raise HostError(f"p2pd was not up after {START_TIMEOUT_S:.0f} s", transient=True) from error
    except BaseException:
        # Cancelled, too: no process is left behind.
        await _end(process, folder)
        raise
    reader = asyncio.create_task(_drain(process), name="p2pd-output")
    return _Running(p2p, process, folder, reader)


def _settled(listen: tuple[str, ...], addresses: Sequence[str]) -> tuple[str, ...]:
    """The listen addresses, with the port that p2pd chose where any was allowed."""
    ports = [a.split("/tcp/")[1].split("/")[0] for a in addresses if "/tcp/" in a]
    return tuple(a.removesuffix("/0") + f"/{ports[0]}" if ports and a.endswith("/0") else a for a in listen)


async def _spawn(arguments: Sequence[str], folder: Path) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            preexec_fn=die_with_parent(),
            # Ctrl-C in a terminal is for the daemon: it closes p2pd when its goodbyes are said.
            start_new_session=True,
        )
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise HostError(f"p2pd can't be started ({error}): reinstall hivemind for this platform") from error


def _claim(address: str) -> socket.socket:
    """Holds the TCP port of a listen address until p2pd has it. Raises HostError if another process has it.

    p2pd listens with SO_REUSEPORT, so two of them would share one port without a word, and each connection
    would reach either. A plain bind tells; then a shared one keeps others out until p2pd listens.
    """
    _, family, host, _, port = address.split("/")[:5]
    kind = socket.AF_INET6 if family == "ip6" else socket.AF_INET
    try:
        try_port(host, int(port))
        guard = socket.socket(kind, socket.SOCK_STREAM)
        guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        guard.bind((host, int(port)))
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise HostError(f"port {port} of {host} can't be used: {error.strerror}", port_taken=taken) from error
    return guard


def _socket_folder(run_dir: Path) -> Path:
    """A private folder for sockets: in the data dir, else (too long a path) in the temporary folder.

    One in the temporary folder is linked from the data dir, so that the next start removes what a kill left.
    """
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = run_dir.absolute() / "p2p"
    if place.is_symlink():
        left = place.readlink()
        if left.name.startswith(_TEMPORARY) and left.parent in _temporary_folders():
            shutil.rmtree(left, ignore_errors=True)
        place.unlink()
    shutil.rmtree(place, ignore_errors=True)
    if len(os.fsencode(run_dir.absolute())) + 40 <= _MAX_SOCKET_PATH:
        place.mkdir(mode=0o700)
        return place
    # The temporary folder of a test or of a user may be as long; then the system's own.
    short = [f for f in _temporary_folders() if len(os.fsencode(f)) + 60 <= _MAX_SOCKET_PATH]
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=short[0] if short else None))
    place.symlink_to(folder)
    return folder


def _temporary_folders() -> list[Path]:
    return [Path(tempfile.gettempdir()), Path("/tmp")]


async def _until_up(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    said = ""
    while line := await process.stdout.readline():
        text = line.decode(errors="replace").strip()
        if text.startswith("Peer ID:"):
            return
        said = text or said
    status = await process.wait()
    if status < 0:
        raise HostError(f"p2pd was killed at its start (signal {-status})", transient=True)
    taken = "address already in use" in said or "failed to listen on any addresses" in said
    raise HostError(f"p2pd ended at its start: {said[-300:]}", port_taken=taken)


async def _attach(folder: Path, control: str) -> P2P:
    class Attached(P2P):  # type: ignore[misc]
        _UNIX_SOCKET_PREFIX = f"/unix{folder}/"

    try:
        return await Attached.replicate(Multiaddr(control))
    except GONE as error:
        why = str(error) or type(error).__name__
        raise HostError(f"p2pd does not answer on its socket: {why}", transient=True) from error


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Reads p2pd's output, so that its pipe never fills."""
    assert process.stdout is not None
    while line := await process.stdout.readline():
        log.debug("p2pd: %s", line.decode(errors="replace").strip())


async def _end(process: asyncio.subprocess.Process, folder: Path) -> None:
    try:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    except BaseException:
        # Nobody waits for it any more: it has to end all the same.
        with suppress(ProcessLookupError):
            process.kill()
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
