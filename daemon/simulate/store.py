"""One node's outer state on its simulated disk: checkpoints, the shipping replay log, the outer step.

The synchronous twin of daemon/rounds/outer_state.py: same order of writes, same checks, small vectors. A
checkpoint is a digest, the content that is the same on all nodes (what peers fetch), and what only this node
knows (which commits it holds for certified). Whatever is damaged is passed over for what came before it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from atoll.daemon.simulate import facts
from atoll.daemon.simulate.download import header_of
from atoll.daemon.simulate.payloads import Payloads
from atoll.daemon.storage.disk import Disk
from atoll.daemon.storage.round_log import RoundLog, RoundLogError
from atoll.protocol import chain as chains
from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import DIGEST_BYTES, Head
from atoll.protocol.outer import Float32, outer_step
from atoll.protocol.round.commit import CommitError, check_content, electorate
from atoll.protocol.schema import ChunkTable
from atoll.protocol.signing import Keyring

KEEP = 3
OPEN = 4
HISTORY = 256
"""Digests that a state carries: forks may be deeper than what nodes tell each other."""
CHECKPOINTS = Path("checkpoints")
ROUNDS = Path("rounds")


class Damaged(ValueError):
    """A checkpoint that is not whole."""


class Store:
    """Parameters, momentum, head and chain of one node; `saved` are its checkpoints by version."""

    def __init__(
        self,
        disk: Disk,
        keyring: Keyring,
        genesis: Head,
        interval: int,
        payloads: Payloads,
        chunks: ChunkTable,
        applied: Callable[[pb.Commit], None] = lambda commit: None,
    ) -> None:
        self.disk = disk
        self.parameters = np.zeros(chunks.total, np.float32)
        self.momentum = np.zeros_like(self.parameters)
        self.head = genesis
        self.chain: forks.Chain = (forks.link_of(genesis),)
        self.history: tuple[bytes, ...] = (genesis.digest,)  # newest first
        self.saved: dict[int, bytes] = {}
        self._heads: dict[int, bytes] = {}  # chain digest of each checkpoint
        self._genesis = genesis
        self.log = RoundLog(ROUNDS, chunks, payloads.results, disk)
        self._payloads = payloads
        self.chunks = chunks
        self._keyring = keyring
        self._applied = applied
        self._interval = interval
        self._served: dict[int, bytes] = {}  # open files outlive their names
        self._scratch = np.empty(facts.VALUES, np.float32)

    # ---- checkpoints

    def path(self, version: int) -> Path:
        return CHECKPOINTS / f"{version:06d}"

    def _versions(self) -> list[int]:
        return sorted((int(name) for name in self.disk.names(CHECKPOINTS)), reverse=True)

    def content(self) -> bytes:
        """The state as every node at this head writes it."""
        return self.content_of(self.head, self.parameters)

    def content_of(self, head: Head, parameters: Float32) -> bytes:
        """The state of a head with these parameters."""
        about = {
            "version": head.version,
            "digest": head.digest.hex(),
            "tokens": head.cumulative_tokens,
            "progress": head.progress,
            "electorate": [peer.hex() for peer in head.electorate],
            "history": base64.b64encode(b"".join(self.history)).decode(),
            "chain": [[link.version, link.digest.hex(), link.cumulative_tokens] for link in self.chain],
        }
        facts_of_it = json.dumps(about, separators=(",", ":")).encode()
        return (
            struct.pack(">I", len(facts_of_it)) + facts_of_it + parameters.tobytes() + self.momentum.tobytes()
        )

    def save(self) -> None:
        """Writes a checkpoint of the head and forgets old ones. Raises AtollError."""
        self._write(self.head, self.content(), bytes(link.certified for link in self.chain))
        self._thin(self._versions()[KEEP:])

    def held(self) -> tuple[tuple[int, bytes], ...]:
        """(version, state) of this chain's checkpoints, newest first; not of a chain that was left."""
        made = self.window()
        mine = [v for v in self.saved if v <= self.head.version]
        mine = [v for v in mine if self._heads[v] == made.get(v, self._heads[v])]
        return tuple((version, self.saved[version]) for version in sorted(mine, reverse=True))

    def _write(self, head: Head, content: bytes, certified: bytes) -> None:
        version = head.version
        body = struct.pack(">I", len(content)) + content + certified
        self.disk.write(self.path(version), hashlib.sha256(body).digest() + body)
        self.saved[version], self._heads[version] = hashlib.sha256(content).digest(), head.digest
        self._served.pop(version, None)

    def save_if_due(self) -> None:
        """All nodes save the same versions; one that leaps over those saves what it has."""
        version = self.head.version
        late = version - max(self.saved, default=0) >= 2 * self._interval
        here = version in self.saved and self._heads[version] == self.head.digest
        if not here and (late or version % self._interval == 0):
            self.save()

    def _thin(self, versions: Iterable[int]) -> None:
        for version in versions:
            self.disk.unlink(self.path(version))
            self.saved.pop(version, None)

    def read_checkpoint(self, version: int) -> tuple[bytes, bytes]:
        """Content and what this node knew of it. Raises Damaged."""
        try:
            data = self.disk.read(self.path(version))
        except FileNotFoundError as error:
            raise Damaged("no such checkpoint") from error
        digest, body = data[:32], data[32:]
        if hashlib.sha256(body).digest() != digest:
            raise Damaged("a checkpoint without the bits it was saved with")
        (size,) = struct.unpack(">I", body[:4])
        return body[4 : 4 + size], body[4 + size :]

    def adopt(self, content: bytes, certified: bytes = b"") -> None:
        """Takes a state over. Raises Damaged, and has then changed nothing."""
        state = parse_state(content)
        flags = certified or bytes(len(state.chain))
        self.chain = tuple(
            replace(link, certified=bool(flag) or not link.version)
            for link, flag in zip(state.chain, flags, strict=True)
        )
        self.head = replace(state.head, certified=self.chain[0].certified)
        self.history = state.history
        np.copyto(self.parameters, state.parameters)
        np.copyto(self.momentum, state.momentum)

    def restore(self) -> bool:
        """The newest whole checkpoint, and the commits after it; False where there is none."""
        found = False
        for version in self._versions():
            try:
                content, certified = self.read_checkpoint(version)
            except Damaged:
                self.disk.unlink(self.path(version))
                continue
            self.saved[version] = hashlib.sha256(content).digest()
            self._heads[version] = parse_state(content).head.digest
            if not found:
                self.adopt(content, certified)
                found = True
        if found:
            self._replay()
        return found

    def _replay(self) -> None:
        while True:
            version = self.head.version + 1
            try:
                record = self.log.read(version)
                decided = record is not None
                record = record or self.log.voted(version)
                if record is None:
                    return
                commit, certified = self.check(record)
                self.log.check_payload(version, commit)
            except RoundLogError:
                return
            if not decided:
                # The vote was sent, or may have been: others may hold a majority. Never vote twice.
                self.decide(record.commit, tuple(record.votes))
            self.apply(record.commit, certified)

    # ---- forward

    def check(self, record: pb.RoundRecord) -> tuple[pb.Commit, bool]:
        """The commit in a record, and whether its votes certify it. Raises RoundLogError."""
        signed, head = record.commit, self.head
        if not self._keyring.verify("commit", signed):
            raise RoundLogError("the commit is not signed")
        try:
            commit = pb.Commit.FromString(signed.body)
            certified = self._certified(head.electorate, record)
        except DecodeError as error:
            raise RoundLogError("the commit or a vote for it is not readable") from error
        if commit.swarm_id != facts.SWARM or commit.version != head.version + 1:
            raise RoundLogError("the commit is of another version")
        if commit.session.parent != head.digest or commit.session.leader != signed.signer:
            raise RoundLogError("the commit does not follow this head")
        if commit.session.fragment != head.version % len(self.chunks.fragments):
            raise RoundLogError("the commit is of another fragment")
        if len(commit.chunks) != facts.COUNT:
            raise RoundLogError("the commit has another table of chunks")
        if commit.result_codec != facts.CODEC or commit.outer_lr != facts.lr_of(commit):
            raise RoundLogError("the commit has another codec or learning rate than the manifest's")
        try:
            check_content(head, commit, self.chunks.due(head.version))
        except CommitError as error:
            raise RoundLogError(str(error)) from error
        return commit, certified

    def _certified(self, voters: tuple[bytes, ...], record: pb.RoundRecord) -> bool:
        digest = chains.commit_digest(record.commit.body)
        said = {
            vote.signer
            for vote in record.votes
            if self._keyring.verify("vote", vote) and pb.Vote.FromString(vote.body).commit == digest
        }
        return chains.is_majority(len(said & set(voters)), len(voters))

    def decide(self, commit: pb.Signed, votes: tuple[pb.Signed, ...]) -> None:
        """Makes a commit durable as the next version. Raises AtollError."""
        self.log.decide(self.head.version + 1, commit, votes, max(self.saved, default=0))

    def apply(self, signed: pb.Signed, certified: bool) -> Head:
        """One outer step with the kept results of a commit."""
        commit = pb.Commit.FromString(signed.body)
        for chunk, committed in enumerate(commit.chunks):
            if not committed.contributors:
                continue
            span = self.chunks.span(chunk)
            count = len(committed.contributors)
            mean = self._payloads.total(self.log.get(commit.version, chunk, count), count)
            lr = commit.outer_lr
            outer_step(self.parameters[span], self.momentum[span], mean, lr, facts.MOMENTUM, self._scratch)
        self.head = Head(
            version=self.head.version + 1,
            digest=chains.next_digest(self.head.digest, signed.body),
            electorate=electorate(commit),
            certified=certified,
            cumulative_tokens=int(commit.cumulative_tokens),
            progress=int(commit.progress),
        )
        self.chain = forks.extend(self.chain, forks.link_of(self.head))
        self.history = (self.head.digest, *self.history)[:HISTORY]
        self._applied(commit)
        return self.head

    def window(self) -> dict[int, bytes]:
        """Digests of this chain by version, as far back as they are known."""
        return {self.head.version - back: digest for back, digest in enumerate(self.history)}

    def voters(self, version: int) -> tuple[bytes, ...] | None:
        """Who may vote on the commit that makes a version of this chain; None where it is not known here."""
        if version == self.head.version + 1:
            return self.head.electorate
        if version == 1:
            return self._genesis.electorate
        made = self.window().get(version - 1)
        try:
            record = self.log.read(version - 1)
            commit = pb.Commit.FromString(record.commit.body) if record is not None else None
        except (RoundLogError, DecodeError):
            record, commit = None, None
        if record is not None and commit is not None and self._made(commit, record) == made:
            return electorate(commit)
        try:
            head = parse_state(self.read_checkpoint(version - 1)[0]).head
        except Damaged:
            return None
        return head.electorate if head.digest == made else None

    @staticmethod
    def _made(commit: pb.Commit, record: pb.RoundRecord) -> bytes:
        return chains.next_digest(commit.session.parent, record.commit.body)

    def judge(self, record: pb.RoundRecord, link: forks.Link) -> bool | None:
        """Whether a record shows that a commit after one of this chain is certified (None: can't tell)."""
        voters, signed = self.voters(link.version), record.commit
        if not self._keyring.verify("commit", signed):
            return False
        try:
            commit = pb.Commit.FromString(signed.body)
            if chains.next_digest(commit.session.parent, signed.body) != link.digest:
                return False
            return True if voters is not None and self._certified(voters, record) else None
        except DecodeError:
            return False

    def certify(self, known: Collection[bytes], record: pb.RoundRecord | None = None) -> None:
        """These commits are certified, if they are in this chain; `record` shows it for one of them."""
        self.chain = forks.certify(self.chain, known)
        self.head = replace(self.head, certified=self.chain[0].certified)
        if record is not None:
            version = int(pb.Commit.FromString(record.commit.body).version)
            kept = self.log.read(version)
            if kept is not None and kept.commit == record.commit:
                self.log.decide(version, record.commit, tuple(record.votes), max(self.saved, default=0))

    def take_over(self, content: bytes, chain: forks.Chain | None = None) -> None:
        """Another state becomes ours, which is of this chain. Raises Damaged and AtollError.

        First the new checkpoint, then what it replaces goes: in between, either is whole.
        """
        state = parse_state(content)
        if chain is not None and not forks.tail(chain, state.head.version, state.head.digest):
            raise Damaged("a state that is not of the chain that was named")
        self._write(state.head, content, bytes(len(state.chain)))
        self.adopt(content)
        self._thin([version for version in self._versions() if version > self.head.version])
        self._thin(self._versions()[KEEP:])
        self.log.clear()

    def serve(self, kind: str, version: int) -> bytes | None:
        """What a peer may fetch."""
        try:
            if kind in ("checkpoint", "header"):
                content = self._served.pop(version, None) or self.read_checkpoint(version)[0]
                self._served[version] = content
                while len(self._served) > OPEN:
                    del self._served[next(iter(self._served))]
                return content if kind == "checkpoint" else header_of(content).SerializeToString()
            return self.disk.read(self.log.path(version, kind)) if version <= self.head.version else None
        except (Damaged, FileNotFoundError):
            return None

    def bits(self) -> bytes:
        """What equal digests must have in common."""
        return hashlib.sha256(self.parameters.tobytes() + self.momentum.tobytes()).digest()


