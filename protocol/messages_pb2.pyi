from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    OBSERVER: _ClassVar[Role]
    MEMBER: _ClassVar[Role]
    ADMIN: _ClassVar[Role]
    OWNER: _ClassVar[Role]

class NodeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_STATE_UNSPECIFIED: _ClassVar[NodeState]
    TRAINING: _ClassVar[NodeState]
    JOINING: _ClassVar[NodeState]
    FOLLOWING: _ClassVar[NodeState]
ROLE_UNSPECIFIED: Role
OBSERVER: Role
MEMBER: Role
ADMIN: Role
OWNER: Role
NODE_STATE_UNSPECIFIED: NodeState
TRAINING: NodeState
JOINING: NodeState
FOLLOWING: NodeState

class Signed(_message.Message):
    __slots__ = ("body", "signer", "signature")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signer: bytes
    signature: bytes
    def __init__(self, body: _Optional[bytes] = ..., signer: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class ProtocolRange(_message.Message):
    __slots__ = ("lowest", "highest")
    LOWEST_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    lowest: int
    highest: int
    def __init__(self, lowest: _Optional[int] = ..., highest: _Optional[int] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("kind", "size", "layers", "width", "heads", "context")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    size: str
    layers: int
    width: int
    heads: int
    context: int
    def __init__(self, kind: _Optional[str] = ..., size: _Optional[str] = ..., layers: _Optional[int] = ..., width: _Optional[int] = ..., heads: _Optional[int] = ..., context: _Optional[int] = ...) -> None: ...

class DataShard(_message.Message):
    __slots__ = ("digest", "size_bytes")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    size_bytes: int
    def __init__(self, digest: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Data(_message.Message):
    __slots__ = ("name", "digest", "size_bytes", "shards", "urls")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    URLS_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: bytes
    size_bytes: int
    shards: _containers.RepeatedCompositeFieldContainer[DataShard]
    urls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[DataShard, _Mapping]]] = ..., urls: _Optional[_Iterable[str]] = ...) -> None: ...

class Inner(_message.Message):
    __slots__ = ("steps", "lr", "warmup_steps", "total_steps", "schedule", "batch", "weight_decay", "clip", "beta1", "beta2", "optimizer", "by_speed")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LR_FIELD_NUMBER: _ClassVar[int]
    WARMUP_STEPS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    BY_SPEED_FIELD_NUMBER: _ClassVar[int]
    steps: int
    lr: float
    warmup_steps: int
    total_steps: int
    schedule: str
    batch: int
    weight_decay: float
    clip: float
    beta1: float
    beta2: float
    optimizer: str
    by_speed: bool
    def __init__(self, steps: _Optional[int] = ..., lr: _Optional[float] = ..., warmup_steps: _Optional[int] = ..., total_steps: _Optional[int] = ..., schedule: _Optional[str] = ..., batch: _Optional[int] = ..., weight_decay: _Optional[float] = ..., clip: _Optional[float] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., optimizer: _Optional[str] = ..., by_speed: bool = ...) -> None: ...

class Outer(_message.Message):
    __slots__ = ("momentum", "lr_by_contributors", "missed", "braking")
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    LR_BY_CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    BRAKING_FIELD_NUMBER: _ClassVar[int]
    momentum: float
    lr_by_contributors: _containers.RepeatedScalarFieldContainer[float]
    missed: str
    braking: float
    def __init__(self, momentum: _Optional[float] = ..., lr_by_contributors: _Optional[_Iterable[float]] = ..., missed: _Optional[str] = ..., braking: _Optional[float] = ...) -> None: ...

