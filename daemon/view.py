"""What a browser or a command sees of a node: the state snapshot, commands, health, metrics.

Implements the web room's `Node`. Everything is read from local truth; nothing here changes the node but
`command`. Peer names and labels are whatever peers say; the page treats them as hostile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atoll.daemon.amending import described
from atoll.daemon.choosing import for_running
from atoll.daemon.config import rate_of
from atoll.daemon.doctor import examined
from atoll.daemon.errors import AtollError
from atoll.daemon.events import Events
from atoll.daemon.figures import Figures
from atoll.daemon.machine import resident_bytes
from atoll.daemon.metrics import metrics_of
from atoll.daemon.organisation import COMMANDS, OrganisationView
from atoll.daemon.peers_view import peers_of
from atoll.daemon.privacy_book import privacy_of
from atoll.daemon.reachability import NOTHING_KNOWN
from atoll.daemon.sampler import Sampler
from atoll.daemon.saying import SOFTWARE
from atoll.daemon.situation import facts_of
from atoll.daemon.status import Sentence, State, describe, since_when
from atoll.daemon.swarm_facts import description
from atoll.daemon.verdicts import Connection, Reachable, verdicts
from atoll.peers.roster import RosterEntry
from atoll.protocol.accounts import TokenAccount
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.signing import peer_text
from atoll.web_ui.interface import CommandError

if TYPE_CHECKING:
    from atoll.daemon.node import Node

LOOK_S = 1.0


class View:
    """One node for pages and commands."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sentence_key: tuple[State, str] | None = None
        self._since = time.monotonic()
        self._figures = Figures()
        self._described: tuple[tuple[SwarmManifest, int], dict[str, Any]] | None = None
        self._sampler = Sampler(node.folder.root)
        self._organisation = OrganisationView(node)

    async def keep(self) -> None:
        """Notes when a state begins, whether anybody asks or not. Runs until cancelled."""
        while True:
            self.sentence()
            await asyncio.sleep(LOOK_S)

    def _roster(self) -> Mapping[bytes, RosterEntry]:
        neighbours = self._node.neighbours
        return neighbours.roster.entries if neighbours else {}

    # ---- the sentence

    def sentence(self) -> tuple[Sentence, float]:
        """The sentence and the seconds since its state began."""
        facts = facts_of(self._node)
        sentence = describe(facts)
        # What is counted within a state (steps, peers, bytes) does not begin it anew; another cause does.
        of_reason = sentence.state in (State.PAUSED, State.BLOCKED)
        key = (sentence.state, (facts.cause or sentence.because) if of_reason else "")
        if key != self._sentence_key:
            self._sentence_key, self._since = key, time.monotonic()
        return sentence, time.monotonic() - self._since

    def fetched(self) -> tuple[int, int] | None:
        """Bytes here and in all of the state or text that is on its way."""
        return facts_of(self._node).fetched

    # ---- history

    def figures(self) -> dict[str, float]:
        """What is written to the history; a figure that is not known now is left out."""
        return self._figures.of(self.state(), time.monotonic())

    async def past(self, name: str | None, since: float, until: float, points: int) -> Mapping[str, Any]:
        recorder = self._node.front.recorder
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
        account = (island.account if island else TokenAccount(1)).summary()
        rounds = node.history.rounds
        measured = max(island.val_losses, default=None) if island else None
        traffic = node.neighbours.links.traffic if node.neighbours else None
        line = node.network.host.line if node.network else None
        peers = peers_of(node, sentence.state.value)
        return {
            "sequence": node.events.last,
            "time": time.time(),
            "software": SOFTWARE,
            "started": node.started,
            "state": sentence.state.value,
            "because": sentence.because,
            "next": sentence.next,
            "since": round(time.time() - since),
            "sentence": since_when(sentence, since),
            "node_id": peer_text(node.keyring.peer_id),
            "name": node.name,
            "label": node.settings.label or None,
            "swarm_id": node.swarm_id.hex() if node.swarm_id else "",
            "swarm_name": manifest.body.name if manifest else "",
            "swarm": self._swarm(),
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
            "accepted_tokens": account["accepted"],
            "swarm_accepted_tokens": head.cumulative_tokens if head else 0,
            "token_account": account,
            "phase": self._phase(sentence.state),
            "session": self._session(),
            "device": island.device if island else "",
            "parameters": manifest.body.parameters if manifest else 0,
            "memory_bytes": self._memory(),
            "disk": node.machine.disk.look(),
            "organisation": self._organisation.look(),
            "privacy": privacy_of(node.settings, node.privacy),
            "temperature_c": node.machine.temperature_c.look(),
            "api": node.front.page.url,
            "paused": self._paused(),
            "paused_by": node.controls.paused_by(),
            "controls": node.controls.view(),
            "traffic": {
                "sent_bytes": traffic.sent if traffic else 0,
                "received_bytes": traffic.received if traffic else 0,
                "upload_bps": line.upload_bps if line else 0,
                "download_bps": line.download_bps if line else 0,
                "upload_cap_bps": rate_of(node.settings.up) or None,
                "download_cap_bps": rate_of(node.settings.down) or None,
                "classes": node.traffic.summary() if node.traffic else {},
            },
            "loop_lag_s": round(node.loop_lag_s, 4),
            "peers": peers,
            "rounds_revision": node.history.revision,
            "alerts": node.alerts.all(),
            "bootstrap": [
                {"address": a.text, "state": a.state, "cause": a.cause}
                for a in (node.finder.addresses.values() if node.finder else ())
            ],
            "connection": verdicts(self._connection()),
            "reachability": node.network.reachability.view() if node.network else NOTHING_KNOWN,
            "checklist": self._checklist(),
        }

    def _swarm(self) -> dict[str, Any] | None:
        """What the manifest says, for people."""
        node = self._node
        if node.amending is None:
            return None
        amendments, head = node.amending.amendments, node.outer.head if node.outer is not None else None
        in_force = amendments.manifest(head.amendment if head is not None else b"")
        made_of = in_force, len(amendments)
        if self._described is None or self._described[0] != made_of:
            here = node.folder.organiser.exists()
            self._described = (made_of, description(in_force, here, described(amendments, head)))
        return self._described[1]

    def rounds(self, after: int, limit: int) -> Mapping[str, Any]:
        return self._node.history.page(after, limit)

    def _connection(self) -> Connection:
        node = self._node
        finder, network = node.finder, node.network
        links = node.neighbours.links if node.neighbours else None
        found = [link for peer in (links.peers if links else ()) if links and (link := links.get(peer))]
        addresses = list(finder.addresses.values()) if finder else []
        return Connection(
            addresses=len(addresses),
            reached=sum(a.state == "connected" for a in addresses),
            failed=tuple(a.cause or "no answer" for a in addresses if a.state == "failed"),
            links=len(found),
            relayed=sum(link.relayed for link in found),
            lanes=sum(link.lane.startswith("lane") for link in found),
            refused=len(finder.refused) if finder else 0,
            port=network.port if network else 0,
            process_up=network is not None and network.up,
            reachable=network.reachability.facts if network else Reachable(),
        )

    def _inner_steps(self, rounds: Sequence[dict[str, Any]]) -> str:
        manifest, island = self._node.manifest, self._node.island
        return for_running(manifest, rounds, island.phase.step_s) if manifest and island else ""

    def _tokens_per_s(self) -> float:
        island = self._node.island
        return island.phase.tokens_per_s if island and not island.resting else 0.0

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

    def _paused(self) -> bool:
        """Whether a person would resume it: a rule, the owner or the end of its run pauses it, or will."""
        controls, island = self._node.controls, self._node.island
        asked = controls.owner.asked is not None
        return bool(controls.pausing) or asked or (island is not None and island.paused is not None)

    def _memory(self) -> int | None:
        """Resident memory of daemon and built-in trainer, where the system tells."""
        trainer = self._node.island.trainer_pid if self._node.island else None
        return resident_bytes(["self", *([str(trainer)] if trainer else [])])

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
        """pause, resume, finish, leave, set, sample, doctor, approve, revoke, ban. Raises CommandError."""
        node = self._node
        if name == "leave":
            node.stop("it was asked to leave")
            return {"done": "leave"}
        if name == "sample":
            return await self._sample(arguments)
        if name in COMMANDS:
            return await self._organisation.command(name, arguments)
        if name == "doctor":
            return await examined(node)
        if name == "set":
            return await node.controls.change(arguments)
        if name not in ("pause", "resume", "finish"):
            raise CommandError("unknown-command", f"There is no command {name}.", "See `atoll --help`.")
        overridden = name == "resume" and node.controls.override()
        said = await node.controls.owner.command(name, arguments, overridden)
        return {"done": name, "sentence": said + self.state()["sentence"]}

    async def _sample(self, arguments: dict[str, Any]) -> dict[str, Any]:
        outer = self._node.outer
        if not self._can_write():
            raise CommandError("own-model", "This swarm's model writes no text.", "Nothing has to be done.")
        if outer is None or outer.head.version == 0:
            raise CommandError("no-round", "There was no round yet.", "Try again after the first one.")
        return await self._sampler.write(arguments)

    def _can_write(self) -> bool:
        manifest = self._node.manifest
        return manifest is not None and manifest.body.model.kind == "gpt"

    def metrics(self) -> str:
        """Prometheus text; labels never carry peer ids."""
        return metrics_of(self._node, self.state())