@dataclass(frozen=True)
class State:
    """A parsed checkpoint."""

    head: Head
    chain: forks.Chain
    history: tuple[bytes, ...]
    parameters: np.ndarray
    momentum: np.ndarray


def parse_state(content: bytes) -> State:
    """A state from a disk or a peer. Raises Damaged."""
    size = 4 * facts.COUNT * facts.VALUES
    try:
        (length,) = struct.unpack(">I", content[:4])
        about = json.loads(content[4 : 4 + length])
        tensors = content[4 + length :]
        if len(tensors) != 2 * size:
            raise Damaged("a state of another size")
        head = Head(
            version=int(about["version"]),
            digest=bytes.fromhex(about["digest"]),
            electorate=tuple(bytes.fromhex(peer) for peer in about["electorate"]),
            certified=False,
            cumulative_tokens=int(about["tokens"]),
            progress=int(about["progress"]),
        )
        past = base64.b64decode(about["history"])
        history = tuple(past[at : at + DIGEST_BYTES] for at in range(0, len(past), DIGEST_BYTES))
        chain = tuple(forks.Link(int(v), bytes.fromhex(d), False, int(n)) for v, d, n in about["chain"])
    except (struct.error, KeyError, TypeError, ValueError) as error:
        raise Damaged("a state that is not readable") from error
    vectors = (np.frombuffer(tensors[:size], np.float32), np.frombuffer(tensors[size:], np.float32))
    return State(head, chain, history, *vectors)
