"""A node that only pretends: the web room's tests and demos drive the page with it.

It implements `atoll.web_ui.interface.Node` over made-up but consistent figures: three peers, a loss that
falls, a late peer here, a provisional round there. `advance` ends one more round. From a shell it serves a
live demo:

    PYTHONPATH=src python tests/web/fake_node.py --port 8787
"""

import argparse
import asyncio
import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from atoll.web_ui.interface import CommandError
from atoll.web_ui.owner_types import Controls, SettingView
from atoll.web_ui.round_types import Round
from atoll.web_ui.server import WebServer
from atoll.web_ui.state_types import Amendment, Applicant, Member, Organisation, Peer, State, TicketView

PEER_IDS = (
    "12D3KooWCoralHeronAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "12D3KooWQuietOtterBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB",
    "12D3KooWSilverTernCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC",
)
NAMES = ("coral-heron", "quiet-otter", "silver-tern")
INNER_STEPS = 30
TOKENS_PER_UPDATE = 245_760
START = 1_760_000_000.0


def amendments() -> list[Amendment]:
    """One in force, one to come."""
    return [
        {
            "version": 2,
            "from_round": 5,
            "in_force": True,
            "note": "the loss was jumping",
            "signed_unix_s": int(START),
            "changes": [{"field": "inner.lr", "before": "0.006", "after": "0.003"}],
        },
        {
            "version": 3,
            "from_round": 10_000,
            "in_force": False,
            "note": "",
            "signed_unix_s": int(START) + 60,
            "changes": [
                {"field": "rounds.grace_cap_s", "before": "60", "after": "120"},
                {"field": "bootstrap", "before": "none", "after": "/dns4/seed.example/tcp/31337"},
            ],
        },
    ]


class RingLog:
    """An `EventLog` in a deque."""

    def __init__(self, size: int = 256) -> None:
        self._ring: deque[dict[str, Any]] = deque(maxlen=size)
        self._news = asyncio.Event()
        self._moved = asyncio.Event()
        self.last = 0
        self.changes = 0

    def add(self, kind: str, text: str = "", time: float = START) -> None:
        self.last += 1
        self._ring.append({"sequence": self.last, "time": time, "kind": kind, "text": text})
        self._news.set()
        self._news = asyncio.Event()
        self.changed()

    def changed(self) -> None:
        self.changes += 1
        self._moved.set()
        self._moved = asyncio.Event()

    async def wait_change(self, seen: int) -> None:
        while self.changes <= seen:
            await self._moved.wait()

    def since(self, sequence: int) -> tuple[Sequence[Mapping[str, Any]], bool]:
        first = self._ring[0]["sequence"] if self._ring else self.last + 1
        return [event for event in self._ring if event["sequence"] > sequence], sequence + 1 < first

    async def wait(self, sequence: int) -> None:
        while self.last <= sequence:
            await self._news.wait()


def digest_of(version: int) -> str:
    return f"{version * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4


def make_round(version: int, rng: random.Random) -> Round:
    """The report of one round: mostly certified, every ninth provisional, one in fourteen aborted."""
    aborted, short = version % 14 == 12, version % 9 == 6
    late = [2] if short else []
    contributed = [] if aborted else [place for place in range(3) if place not in late]
    loss = 1.62 + 3.9 * math.exp(-version / 11) + rng.uniform(-0.03, 0.03)
    reason = (
        "The leader did not commit in time." if aborted else "silver-tern came 4 s late." if short else ""
    )
    return {
        "revision": version,
        "version": version,
        "view": 0,
        "time": START + 14.2 * version,
        "outcome": "aborted" if aborted else "provisional" if short else "certified",
        "reason": reason,
        "leader": NAMES[version % 3],
        "planned": [0, 1, 2],
        "contributed": contributed,
        "received": list(late) if not aborted else [],
        "late": late,
        "rejected": [],
        "missing": [1] if aborted else [],
        "tokens": TOKENS_PER_UPDATE * len(contributed),
        "bytes_sent": 1_214_000,
        "bytes_received": 1_198_000,
        "duration_s": 1.84,
        "phases": {"scatter_s": 0.61, "reduce_s": 0.22, "commit_s": 0.68, "apply_s": 0.33},
        "loss": loss,
        "loss_min": loss - 0.08,
        "loss_max": loss + 0.11,
        "val_loss": None if aborted else loss + 0.06,
        "cosine": 0.58,
        "digest": digest_of(version),
        "outer_lr": 0.7,
        "codec": "int8",
        "codec_reason": "",
        "groups": 1,
    }


