"""One node of the Atoll arm: the shipping p2pd, links, round machine, driver and outer state; no trainer.

Its snapshot is its parameters minus Gaussian values of its own seed; "go" says that it is ready, and the
operation ends when the outer step is taken: matchmaking, encoding, both legs, averaging, the vote with its
fsync, and the step are inside. Checkpoints are not: they are written every few rounds, beside training.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from atoll.daemon.rounds.driver import RoundDriver
from atoll.daemon.rounds.outer_state import OuterState, genesis_head
from atoll.daemon.rounds.surroundings import alone
from atoll.daemon.storage import checkpoint
from atoll.daemon.storage.round_log import RoundLog
from atoll.peers import identity
from atoll.peers.lanes import Lanes
from atoll.peers.links import Callbacks, Link, Links
from atoll.peers.p2pd import Host
from atoll.protocol import manifest as manifests
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.codecs import result_codec
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.round import RoundConfig, RoundMachine
from atoll.protocol.round import types as t
from atoll.protocol.schema import ParameterSchema, default_chunk_values
from atoll.protocol.signing import Ed25519Keyring
from benchmarks.averaging.worker import Channel, Meter, error_of, forget_peak, memory_bytes


def organiser() -> Ed25519Keyring:
    """The same key in every process."""
    return Ed25519Keyring(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"benchmark").digest()))


def manifest_of(args: argparse.Namespace, schema: ParameterSchema, first: bytes) -> SwarmManifest:
    """Learning rate 1 without momentum: the parameters move by the mean."""
    zeros = hashlib.sha256()
    for _ in range(schema.total // schema.block):
        zeros.update(bytes(4 * schema.block))
    body = pb.Manifest(
        format=1,
        name="averaging",
        sequence=1,
        protocol=pb.ProtocolRange(lowest=1, highest=1),
        model=pb.Model(kind="own"),
        inner=pb.Inner(steps=1, lr=1e-3, total_steps=1, schedule="constant", batch=1, beta1=0.9, beta2=0.99),
        outer=pb.Outer(momentum=0.0, lr_by_contributors=[1.0], missed="keep"),
        rounds=pb.Rounds(
            chunk_values=args.chunk or default_chunk_values(schema.total, schema.block),
            codec=args.codec,
            result_codec=args.result_codec,
            min_peers_to_start=args.peers,
            grace_floor_s=60.0,
            grace_cap_s=120.0,
            validate_every=1,
        ),
        admission="open",
        schema_digest=schema.digest,
        total_values=schema.total,
        parameters=schema.parameters,
        genesis_parameters=zeros.digest(),
        genesis_node=first,
    )
    return manifests.sign(body, organiser())


class Node:
    """One node; `pending` is the round under way."""

    def __init__(
        self, args: argparse.Namespace, host: Host, keyring: Ed25519Keyring, lanes: Lanes | None
    ) -> None:
        self._args = args
        self._me = keyring.peer_id
        self._keyring = keyring
        callbacks = Callbacks(self._hello, self._refuse, self._up, self._down, self._frame)
        self.links = Links(host, self._me, callbacks, lanes)
        self.linked = asyncio.Event()
        self.driver: RoundDriver
        self.ended: asyncio.Future[None]
        self._up_peers: set[bytes] = set()
        self.report: t.SessionReport | None = None

    def begin(self, first: bytes) -> None:
        """Makes the state of version 0, and the driver."""
        args = self._args
        block = manifests.block_of(args.codec)
        schema = ParameterSchema.of([("values", (args.values,))], block)
        manifest = manifest_of(args, schema, first)
        folder = Path(args.folder)
        parameters = np.zeros(schema.total, np.float32)
        for name in ("checkpoints", "rounds"):
            (folder / name).mkdir()
        log = RoundLog(folder / "rounds", manifest.chunks, result_codec(args.codec, args.result_codec))
        checkpoint.save(
            folder / "checkpoints",
            manifest.swarm_id,
            genesis_head(manifest),
            schema,
            parameters,
            np.zeros_like(parameters),
        )
        self.state = OuterState(manifest, schema, parameters, folder / "checkpoints", log)
        self.state.restore()
        self.state.save_if_due = lambda always=False: None  # type: ignore[method-assign]
        self.snapshot = np.zeros_like(parameters)
        rng = np.random.default_rng(args.rank)
        self.delta = np.zeros_like(parameters)
        self.delta[: args.values] = rng.standard_normal(args.values, dtype=np.float32)
        config = RoundConfig(
            swarm_id=manifest.swarm_id,
            chunks=len(manifest.chunks),
            codec=args.codec,
            result_codec=args.result_codec,
            outer_lr=manifest.outer_lr,
            genesis_node=first,
            min_peers_to_start=args.peers,
            grace_floor_s=60.0,
            grace_cap_s=120.0,
        )
        self.driver = RoundDriver(
            RoundMachine(config, self._keyring, self.state.head),
            self._keyring,
            self.state,
            self.snapshot,
            self.links,
            time.monotonic,
            before_apply=self._before,
            applied=self._applied,
            ended=self._ended,
            trouble=self._trouble,
            around=alone(folder),
        )
        self.driver.feed(t.TrainingChanged(True))

    # ---- links

    def _hello(self) -> pb.Hello:
        return pb.Hello(swarm_id=b"s" * 32, protocol=pb.ProtocolRange(lowest=1, highest=1), software="bench")

    def _refuse(self, peer: bytes, hello: pb.Hello) -> str | None:
        return None

    def _up(self, link: Link) -> None:
        self._up_peers.add(link.peer)
        if len(self._up_peers) == self._args.peers - 1:
            self.linked.set()

    def _down(self, peer: bytes, reason: str) -> None:
        # At once: the tasks that end with the process give reasons of their own.
        print(f"a link ended: {reason}", file=sys.stderr, flush=True)
        raise SystemExit(1)

    async def _frame(self, peer: bytes, frame: pb.Frame, payload: Any) -> None:
        await self.driver.received(peer, frame, payload)

    # ---- rounds

    def prepare(self) -> None:
        """The next snapshot, and where the others are: all go on together."""
        np.subtract(self.state.parameters, self.delta, out=self.snapshot)
        line = self.links.line
        speeds = line.upload_bps, line.likely_download_bps
        self.driver.feed(t.TrainingChanged(True, *speeds))
        digest = self.state.head.digest
        self.driver.feed(t.RosterChanged({peer: t.PeerView(digest, True) for peer in self._up_peers}))

    async def average(self) -> dict[str, Any]:
        self.ended = asyncio.get_running_loop().create_future()
        version = self.state.head.version
        meter = Meter()
        self.driver.offer = version + 1
        self.driver.feed(t.LocalReady(1000, 1, version + 1))
        async with asyncio.timeout(300):
            await self.ended
        result = meter.result()
        assert self.report is not None and self.state.head.version == version + 1, self.report
        contributors = len(self.report.contributed)
        if contributors != self._args.peers:
            raise SystemExit(f"only {contributors} contributed: {self.report}")
        return {**result, "phases": dict(self.report.phases)}

    async def _before(self) -> None:
        return None

    async def _applied(self, commit: pb.Commit, head: Head) -> None:
        self.ended.set_result(None)

    def _ended(self, report: t.SessionReport) -> None:
        self.report = report

    def _trouble(self, code: str, text: str) -> None:
        raise SystemExit(f"{code}: {text}")

    def digest(self) -> str:
        return hashlib.sha256(self.state.parameters.data.cast("B")).hexdigest()


async def run(args: argparse.Namespace, channel: Channel) -> None:
    key = Path(args.folder) / "identity.key"
    keyring = identity.create(key)
    host = await Host.start(key, [f"/ip4/{args.host}/tcp/0"], Path(args.folder) / "run")
    loop = asyncio.get_running_loop()
    lanes = await Lanes.start(keyring.private_key, args.host) if args.lane else None
    node = Node(args, host, keyring, lanes)
    await node.links.listen()
    channel.say(id=keyring.peer_id.hex(), addresses=await host.addresses())
    peers = (await loop.run_in_executor(None, channel.hear))["peers"]
    node.begin(bytes.fromhex(peers[0]["id"]))
    channel.say(begun=True)
    await loop.run_in_executor(None, channel.hear)
    for other in peers[args.rank + 1 :]:
        await host.connect(bytes.fromhex(other["id"]), other["addresses"])
        await node.links.dial(bytes.fromhex(other["id"]))
    async with asyncio.timeout(60):
        await node.linked.wait()
    before = node.state.parameters.copy()
    channel.say(linked=True)
    try:
        while True:
            order = await loop.run_in_executor(None, channel.hear)
            if order["do"] == "prepare":
                node.prepare()
                forget_peak()
                base = memory_bytes()
                channel.say(prepared=True)
            elif order["do"] == "go":
                np.copyto(before, node.state.parameters)
                said = await node.average()
                channel.say(**said, digest=node.digest(), extra=memory_bytes("VmHWM") - base)
            elif order["do"] == "error":
                moved = before - node.state.parameters
                channel.say(error=error_of(moved[: args.values], args.peers))
            else:
                return
    finally:
        await node.driver.close()
        await node.links.close("the benchmark is over")
        if lanes is not None:
            await lanes.close()
        await host.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("rank", "peers", "values", "chunk"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--lane", action="store_true")
    parser.add_argument("--host", default="127.0.0.1")
    for name in ("folder", "codec", "result-codec"):
        parser.add_argument(f"--{name}", required=True)
    channel = Channel()
    uvloop.run(run(parser.parse_args(), channel))


if __name__ == "__main__":
    main()
