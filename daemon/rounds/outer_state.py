"""The outer state of this node: committed parameters, outer momentum, and the head they belong to.

Owns two parameter-sized vectors; the parameters lie in the memory shared with the trainer. All methods
block and run on the disk thread, one at a time, so a checkpoint is never torn and steps apply in order.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from google.protobuf.message import DecodeError

from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage import checkpoint as checkpoints
from atoll.daemon.storage.checkpoint import Checkpoint, CheckpointError
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.storage.files import disk_error, sync_folder
from atoll.daemon.storage.receipts import Receipts
from atoll.daemon.storage.round_log import RoundLog, RoundLogError
from atoll.peers.files import ServedFile
from atoll.protocol import chain, forks, shards
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.amendments import AmendmentError, Amendments
from atoll.protocol.chain import Head
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.modes.asynchronous import ROUND, shared_nesterov_step
from atoll.protocol.outer import Float32, outer_step
from atoll.protocol.receipt import is_certified
from atoll.protocol.round.commit import CommitError, check_content, electorate
from atoll.protocol.schema import ParameterSchema
from atoll.protocol.signing import verify

log = logging.getLogger(__name__)

_SMALL_BYTES = 16 << 20
_LARGE_INTERVAL = 4


def genesis_head(manifest: SwarmManifest) -> Head:
    """Version 0: its only voter is the genesis node."""
    digest = chain.genesis_digest(manifest.swarm_id, manifest.body.genesis_parameters)
    return Head(0, digest, (bytes(manifest.body.genesis_node),))


def next_head(parent: Head, commit: pb.Commit, body: bytes, certified: bool) -> Head:
    """The head that a commit makes."""
    return Head(
        version=parent.version + 1,
        digest=chain.next_digest(parent.digest, body),
        electorate=electorate(commit),
        certified=certified,
        cumulative_tokens=int(commit.cumulative_tokens),
        progress=int(commit.progress),
        amendment=bytes(commit.amendment),
    )


@dataclass(frozen=True)
class Position:
    """Where a state is in its chain: one value, since peers are told of it while the disk thread steps.

    `read`: the data cursor, tokens that this chain has read from each training shard. `ancestors`: digests of
    the versions before the head, newest first; more of them than `chain` names.
    """

    head: Head
    read: tuple[int, ...]
    chain: forks.Chain
    ancestors: tuple[bytes, ...] = ()


def inner_step(manifest: SwarmManifest, head: Head) -> int:
    """Where the inner schedules are at a head, in steps since the genesis."""
    if manifest.small_commits:
        return head.progress * manifest.segment_steps // ROUND
    return head.version * manifest.segment_steps


def check_file(manifest: SwarmManifest, path: Path) -> Checkpoint:
    """What is in a checkpoint file, if `OuterState.adopt` would take it. Raises CheckpointError. Blocking.

    Whether what amended the manifest is here is not asked: that is for whoever adopts it.
    """
    found = checkpoints.verify(path, manifest.swarm_id)
    _check_facts(manifest, found)
    if found.head.version == 0:
        _check_genesis(manifest, *checkpoints.mapped(path, manifest.swarm_id))
    return found


def _check_facts(manifest: SwarmManifest, found: Checkpoint) -> None:
    """Raises CheckpointError unless a state of this swarm can have these facts."""
    if found.schema.digest != manifest.body.schema_digest:
        raise CheckpointError("the checkpoint has another parameter schema than the manifest")
    if found.head.progress and not manifest.small_commits:
        raise CheckpointError("the checkpoint counts rounds that this swarm does not")
    if found.inner_step != inner_step(manifest, found.head):
        raise CheckpointError("the checkpoint is of another inner schedule")
    if len(found.read) != len(shards.training_sizes(manifest.body.data)):
        raise CheckpointError("the checkpoint is of other data")
    if found.head.version == 0 and (found.head != genesis_head(manifest) or any(found.read)):
        raise CheckpointError("the genesis checkpoint is of another chain")


def _check_genesis(manifest: SwarmManifest, parameters: Float32, momentum: Float32) -> None:
    """Raises CheckpointError unless these are the vectors that the swarm began with."""
    if hashlib.sha256(parameters.data.cast("B")).digest() != manifest.body.genesis_parameters:
        raise CheckpointError("the genesis parameters are not those of the manifest")
    if momentum.view(np.uint32).any():
        raise CheckpointError("the genesis has outer momentum")


class StateLost(RuntimeError):
    """The vectors are torn: the node has to start again, and to read them from its disk or from peers."""


class OuterState:
    """Parameters [total] fp32 (shared), momentum [total] fp32, and their position.

    `held`: (version, state) of the checkpoints of this chain that are here, newest first.
    """

    def __init__(
        self,
        manifest: SwarmManifest,
        schema: ParameterSchema,
        parameters: Float32,
        folder: Path,
        rounds: RoundLog,
        momentum: Float32 | None = None,
        amendments: Amendments | None = None,
    ) -> None:
        """`parameters` and `momentum` are written here; None: it is made. `amendments`: of the manifest."""
        self.manifest = manifest
        self.amendments = Amendments(manifest) if amendments is None else amendments
        self.schema = schema
        self.parameters = parameters
        self.momentum: Float32 = np.zeros_like(parameters) if momentum is None else momentum
        head, read = genesis_head(manifest), (0,) * len(shards.training_sizes(manifest.body.data))
        self.position = Position(head, read, (forks.link_of(head),))
        self.saved: Checkpoint | None = None
        self._whole = False  # whether the vectors are what the position says: not before `restore`
        self.held: tuple[tuple[int, bytes], ...] = ()
        self.rounds = rounds
        self.receipts: Receipts | None = None
        """Where what is accepted of this node is kept, signed; None: nowhere."""
        self._folder = folder
        self._mean = np.empty(manifest.body.rounds.chunk_values, dtype=np.float32)
        self._scratch = np.empty_like(self._mean)

    @property
    def head(self) -> Head:
        return self.position.head

    @property
    def read(self) -> tuple[int, ...]:
        return self.position.read

    @property
    def chain(self) -> forks.Chain:
        return self.position.chain

    @property
    def digests(self) -> dict[int, bytes]:
        """Chain digests by version, as far back as they are known."""
        here = (self.head.digest, *self.position.ancestors)
        return {self.head.version - back: digest for back, digest in enumerate(here)}

    # ---- from disk

    def restore(self) -> list[str]:
        """Newest whole checkpoint, then the commits after it. What was damaged, for people.

        Raises AtollError where there is no usable checkpoint at all.
        """
        problems = []
        for version in checkpoints.versions(self._folder):
            path = checkpoints.path_of(self._folder, version)
            try:
                self.adopt(path)
                break
            except CheckpointError as error:
                problems.append(str(error))
        else:
            raise AtollError(
                Exit.TEMPORARY,
                "no_checkpoint",
                f"There is no usable checkpoint in {self._folder}.",
                "It is fetched from a peer as soon as one is found.",
            )
        problems += self._replay()
        self.hold()
        return problems

    def adopt(self, path: Path) -> None:
        """Reads the state in a checkpoint file. Raises CheckpointError; where the file's facts are at fault
        nothing has changed, else the vectors are torn and the state is to be restored."""
        header, _ = checkpoints.read_header(path, self.manifest.swarm_id)
        _check_facts(self.manifest, header)
        try:
            self.amendments.manifest(header.head.amendment)
        except AmendmentError as error:
            raise CheckpointError(f"{path.name} can't be gone on from: {error}") from error
        self._whole = False
        found = checkpoints.load(path, self.manifest.swarm_id, self.parameters, self.momentum)
        if found != header:
            raise CheckpointError(f"{path.name} has changed while it was read")
        if found.head.version == 0:
            _check_genesis(self.manifest, self.parameters, self.momentum)
        self.position = Position(found.head, found.read, self._chain_behind(found.head), found.ancestors)
        self.saved = found
        self._whole = True

    def take_over(self, path: Path, chain: forks.Chain) -> None:
        """A checkpoint that was fetched becomes the state and joins the others; `chain`: what led to it, as a
        peer says.

        Raises CheckpointError and AtollError, and the state is then what this disk has, as before; or
        StateLost, if it has none any more.
        """
        before = self.position
        try:
            self.adopt(path)
            self._join(path, self.head.version)
        except (CheckpointError, AtollError):
            if not self._whole or self.position is not before:
                self._go_back(before)
            raise
        # What led to it is not on this disk; the peer's word for it is good enough to find a common commit.
        told = forks.tail(chain, self.head.version, self.head.digest)
        self.position = replace(self.position, chain=told or self.chain)

    def _join(self, path: Path, version: int) -> None:
        target = checkpoints.path_of(self._folder, version)
        try:
            path.replace(target)
            sync_folder(self._folder)
        except OSError as error:
            raise disk_error(target, error) from error

    def _go_back(self, before: Position) -> None:
        try:
            for problem in self.restore():
                log.warning("not used: %s", problem)
        except AtollError as error:
            raise StateLost(f"a state was refused, and the one before it is gone: {error.message}") from error
        if self.head.digest == before.head.digest:
            self.position = before  # peers had told what this disk does not know of its chain

    def hold(self) -> None:
        """Looks which checkpoints are here for peers to fetch; those of a chain that was left are not."""
        digests = {link.version: link.digest for link in self.chain}
        held = []
        for version in checkpoints.versions(self._folder):
            try:
                found, _ = checkpoints.read_header(
                    checkpoints.path_of(self._folder, version), self.manifest.swarm_id
                )
            except CheckpointError:
                continue
            if version <= self.head.version and digests.get(version, found.head.digest) == found.head.digest:
                held.append((version, found.state))
        self.held = tuple(held)

    def _chain_behind(self, head: Head) -> forks.Chain:
        """The commits that led to a head, newest first, as far as this disk knows all about them."""
        links = [forks.link_of(head)]
        commits = [commit for commit, _ in self._commits_behind(head)]
        for newer, commit, older in zip(commits, commits[1:], [*commits[2:], None], strict=False):
            kept, version = self._kept(commit.version), int(commit.version)
            voters = electorate(older) if older else genesis_head(self.manifest).electorate
            if kept is None or (older is None and version != 1):
                break
            digest = bytes(newer.session.parent)
            links.append(
                forks.Link(version, digest, is_certified(voters, kept[1]), int(commit.cumulative_tokens))
            )
        return tuple(links)

    def kept_commits(self) -> list[tuple[pb.Commit, bytes]]:
        """The last commits that led to this head and are on this disk, and their digests; oldest first."""
        return self._commits_behind(self.head)[::-1]

    def _commits_behind(self, head: Head) -> list[tuple[pb.Commit, bytes]]:
        """The same for any head, newest first."""
        commits: list[tuple[pb.Commit, bytes]] = []
        digest, version = head.digest, head.version
        while (kept := self._kept(version)) is not None:
            commit, record = kept
            if chain.next_digest(commit.session.parent, record.commit.body) != digest:
                break
            commits.append((commit, digest))
            digest, version = bytes(commit.session.parent), version - 1
        return commits

    def _kept(self, version: int) -> tuple[pb.Commit, pb.RoundRecord] | None:
        """A commit that is on this disk, and its record; None where it is damaged."""
        try:
            record = self.rounds.read(version) if version > 0 else None
            return None if record is None else (pb.Commit.FromString(record.commit.body), record)
        except (RoundLogError, DecodeError):
            return None

    def _replay(self) -> list[str]:
        """Applies the commits that follow the checkpoint, and at the end one that was only voted for."""
        while True:
            version = self.head.version + 1
            try:
                record = self.rounds.read(version)
                decided = record is not None
                record = record or self.rounds.voted(version)
                if record is None:
                    return []
                commit, certified = self.check(record)
                self.rounds.check_payload(version, commit)
            except RoundLogError as error:
                return [f"commit {version} can't be replayed: {error}"]
            if decided:
                self.apply(record.commit, certified)
            else:
                # The vote was sent, or may have been: others may hold a majority. Never vote twice.
                self.replay(record, certified)

    # ---- forward

    def check(self, record: pb.RoundRecord) -> tuple[pb.Commit, bool]:
        """`check_record` of what may follow this head. Raises RoundLogError."""
        return check_record(self.amendments, self.head, record)

    def apply(self, signed: pb.Signed, certified: bool) -> Head:
        """One outer step with the kept results of a commit (already checked). The new head.

        Raises StateLost where it fails: it can't be taken back, and the same step must not be taken again.
        """
        if not self._whole:
            raise StateLost("an outer step before it has failed")
        commit = pb.Commit.FromString(signed.body)
        self._whole = False
        try:
            self._step(commit)
        except Exception as error:
            raise StateLost(f"the outer step to version {commit.version} has failed: {error}") from error
        head = next_head(self.head, commit, signed.body, certified)
        read = shards.advance(self.read, commit)
        ancestors = (self.head.digest, *self.position.ancestors)[: checkpoints.MAX_ANCESTORS]
        self.position = Position(head, read, forks.extend(self.chain, forks.link_of(head)), ancestors)
        self._whole = True
        return head

    def _step(self, commit: pb.Commit) -> None:
        beta = self.amendments.manifest(bytes(commit.amendment)).body.outer.momentum
        chunks = self.manifest.chunks
        for chunk, committed in enumerate(commit.chunks):
            if not committed.contributors:
                continue
            span, scratch = chunks.span(chunk), self._scratch[: chunks.size(chunk)]
            mean, lr = self.mean_of(commit, chunk), commit.outer_lr
            if commit.voters:
                share = len(committed.contributors) / len(commit.voters)
                shared_nesterov_step(
                    self.parameters[span], self.momentum[span], mean, share, lr, beta, scratch
                )
            else:
                outer_step(self.parameters[span], self.momentum[span], mean, lr, beta, scratch)

    def mean_of(self, commit: pb.Commit, chunk: int) -> Float32:
        """The decoded mean of a chunk whose results are kept, fp32, until the next one is decoded."""
        mean = self._mean[: self.manifest.chunks.size(chunk)]
        made_of = commit.chunks[chunk].contributors
        weights = [int(commit.contributors[i].weight) for i in made_of]
        self.rounds.mean(commit.version, chunk, weights, mean)
        return mean

    def voters(self, version: int) -> tuple[bytes, ...] | None:
        """Who may vote on the commit that makes a version of this chain; None where it is not known here."""
        if version == self.head.version + 1:
            return self.head.electorate
        if version == 1:
            return genesis_head(self.manifest).electorate
        made = self.digests.get(version - 1)
        kept = {digest: commit for commit, digest in self.kept_commits()}
        if made in kept:
            return electorate(kept[made])
        try:
            path = checkpoints.path_of(self._folder, version - 1)
            head = checkpoints.read_header(path, self.manifest.swarm_id)[0].head
        except CheckpointError:
            return None
        return head.electorate if head.digest == made else None

    def judge(self, record: pb.RoundRecord, link: forks.Link) -> bool | None:
        """Whether a record shows that a commit is certified whose parent is in this chain.

        False: it is the record of something else. None: its votes are too few, or can't be judged here.
        """
        voters, signed = self.voters(link.version), record.commit
        if not verify("commit", signed):
            return False
        try:
            commit = pb.Commit.FromString(signed.body)
            if chain.next_digest(commit.session.parent, signed.body) != link.digest:
                return False
            return True if voters is not None and is_certified(voters, record) else None
        except DecodeError:
            return False

    def certify(self, known: Collection[bytes], record: pb.RoundRecord | None = None) -> None:
        """These commits are certified, as far as they are in this chain; `record` shows it for one of them.

        Raises AtollError.
        """
        links = forks.certify(self.chain, known)
        self.position = replace(
            self.position, head=replace(self.head, certified=links[0].certified), chain=links
        )
        if self.saved is not None and self.saved.head.digest in known:
            checkpoints.note_certified(self._folder, replace(self.saved.head, certified=True))
        if record is not None:
            version = int(pb.Commit.FromString(record.commit.body).version)
            kept = self._kept(version)
            if kept is not None and kept[1].commit == record.commit:
                self.decide(version, record.commit, tuple(record.votes))

    def decide(self, version: int, commit: pb.Signed, votes: tuple[pb.Signed, ...]) -> None:
        """Makes a commit durable as this node's next version, or with more votes. Raises AtollError."""
        self.rounds.decide(version, commit, votes, self.saved.head.version if self.saved else 0)
        if self.receipts is not None:
            voters = self.head.electorate if version == self.head.version + 1 else self.voters(version)
            self.receipts.keep(pb.RoundRecord(commit=commit, votes=votes), voters or ())

    def replay(self, record: pb.RoundRecord, certified: bool) -> Head:
        """Applies a checked commit that this node missed; its results are kept already.

        Raises AtollError and StateLost.
        """
        self.decide(self.head.version + 1, record.commit, tuple(record.votes))
        return self.apply(record.commit, certified)

    def save_if_due(self, always: bool = False) -> None:
        """Writes a checkpoint: whenever all of a small model has been averaged, or every fourth version.

        All nodes save the same versions, so that several hold what a newcomer asks for; one that leaps over
        those saves what it has, or its log would grow. Raises AtollError.
        """
        if not self._whole:
            raise AtollError(
                Exit.TEMPORARY,
                "state_torn",
                "The outer state is between two versions.",
                "The node reads it from its disk when it starts again.",
            )
        small, fragments = 8 * self.parameters.size < _SMALL_BYTES, len(self.manifest.chunks.fragments)
        interval = min(fragments, _LARGE_INTERVAL) if small else _LARGE_INTERVAL
        saved = self.saved.head if self.saved else None
        late = saved is None or self.head.version - saved.version >= 2 * interval
        due = always or late or self.head.version % interval == 0
        if due and (saved is None or saved.digest != self.head.digest):
            self.saved = checkpoints.save(
                self._folder,
                self.manifest.swarm_id,
                self.head,
                self.schema,
                self.parameters,
                self.momentum,
                inner_step(self.manifest, self.head),
                self.read,
                self.position.ancestors,
            )
            self.hold()