def make_peer(index: int, version: int) -> Peer:
    return {
        "id": PEER_IDS[index],
        "name": NAMES[index],
        "label": (None, "anna", None)[index],
        "state": "training",
        "version": version - (index == 2),
        "digest": digest_of(version - (index == 2)),
        "software": "atoll 0.1.0",
        "direct": (None, True, False)[index],
        "way": (None, "direct", "relay")[index],
        "lane": (None, "lane: 2 direct connections", "libp2p: the link runs over a relay")[index],
        "rtt_ms": (None, 12.4, 88.0)[index],
        "tokens_per_s": (21_400.0, 19_800.0, 8_300.0)[index],
        "accepted_tokens": TOKENS_PER_UPDATE * (version - index),
        "quarantine": (None, None, "its contributions point elsewhere than most of the others'")[index],
        "last_seen": START + 14.2 * version // 10 * 10,
        "self": index == 0,
    }


def make_rounds(version: int, *, seed: int = 7) -> list[Round]:
    """The reports of the rounds up to `version`."""
    rng = random.Random(seed)
    return [make_round(number, rng) for number in range(1, version + 1)]


def make_organisation() -> Organisation:
    """Two who are in, one who was, one who asks; a ticket used once of twice."""
    roles = ("owner", "member", "")
    members: list[Member] = [
        {
            "node": PEER_IDS[index],
            "name": NAMES[index],
            "role": roles[index],
            "code": "" if roles[index] else "revoked",
            "reason": "" if roles[index] else "it was revoked: it left the lab",
            "label": ("", "anna", "<b>bob</b>")[index],
            "since_unix_s": int(START),
            "ends_in_s": (0, 80 * 86_400, 0)[index],
            "admitted_by": ("", NAMES[0], NAMES[1])[index],
        }
        for index in range(3)
    ]
    asks: Applicant = {
        "node": "12D3KooWAsks",
        "name": "patient-otter",
        "label": "<i>carl</i>",
        "role": "member",
        "asked_unix_s": START - 60,
    }
    start = int(START)
    ticket: TicketView = {"label": "dora", "made_s": start, "expires_s": start + 90_000, "uses": 2, "used": 1}
    return {
        "admission": "approve",
        "may_admit": True,
        "count": 2,
        "members": members,
        "pending": [asks],
        "tickets": [ticket],
    }


def make_setting(value: str | float, origin: str = "default") -> SettingView:
    return {
        "value": value,
        "doc": "what it means; 0 or empty: no cap",
        "origin": origin,
        "lasting": origin in ("default", "config.toml"),
    }


def make_controls() -> Controls:
    """One rule is set up, and does not pause."""
    codes = ("schedule", "network_schedule", "weekly_traffic", "battery", "other_load", "other_gpu")
    return {
        "caps": {
            "up": make_setting("20Mbit", "config.toml"),
            "down": make_setting("", "command line"),
            "threads": make_setting(0),
            "memory": make_setting("4GiB"),
            "gb_per_week": make_setting(0.0),
            "data_cap": make_setting(0),
            "state_rate": make_setting(2_500_000),
            "connections": make_setting(96),
            "device": make_setting("auto"),
        },
        "hours": {"train_hours": make_setting(""), "network_hours": make_setting("")},
        "conditions": {
            "pause_on_battery": make_setting(True),
            "pause_on_load": make_setting(0),
            "pause_on_gpu": make_setting(False),
        },
        "rules": [
            {
                "code": code,
                "watched": code == "battery",
                "active": False,
                "overridden": False,
                "text": "It pauses on battery." if code == "battery" else f"No rule: {code}.",
                "until": None,
            }
            for code in codes
        ],
    }


