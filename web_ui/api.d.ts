// Made from the interface by `python -m atoll.web_ui.typescript`; a test compares.

export interface Event {
  sequence: number;
  time: number;
  kind: string;
  text: string;
}

export interface Events {
  events: Array<Event>;
  last: number;
  gap: boolean;
}

export interface HistoryBucket {
  start: number;
  count: number;
  min: number;
  max: number;
  mean: number;
}

export interface History {
  name: string;
  bucket_s: number;
  buckets: Array<HistoryBucket>;
}

export interface Rejection {
  peer: number;
  reason: string;
}

export interface RoundPhases {
  scatter_s: number;
  reduce_s: number;
  commit_s: number;
  apply_s: number;
}

export interface Round {
  revision: number;
  version: number;
  view: number;
  time: number;
  outcome: string;
  reason: string;
  leader: string;
  planned: Array<number>;
  contributed: Array<number>;
  received: Array<number>;
  late: Array<number>;
  rejected: Array<Rejection>;
  missing: Array<number>;
  tokens: number;
  bytes_sent: number;
  bytes_received: number;
  duration_s: number;
  phases: RoundPhases;
  loss: number | null;
  loss_min: number | null;
  loss_max: number | null;
  val_loss: number | null;
  cosine: number | null;
  digest: string;
  outer_lr: number;
  codec: string;
  codec_reason: string;
  groups: number;
}

export interface Rounds {
  run: number;
  revision: number;
  peers: Array<string>;
  rounds: Array<Round>;
}

export interface Controls {
  caps: Record<string, SettingView>;
  hours: Record<string, SettingView>;
  conditions: Record<string, SettingView>;
  rules: Array<Rule>;
}

export interface PausedBy {
  code: string;
  text: string;
  until: number | null;
}

export interface TokenAccount {
  produced: number;
  accepted: number;
  carried: number;
  orphaned: number;
  expired: number;
  lost: number;
}

export interface Phase {
  name: string;
  step: number;
  of: number;
}

export interface ClassTraffic {
  sent_bytes: number;
  received_bytes: number;
  week_sent_bytes: number;
  week_received_bytes: number;
}

export interface Traffic {
  sent_bytes: number;
  received_bytes: number;
  upload_bps: number;
  download_bps: number;
  upload_cap_bps: number | null;
  download_cap_bps: number | null;
  classes: Record<string, ClassTraffic>;
}

export interface Peer {
  id: string;
  name: string;
  label: string | null;
  state: string;
  version: number;
  digest: string;
  software: string;
  direct: boolean | null;
  way: string | null;
  lane: string | null;
  rtt_ms: number | null;
  tokens_per_s: number;
  accepted_tokens: number;
  quarantine: string | null;
  last_seen: number;
  self: boolean;
}

export interface Alert {
  code: string;
  since: number;
  text: string;
  fix: string;
}

export interface BootstrapAddress {
  address: string;
  state: string;
  cause: string | null;
}

export interface ChecklistStep {
  step: string;
  done: boolean;
  detail: string;
}

export interface Link {
  version: number;
  digest: string;
  certified: boolean;
}

export interface SessionView {
  leader: string;
  view: number;
  phase: string;
}

export interface Disk {
  used_bytes: number;
  free_bytes: number;
}

export interface Verdict {
  check: string;
  verdict: string;
  text: string;
  fix: string;
}

export interface ProvenAddress {
  address: string;
  scope: string;
  at: number;
}

export interface Reachability {
  verdict: string;
  text: string;
  fix: string;
  tried: number;
  reached: number;
  proven: Array<ProvenAddress>;
  relays: Array<string>;
}

export interface AmendedValue {
  field: string;
  before: string;
  after: string;
}

export interface Amendment {
  version: number;
  from_round: number;
  in_force: boolean;
  note: string;
  signed_unix_s: number;
  changes: Array<AmendedValue>;
}

export interface Swarm {
  mode: string;
  model: string;
  data: string;
  data_bytes: number;
  inner_steps: number;
  batch: number;
  fragments: number;
  optimizer: string;
  inner_lr: number;
  outer_lr: number;
  outer_momentum: number;
  codec: string;
  result_codec: string;
  min_peers: number;
  manifest_version: number;
  can_write: boolean;
  organiser_here: boolean;
  amendments: Array<Amendment>;
}

export interface Member {
  node: string;
  name: string;
  role: string;
  code: string;
  reason: string;
  label: string;
  since_unix_s: number;
  ends_in_s: number;
  admitted_by: string;
}

export interface Applicant {
  node: string;
  name: string;
  label: string;
  role: string;
  asked_unix_s: number;
}

export interface TicketView {
  label: string;
  made_s: number;
  expires_s: number;
  uses: number;
  used: number;
}

export interface Organisation {
  admission: string;
  may_admit: boolean;
  count: number;
  members: Array<Member>;
  pending: Array<Applicant>;
  tickets: Array<TicketView>;
}

export interface Privacy {
  clip: number | null;
  noise: number;
  contributions: number;
  epsilon: number | null;
  delta: number;
}

export interface State {
  sequence: number;
  time: number;
  started: number;
  software: string;
  state: string;
  because: string;
  next: string;
  since: number;
  sentence: string;
  node_id: string;
  name: string;
  label: string | null;
  swarm_id: string;
  swarm_name: string;
  swarm: Swarm | null;
  organiser: string;
  version: number;
  digest: string;
  certified: boolean;
  chain: Array<Link>;
  loss: number | null;
  val_loss: number | null;
  val_loss_version: number | null;
  val_loss_before: number | null;
  tokens_per_s: number;
  swarm_tokens_per_s: number;
  codec: string;
  codec_reason: string;
  inner_steps_reason: string;
  accepted_tokens: number;
  swarm_accepted_tokens: number;
  token_account: TokenAccount;
  phase: Phase;
  session: SessionView | null;
  device: string;
  parameters: number;
  memory_bytes: number | null;
  disk: Disk;
  temperature_c: number | null;
  organisation: Organisation | null;
  privacy: Privacy | null;
  loop_lag_s: number;
  api: string;
  paused: boolean;
  paused_by: Array<PausedBy>;
  controls: Controls;
  traffic: Traffic;
  peers: Array<Peer>;
  rounds_revision: number;
  alerts: Array<Alert>;
  bootstrap: Array<BootstrapAddress>;
  connection: Array<Verdict>;
  reachability: Reachability;
  checklist: Array<ChecklistStep>;
  number?: number;
  public?: boolean;
}

export interface SettingView {
  value: string | number | number | boolean;
  doc: string;
  origin: string;
  lasting: boolean;
}

export interface Rule {
  code: string;
  watched: boolean;
  active: boolean;
  overridden: boolean;
  text: string;
  until: number | null;
}
