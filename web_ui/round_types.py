"""Reports of rounds, `Rounds`: the schema of `GET /api/v1/rounds`. `atoll rounds` and the page read it."""

from typing import TypedDict


class Rejection(TypedDict):
    """An update that the round did not take."""

    peer: int
    reason: str


class RoundPhases(TypedDict):
    """Where the time of a round's averaging went, seconds."""

    scatter_s: float
    reduce_s: float
    commit_s: float
    apply_s: float


class Round(TypedDict):
    """The report of one round. Peers are numbers: places in the list of ids that comes with it."""

    revision: int
    """Of its newest change: a loss that was measured later, a digest."""

    version: int
    """The version that the round made, or would have made."""
    view: int
    """Of its session: each further try at the same version has a higher one."""
    time: float
    """Unix seconds of the end."""
    outcome: str
    """certified, provisional or aborted."""
    reason: str
    """Why it was not certified; empty when it was."""
    leader: str
    """The leader's readable name."""
    planned: list[int]
    contributed: list[int]
    """Their update is in the result."""
    received: list[int]
    """They took the result but did not contribute."""
    late: list[int]
    rejected: list[Rejection]
    missing: list[int]
    tokens: int
    """Tokens in the accepted updates."""
    bytes_sent: int
    bytes_received: int
    """This node's traffic in this round."""
    duration_s: float
    phases: RoundPhases
    loss: float | None
    """This node's mean train loss over the inner phase, nats per byte."""
    loss_min: float | None
    """The least that a member said of itself, this node among them; None where nobody did."""
    loss_max: float | None
    val_loss: float | None
    """Validation loss of the outer parameters after the round, nats per byte."""
    cosine: float | None
    """Mean over the members that said it: between a contribution and the mean of all, -1 to 1."""
    digest: str
    outer_lr: float
    codec: str
    """Of contributions."""
    codec_reason: str
    """A sentence on why, where the manifest leaves it to each round; else empty."""
    groups: int
    """In which contributions were averaged first; 1: the round had one level."""


class Rounds(TypedDict):
    """Reports that changed, oldest change first, `GET /api/v1/rounds?after=REVISION`."""

    run: float
    """When the daemon started, Unix seconds: revisions of another run mean nothing in this one."""
    revision: int
    """Of the last report in here: ask for what is after it. `rounds_revision` of the state is the newest."""
    peers: list[str]
    """Peer ids; the reports hold places in this list."""
    rounds: list[Round]
