"""The snapshot of a node, `State`, and its parts: the schema of `GET /api/v1/state`.

`atoll status --json`, `atoll peers --json` and the page read it. All of it is JSON.
"""

from typing import NotRequired, TypedDict

from atoll.web_ui.owner_types import Controls, PausedBy


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
    upload_cap_bps: float | None
    download_cap_bps: float | None
    """The owner's caps; None: no cap."""
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
    software: str
    """Name and version, as it says; empty where it is known through others only."""
    direct: bool | None
    """False when relayed, null when unknown or self."""
    way: str | None
    """How it is reached: `direct`, `hole-punched`, or `relay` (of libp2p, or a node that passes frames on);
    null of this node."""
    lane: str | None
    """How the bulk of a round travels to it (`lane` or `libp2p`), and why; null where there is no link."""
    rtt_ms: float | None
    """Last round trip, milliseconds."""
    tokens_per_s: float
    """Mean over its last inner phase."""
    accepted_tokens: int
    """In accepted updates, since it joined."""
    quarantine: str | None
    """Why this node leaves out what it contributes, in words; null: it does not."""
    last_seen: float
    """When its last frame came: Unix seconds, to ten seconds; of this node the present."""
    self: bool


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


class Disk(TypedDict):
    """Where the data dir lies."""

    used_bytes: int
    """By the data dir."""
    free_bytes: int


class Verdict(TypedDict):
    """What is known of one part of the way to others."""

    check: str
    verdict: str
    """ok, degraded, blocked or unknown."""
    text: str
    fix: str
    """What to do; empty where nothing has to be done."""


class ProvenAddress(TypedDict):
    """An address at which another node has dialled this one."""

    address: str
    scope: str
    """public, lan or machine: who can dial it."""
    at: float
    """Unix seconds: the last time."""


class Reachability(TypedDict):
    """Whether others can dial this node: by what they found, not by what it believes."""

    verdict: str
    """public, lan (its network), machine, hidden (none of those who tried) or unknown (nobody has tried)."""
    text: str
    fix: str
    tried: int
    """Nodes that tried, of late."""
    reached: int
    """Those of them that could."""
    proven: list[ProvenAddress]
    relays: list[str]
    """Addresses of nodes through which this one is met, where it can't be dialled."""


class AmendedValue(TypedDict):
    """One value that an amendment changes, as people write it."""

    field: str
    """Its name for `atoll manifest update`."""
    before: str
    after: str


class Amendment(TypedDict):
    """A later version of the manifest."""

    version: int
    from_round: int
    in_force: bool
    """The last commit went by it, or by one after it."""
    note: str
    signed_unix_s: int
    changes: list[AmendedValue]


class Swarm(TypedDict):
    """What the manifest that is in force says of the run, for people."""

    mode: str
    model: str
    """In words."""
    data: str
    """Name of the text; empty where each node has its own."""
    data_bytes: int
    inner_steps: int
    batch: int
    fragments: int
    optimizer: str
    inner_lr: float
    outer_lr: float
    """0: it goes by the number of contributors."""
    outer_momentum: float
    codec: str
    result_codec: str
    min_peers: int
    manifest_version: int
    can_write: bool
    """The model writes text: the command `sample` works."""
    organiser_here: bool
    """The organiser's key is on this machine."""
    amendments: list[Amendment]
    """All that are known, those still to come among them; oldest first."""


class Member(TypedDict):
    """One who is, or was, a member of a private swarm."""

    node: str
    """Peer id."""
    name: str
    role: str
    """owner, admin, member or observer; empty for one who is out."""
    code: str
    """Why it is out, for machines; empty for a member."""
    reason: str
    label: str
    since_unix_s: int
    ends_in_s: int
    """Seconds for which its certificate holds without renewal; 0: it does not end."""
    admitted_by: str


class Applicant(TypedDict):
    """One who asks an organiser's node to be let in."""

    node: str
    name: str
    label: str
    role: str
    """As its ticket says."""
    asked_unix_s: float


class TicketView(TypedDict):
    """A ticket that was made in this data dir and ends; nothing of it admits."""

    label: str
    made_s: int
    expires_s: int
    uses: int
    """0: any number."""
    used: int
    """As far as this node knows."""


class Organisation(TypedDict):
    """Members of a private swarm, for those who see to them."""

    admission: str
    """ticket or approve."""
    may_admit: bool
    """The organiser's key, or an admin's role, is on this machine."""
    count: int
    """Who is in."""
    members: list[Member]
    """256 at most, by name, those who are out last."""
    pending: list[Applicant]
    tickets: list[TicketView]


class Privacy(TypedDict):
    """What this node's owner lets its contributions tell."""

    clip: float | None
    """Their most length, Euclidean; None: no bound."""
    noise: float
    """Standard deviation of the noise on each value, in units of `clip`; 0: none."""
    contributions: int
    """Counted by the accountant since its books were begun."""
    epsilon: float | None
    """Of all of them, for `delta`; None: there were none, or one without noise."""
    delta: float


class State(TypedDict):
    """The whole snapshot, `GET /api/v1/state`; the web room adds its `number` (changes.py)."""

    sequence: int
    """Grows with every change; the sequence of the newest event when the snapshot was taken."""
    time: float
    """Unix seconds on the node's clock when the snapshot was taken."""
    started: float
    """When the daemon started, Unix seconds."""
    software: str
    state: str
    because: str
    next: str
    since: float
    """When this state began, Unix seconds."""
    sentence: str
    """State, because, next, when: the one sentence, made in one place and shown as it is."""
    node_id: str
    name: str
    label: str | None
    swarm_id: str
    swarm_name: str
    swarm: Swarm | None
    """None until the manifest is known."""
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
    disk: Disk
    temperature_c: float | None
    """The hottest sensor of processor or accelerator, where the system tells."""
    organisation: Organisation | None
    """None in an open swarm, and until the manifest is known."""
    privacy: Privacy | None
    """None where nothing was asked for."""
    loop_lag_s: float
    """How late the event loop came back at its worst, of late."""
    api: str
    paused: bool
    """By the owner, or by a rule of the owner's."""
    paused_by: list[PausedBy]
    controls: Controls
    traffic: Traffic
    peers: list[Peer]
    rounds_revision: int
    """Of the newest change in the reports of rounds."""
    alerts: list[Alert]
    bootstrap: list[BootstrapAddress]
    connection: list[Verdict]
    reachability: Reachability
    checklist: list[ChecklistStep]
    """While joining; empty afterwards."""
    number: NotRequired[int]
    """Of the snapshot: a change says from which number to which it leads."""
    public: NotRequired[bool]
    """True: this is what anybody may know; fields that are not for everybody are empty."""