class Rounds(_message.Message):
    __slots__ = ("chunk_values", "codec", "result_codec", "min_peers_to_start", "grace_floor_s", "grace_cap_s", "validate_every", "feedback", "random_rounding", "two_level_above", "door", "door_s", "merge", "by_roughness", "by_attendance", "audit", "bucket")
    CHUNK_VALUES_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    RESULT_CODEC_FIELD_NUMBER: _ClassVar[int]
    MIN_PEERS_TO_START_FIELD_NUMBER: _ClassVar[int]
    GRACE_FLOOR_S_FIELD_NUMBER: _ClassVar[int]
    GRACE_CAP_S_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_EVERY_FIELD_NUMBER: _ClassVar[int]
    FEEDBACK_FIELD_NUMBER: _ClassVar[int]
    RANDOM_ROUNDING_FIELD_NUMBER: _ClassVar[int]
    TWO_LEVEL_ABOVE_FIELD_NUMBER: _ClassVar[int]
    DOOR_FIELD_NUMBER: _ClassVar[int]
    DOOR_S_FIELD_NUMBER: _ClassVar[int]
    MERGE_FIELD_NUMBER: _ClassVar[int]
    BY_ROUGHNESS_FIELD_NUMBER: _ClassVar[int]
    BY_ATTENDANCE_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    chunk_values: int
    codec: str
    result_codec: str
    min_peers_to_start: int
    grace_floor_s: float
    grace_cap_s: float
    validate_every: int
    feedback: float
    random_rounding: bool
    two_level_above: int
    door: str
    door_s: float
    merge: str
    by_roughness: bool
    by_attendance: bool
    audit: bool
    bucket: int
    def __init__(self, chunk_values: _Optional[int] = ..., codec: _Optional[str] = ..., result_codec: _Optional[str] = ..., min_peers_to_start: _Optional[int] = ..., grace_floor_s: _Optional[float] = ..., grace_cap_s: _Optional[float] = ..., validate_every: _Optional[int] = ..., feedback: _Optional[float] = ..., random_rounding: bool = ..., two_level_above: _Optional[int] = ..., door: _Optional[str] = ..., door_s: _Optional[float] = ..., merge: _Optional[str] = ..., by_roughness: bool = ..., by_attendance: bool = ..., audit: bool = ..., bucket: _Optional[int] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("start", "fragment")
    START_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    start: int
    fragment: int
    def __init__(self, start: _Optional[int] = ..., fragment: _Optional[int] = ...) -> None: ...

class Sync(_message.Message):
    __slots__ = ("mode", "runs", "overlap_steps", "mix")
    MODE_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_STEPS_FIELD_NUMBER: _ClassVar[int]
    MIX_FIELD_NUMBER: _ClassVar[int]
    mode: str
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    overlap_steps: int
    mix: float
    def __init__(self, mode: _Optional[str] = ..., runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., overlap_steps: _Optional[int] = ..., mix: _Optional[float] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("format", "name", "organiser", "sequence", "created_unix_s", "protocol", "seed", "model", "data", "inner", "outer", "rounds", "admission", "schema_digest", "total_values", "parameters", "genesis_parameters", "genesis_node", "bootstrap", "sync")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ORGANISER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    INNER_FIELD_NUMBER: _ClassVar[int]
    OUTER_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOTAL_VALUES_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    GENESIS_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    GENESIS_NODE_FIELD_NUMBER: _ClassVar[int]
    BOOTSTRAP_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    format: int
    name: str
    organiser: bytes
    sequence: int
    created_unix_s: int
    protocol: ProtocolRange
    seed: int
    model: Model
    data: Data
    inner: Inner
    outer: Outer
    rounds: Rounds
    admission: str
    schema_digest: bytes
    total_values: int
    parameters: int
    genesis_parameters: bytes
    genesis_node: bytes
    bootstrap: _containers.RepeatedScalarFieldContainer[str]
    sync: Sync
    def __init__(self, format: _Optional[int] = ..., name: _Optional[str] = ..., organiser: _Optional[bytes] = ..., sequence: _Optional[int] = ..., created_unix_s: _Optional[int] = ..., protocol: _Optional[_Union[ProtocolRange, _Mapping]] = ..., seed: _Optional[int] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., data: _Optional[_Union[Data, _Mapping]] = ..., inner: _Optional[_Union[Inner, _Mapping]] = ..., outer: _Optional[_Union[Outer, _Mapping]] = ..., rounds: _Optional[_Union[Rounds, _Mapping]] = ..., admission: _Optional[str] = ..., schema_digest: _Optional[bytes] = ..., total_values: _Optional[int] = ..., parameters: _Optional[int] = ..., genesis_parameters: _Optional[bytes] = ..., genesis_node: _Optional[bytes] = ..., bootstrap: _Optional[_Iterable[str]] = ..., sync: _Optional[_Union[Sync, _Mapping]] = ...) -> None: ...

class Amendment(_message.Message):
    __slots__ = ("swarm_id", "sequence", "previous", "from_round", "created_unix_s", "note", "inner", "outer", "rounds", "bootstrap", "urls")
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    FROM_ROUND_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    INNER_FIELD_NUMBER: _ClassVar[int]
    OUTER_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    BOOTSTRAP_FIELD_NUMBER: _ClassVar[int]
    URLS_FIELD_NUMBER: _ClassVar[int]
    swarm_id: bytes
    sequence: int
    previous: bytes
    from_round: int
    created_unix_s: int
    note: str
    inner: Inner
    outer: Outer
    rounds: Rounds
    bootstrap: _containers.RepeatedScalarFieldContainer[str]
    urls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, swarm_id: _Optional[bytes] = ..., sequence: _Optional[int] = ..., previous: _Optional[bytes] = ..., from_round: _Optional[int] = ..., created_unix_s: _Optional[int] = ..., note: _Optional[str] = ..., inner: _Optional[_Union[Inner, _Mapping]] = ..., outer: _Optional[_Union[Outer, _Mapping]] = ..., rounds: _Optional[_Union[Rounds, _Mapping]] = ..., bootstrap: _Optional[_Iterable[str]] = ..., urls: _Optional[_Iterable[str]] = ...) -> None: ...

class Ticket(_message.Message):
    __slots__ = ("version", "swarm_id", "organiser", "addresses", "expires_unix_s", "uses", "swarm_name", "label", "capability", "delegation", "untried")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    ORGANISER_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    SWARM_NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    DELEGATION_FIELD_NUMBER: _ClassVar[int]
    UNTRIED_FIELD_NUMBER: _ClassVar[int]
    version: int
    swarm_id: bytes
    organiser: bytes
    addresses: _containers.RepeatedScalarFieldContainer[str]
    expires_unix_s: int
    uses: int
    swarm_name: str
    label: str
    capability: bytes
    delegation: bytes
    untried: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, version: _Optional[int] = ..., swarm_id: _Optional[bytes] = ..., organiser: _Optional[bytes] = ..., addresses: _Optional[_Iterable[str]] = ..., expires_unix_s: _Optional[int] = ..., uses: _Optional[int] = ..., swarm_name: _Optional[str] = ..., label: _Optional[str] = ..., capability: _Optional[bytes] = ..., delegation: _Optional[bytes] = ..., untried: _Optional[_Iterable[int]] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("swarm_id", "key", "role", "uses", "issued_unix_s", "expires_unix_s", "label")
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    ISSUED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    swarm_id: bytes
    key: bytes
    role: Role
    uses: int
    issued_unix_s: int
    expires_unix_s: int
    label: str
    def __init__(self, swarm_id: _Optional[bytes] = ..., key: _Optional[bytes] = ..., role: _Optional[_Union[Role, str]] = ..., uses: _Optional[int] = ..., issued_unix_s: _Optional[int] = ..., expires_unix_s: _Optional[int] = ..., label: _Optional[str] = ...) -> None: ...

class Enrolment(_message.Message):
    __slots__ = ("swarm_id", "node", "witness")
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    WITNESS_FIELD_NUMBER: _ClassVar[int]
    swarm_id: bytes
    node: bytes
    witness: bytes
    def __init__(self, swarm_id: _Optional[bytes] = ..., node: _Optional[bytes] = ..., witness: _Optional[bytes] = ...) -> None: ...

class Witness(_message.Message):
    __slots__ = ("swarm_id", "grant", "node", "at_unix_s")
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    swarm_id: bytes
    grant: bytes
    node: bytes
    at_unix_s: int
    def __init__(self, swarm_id: _Optional[bytes] = ..., grant: _Optional[bytes] = ..., node: _Optional[bytes] = ..., at_unix_s: _Optional[int] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("swarm_id", "node", "role", "issued_unix_s", "expires_unix_s", "label")
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ISSUED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    swarm_id: bytes
    node: bytes
    role: Role
    issued_unix_s: int
    expires_unix_s: int
    label: str
    def __init__(self, swarm_id: _Optional[bytes] = ..., node: _Optional[bytes] = ..., role: _Optional[_Union[Role, str]] = ..., issued_unix_s: _Optional[int] = ..., expires_unix_s: _Optional[int] = ..., label: _Optional[str] = ...) -> None: ...

class Membership(_message.Message):
    __slots__ = ("certificate", "grant", "enrolment", "witness", "renewal", "appointment")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    ENROLMENT_FIELD_NUMBER: _ClassVar[int]
    WITNESS_FIELD_NUMBER: _ClassVar[int]
    RENEWAL_FIELD_NUMBER: _ClassVar[int]
    APPOINTMENT_FIELD_NUMBER: _ClassVar[int]
    certificate: Signed
    grant: Signed
    enrolment: Signed
    witness: Signed
    renewal: Signed
    appointment: Signed
    def __init__(self, certificate: _Optional[_Union[Signed, _Mapping]] = ..., grant: _Optional[_Union[Signed, _Mapping]] = ..., enrolment: _Optional[_Union[Signed, _Mapping]] = ..., witness: _Optional[_Union[Signed, _Mapping]] = ..., renewal: _Optional[_Union[Signed, _Mapping]] = ..., appointment: _Optional[_Union[Signed, _Mapping]] = ...) -> None: ...

class Revocation(_message.Message):
    __slots__ = ("node", "grant", "at_unix_s", "ban", "reason")
    NODE_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    BAN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node: bytes
    grant: bytes
    at_unix_s: int
    ban: bool
    reason: str
    def __init__(self, node: _Optional[bytes] = ..., grant: _Optional[bytes] = ..., at_unix_s: _Optional[int] = ..., ban: bool = ..., reason: _Optional[str] = ...) -> None: ...

class Revocations(_message.Message):
    __slots__ = ("swarm_id", "version", "entries", "appointment")
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    APPOINTMENT_FIELD_NUMBER: _ClassVar[int]
    swarm_id: bytes
    version: int
    entries: _containers.RepeatedCompositeFieldContainer[Revocation]
    appointment: Signed
    def __init__(self, swarm_id: _Optional[bytes] = ..., version: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[Revocation, _Mapping]]] = ..., appointment: _Optional[_Union[Signed, _Mapping]] = ...) -> None: ...

