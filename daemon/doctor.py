"""Gathering the facts for `atoll doctor`: of a node that runs, or of a data dir where none does.

A running node is asked by its API (`examined`): it has other nodes dial back anew, and knows line and clock.
Where none runs, or it does not train yet, the command itself takes a micro-step of the swarm's model in a
process of its own. The verdicts themselves are made in preflight.py and verdicts.py.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from atoll.daemon import preflight
from atoll.daemon.config import DEFAULT_PORT
from atoll.daemon.events import read_log
from atoll.daemon.machine import available_bytes, disk_use
from atoll.daemon.preflight import MicroStep
from atoll.daemon.verdicts import Reachable, verdict
from atoll.peers.ports import try_port

if TYPE_CHECKING:
    from atoll.daemon.config import Settings
    from atoll.daemon.node import Node
    from atoll.daemon.storage.data_dir import DataDir
    from atoll.protocol.manifest import SwarmManifest

STEP_TIMEOUT_S = 300.0
_LOG_TAIL = 1 << 16
SPARE_DISK_BYTES = 256 << 20
"""Beside state and text: logs, history, and room to write."""

Verdicts = list[dict[str, Any]]


# ---- a node that runs


async def examined(node: Node) -> dict[str, Any]:
    """`verdicts` of a running node, and whether it trains: if not, device and memory are not among them."""
    from atoll.daemon.swarm_facts import disk_bytes, update_bytes

    network, island, manifest = node.network, node.island, node.manifest
    trains = island is not None and island.training
    if network is not None:
        await network.reachability.ask_now()
    state = node.front.view.state()
    found: Verdicts = []
    if trains:
        device = verdict("device", "ok", f"{state['device']}: {state['tokens_per_s']:.0f} tokens/s")
        found += [device, preflight.memory_in_use(state["memory_bytes"], available_bytes())]
    disk = node.machine.disk.look()
    needed = SPARE_DISK_BYTES
    if manifest is not None:
        needed += max(0, disk_bytes(manifest, node.settings.data_cap) - disk["used_bytes"])
    found.append(preflight.disk(node.machine.free_bytes.look(), needed))
    skew = node.neighbours.roster.skew_s if node.neighbours is not None else None
    found.append(preflight.clock(skew, time.time(), node.started))
    # Of all on the way to others; that libp2p listens is the port's verdict, under its usual name.
    way = {each["check"]: each for each in state["connection"]}
    found.append({**way.pop("libp2p"), "check": "port"})
    found.append(way.pop("reachable by others"))
    found += way.values()
    bps = network.host.line.upload_bps if network is not None else 0
    found.append(preflight.upload(bps, update_bytes(manifest) if manifest is not None else 0))
    return {"verdicts": found, "trains": trains}


# ---- what the command finds out by itself


def of_machine(manifest: SwarmManifest | None, settings: Settings) -> Verdicts:
    """Device and memory, by a micro-step of the swarm's model, or of the smallest built-in one."""
    if manifest is not None and manifest.body.model.kind != "gpt":
        own = "this swarm's model comes with a script, which alone can take a step of it"
        return [verdict("device", "unknown", own), verdict("memory", "unknown", own)]
    step, values = micro_step(manifest, settings)
    return [
        preflight.device(step, settings.device),
        preflight.memory(step, values, available_bytes()),
    ]


def micro_step(manifest: SwarmManifest | None, settings: Settings) -> tuple[MicroStep, int]:
    """What a step took, and values of the parameter vector."""
    from atoll.daemon.welcome import shape_of, steps_of, threads_of

    if manifest is None:  # the smallest built-in model
        return take_step({"threads": settings.threads or 1, "device": settings.device}), 1 << 20
    threads = threads_of(manifest, settings.threads)
    asked = {"model": shape_of(manifest), "inner": steps_of(manifest), "threads": threads}
    return take_step({**asked, "device": settings.device}), manifest.body.total_values


def take_step(asked: dict[str, Any], timeout_s: float = STEP_TIMEOUT_S) -> MicroStep:
    """Starts the process that takes one step, and reads what it says."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "atoll.daemon.training.micro_step"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return MicroStep(failed="slow", text=f"one step was not done in {timeout_s:.0f} s")
    if done.returncode < 0:
        return MicroStep(
            failed="killed", text=f"the step was killed (signal {-done.returncode}): memory ran out"
        )
    try:
        return MicroStep(**json.loads(done.stdout))
    except (ValueError, TypeError):
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return MicroStep(failed="step", text=f"the step failed: {said[-1]}")


def of_stopped(folder: DataDir, manifest: SwarmManifest | None, settings: Settings) -> Verdicts:
    """Disk, clock, port and what an earlier run found, where no node runs."""
    from atoll.daemon.swarm_facts import disk_bytes

    facts = folder.node_facts()
    use = disk_use(folder.root if folder.root.exists() else folder.root.absolute().parent)
    needed = SPARE_DISK_BYTES
    if manifest is not None:
        needed += max(0, disk_bytes(manifest, settings.data_cap) - use["used_bytes"])
    events = read_log(folder.events, _LOG_TAIL) if folder.events.exists() else []
    last_s = max((float(event.get("time", 0)) for event in events), default=0.0)
    number = settings.port or int(facts.get("port") or DEFAULT_PORT)
    taken = "" if folder.is_locked() else port_taken(settings.host, number)
    return [
        preflight.disk(use["free_bytes"] or None, needed),
        preflight.clock(None, time.time(), last_s),
        preflight.port(number, taken, bool(settings.port)),
        _reached_before(facts.get("reach")),
        preflight.upload(0, 0),
    ]


def _reached_before(kept: Any) -> dict[str, Any]:
    """Nobody can dial a node that does not run; what was found when it did is told."""
    before = kept.get("verdict") if isinstance(kept, dict) else None
    told = Reachable().as_verdict()
    text = "no node runs here, so nobody can try"
    if isinstance(before, str) and before != "unknown":
        text = f"{text}; when one did: {before}"
    return {**told, "text": text, "fix": "Start the node (`atoll run`), and ask again."}


def port_taken(host: str, number: int) -> str:
    """Why a TCP port can't be listened on; empty where it can."""
    try:
        try_port(host, number)
    except OSError as error:
        why = "another process has it" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        return f"TCP port {number} on {host} can't be used: {why}"
    return ""
