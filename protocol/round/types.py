"""What goes into the round machine and what comes out: frozen values, no behaviour.

Payloads are opaque bytes here: the machine passes them on and never looks inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.wire import Payload

# ---------------------------------------------------------------------------------------------------
# Fixed for a machine


TWO_LEVEL_ABOVE = 32
"""Where the manifest says nothing."""


@dataclass(frozen=True)
class RoundConfig:
    """What the manifest fixes. `outer_lr` maps the number of contributors to a learning rate."""

    swarm_id: bytes
    chunks: int
    codec: str
    result_codec: str
    outer_lr: Callable[[int], float]
    genesis_node: bytes
    amendment: bytes = b""
    """Digest of the amendment that all this is by (protocol/amendments.py); empty: the genesis manifest."""
    values: int = 0
    """Of the whole vector; for the choice of a codec where `codec` is "auto"."""
    fragments: tuple[tuple[int, ...], ...] = ()
    """The chunks of each fragment; none: one fragment has all."""
    two_level_above: int = TWO_LEVEL_ABOVE
    """With more contributors a plan has two levels (grid.py)."""
    door: str = "all"
    door_s: float = 0.0
    """The rule by which rounds begin, and its seconds (door.py)."""
    small_commits: bool = False
    """Whether each is of those who arrive together, and the rest goes on (modes/asynchronous.py)."""
    by_attendance: bool = False
    """Whether contributions weigh by the commits since a node's last one, too (plan.weights)."""
    by_roughness: bool = False
    """Whether members of a narrow round may send more bits (modes/budget.py)."""
    holds: bool = False
    """Whether the merge holds against liars: then voters may be against a commit."""
    min_peers_to_start: int = 1
    grace_floor_s: float = 1.0
    grace_cap_s: float = 60.0
    leg_floor_s: float = 2.0
    """The legs of a session are given what recent ones took and a margin (pace.py), but no less than this,"""
    scatter_s: float = 60.0
    reduce_s: float = 60.0
    vote_s: float = 10.0
    """and at most these; the same while nothing is known."""
    repeat_s: float = 5.0
    """A node that waits for a plan says Ready again after so long."""
    stash_events: int = 4096
    stash_bytes: int = 64 << 20

    def fragment(self, version: int) -> int:
        """The fragment of the session after `version`: they take turns."""
        return version % max(1, len(self.fragments))

    def due(self, version: int) -> Sequence[int]:
        """Its chunks."""
        return self.fragments[self.fragment(version)] if self.fragments else range(self.chunks)


# ---------------------------------------------------------------------------------------------------
# Events


@dataclass(frozen=True)
class PeerView:
    """What the roster knows of a live peer: its chain digest, whether it trains (else it follows), and
    whether its chain is to be followed instead of this node's (protocol/forks.py)."""

    digest: bytes
    training: bool
    upload_bps: int = 0
    ahead: bool = False
    direct: bool = True
    """Whether this node has a link to it; else others forward."""
    since: float = 0.0
    """When the present way to it was found, whatever the clock: what was on another one may be lost."""
    life: int = 0
    """Another one after each start of its process; 0: not known."""


@dataclass(frozen=True)
class ConfigChanged:
    """The manifest is amended: sessions that begin from now on go by this."""

    config: RoundConfig


@dataclass(frozen=True)
class RosterChanged:
    """All live peers other than this node; whoever is absent is lost."""

    peers: Mapping[bytes, PeerView]


@dataclass(frozen=True)
class TrainingChanged:
    """Whether this node trains (and so may lead and is expected), and how fast its line is, bits per second.

    0: not known. `relayed`: all its links run over relays.
    """

    training: bool
    upload_bps: int = 0
    download_bps: int = 0
    relayed: bool = False


@dataclass(frozen=True)
class CatchingUp:
    """While active, another head is being fetched and applied: no session may begin here.

    Begin it only while no session is under way and nothing is being applied; end it in any case.
    """

    active: bool