def check_record(amendments: Amendments, head: Head, record: pb.RoundRecord) -> tuple[pb.Commit, bool]:
    """The commit in a record, and whether its votes certify it. Raises RoundLogError.

    Signatures are checked, and that it follows from `head`, by all rules but those that need the plan.
    """
    signed = record.commit
    if not verify("commit", signed):
        raise RoundLogError("the commit is not signed")
    try:
        commit = pb.Commit.FromString(signed.body)
        for vote in record.votes:
            pb.Vote.FromString(vote.body)
    except DecodeError as error:
        raise RoundLogError("the commit or a vote for it is not readable") from error
    try:
        manifest = amendments.under(head, bytes(commit.amendment))
    except AmendmentError as error:
        raise RoundLogError(f"the commit is by another manifest: {error}") from error
    if commit.swarm_id != manifest.swarm_id or commit.version != head.version + 1:
        raise RoundLogError("the commit is of another version")
    if commit.session.parent != head.digest or commit.session.leader != signed.signer:
        raise RoundLogError("the commit does not follow this head")
    if commit.session.fragment != head.version % len(manifest.chunks.fragments):
        raise RoundLogError("the commit is of another fragment")
    if len(commit.chunks) != len(manifest.chunks):
        raise RoundLogError("the commit has another table of chunks")
    if commit.result_codec != manifest.body.rounds.result_codec:
        raise RoundLogError("the commit has another codec than the manifest's")
    if bool(commit.voters) != manifest.small_commits:
        raise RoundLogError("the commit names voters where it may not, or none where it must")
    if commit.outer_lr != manifest.outer_lr(len(commit.voters) or len(commit.contributors)):
        raise RoundLogError("the commit has another learning rate than the manifest's")
    try:
        check_content(head, commit, manifest.chunks.due(head.version))
    except CommitError as error:
        raise RoundLogError(str(error)) from error
    return commit, is_certified(head.electorate, record)


class Shards(Protocol):
    """Who has shards of the data."""

    def served(self, index: int) -> ServedFile | None: ...


def served_file(
    folder: DataDir, outer: OuterState | None, data: Shards | None, kind: str, version: int
) -> ServedFile | None:
    """What peers may fetch from this node; `outer` None while it has no state yet."""
    match kind:
        case "manifest":
            return ServedFile(folder.manifest)
        case "data" if data is not None:
            return data.served(version)
        case "checkpoint" if outer is not None and outer.held:
            held = [v for v, _ in outer.held if version in (0, v)]
            return ServedFile(checkpoints.path_of(folder.checkpoints, held[0]), held[0]) if held else None
        case "commit" | "payload" if outer is not None and version <= outer.head.version:
            return ServedFile(outer.rounds.path(version, kind), version)
    return None