def make_state(version: int, *, seed: int = 7) -> State:
    """The snapshot of a node that trains at `version`."""
    rounds = make_rounds(version, seed=seed)
    peers = [make_peer(index, version) for index in range(3)]
    last = rounds[-1] if rounds else None
    return {
        "sequence": 0,
        "time": START + 14.2 * version + 3,
        "started": START,
        "software": "atoll 0.1.0",
        "state": "training",
        "because": f"round {version + 1} is under way",
        "next": "average with 2 peers in about 8 s",
        "since": START + 14.2 * version - 3.4,
        "sentence": f"Training: round {version + 1}, step 12 of 30. Next: average with 2 peers in about 8 s.",
        "node_id": PEER_IDS[0],
        "name": NAMES[0],
        "label": None,
        "swarm_id": digest_of(999),
        "swarm_name": "shakespeare",
        "swarm": {
            "mode": "diloco",
            "model": "4 layers of 128, context 128",
            "data": "shakespeare",
            "data_bytes": 5_400_000,
            "inner_steps": INNER_STEPS,
            "batch": 4,
            "fragments": 1,
            "optimizer": "adamw",
            "inner_lr": 0.003,
            "outer_lr": 0.7,
            "outer_momentum": 0.9,
            "codec": "int8",
            "result_codec": "int8",
            "min_peers": 1,
            "manifest_version": 2,
            "can_write": True,
            "organiser_here": True,
            "amendments": amendments(),
        },
        "organiser": "SHA256:7f3a c210 9be4 55d1",
        "version": version,
        "digest": digest_of(version),
        "certified": True,
        "session": None,
        "chain": [
            {"version": v, "digest": digest_of(v), "certified": True}
            for v in range(version, max(-1, version - 16), -1)
        ],
        "loss": last["loss"] if last else None,
        "val_loss": next((entry["val_loss"] for entry in reversed(rounds) if entry["val_loss"]), None),
        "val_loss_version": next((r["version"] for r in reversed(rounds) if r["val_loss"]), None),
        "val_loss_before": 5.56,
        "tokens_per_s": 21_400.0,
        "swarm_tokens_per_s": sum(peer["tokens_per_s"] for peer in peers),
        "codec": "int8",
        "codec_reason": "",
        "inner_steps_reason": "",
        "accepted_tokens": TOKENS_PER_UPDATE * version,
        "swarm_accepted_tokens": sum(peer["accepted_tokens"] for peer in peers),
        "token_account": {
            "produced": TOKENS_PER_UPDATE * (version + 1),
            "accepted": TOKENS_PER_UPDATE * version,
            "carried": TOKENS_PER_UPDATE,
            "orphaned": 0,
            "expired": 0,
            "lost": 0,
        },
        "phase": {"name": "inner", "step": 12, "of": INNER_STEPS},
        "device": "cpu · 2 threads",
        "parameters": 1_065_472,
        "memory_bytes": 612_000_000,
        "disk": {"used_bytes": 48_000_000, "free_bytes": 91_000_000_000},
        "organisation": make_organisation(),
        "privacy": {"clip": 2.0, "noise": 8.0, "contributions": version, "epsilon": 3.14159, "delta": 1e-6},
        "temperature_c": 61.5,
        "loop_lag_s": 0.004,
        "api": "http://127.0.0.1:8787",
        "paused": False,
        "paused_by": [],
        "controls": make_controls(),
        "traffic": {
            "sent_bytes": 1_214_000 * version,
            "received_bytes": 1_198_000 * version,
            "upload_bps": 20_000_000,
            "download_bps": 0,
            "upload_cap_bps": 20_000_000.0,
            "download_cap_bps": None,
            "classes": {
                kind: {
                    "sent_bytes": 400_000 * version,
                    "received_bytes": 399_000 * version,
                    "week_sent_bytes": 800_000 * version,
                    "week_received_bytes": 799_000 * version,
                }
                for kind in ("rounds", "state", "control", "libp2p")
            },
        },
        "peers": peers,
        "rounds_revision": len(rounds),
        "alerts": [],
        "bootstrap": [],
        "connection": [
            {"check": "libp2p", "verdict": "ok", "text": "listens on port 31337", "fix": ""},
            {"check": "peers", "verdict": "ok", "text": "links to 2", "fix": ""},
            {
                "check": "direct links",
                "verdict": "degraded",
                "text": "1/2 without a relay",
                "fix": "Forward TCP port 31337 on your router, or open it in the firewall.",
            },
        ],
        "reachability": {
            "verdict": "hidden",
            "text": "none of 2 that tried can dial it: /ip4/192.0.2.7/tcp/31337 (no answer in 5 s)",
            "fix": "Forward TCP port 31337 on your router to port 31337 of this machine.",
            "tried": 2,
            "reached": 0,
            "proven": [],
            "relays": [],
        },
        "checklist": [],
    }


