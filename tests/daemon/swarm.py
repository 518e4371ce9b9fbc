"""A swarm of round drivers in one event loop: real machine, codecs, disk and signatures; links are calls."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from atoll.daemon.rounds.driver import RoundDriver
from atoll.daemon.rounds.outer_state import OuterState, genesis_head
from atoll.daemon.rounds.surroundings import Surroundings, alone
from atoll.daemon.storage import checkpoint
from atoll.daemon.storage.round_log import RoundLog
from atoll.peers.files import FileRefused
from atoll.peers.links import LinkLost
from atoll.protocol import forks
from atoll.protocol import manifest as manifests
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.codecs import result_codec
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.outer import Float32
from atoll.protocol.round import RoundConfig, RoundMachine
from atoll.protocol.round import types as t
from atoll.protocol.schema import ParameterSchema
from atoll.protocol.shards import table_digest, training_sizes
from atoll.protocol.signing import Ed25519Keyring

SCHEMA = ParameterSchema.of([("embed", (40, 64)), ("weight", (50, 30)), ("bias", (5,))])
CHUNK = 1024


def keyring(number: int) -> Ed25519Keyring:
    return Ed25519Keyring(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(bytes([number])).digest()))


def genesis_parameters() -> Float32:
    flat = np.zeros(SCHEMA.total, np.float32)
    rng = np.random.default_rng(0)
    for spec in SCHEMA.tensors:
        flat[spec.offset : spec.end] = rng.standard_normal(spec.size)
    return flat


def delta(seed: int) -> Float32:
    values = np.zeros(SCHEMA.total, np.float32)
    rng = np.random.default_rng(seed)
    for spec in SCHEMA.tensors:
        values[spec.offset : spec.end] = 1e-2 * rng.standard_normal(spec.size)
    return values


def make_manifest(
    first: Ed25519Keyring,
    min_peers: int,
    sizes: Sequence[int] = (),
    codecs: tuple[str, str] = ("int8", "int8"),
    two_level_above: int = 0,
    fragments: int = 1,
    merge: str = "",
    audit: bool = False,
) -> SwarmManifest:
    """`sizes`: of the shards of its data; none: each node has its own. `codecs`: contributions', results'."""
    table = [pb.DataShard(digest=bytes([n]) * 32, size_bytes=size) for n, size in enumerate(sizes)]
    data = pb.Data(name="text", shards=table, size_bytes=sum(sizes), digest=table_digest(table))
    body = pb.Manifest(
        format=1,
        name="test",
        sequence=1,
        protocol=pb.ProtocolRange(lowest=1, highest=1),
        model=pb.Model(kind="gpt" if sizes else "own"),
        data=data if sizes else None,
        inner=pb.Inner(steps=10, lr=1e-3, total_steps=1, schedule="constant", batch=1, beta1=0.9, beta2=0.99),
        outer=pb.Outer(momentum=0.9, lr_by_contributors=[0.4, 0.6], missed="keep"),
        rounds=pb.Rounds(
            chunk_values=CHUNK,
            codec=codecs[0],
            result_codec=codecs[1],
            feedback=0.9 if codecs[0] == "2bit" else 0.0,
            min_peers_to_start=min_peers,
            two_level_above=two_level_above,
            grace_floor_s=0.5,
            grace_cap_s=2.0,
            validate_every=1,
            merge=merge,
            audit=audit,
        ),
        admission="open",
        schema_digest=SCHEMA.digest,
        total_values=SCHEMA.total,
        parameters=SCHEMA.parameters,
        genesis_parameters=hashlib.sha256(genesis_parameters().data.cast("B")).digest(),
        genesis_node=first.peer_id,
    )
    if fragments > 1:
        body.sync.mode = "streaming"
        runs = enumerate(spec.offset for spec in SCHEMA.tensors)
        body.sync.runs.extend(pb.Run(start=at, fragment=k % fragments) for k, at in runs)
    return manifests.sign(body, keyring(99))


class Wire:
    """The links of one member: a call into the other's driver, unless it is cut."""

    def __init__(self, me: bytes, swarm: Swarm) -> None:
        self._me = me
        self._swarm = swarm

    def send(self, peer: bytes, frame: pb.Frame) -> bool:
        other = self._swarm.reachable(self._me, peer)
        if other is not None:
            self._swarm.spawn(other.driver.received(self._me, frame, b""))
        return other is not None

    async def send_bulk(self, peer: bytes, frame: pb.Frame, payload: bytes) -> None:
        other = self._swarm.reachable(self._me, peer)
        if other is None:
            raise LinkLost("cut")
        if frame.HasField("contribution"):
            self._swarm.sizes.append(len(payload))
        await other.driver.received(self._me, frame, self._swarm.spoil(self._me, payload))
        self._swarm.news.set()


