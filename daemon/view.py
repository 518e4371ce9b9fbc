"""What a browser or a command sees of a node: the state snapshot, commands, health, metrics.

Implements the web room's `Node`. Everything is read from local truth; nothing here changes the node but
`command`. Peer names and labels are whatever peers say; the page treats them as hostile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from atoll.daemon.choosing import for_running
from atoll.daemon.config import where
from atoll.daemon.errors import AtollError
from atoll.daemon.events import Events
from atoll.daemon.status import Facts, Sentence, State, describe, duration
from atoll.peers.identity import readable_name
from atoll.peers.roster import RosterEntry
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.signing import peer_text
from atoll.web_ui.interface import CommandError

if TYPE_CHECKING:
    from atoll.daemon.node import Node

_STATE_WORDS = {pb.TRAINING: "training", pb.FOLLOWING: "following", pb.JOINING: "joining"}
_PHASE_STATES = {
    "waiting": State.WAITING,
    "exchange": State.AVERAGING,
    "commit": State.AVERAGING,
    "applying": State.AVERAGING,
    "inner": State.TRAINING,
}
LOOK_S = 1.0
MAX_PAUSE_S = 30 * 24 * 3600.0


class View:
    """One node for pages and commands."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sentence_key: tuple[State, str] | None = None
        self._since = time.monotonic()
        self._moved: tuple[float, int, int] | None = None

    async def keep(self) -> None:
        """Notes when a state begins, whether anybody asks or not. Runs until cancelled."""
        while True:
            self.sentence()
            await asyncio.sleep(LOOK_S)

    def _roster(self) -> Mapping[bytes, RosterEntry]:
        neighbours = self._node.neighbours
        return neighbours.roster.entries if neighbours else {}

    # ---- the sentence

    def _facts(self) -> Facts:
        """What the sentence is made of, from the present moment."""
        node = self._node
        now = time.monotonic()
        driver, island = node.driver, node.island
        recovery = node.recovery
        fetched = recovery.fetched if recovery else None
        retry = recovery.retry_at if recovery and recovery.retry_at else None
        if retry is None and node.finder is not None:
            retry = node.finder.next_try
        early = node.state not in (State.PREPARING, State.TRAINING)
        if early or driver is None or island is None:
            until = max(0.0, retry - now) if retry else None
            fetched = fetched or (node.reader.fetched if node.reader else None)
            return Facts(node.state, node.reason, until_s=until, fetched=fetched)
        peers = len(self._roster())
        version = driver.state.head.version
        if island.paused is not None:
            left = island.paused_until - now if island.paused_until else None
            return Facts(State.PAUSED, island.paused, until_s=left, where=where(node.folder.root))
        if island.trouble is not None:
            left = island.restart_at - now if island.restart_at else None
            return Facts(State.BLOCKED, island.trouble, until_s=left)
        if fetched is not None:
            return Facts(State.FETCHING, "the swarm is ahead; its state is on its way", fetched=fetched)
        if not island.begun:
            return Facts(State.PREPARING, node.reason)
        situation = driver.machine.situation(now)
        return Facts(
            state=_PHASE_STATES[situation.phase],
            reason="" if situation.phase == "inner" else situation.because,
            step=island.phase.step,
            steps=island.phase.steps,
            step_s=island.phase.step_s,
            version=version,
            peers=peers,
            ready=situation.ready,
            expected=situation.expected,
            until_s=max(0.0, situation.until - now) if situation.until is not None else None,
            finishing=island.finishing,
        )

    def sentence(self) -> tuple[Sentence, float]:
        """The sentence and the seconds since its state began."""
        sentence = describe(self._facts())
        # What is counted within a state (steps, peers, bytes) does not begin it anew; another cause does.
        of_reason = sentence.state in (State.PAUSED, State.BLOCKED)
        key = (sentence.state, sentence.because if of_reason else "")
        if key != self._sentence_key:
            self._sentence_key, self._since = key, time.monotonic()
        return sentence, time.monotonic() - self._since

    # ---- history

    def figures(self) -> dict[str, float]:
        """What is written to the history; a figure that is not known now is left out."""
        state = self.state()
        now, traffic = time.monotonic(), state["traffic"]
        moved = traffic["sent_bytes"], traffic["received_bytes"]
        before, self._moved = self._moved, (now, *moved)
        found = {
            "loss": state["loss"],
            "val_loss": state["val_loss"],
            "tokens_per_s": state["tokens_per_s"],
            "swarm_tokens_per_s": state["swarm_tokens_per_s"],
            "peers": len(state["peers"]),
            "version": state["version"],
            "accepted_tokens": state["accepted_tokens"],
            "memory_bytes": state["memory_bytes"],
            "loop_lag_s": state["loop_lag_s"],
        }
        if before is not None and now > before[0]:
            span = now - before[0]
            found["sent_bps"], found["received_bps"] = (
                8 * max(0, is_now - was) / span for is_now, was in zip(moved, before[1:], strict=True)
            )
        return {name: float(value) for name, value in found.items() if value is not None}

    async def past(self, name: str | None, since: float, until: float, points: int) -> Mapping[str, Any]:
        recorder = self._node.recorder
        if recorder is None:
            raise CommandError("not-ready", "The node is still starting.", "Try again in a moment.")
        try:
            return await recorder.read(name, since, until, points)
        except AtollError as error:
            raise CommandError(error.code, error.message, error.fix) from error

    # ---- the snapshot

    def state(self) -> dict[str, Any]:
        node = self._node
        sentence, since = self.sentence()
        manifest, outer, island = node.manifest, node.outer, node.island
        head = outer.head if outer else None
        account = island.account.summary() if island else {}
        rounds = list(node.history.rounds)
        for entry in rounds:
            entry["val_loss"] = island.val_losses.get(entry["version"]) if island else None
        measured = max(island.val_losses, default=None) if island else None
        traffic = node.neighbours.links.traffic if node.neighbours else None
        line = node.network.host.line if node.network else None
        peers = self._peers()
        return {
            "sequence": node.events.last,
            "time": time.time(),
            "software": node_software(),
            "started": node.started,
            "state": sentence.state.value,
            "because": sentence.because,
            "next": sentence.next,
            "since_s": since,
            "sentence": f"{sentence.state.value.capitalize()}: {sentence.because} (since {duration(since)}). "
            f"{sentence.next}.",
            "node_id": peer_text(node.keyring.peer_id),
            "name": node.name,
            "label": node.settings.label or None,
            "swarm_id": node.swarm_id.hex() if node.swarm_id else "",
            "swarm_name": manifest.body.name if manifest else "",
            "organiser": manifest.organiser_fingerprint if manifest else "",
            "version": head.version if head else 0,
            "digest": head.digest.hex() if head else "",
            "certified": head.certified if head else False,
            "chain": [
                {"version": x.version, "digest": x.digest.hex(), "certified": x.certified}
                for x in (outer.chain if outer else ())
            ],
            "loss": (island.phase.phase_loss or island.phase.loss) if island else None,
            "val_loss": island.val_losses[measured] if island and measured is not None else None,
            "val_loss_version": measured,
            "val_loss_before": island.val_losses.get(0) if island else None,
            "tokens_per_s": self._tokens_per_s(),
            "swarm_tokens_per_s": sum(p["tokens_per_s"] for p in peers),
            "codec": manifest.body.rounds.codec if manifest else "",
            "codec_reason": rounds[-1]["codec_reason"] if rounds else "",
            "inner_steps_reason": self._inner_steps(rounds),
            "accepted_tokens": account.get("accepted", 0),
            "swarm_accepted_tokens": head.cumulative_tokens if head else 0,
            "token_account": account,
            "phase": self._phase(sentence.state),
            "session": self._session(),
            "device": island.device if island else "",
            "parameters": manifest.body.parameters if manifest else 0,
            "memory_bytes": self._memory(),
            "api": node.page.url,
            "paused": island.paused is not None if island else False,
            "traffic": {
                "sent_bytes": traffic.sent if traffic else 0,
                "received_bytes": traffic.received if traffic else 0,
                "upload_bps": line.upload_bps if line else 0,
                "download_bps": line.download_bps if line else 0,
                "classes": node.traffic.summary() if node.traffic else {},
            },
            "loop_lag_s": round(node.loop_lag_s, 4),
            "peers": peers,
            "rounds": rounds,
            "alerts": node.alerts.all(),
            "bootstrap": [
                {"address": a.text, "state": a.state, "cause": a.cause}
                for a in (node.finder.addresses.values() if node.finder else ())
            ],
            "checklist": self._checklist(),
        }

    def _inner_steps(self, rounds: list[dict[str, Any]]) -> str:
        manifest, island = self._node.manifest, self._node.island
        return for_running(manifest, rounds, island.phase.step_s) if manifest and island else ""

    def _tokens_per_s(self) -> float:
        island = self._node.island
        return island.phase.tokens_per_s if island and island.paused is None else 0.0

    def _phase(self, state: State) -> dict[str, Any]:
        island = self._node.island
        names = {
            State.TRAINING: "inner",
            State.AVERAGING: "averaging",
            State.WAITING: "waiting",
            State.PAUSED: "paused",
        }
        phase = island.phase if island else None
        return {
            "name": names.get(state, "joining"),
            "step": phase.step if phase else 0,
            "of": phase.steps if phase else 0,
        }

    def _session(self) -> dict[str, Any] | None:
        """The session under way: who leads it, its view, exchange or commit."""
        session = self._node.driver.machine.session if self._node.driver else None
        if session is None:
            return None
        return {
            "leader": peer_text(bytes(session.id.leader)),
            "view": int(session.id.view),
            "phase": "exchange" if session.commit is None else "commit",
        }

    def _memory(self) -> int | None:
        """Resident memory of daemon and built-in trainer, where the system tells."""
        pids = ["self", *([str(p)] if self._node.island and (p := self._node.island.trainer_pid) else [])]
        try:
            return sum(_resident(pid) for pid in pids)
        except (OSError, ValueError, IndexError):
            return None

    def _peers(self) -> list[dict[str, Any]]:
        node, now = self._node, time.monotonic()
        status = node.status_message()
        mine = self._peer(node.keyring.peer_id, status, None, 0.0, own=True)
        others = [
            self._peer(e.peer, e.status, e.rtt_s, now - e.last_seen, own=False)
            for e in sorted(self._roster().values(), key=lambda e: e.peer)
        ]
        return [mine, *others]

    def _peer(
        self, peer: bytes, status: pb.NodeStatus, rtt_s: float | None, last_seen_s: float, own: bool
    ) -> dict[str, Any]:
        return {
            "id": peer_text(peer),
            "name": readable_name(peer),
            "label": status.label[:64] or None,
            "state": self.sentence()[0].state.value if own else _state_word(status),
            "version": int(status.version),
            "digest": bytes(status.digest).hex(),
            "direct": None if own else self._is_direct(peer),
            "lane": None if own else self._lane(peer),
            "rtt_ms": round(1000 * rtt_s, 2) if rtt_s is not None else None,
            "tokens_per_s": round(status.tokens_per_s, 1),
            "accepted_tokens": int(status.accepted_tokens),
            "last_seen_s": round(last_seen_s, 1),
            "self": own,
        }

    def _is_direct(self, peer: bytes) -> bool | None:
        link = self._node.neighbours.links.get(peer) if self._node.neighbours else None
        return None if link is None else not link.relayed

    def _lane(self, peer: bytes) -> str | None:
        link = self._node.neighbours.links.get(peer) if self._node.neighbours else None
        return None if link is None else link.lane

    def _checklist(self) -> list[dict[str, Any]]:
        """The way to the first accepted round; empty when it is behind us."""
        node, island = self._node, self._node.island
        if island is not None and island.first_accepted:
            return []
        connected = bool(self._roster()) or (node.finder is not None and bool(node.finder.connected))
        steps = [
            ("Find the swarm", connected or node.outer is not None, f"{len(self._roster())} peers"),
            (
                "Get its description",
                node.manifest is not None,
                node.manifest.body.name if node.manifest else "",
            ),
            (
                "Get its state",
                node.outer is not None,
                f"version {node.outer.head.version}" if node.outer else "",
            ),
            ("Start training", island is not None and island.begun, island.device if island else ""),
            ("Finish an inner phase", island is not None and island.training, ""),
            ("First accepted update", False, ""),
        ]
        return [{"step": step, "done": done, "detail": detail} for step, done, detail in steps]

    # ---- the rest of the interface

    def events(self) -> Events:
        return self._node.events

    def health(self) -> tuple[bool, str]:
        """Ready: joined and averaging (or training alone)."""
        sentence, _ = self.sentence()
        ready = sentence.state in (State.TRAINING, State.WAITING, State.AVERAGING)
        return ready, "ready" if ready else sentence.state.value

    async def command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """pause, resume, finish, leave. Raises CommandError."""
        node, island = self._node, self._node.island
        if name == "leave":
            node.stop("it was asked to leave")
            return {"done": "leave"}
        if name not in ("pause", "resume", "finish"):
            raise CommandError("unknown-command", f"There is no command {name}.", "See `atoll --help`.")
        if island is None:
            raise CommandError("not-training", "This node does not train yet.", "Try again when it does.")
        match name:
            case "pause":
                island.pause("you asked for it", _pause_s(arguments.get("for_s")))
            case "resume" if island.paused is None and not island.finishing:
                raise CommandError("not-paused", "This node is not paused.", "Nothing has to be done.")
            case "resume":
                island.resume()
            case "finish" if island.paused is not None:
                raise CommandError("paused", "This node is paused already.", "Nothing has to be done.")
            case "finish":
                island.finishing = True
                node.events.emit("finishing", "It contributes to this round, then pauses.")
        said = "It contributes once more, then pauses. " if name == "finish" else ""
        return {"done": name, "sentence": said + self.state()["sentence"]}

    def metrics(self) -> str:
        """Prometheus text; labels never carry peer ids."""
        node, state = self._node, self.state()
        registry = CollectorRegistry()

        def gauge(name: str, doc: str, value: float | None) -> None:
            if value is not None:
                Gauge(f"atoll_{name}", doc, registry=registry).set(value)

        gauge("version", "Outer steps applied", state["version"])
        gauge("peers", "Live peers, this node not counted", len(state["peers"]) - 1)
        gauge("loss", "Training loss of the last inner phase", state["loss"])
        gauge("validation_loss", "Validation loss of the outer parameters", state["val_loss"])
        gauge("tokens_per_second", "Tokens trained on per second, this node", state["tokens_per_s"])
        cosine = node.driver.cosine if node.driver else None
        gauge("contribution_cosine", "Between this node's last contribution and the mean", cosine)
        gauge("event_loop_lag_seconds", "Recent worst delay of the event loop", node.loop_lag_s)
        p99 = node.round_lag_p99_s
        gauge("event_loop_lag_in_rounds_p99_seconds", "99 % of delays in recent rounds were below it", p99)
        gauge("alerts", "Alerts that are on", len(state["alerts"]))
        tokens = Counter("atoll_tokens", "Tokens by what became of them", ["category"], registry=registry)
        for category, count in state["token_account"].items():
            tokens.labels(category).inc(count)
        traffic = Counter("atoll_traffic_bytes", "Bytes over links", ["direction"], registry=registry)
        traffic.labels("sent").inc(state["traffic"]["sent_bytes"])
        traffic.labels("received").inc(state["traffic"]["received_bytes"])
        by_class = Counter(
            "atoll_class_bytes", "Bytes by class of traffic", ["kind", "direction"], registry=registry
        )
        for kind, moved in state["traffic"]["classes"].items():
            by_class.labels(kind, "sent").inc(moved["sent_bytes"])
            by_class.labels(kind, "received").inc(moved["received_bytes"])
        gauge("upload_bits_per_second", "What receivers took of late", state["traffic"]["upload_bps"])
        gauge("download_bits_per_second", "What came of late", state["traffic"]["download_bps"])
        sessions = Counter("atoll_sessions", "Sessions by outcome", ["outcome"], registry=registry)
        for outcome, count in node.history.outcomes.items():
            sessions.labels(outcome).inc(count)
        dropped = Counter(
            "atoll_dropped_messages", "Messages dropped, by reason", ["reason"], registry=registry
        )
        for reason, count in (node.driver.dropped.reasons if node.driver else {}).items():
            dropped.labels(reason).inc(count)
        refused = Counter(
            "atoll_refused_lanes", "Direct connections not let in, by reason", ["reason"], registry=registry
        )
        lanes = node.network.lanes if node.network else None
        for reason, count in (lanes.refused if lanes else {}).items():
            refused.labels(reason).inc(count)
        return generate_latest(registry).decode()


def node_software() -> str:
    from atoll import __version__

    return f"atoll {__version__}"


def _state_word(status: pb.NodeStatus) -> str:
    """What a peer does, as it says; a paused one follows, and says why in its reason."""
    if status.state == pb.FOLLOWING and status.reason == State.PAUSED:
        return State.PAUSED.value
    return _STATE_WORDS.get(status.state, "unknown")


def _resident(pid: str) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _pause_s(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= MAX_PAUSE_S:
        raise CommandError("bad-argument", f"for_s must be 0 to {MAX_PAUSE_S:.0f} seconds.", "Give less.")
    return float(value)