def make_joining_state() -> State:
    """The snapshot of a node that has found nobody yet."""
    state = make_state(0)
    state.update(
        state="joining",
        sentence="Joining: no bootstrap peer answers (since 41 s). Trying 198.51.100.7 again in 6 s.",
        phase={"name": "joining", "step": 0, "of": 0},
        peers=[make_peer(0, 0)],
        swarm_tokens_per_s=0.0,
        tokens_per_s=0.0,
        loss=None,
        val_loss_version=None,
        val_loss_before=None,
        bootstrap=[
            {
                "address": "/ip4/198.51.100.7/tcp/31337/p2p/12D3KooWBoot",
                "state": "failed",
                "cause": "connection refused",
            },
            {"address": "/dns4/boot.example/tcp/31337/p2p/12D3KooWDns", "state": "trying", "cause": None},
        ],
        checklist=[
            {"step": "Identity", "done": True, "detail": "12D3KooWCoral…"},
            {"step": "Find peers", "done": False, "detail": "0 of 2 bootstrap addresses"},
            {"step": "Download the parameters", "done": False, "detail": ""},
            {"step": "First local step", "done": False, "detail": ""},
            {"step": "First accepted round", "done": False, "detail": ""},
        ],
        alerts=[
            {
                "code": "training-alone",
                "since": START,
                "text": "No other peer has been reached yet.",
                "fix": "Check that port 31337 is open, or ask for a fresh ticket.",
            }
        ],
    )
    return state