@dataclass(frozen=True)
class LocalReady:
    """The trainer's snapshot is taken: `tokens` and inner `steps` since the anchor; `offer` is its number,
    `shard` what the tokens were read from. `phase_s`: that a phase takes (0: not known), `rounds`:
    commits since the last contribution, `roughness`: modes/budget.py (0: not known, or not asked for)."""

    tokens: int
    steps: int
    offer: int = 0
    shard: int = 0
    phase_s: float = 0.0
    rounds: int = 0
    roughness: float = 0.0


@dataclass(frozen=True)
class LocalWithdrawn:
    """The snapshot is no longer to be had (trainer gone, paused)."""


@dataclass(frozen=True)
class ReadyReceived:
    sender: bytes
    message: pb.Ready


@dataclass(frozen=True)
class PlanReceived:
    """`signed` was verified as a plan by its signer."""

    sender: bytes
    message: pb.Plan
    signer: bytes


@dataclass(frozen=True)
class ContributionArrived:
    """An encoded chunk, checked by the codec; from this node itself as well.

    `members`: where it is the mean of several, who they are (indices into the plan); None: the sender's own.
    """

    sender: bytes
    session: pb.SessionId
    chunk: int
    payload: Payload
    members: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ContributionRejected:
    """An encoded chunk, or mean of several, that the codec refused."""

    sender: bytes
    session: pb.SessionId
    chunk: int
    reason: str


@dataclass(frozen=True)
class ChunkReduced:
    """The answer to Reduce: contributors are indices into the plan's."""

    session: pb.SessionId
    chunk: int
    contributors: tuple[int, ...]
    payload: Payload
    payload_digest: bytes
    partial: bool = False
    left_out: tuple[int, ...] = ()
    """Who came and is not in it, by the swarm's merge."""


@dataclass(frozen=True)
class ResultArrived:
    """`signed` was verified as a chunk result by its signer, `payload` against its digest."""

    sender: bytes
    message: pb.ChunkResult
    signed: pb.Signed
    payload: Payload


@dataclass(frozen=True)
class WantReceived:
    sender: bytes
    message: pb.Want


@dataclass(frozen=True)
class CommitReceived:
    """`signed` was verified as a commit by its signer."""

    sender: bytes
    message: pb.Commit
    signed: pb.Signed


@dataclass(frozen=True)
class Persisted:
    """The answer to Persist: this commit (its digest) and its results are on stable storage.

    `may_vote` is False where this node has, or may have, voted for another commit of the same parent.
    `refusal`: why it is against this one (a sentence part; empty: it is not); `accused`: who made the results
    that it is against.
    """

    session: pb.SessionId
    commit: bytes
    may_vote: bool = True
    refusal: str = ""
    accused: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class VoteReceived:
    """`signed` was verified as a vote by its signer."""

    sender: bytes
    message: pb.Vote
    signed: pb.Signed


@dataclass(frozen=True)
class AbortReceived:
    """By the leader: the session is over. By another member: it takes no part.

    With a `commit`, by anybody: it takes part, and is against that commit.
    """

    sender: bytes
    message: pb.Abort


@dataclass(frozen=True)
class InquiryReceived:
    sender: bytes
    message: pb.Inquiry


@dataclass(frozen=True)
class HoldingReceived:
    sender: bytes
    message: pb.Holding


@dataclass(frozen=True)
class HeadChanged:
    """The commit was applied, or the node took over another head."""

    head: Head


Event = (
    RosterChanged
    | TrainingChanged
    | CatchingUp
    | LocalReady
    | LocalWithdrawn
    | ReadyReceived
    | PlanReceived
    | ContributionArrived
    | ContributionRejected
    | ChunkReduced
    | ResultArrived
    | WantReceived
    | CommitReceived
    | Persisted
    | VoteReceived
    | AbortReceived
    | InquiryReceived
    | HoldingReceived
    | HeadChanged
    | ConfigChanged
)

# ---------------------------------------------------------------------------------------------------
# Effects