class Member:
    """One node without a trainer: the test writes its snapshot."""

    def __init__(self, folder: Path, keys: Ed25519Keyring, swarm: Swarm) -> None:
        self.me = keys.peer_id
        for name in ("checkpoints", "rounds"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.swarm = swarm
        manifest = swarm.manifest
        if not checkpoint.versions(folder / "checkpoints"):
            parameters = genesis_parameters()
            head = genesis_head(manifest)
            zeros = np.zeros_like(parameters)
            read = (0,) * len(training_sizes(manifest.body.data))
            checkpoint.save(
                folder / "checkpoints", manifest.swarm_id, head, SCHEMA, parameters, zeros, read=read
            )
        wanted = manifest.body.rounds
        codec = result_codec(wanted.codec, wanted.result_codec, wanted.merge)
        rounds = RoundLog(folder / "rounds", manifest.chunks, codec)
        vector = np.zeros(SCHEMA.total, np.float32)
        self.state = OuterState(manifest, SCHEMA, vector, folder / "checkpoints", rounds)
        self.problems = self.state.restore()
        self.snapshot = np.zeros(SCHEMA.total, np.float32)
        self.reports: list[t.SessionReport] = []
        self.trouble: list[tuple[str, str]] = []
        self.commits: list[pb.Commit] = []
        config = RoundConfig(
            swarm_id=manifest.swarm_id,
            chunks=len(manifest.chunks),
            fragments=manifest.chunks.fragments,
            codec=manifest.body.rounds.codec,
            result_codec=manifest.body.rounds.result_codec,
            values=manifest.body.total_values,
            outer_lr=manifest.outer_lr,
            genesis_node=bytes(manifest.body.genesis_node),
            holds=manifest.holds,
            min_peers_to_start=manifest.body.rounds.min_peers_to_start,
            two_level_above=manifest.body.rounds.two_level_above or 32,
            grace_floor_s=0.5,
            grace_cap_s=2.0,
            vote_s=5.0,
        )
        self.driver = RoundDriver(
            RoundMachine(config, keys, self.state.head),
            keys,
            self.state,
            self.snapshot,
            Wire(self.me, swarm),
            time.monotonic,
            before_apply=self._before,
            applied=self._applied,
            ended=self._ended,
            trouble=self._troubled,
            around=self._around(folder),
        )

    def _around(self, folder: Path) -> Surroundings:
        """Files of the others are copied, their links are the swarm's."""
        self.said: list[str] = []

        async def fetch(peer: bytes, kind: str, version: int, chunk: int, target: Path, most: int) -> None:
            other = self.swarm.reachable(self.me, peer)
            found = other.driver.guard.served(kind, version, chunk) if other is not None else None
            if found is None:
                raise FileRefused("not_found")
            target.write_bytes(found.path.read_bytes())

        wire = Wire(self.me, self.swarm)
        return replace(
            alone(folder, wire.send),
            fetch=fetch,
            neighbours=lambda: [m.me for m in self.swarm.members if m is not self],
            say=self.said.append,
            draw=self.swarm.draw,
        )

    async def _before(self) -> None:
        return None

    def _troubled(self, code: str, text: str) -> None:
        self.trouble.append((code, text))
        self.swarm.news.set()

    async def _applied(self, commit: pb.Commit, head: Head) -> None:
        self.commits.append(commit)
        self.swarm.roster_changed()

    def _ended(self, report: t.SessionReport) -> None:
        self.reports.append(report)
        self.swarm.news.set()

    def train(self, delta: Float32, tokens: int, shard: int = 0) -> None:
        """Local parameters = committed − delta; then it is ready."""
        np.subtract(self.state.parameters, delta, out=self.snapshot)
        self.driver.feed(t.LocalReady(tokens, 10, shard=shard))

    @property
    def bits(self) -> tuple[bytes, bytes]:
        return self.state.parameters.tobytes(), self.state.momentum.tobytes()


class Swarm:
    """Members that all know each other; `cut` holds pairs that can't reach each other."""

    def __init__(
        self,
        folder: Path,
        count: int,
        min_peers: int | None = None,
        sizes: Sequence[int] = (),
        codecs: tuple[str, str] = ("int8", "int8"),
        two_level_above: int = 0,
        fragments: int = 1,
        merge: str = "",
        audit: bool = False,
    ) -> None:
        self._keys = [keyring(i) for i in range(count)]
        self.manifest = make_manifest(
            self._keys[0], min_peers or count, sizes, codecs, two_level_above, fragments, merge, audit
        )
        self.cut: set[frozenset[bytes]] = set()
        self.spoiled: set[bytes] = set()
        self.sizes: list[int] = []
        """Of contributions that were sent."""
        self.news = asyncio.Event()
        self.draw = random.Random(1).randrange
        self._tasks: set[asyncio.Task[None]] = set()
        self._folder = folder
        self.members = [Member(folder / str(i), keys, self) for i, keys in enumerate(self._keys)]
        for member in self.members:
            member.driver.feed(t.TrainingChanged(True))
        self.roster_changed()

    def reachable(self, sender: bytes, receiver: bytes) -> Member | None:
        found = next((m for m in self.members if m.me == receiver), None)
        return None if found is None or frozenset((sender, receiver)) in self.cut else found

    def spoil(self, sender: bytes, payload: bytes) -> bytes:
        """A liar's payload: its scales are not finite."""
        return b"\xff" * len(payload) if sender in self.spoiled else payload

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _is_ahead(self, other: Member, member: Member) -> bool:
        mine, theirs = member.state.chain, other.state.chain
        choice = forks.compare(mine, theirs)
        if choice is forks.Choice.AHEAD and self.manifest.holds and not other.state.head.certified:
            return forks.has_weight(mine, theirs, [m.state.chain for m in self.members if m is not member])
        return choice.follow

    def roster_changed(self) -> None:
        for member in self.members:
            views = {
                other.me: t.PeerView(
                    other.state.head.digest,
                    member.driver.guard.quarantined(other.me) is None,
                    ahead=self._is_ahead(other, member),
                )
                for other in self.members
                if other is not member and self.reachable(member.me, other.me)
            }
            member.driver.feed(t.RosterChanged(views))
        self.news.set()

    async def lose(self, member: Member) -> None:
        """The member dies."""
        self.members.remove(member)
        await member.driver.close()
        self.roster_changed()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def version(self, version: int) -> None:
        await self.until(lambda: all(m.driver.machine.head.version >= version for m in self.members))

    async def close(self) -> None:
        self.members, members = [], self.members  # nobody is reachable any more
        for task in list(self._tasks):
            task.cancel()
        self.members = members
        for member in self.members:
            await member.driver.close()


Make = Callable[..., Swarm]
"""Makes a swarm that is closed when its test ends."""