class FakeNode:
    """A `Node` whose state a test may change at will; it then calls `changed`."""

    def __init__(self, version: int = 41, *, ring_size: int = 256) -> None:
        self.log = RingLog(ring_size)
        self.snapshot = make_state(version)
        self.reports = make_rounds(version)
        self.ids = list(PEER_IDS)
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.state_reads = 0
        for entry in self.reports[-8:]:
            self._tell(entry)

    def _tell(self, entry: Round) -> None:
        size = f"{entry['bytes_sent'] / 1e6:.1f} MB"
        text = {
            "certified": f"Round {entry['version']} accepted your update ({size}, weight 33%).",
            "provisional": f"Round {entry['version']} is provisional: {entry['reason']}",
            "aborted": f"Round {entry['version']} was aborted: {entry['reason']}",
        }[entry["outcome"]]
        self.log.add("accepted" if entry["outcome"] == "certified" else "round", text, entry["time"])

    def changed(self) -> None:
        """Say that the snapshot changed."""
        self.log.changed()

    def advance(self) -> None:
        """End one more round."""
        peers, started = self.snapshot["peers"], self.snapshot["started"]
        self.snapshot = make_state(self.snapshot["version"] + 1)
        self.snapshot["peers"][1:], self.snapshot["started"] = peers[1:], started
        self.report(make_rounds(self.snapshot["version"])[-1])
        self._tell(self.reports[-1])
        self.changed()

    def report(self, entry: Round) -> None:
        """A round has ended, or its report has changed."""
        revision = max((each["revision"] for each in self.reports), default=0) + 1
        self.reports = [each for each in self.reports if each["time"] != entry["time"]]
        self.reports.append({**entry, "revision": revision})

    def rounds(self, after: int, limit: int) -> Mapping[str, Any]:
        changed = sorted((r for r in self.reports if r["revision"] > after), key=lambda r: r["revision"])
        found = changed[:limit]
        return {
            "run": self.snapshot["started"],
            "revision": found[-1]["revision"] if found else after,
            "peers": self.ids,
            "rounds": found,
        }

    def state(self) -> Mapping[str, Any]:
        self.snapshot["rounds_revision"] = max((each["revision"] for each in self.reports), default=0)
        self.state_reads += 1
        self.snapshot["sequence"] = self.log.last
        return self.snapshot

    def events(self) -> RingLog:
        return self.log

    async def past(self, name: str | None, since: float, until: float, points: int) -> Mapping[str, Any]:
        if name is None:
            return {"names": ["loss", "peers"]}
        if name == "locked":
            raise CommandError("disk", "The disk refuses.", "Free some space.")
        width = max(1, int((until - since) / points))
        starts = range(int(since) // width * width, int(until), width)[:points]
        buckets = [{"start": s, "count": 2, "min": 1.0, "max": 3.0, "mean": 2.0} for s in starts]
        return {"name": name, "bucket_s": width, "buckets": buckets}

    async def command(self, name: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
        self.commands.append((name, arguments))
        match name:
            case "pause" | "finish":
                if self.snapshot["paused"]:
                    raise CommandError("already-paused", "The node is paused already.", "Resume it first.")
                self._pause(True, "Paused: you asked for it. Next: nothing until you resume.")
            case "resume":
                self._pause(
                    False, "Training: round 42, step 0 of 30. Next: average with 2 peers in about 14 s."
                )
            case "sample":
                prompt = str(arguments.get("prompt", ""))
                if "refuse" in prompt:
                    raise CommandError("busy", "It is writing already.", "Wait until that is done.")
                text = f"{prompt} Thou art."
                return {"text": text, "version": self.snapshot["version"], "took_s": 4.2, "cut": False}
            case "leave":
                pass
            case "approve" | "revoke":
                return {"done": name, "sentence": f"{name} of {arguments['node']} is done."}
            case "set":
                controls = self.snapshot["controls"]
                good = all(isinstance(value, str | int | float) for value in arguments.values())
                if arguments.get("up") == "fast" or not good:
                    raise CommandError("config_invalid", "Setting up is 'fast'; it must be a rate.", "")
                for group in (controls["caps"], controls["hours"], controls["conditions"]):
                    group.update(
                        {n: make_setting(v, "config.toml") for n, v in arguments.items() if n in group}
                    )
                self.changed()
                return {"done": "set", "changed": arguments, "sentence": "Set what you asked for."}
            case "explode":
                raise RuntimeError("secret insides")
            case "hang":
                await asyncio.Event().wait()
            case _:
                raise CommandError(
                    "unknown-command", f"There is no command {name}.", "See the documentation."
                )
        return {"ok": True, "command": name}

    def _pause(self, paused: bool, sentence: str) -> None:
        self.snapshot["paused"] = paused
        self.snapshot["state"] = "paused" if paused else "training"
        self.snapshot["phase"] = {
            "name": "paused" if paused else "inner",
            "step": 0,
            "of": 0 if paused else INNER_STEPS,
        }
        self.snapshot["sentence"] = sentence
        self.changed()

    def health(self) -> tuple[bool, str]:
        return (False, "paused") if self.snapshot["paused"] else (True, "ready")

    def metrics(self) -> str:
        return "# TYPE atoll_version gauge\natoll_version 41\n"


def make_big_node(peers: int, rounds: int, *, seed: int = 3) -> FakeNode:
    """A node of a large swarm: of each round a few were late or missing."""
    rng, node = random.Random(seed), FakeNode(rounds)
    ids = [*PEER_IDS, *(f"12D3KooWPeer{number:05d}{'x' * 36}" for number in range(3, peers))]
    node.ids = ids
    for number in range(3, peers):
        peer = make_peer(1, rounds)
        peer.update(id=ids[number], name=f"peer-{number:03d}", label=None, direct=number % 7 > 0)
        peer["way"] = "direct" if peer["direct"] else "relay"
        node.snapshot["peers"].append(peer)
    for entry in node.reports:
        crowd_in(entry, peers, rng)
    return node


def crowd_in(entry: Round, peers: int, rng: random.Random) -> None:
    """All peers of a large swarm were planned in this round; a few were late or missing."""
    if entry["outcome"] == "aborted":
        return
    away = set(rng.sample(range(peers), max(1, peers // 20)))
    entry["planned"] = list(range(peers))
    entry["contributed"] = [place for place in range(peers) if place not in away]
    entry["late"] = sorted(away)[::2]
    entry["received"] = entry["late"]
    entry["missing"] = sorted(away)[1::2]


async def demo(port: int, period_s: float, joining: bool) -> None:
    """Serve a fake node and end a round every `period_s` seconds, until interrupted."""
    node = FakeNode()
    if joining:
        node.snapshot = make_joining_state()
    server = WebServer(node, port=port, token="demo")
    await server.start()
    print(server.login_url(), flush=True)
    try:
        while True:
            await asyncio.sleep(period_s)
            if not joining and not node.snapshot["paused"]:
                node.advance()
    finally:
        await server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a fake node for looking at the page.")
    parser.add_argument("--port", type=int, default=8787)
    parser.add_argument("--period", type=float, default=4.0, help="seconds per round")
    parser.add_argument("--joining", action="store_true", help="a node that has found nobody yet")
    options = parser.parse_args()
    asyncio.run(demo(options.port, options.period, options.joining))