class Roll(_message.Message):
    __slots__ = ("members", "revocations", "digest")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Membership]
    revocations: _containers.RepeatedCompositeFieldContainer[Signed]
    digest: bytes
    def __init__(self, members: _Optional[_Iterable[_Union[Membership, _Mapping]]] = ..., revocations: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ..., digest: _Optional[bytes] = ...) -> None: ...

class EnrolRequest(_message.Message):
    __slots__ = ("swarm_id", "protocol", "software", "enrolment", "look", "label")
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    ENROLMENT_FIELD_NUMBER: _ClassVar[int]
    LOOK_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    swarm_id: bytes
    protocol: ProtocolRange
    software: str
    enrolment: Membership
    look: bool
    label: str
    def __init__(self, swarm_id: _Optional[bytes] = ..., protocol: _Optional[_Union[ProtocolRange, _Mapping]] = ..., software: _Optional[str] = ..., enrolment: _Optional[_Union[Membership, _Mapping]] = ..., look: bool = ..., label: _Optional[str] = ...) -> None: ...

class EnrolReply(_message.Message):
    __slots__ = ("code", "reason", "manifest", "membership", "revocations", "protocol")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    code: str
    reason: str
    manifest: Signed
    membership: _containers.RepeatedCompositeFieldContainer[Membership]
    revocations: _containers.RepeatedCompositeFieldContainer[Signed]
    protocol: ProtocolRange
    def __init__(self, code: _Optional[str] = ..., reason: _Optional[str] = ..., manifest: _Optional[_Union[Signed, _Mapping]] = ..., membership: _Optional[_Iterable[_Union[Membership, _Mapping]]] = ..., revocations: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ..., protocol: _Optional[_Union[ProtocolRange, _Mapping]] = ...) -> None: ...