@dataclass(frozen=True)
class Send:
    """Send `frame` (no payload) to each of `peers`."""

    peers: tuple[bytes, ...]
    frame: pb.Frame


@dataclass(frozen=True)
class Scatter:
    """Encode these chunks of this node's pseudo-gradient and stream each to its target."""

    plan: pb.Plan
    targets: tuple[tuple[int, bytes], ...]
    """Chunk and who gets it: its owner, or who collects it for the owner."""

    @property
    def chunks(self) -> tuple[int, ...]:
        return tuple(chunk for chunk, _ in self.targets)


@dataclass(frozen=True)
class Part:
    """What goes into a mean: the encoded contribution of one member, or the `partial` mean of several."""

    members: tuple[int, ...]
    weight: int
    payload: Payload
    partial: bool = False


@dataclass(frozen=True)
class Reduce:
    """Average these encoded parts (in order) and encode the result; answer ChunkReduced with all members.

    Without parts the answer has no contributors and no payload. `partial`: of one group, for the owner.
    """

    plan: pb.Plan
    chunk: int
    parts: tuple[Part, ...]
    partial: bool = False

    @property
    def members(self) -> tuple[int, ...]:
        """Everyone in the mean, in member order."""
        return tuple(sorted(i for part in self.parts for i in part.members))


@dataclass(frozen=True)
class SendPartial:
    """Send the mean of one group to the owner of the chunk."""

    peer: bytes
    session: pb.SessionId
    chunk: int
    part: Part

    @property
    def message(self) -> pb.Contribution:
        """What goes before the payload."""
        return pb.Contribution(
            session=self.session, chunk=self.chunk, partial=True, members=self.part.members
        )


@dataclass(frozen=True)
class StoreResult:
    """Keep the payload of a reduced chunk, which has this SHA-256, until the session ends."""

    session: pb.SessionId
    chunk: int
    payload: Payload
    payload_digest: bytes


@dataclass(frozen=True)
class SendResult:
    """Send the stored result of a chunk to each of `peers`."""

    peers: tuple[bytes, ...]
    session: pb.SessionId
    chunk: int
    signed: pb.Signed


@dataclass(frozen=True)
class Persist:
    """Put commit and stored results on stable storage, then answer Persisted."""

    session: pb.SessionId
    commit: pb.Signed


@dataclass(frozen=True)
class Apply:
    """Apply the commit's outer step; answer HeadChanged."""

    commit: pb.Signed
    votes: tuple[pb.Signed, ...]
    certified: bool
    parent: Head


@dataclass(frozen=True)
class SessionReport:
    """What became of a session, for people. Peer ids; durations in seconds; `reason` is a sentence part."""

    session: pb.SessionId
    version: int
    outcome: str  # "certified", "provisional", "aborted", "missed"
    reason: str
    planned: tuple[bytes, ...] = ()
    followers: tuple[bytes, ...] = ()
    contributed: tuple[bytes, ...] = ()
    late: tuple[bytes, ...] = ()
    rejected: tuple[tuple[bytes, str], ...] = ()
    missing: tuple[bytes, ...] = ()
    refused: tuple[bytes, ...] = ()
    """Voters that were against the commit."""
    tokens: int = 0
    outer_lr: float = 0.0
    codec: str = ""
    groups: int = 1
    """More than one: the round had two levels."""
    codec_reason: str = ""
    """A sentence, where the plan chose the codec."""
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    report: SessionReport


@dataclass(frozen=True)
class Dropped:
    """A message was ignored; counted by `reason`, one of few, and by sender."""

    sender: bytes
    reason: str


Effect = Send | Scatter | Reduce | SendPartial | StoreResult | SendResult | Persist | Apply | Ended | Dropped


@dataclass(frozen=True)
class Situation:
    """Where the machine stands, for the sentence. `until` is a time on the machine's clock."""

    phase: str  # "inner", "waiting", "exchange", "commit", "applying"
    because: str
    leader: bytes | None = None
    until: float | None = None
    ready: int = 0
    expected: int = 0
