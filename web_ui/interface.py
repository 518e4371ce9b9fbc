"""What the web room asks of a node: its state, its events, its commands, its health, its metrics.

The daemon implements `Node` and `EventLog`; tests and demos implement them with a few lines. The TypedDicts
below are the schema of `GET /api/v1/state` and of one event: `atoll status --json` and the page both read
them. All of it is JSON: a number that is not finite leaves the API as null.

Nothing here fails by itself. A command that cannot be carried out raises `CommandError`, which crosses to the
caller once, as a refusal with a code, a sentence and a fix.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypedDict


class CommandError(Exception):
    """A command that the node refuses. `code` is for machines; `message` and `fix` are sentences."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix


class EventLog(Protocol):
    """A bounded ring of events with ever-growing sequence numbers (the first event has sequence 1)."""

    @property
    def last(self) -> int:
        """Sequence of the newest event; 0 when there has been none."""

    def since(self, sequence: int) -> tuple[Sequence[Mapping[str, Any]], bool]:
        """Return the kept events after `sequence`, oldest first, and whether some were lost in between.

        Each event is an `Event` with further JSON fields of its kind.
        """

    async def wait(self, sequence: int) -> None:
        """Return as soon as an event newer than `sequence` exists. Cancelling it must be harmless."""


class Node(Protocol):
    """One running node as the web room sees it. All methods are called in the daemon's event loop."""

    def state(self) -> Mapping[str, Any]:
        """Return the present snapshot, a `State`. Called twice a second per page, so it never blocks."""

    def events(self) -> EventLog:
        """Return the ring of events, the same object each time."""

    async def command(self, name: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
        """Carry out `pause`, `resume`, `finish`, … and return a JSON-able answer.

        Raises `CommandError`; its code `unknown-command` becomes 404, every other code 409.
        """

    async def past(self, name: str | None, since: float, until: float, points: int) -> Mapping[str, Any]:
        """Return one figure's history, a `History`, or without a name `{"names": [...]}`.

        `since`, `until` in Unix seconds; at most `points` buckets. Raises `CommandError`.
        """

    def health(self) -> tuple[bool, str]:
        """Return whether the node has joined and averages, and the reason code (`ready`, `joining`, …)."""

    def metrics(self) -> str:
        """Return Prometheus text, format 0.0.4. Labels never carry peer ids."""


class Event(TypedDict):
    """One event. Kind `state` carries no news of its own: it says that the snapshot changed."""

    sequence: int
    time: float
    """Unix seconds."""
    kind: str
    text: str
    """A sentence for people."""


class HistoryBucket(TypedDict):
    """What a figure was in one stretch of time."""

    start: int
    """Unix seconds."""
    count: int
    min: float
    max: float
    mean: float


class History(TypedDict):
    """One figure over time, `GET /api/v1/history?name=...`."""

    name: str
    bucket_s: int
    buckets: list[HistoryBucket]
    """Those with samples, in order."""


class TokenAccount(TypedDict):
    """The tokens that this node ever trained on here, and what became of them."""

    produced: int
    accepted: int
    carried: int
    orphaned: int
    expired: int
    lost: int


class Phase(TypedDict):
    """What the node is doing within the present round."""

    name: str
    """inner, averaging, waiting, paused or joining."""
    step: int
    """Inner steps done in this phase, 0 to `of`."""
    of: int
    """Inner steps of the round (H); 0 where steps mean nothing."""


class ClassTraffic(TypedDict):
    """Bytes of one class since the daemon started, and in the last seven days."""

    sent_bytes: int
    received_bytes: int
    week_sent_bytes: int
    week_received_bytes: int


class Traffic(TypedDict):
    """Bytes of Atoll's own streams since the daemon started."""

    sent_bytes: int
    received_bytes: int
    upload_bps: int
    download_bps: int
    """What the line carried while something was under way; 0: not known yet."""
    classes: dict[str, ClassTraffic]
    """By class: rounds, state (files), control, libp2p (DHT, handshakes, encryption)."""


class Peer(TypedDict):
    """One member of the swarm, this node included. What another member says of itself is hostile input."""

    id: str
    """libp2p peer id, base58."""
    name: str
    label: str | None
    state: str
    version: int
    digest: str
    """Hex, with `version` its last signed head."""
    direct: bool | None
    """False when relayed, null when unknown or self."""
    lane: str | None
    """How the bulk of a round travels to it (`lane` or `libp2p`), and why; null where there is no link."""
    rtt_ms: float | None
    """Last round trip, milliseconds."""
    tokens_per_s: float
    """Mean over its last inner phase."""
    accepted_tokens: int
    """In accepted updates, since it joined."""
    last_seen_s: float
    """Seconds since its last signed record."""
    self: bool


class Rejection(TypedDict):
    """An update that the round did not take."""

    peer: str
    reason: str


class RoundPhases(TypedDict):
    """Where the time of a round's averaging went, seconds."""

    scatter_s: float
    reduce_s: float
    commit_s: float
    apply_s: float


class Round(TypedDict):
    """The report of one round. Lists of peers hold peer ids."""

    version: int
    """The version that the round made, or would have made."""
    time: float
    """Unix seconds of the end."""
    outcome: str
    """certified, provisional or aborted."""
    reason: str
    """Why it was not certified; empty when it was."""
    leader: str
    """The leader's readable name."""
    planned: list[str]
    contributed: list[str]
    """Their update is in the result."""
    received: list[str]
    """They took the result but did not contribute."""
    late: list[str]
    rejected: list[Rejection]
    missing: list[str]
    tokens: int
    """Tokens in the accepted updates."""
    bytes_sent: int
    bytes_received: int
    """This node's traffic in this round."""
    duration_s: float
    phases: RoundPhases
    loss: float | None
    """This node's mean train loss over the inner phase, nats per byte."""
    val_loss: float | None
    """Validation loss of the outer parameters after the round, nats per byte."""
    digest: str
    outer_lr: float
    codec: str
    """Of contributions."""
    codec_reason: str
    """A sentence on why, where the manifest leaves it to each round; else empty."""
    groups: int
    """In which contributions were averaged first; 1: the round had one level."""


class Alert(TypedDict):
    """Something a person should know, until it is over."""

    code: str
    since: float
    """Unix seconds."""
    text: str
    fix: str


class BootstrapAddress(TypedDict):
    """One address that the node dials to find others."""

    address: str
    state: str
    """connected, trying or failed."""
    cause: str | None


class ChecklistStep(TypedDict):
    """One step on the way to the first accepted round."""

    step: str
    done: bool
    detail: str


class Link(TypedDict):
    """One commit of the chain that this node follows."""

    version: int
    digest: str
    certified: bool


class SessionView(TypedDict):
    """The session under way."""

    leader: str
    """Node id."""
    view: int
    phase: str
    """`exchange` or `commit`."""


class State(TypedDict):
    """The whole snapshot, `GET /api/v1/state`."""

    sequence: int
    """Grows with every change; the sequence of the newest event when the snapshot was taken."""
    time: float
    """Unix seconds on the node's clock when the snapshot was taken."""
    software: str
    state: str
    because: str
    next: str
    since_s: float
    """Seconds in this state."""
    sentence: str
    """State, because, next, when: the one sentence, made in one place and shown as it is."""
    node_id: str
    name: str
    label: str | None
    swarm_id: str
    swarm_name: str
    organiser: str
    """Fingerprint of the organiser's key."""
    version: int
    digest: str
    certified: bool
    chain: list[Link]
    """The last commits, the newest (this head) first; 16 at most."""
    loss: float | None
    """Train loss, mean over the last inner phase, nats per byte."""
    val_loss: float | None
    """The newest validation loss of the outer parameters, nats per byte."""
    val_loss_version: int | None
    """The version that it is of: `version`, or one before while the newest is still measured."""
    val_loss_before: float | None
    """The same at version 0, before any training."""
    tokens_per_s: float
    """This node's, mean over its last inner phase."""
    swarm_tokens_per_s: float
    """Sum of the members' last announced rates."""
    codec: str
    """Of contributions, as the manifest says; "auto": each plan chooses."""
    codec_reason: str
    """Why the last round had its codec: a sentence, or empty."""
    inner_steps_reason: str
    """What the averaging costs this node, and how many inner steps would suit it: a sentence, or empty."""
    accepted_tokens: int
    swarm_accepted_tokens: int
    """Tokens in accepted updates, since the run's start."""
    token_account: TokenAccount
    phase: Phase
    session: SessionView | None
    device: str
    parameters: int
    memory_bytes: int | None
    """Memory of daemon and trainer together."""
    api: str
    paused: bool
    traffic: Traffic
    peers: list[Peer]
    rounds: list[Round]
    """The newest last, 200 at most."""
    alerts: list[Alert]
    bootstrap: list[BootstrapAddress]
    checklist: list[ChecklistStep]
    """While joining; empty afterwards."""