class PeerRecord(_message.Message):
    __slots__ = ("swarm_id", "peer", "addresses", "protocol", "expires_unix_s", "membership")
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    swarm_id: bytes
    peer: bytes
    addresses: _containers.RepeatedScalarFieldContainer[str]
    protocol: ProtocolRange
    expires_unix_s: int
    membership: Membership
    def __init__(self, swarm_id: _Optional[bytes] = ..., peer: _Optional[bytes] = ..., addresses: _Optional[_Iterable[str]] = ..., protocol: _Optional[_Union[ProtocolRange, _Mapping]] = ..., expires_unix_s: _Optional[int] = ..., membership: _Optional[_Union[Membership, _Mapping]] = ...) -> None: ...

class ChainLink(_message.Message):
    __slots__ = ("version", "digest", "certified", "cumulative_tokens")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CERTIFIED_FIELD_NUMBER: _ClassVar[int]
    CUMULATIVE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    version: int
    digest: bytes
    certified: bool
    cumulative_tokens: int
    def __init__(self, version: _Optional[int] = ..., digest: _Optional[bytes] = ..., certified: bool = ..., cumulative_tokens: _Optional[int] = ...) -> None: ...

class HeldState(_message.Message):
    __slots__ = ("version", "state")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    version: int
    state: bytes
    def __init__(self, version: _Optional[int] = ..., state: _Optional[bytes] = ...) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("state", "version", "digest", "certified", "cumulative_tokens", "accepted_tokens", "tokens_per_s", "step", "steps", "upload_bps", "download_bps", "label", "reason", "chain", "linked", "held", "life", "unchanged", "loss", "cosine", "quarantined")
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CERTIFIED_FIELD_NUMBER: _ClassVar[int]
    CUMULATIVE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_BPS_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_BPS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    LINKED_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    state: NodeState
    version: int
    digest: bytes
    certified: bool
    cumulative_tokens: int
    accepted_tokens: int
    tokens_per_s: float
    step: int
    steps: int
    upload_bps: int
    download_bps: int
    label: str
    reason: str
    chain: _containers.RepeatedCompositeFieldContainer[ChainLink]
    linked: _containers.RepeatedScalarFieldContainer[bytes]
    held: _containers.RepeatedCompositeFieldContainer[HeldState]
    life: int
    unchanged: int
    loss: float
    cosine: float
    quarantined: _containers.RepeatedCompositeFieldContainer[Quarantined]
    def __init__(self, state: _Optional[_Union[NodeState, str]] = ..., version: _Optional[int] = ..., digest: _Optional[bytes] = ..., certified: bool = ..., cumulative_tokens: _Optional[int] = ..., accepted_tokens: _Optional[int] = ..., tokens_per_s: _Optional[float] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., upload_bps: _Optional[int] = ..., download_bps: _Optional[int] = ..., label: _Optional[str] = ..., reason: _Optional[str] = ..., chain: _Optional[_Iterable[_Union[ChainLink, _Mapping]]] = ..., linked: _Optional[_Iterable[bytes]] = ..., held: _Optional[_Iterable[_Union[HeldState, _Mapping]]] = ..., life: _Optional[int] = ..., unchanged: _Optional[int] = ..., loss: _Optional[float] = ..., cosine: _Optional[float] = ..., quarantined: _Optional[_Iterable[_Union[Quarantined, _Mapping]]] = ...) -> None: ...

class Quarantined(_message.Message):
    __slots__ = ("peer", "reason")
    PEER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    peer: bytes
    reason: str
    def __init__(self, peer: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class LaneOffer(_message.Message):
    __slots__ = ("token", "certificate", "port", "connections")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    certificate: bytes
    port: int
    connections: int
    def __init__(self, token: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., port: _Optional[int] = ..., connections: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("swarm_id", "protocol", "software", "schema_digest", "data_digest", "status", "addresses", "lane", "packing", "membership", "revocations")
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    PACKING_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    swarm_id: bytes
    protocol: ProtocolRange
    software: str
    schema_digest: bytes
    data_digest: bytes
    status: NodeStatus
    addresses: _containers.RepeatedScalarFieldContainer[str]
    lane: LaneOffer
    packing: _containers.RepeatedScalarFieldContainer[str]
    membership: _containers.RepeatedCompositeFieldContainer[Membership]
    revocations: _containers.RepeatedCompositeFieldContainer[Signed]
    def __init__(self, swarm_id: _Optional[bytes] = ..., protocol: _Optional[_Union[ProtocolRange, _Mapping]] = ..., software: _Optional[str] = ..., schema_digest: _Optional[bytes] = ..., data_digest: _Optional[bytes] = ..., status: _Optional[_Union[NodeStatus, _Mapping]] = ..., addresses: _Optional[_Iterable[str]] = ..., lane: _Optional[_Union[LaneOffer, _Mapping]] = ..., packing: _Optional[_Iterable[str]] = ..., membership: _Optional[_Iterable[_Union[Membership, _Mapping]]] = ..., revocations: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("status", "nonce", "echo", "unix_ms")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    status: NodeStatus
    nonce: int
    echo: int
    unix_ms: int
    def __init__(self, status: _Optional[_Union[NodeStatus, _Mapping]] = ..., nonce: _Optional[int] = ..., echo: _Optional[int] = ..., unix_ms: _Optional[int] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason", "code", "protocol")
    REASON_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    reason: str
    code: str
    protocol: ProtocolRange
    def __init__(self, reason: _Optional[str] = ..., code: _Optional[str] = ..., protocol: _Optional[_Union[ProtocolRange, _Mapping]] = ...) -> None: ...

class SessionId(_message.Message):
    __slots__ = ("parent", "fragment", "view", "leader", "life")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    parent: bytes
    fragment: int
    view: int
    leader: bytes
    life: int
    def __init__(self, parent: _Optional[bytes] = ..., fragment: _Optional[int] = ..., view: _Optional[int] = ..., leader: _Optional[bytes] = ..., life: _Optional[int] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("parent", "version", "tokens", "steps", "upload_bps", "download_bps", "codecs", "unreachable", "next_view", "offer", "shard", "relayed", "phase_ms", "rounds", "roughness")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_BPS_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_BPS_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    NEXT_VIEW_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    RELAYED_FIELD_NUMBER: _ClassVar[int]
    PHASE_MS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    ROUGHNESS_FIELD_NUMBER: _ClassVar[int]
    parent: bytes
    version: int
    tokens: int
    steps: int
    upload_bps: int
    download_bps: int
    codecs: _containers.RepeatedScalarFieldContainer[str]
    unreachable: _containers.RepeatedScalarFieldContainer[bytes]
    next_view: int
    offer: int
    shard: int
    relayed: bool
    phase_ms: int
    rounds: int
    roughness: float
    def __init__(self, parent: _Optional[bytes] = ..., version: _Optional[int] = ..., tokens: _Optional[int] = ..., steps: _Optional[int] = ..., upload_bps: _Optional[int] = ..., download_bps: _Optional[int] = ..., codecs: _Optional[_Iterable[str]] = ..., unreachable: _Optional[_Iterable[bytes]] = ..., next_view: _Optional[int] = ..., offer: _Optional[int] = ..., shard: _Optional[int] = ..., relayed: bool = ..., phase_ms: _Optional[int] = ..., rounds: _Optional[int] = ..., roughness: _Optional[float] = ...) -> None: ...

class Contributor(_message.Message):
    __slots__ = ("peer", "tokens", "weight", "offer", "shard", "rounds", "codec")
    PEER_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    peer: bytes
    tokens: int
    weight: int
    offer: int
    shard: int
    rounds: int
    codec: str
    def __init__(self, peer: _Optional[bytes] = ..., tokens: _Optional[int] = ..., weight: _Optional[int] = ..., offer: _Optional[int] = ..., shard: _Optional[int] = ..., rounds: _Optional[int] = ..., codec: _Optional[str] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("swarm_id", "session", "version", "contributors", "followers", "owners", "codec", "result_codec", "outer_lr", "scatter_s", "reduce_s", "vote_s", "continues", "exchange_s", "inner_s", "groups", "grid", "voters", "amendment")
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    FOLLOWERS_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    RESULT_CODEC_FIELD_NUMBER: _ClassVar[int]
    OUTER_LR_FIELD_NUMBER: _ClassVar[int]
    SCATTER_S_FIELD_NUMBER: _ClassVar[int]
    REDUCE_S_FIELD_NUMBER: _ClassVar[int]
    VOTE_S_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_S_FIELD_NUMBER: _ClassVar[int]
    INNER_S_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    AMENDMENT_FIELD_NUMBER: _ClassVar[int]
    swarm_id: bytes
    session: SessionId
    version: int
    contributors: _containers.RepeatedCompositeFieldContainer[Contributor]
    followers: _containers.RepeatedScalarFieldContainer[bytes]
    owners: _containers.RepeatedScalarFieldContainer[int]
    codec: str
    result_codec: str
    outer_lr: float
    scatter_s: float
    reduce_s: float
    vote_s: float
    continues: SessionId
    exchange_s: float
    inner_s: float
    groups: int
    grid: _containers.RepeatedScalarFieldContainer[int]
    voters: _containers.RepeatedScalarFieldContainer[bytes]
    amendment: bytes
    def __init__(self, swarm_id: _Optional[bytes] = ..., session: _Optional[_Union[SessionId, _Mapping]] = ..., version: _Optional[int] = ..., contributors: _Optional[_Iterable[_Union[Contributor, _Mapping]]] = ..., followers: _Optional[_Iterable[bytes]] = ..., owners: _Optional[_Iterable[int]] = ..., codec: _Optional[str] = ..., result_codec: _Optional[str] = ..., outer_lr: _Optional[float] = ..., scatter_s: _Optional[float] = ..., reduce_s: _Optional[float] = ..., vote_s: _Optional[float] = ..., continues: _Optional[_Union[SessionId, _Mapping]] = ..., exchange_s: _Optional[float] = ..., inner_s: _Optional[float] = ..., groups: _Optional[int] = ..., grid: _Optional[_Iterable[int]] = ..., voters: _Optional[_Iterable[bytes]] = ..., amendment: _Optional[bytes] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("session", "chunk", "partial", "members")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    session: SessionId
    chunk: int
    partial: bool
    members: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session: _Optional[_Union[SessionId, _Mapping]] = ..., chunk: _Optional[int] = ..., partial: bool = ..., members: _Optional[_Iterable[int]] = ...) -> None: ...

class ChunkResult(_message.Message):
    __slots__ = ("session", "chunk", "contributors", "payload_digest", "left_out")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    session: SessionId
    chunk: int
    contributors: _containers.RepeatedScalarFieldContainer[int]
    payload_digest: bytes
    left_out: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session: _Optional[_Union[SessionId, _Mapping]] = ..., chunk: _Optional[int] = ..., contributors: _Optional[_Iterable[int]] = ..., payload_digest: _Optional[bytes] = ..., left_out: _Optional[_Iterable[int]] = ...) -> None: ...

class Pledge(_message.Message):
    __slots__ = ("swarm_id", "parent", "fragment", "offer", "codec", "digests")
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    swarm_id: bytes
    parent: bytes
    fragment: int
    offer: int
    codec: str
    digests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, swarm_id: _Optional[bytes] = ..., parent: _Optional[bytes] = ..., fragment: _Optional[int] = ..., offer: _Optional[int] = ..., codec: _Optional[str] = ..., digests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AuditRecord(_message.Message):
    __slots__ = ("result", "pledges", "sizes")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PLEDGES_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    result: Signed
    pledges: _containers.RepeatedCompositeFieldContainer[Signed]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, result: _Optional[_Union[Signed, _Mapping]] = ..., pledges: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ..., sizes: _Optional[_Iterable[int]] = ...) -> None: ...

class Accusation(_message.Message):
    __slots__ = ("version", "chunk", "owner", "proof")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    version: int
    chunk: int
    owner: bytes
    proof: bool
    def __init__(self, version: _Optional[int] = ..., chunk: _Optional[int] = ..., owner: _Optional[bytes] = ..., proof: bool = ...) -> None: ...

class Want(_message.Message):
    __slots__ = ("session", "chunks")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    session: SessionId
    chunks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session: _Optional[_Union[SessionId, _Mapping]] = ..., chunks: _Optional[_Iterable[int]] = ...) -> None: ...

class Inquiry(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: SessionId
    def __init__(self, session: _Optional[_Union[SessionId, _Mapping]] = ...) -> None: ...

class Holding(_message.Message):
    __slots__ = ("session", "chunks")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    session: SessionId
    chunks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session: _Optional[_Union[SessionId, _Mapping]] = ..., chunks: _Optional[_Iterable[int]] = ...) -> None: ...

class CommittedChunk(_message.Message):
    __slots__ = ("contributors", "payload_digest")
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    contributors: _containers.RepeatedScalarFieldContainer[int]
    payload_digest: bytes
    def __init__(self, contributors: _Optional[_Iterable[int]] = ..., payload_digest: _Optional[bytes] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("swarm_id", "session", "version", "contributors", "chunks", "result_codec", "outer_lr", "cumulative_tokens", "voters", "progress", "amendment")
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    RESULT_CODEC_FIELD_NUMBER: _ClassVar[int]
    OUTER_LR_FIELD_NUMBER: _ClassVar[int]
    CUMULATIVE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    AMENDMENT_FIELD_NUMBER: _ClassVar[int]
    swarm_id: bytes
    session: SessionId
    version: int
    contributors: _containers.RepeatedCompositeFieldContainer[Contributor]
    chunks: _containers.RepeatedCompositeFieldContainer[CommittedChunk]
    result_codec: str
    outer_lr: float
    cumulative_tokens: int
    voters: _containers.RepeatedScalarFieldContainer[bytes]
    progress: int
    amendment: bytes
    def __init__(self, swarm_id: _Optional[bytes] = ..., session: _Optional[_Union[SessionId, _Mapping]] = ..., version: _Optional[int] = ..., contributors: _Optional[_Iterable[_Union[Contributor, _Mapping]]] = ..., chunks: _Optional[_Iterable[_Union[CommittedChunk, _Mapping]]] = ..., result_codec: _Optional[str] = ..., outer_lr: _Optional[float] = ..., cumulative_tokens: _Optional[int] = ..., voters: _Optional[_Iterable[bytes]] = ..., progress: _Optional[int] = ..., amendment: _Optional[bytes] = ...) -> None: ...

class Vote(_message.Message):
    __slots__ = ("session", "commit")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    session: SessionId
    commit: bytes
    def __init__(self, session: _Optional[_Union[SessionId, _Mapping]] = ..., commit: _Optional[bytes] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("session", "reason", "missing", "commit")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    session: SessionId
    reason: str
    missing: _containers.RepeatedScalarFieldContainer[bytes]
    commit: bytes
    def __init__(self, session: _Optional[_Union[SessionId, _Mapping]] = ..., reason: _Optional[str] = ..., missing: _Optional[_Iterable[bytes]] = ..., commit: _Optional[bytes] = ...) -> None: ...

class Forward(_message.Message):
    __slots__ = ("origin", "target", "envelope")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    origin: bytes
    target: bytes
    envelope: Signed
    def __init__(self, origin: _Optional[bytes] = ..., target: _Optional[bytes] = ..., envelope: _Optional[_Union[Signed, _Mapping]] = ...) -> None: ...

class Forwarded(_message.Message):
    __slots__ = ("target", "frame", "payload_digest", "sequence")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    target: bytes
    frame: bytes
    payload_digest: bytes
    sequence: int
    def __init__(self, target: _Optional[bytes] = ..., frame: _Optional[bytes] = ..., payload_digest: _Optional[bytes] = ..., sequence: _Optional[int] = ...) -> None: ...

class BulkAck(_message.Message):
    __slots__ = ("numbers",)
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    numbers: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, numbers: _Optional[_Iterable[int]] = ...) -> None: ...

class Received(_message.Message):
    __slots__ = ("bytes",)
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    def __init__(self, bytes: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("payload_size", "hello", "heartbeat", "goodbye", "ready", "plan", "contribution", "result", "want", "commit", "vote", "abort", "forward", "holding", "inquiry", "bulk_ack", "received", "roll", "pledge", "accusation", "punch", "amendment", "number", "unpacked_size")
    PAYLOAD_SIZE_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    WANT_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    VOTE_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    FORWARD_FIELD_NUMBER: _ClassVar[int]
    HOLDING_FIELD_NUMBER: _ClassVar[int]
    INQUIRY_FIELD_NUMBER: _ClassVar[int]
    BULK_ACK_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ROLL_FIELD_NUMBER: _ClassVar[int]
    PLEDGE_FIELD_NUMBER: _ClassVar[int]
    ACCUSATION_FIELD_NUMBER: _ClassVar[int]
    PUNCH_FIELD_NUMBER: _ClassVar[int]
    AMENDMENT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    UNPACKED_SIZE_FIELD_NUMBER: _ClassVar[int]
    payload_size: int
    hello: Hello
    heartbeat: Heartbeat
    goodbye: Goodbye
    ready: Ready
    plan: Signed
    contribution: Contribution
    result: Signed
    want: Want
    commit: Signed
    vote: Signed
    abort: Abort
    forward: Forward
    holding: Holding
    inquiry: Inquiry
    bulk_ack: BulkAck
    received: Received
    roll: Roll
    pledge: Signed
    accusation: Accusation
    punch: Punch
    amendment: Signed
    number: int
    unpacked_size: int
    def __init__(self, payload_size: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., plan: _Optional[_Union[Signed, _Mapping]] = ..., contribution: _Optional[_Union[Contribution, _Mapping]] = ..., result: _Optional[_Union[Signed, _Mapping]] = ..., want: _Optional[_Union[Want, _Mapping]] = ..., commit: _Optional[_Union[Signed, _Mapping]] = ..., vote: _Optional[_Union[Signed, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., forward: _Optional[_Union[Forward, _Mapping]] = ..., holding: _Optional[_Union[Holding, _Mapping]] = ..., inquiry: _Optional[_Union[Inquiry, _Mapping]] = ..., bulk_ack: _Optional[_Union[BulkAck, _Mapping]] = ..., received: _Optional[_Union[Received, _Mapping]] = ..., roll: _Optional[_Union[Roll, _Mapping]] = ..., pledge: _Optional[_Union[Signed, _Mapping]] = ..., accusation: _Optional[_Union[Accusation, _Mapping]] = ..., punch: _Optional[_Union[Punch, _Mapping]] = ..., amendment: _Optional[_Union[Signed, _Mapping]] = ..., number: _Optional[int] = ..., unpacked_size: _Optional[int] = ...) -> None: ...

class DialBackRequest(_message.Message):
    __slots__ = ("addresses", "port")
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    port: int
    def __init__(self, addresses: _Optional[_Iterable[str]] = ..., port: _Optional[int] = ...) -> None: ...

class DialBackResult(_message.Message):
    __slots__ = ("address", "cause")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    address: str
    cause: str
    def __init__(self, address: _Optional[str] = ..., cause: _Optional[str] = ...) -> None: ...

class DialBackReply(_message.Message):
    __slots__ = ("code", "reason", "seen", "results")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    code: str
    reason: str
    seen: str
    results: _containers.RepeatedCompositeFieldContainer[DialBackResult]
    def __init__(self, code: _Optional[str] = ..., reason: _Optional[str] = ..., seen: _Optional[str] = ..., results: _Optional[_Iterable[_Union[DialBackResult, _Mapping]]] = ...) -> None: ...

class Punch(_message.Message):
    __slots__ = ("addresses", "answer")
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    answer: bool
    def __init__(self, addresses: _Optional[_Iterable[str]] = ..., answer: bool = ...) -> None: ...

class CircuitReservation(_message.Message):
    __slots__ = ("expire",)
    EXPIRE_FIELD_NUMBER: _ClassVar[int]
    expire: int
    def __init__(self, expire: _Optional[int] = ...) -> None: ...

class CircuitPeer(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    def __init__(self, id: _Optional[bytes] = ...) -> None: ...

class CircuitLimit(_message.Message):
    __slots__ = ("duration", "data")
    DURATION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    duration: int
    data: int
    def __init__(self, duration: _Optional[int] = ..., data: _Optional[int] = ...) -> None: ...

class CircuitHop(_message.Message):
    __slots__ = ("type", "peer", "reservation", "limit", "status")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    type: int
    peer: CircuitPeer
    reservation: CircuitReservation
    limit: CircuitLimit
    status: int
    def __init__(self, type: _Optional[int] = ..., peer: _Optional[_Union[CircuitPeer, _Mapping]] = ..., reservation: _Optional[_Union[CircuitReservation, _Mapping]] = ..., limit: _Optional[_Union[CircuitLimit, _Mapping]] = ..., status: _Optional[int] = ...) -> None: ...

class CircuitStop(_message.Message):
    __slots__ = ("type", "peer", "limit", "status")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    type: int
    peer: CircuitPeer
    limit: CircuitLimit
    status: int
    def __init__(self, type: _Optional[int] = ..., peer: _Optional[_Union[CircuitPeer, _Mapping]] = ..., limit: _Optional[_Union[CircuitLimit, _Mapping]] = ..., status: _Optional[int] = ...) -> None: ...

class FileRequest(_message.Message):
    __slots__ = ("swarm_id", "kind", "version", "offset", "pieces", "content", "header_only", "chunk")
    SWARM_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    HEADER_ONLY_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    swarm_id: bytes
    kind: str
    version: int
    offset: int
    pieces: int
    content: bytes
    header_only: bool
    chunk: int
    def __init__(self, swarm_id: _Optional[bytes] = ..., kind: _Optional[str] = ..., version: _Optional[int] = ..., offset: _Optional[int] = ..., pieces: _Optional[int] = ..., content: _Optional[bytes] = ..., header_only: bool = ..., chunk: _Optional[int] = ...) -> None: ...

class FileHeader(_message.Message):
    __slots__ = ("error", "size_bytes", "version", "piece_bytes", "piece_digests")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PIECE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PIECE_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    error: str
    size_bytes: int
    version: int
    piece_bytes: int
    piece_digests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, error: _Optional[str] = ..., size_bytes: _Optional[int] = ..., version: _Optional[int] = ..., piece_bytes: _Optional[int] = ..., piece_digests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RoundRecord(_message.Message):
    __slots__ = ("commit", "votes")
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    commit: Signed
    votes: _containers.RepeatedCompositeFieldContainer[Signed]
    def __init__(self, commit: _Optional[_Union[Signed, _Mapping]] = ..., votes: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("record", "voters")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    record: RoundRecord
    voters: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, record: _Optional[_Union[RoundRecord, _Mapping]] = ..., voters: _Optional[_Iterable[bytes]] = ...) -> None: ...
