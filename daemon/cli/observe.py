"""`atoll status`, `peers`, `rounds`, `events`, `config show`: reading only, and cheap to start."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from atoll.daemon.cli.api import client_of, refused, running
from atoll.daemon.config import Settings, data_dir_of, load, where
from atoll.daemon.errors import Exit, check_range
from atoll.daemon.events import read_log
from atoll.daemon.status import Facts, State, describe, duration, size
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol.text import plain
from atoll.web_ui.client import ApiRefused, ApiUnreachable

_LOG_TAIL = 1 << 20
_LINE = 2000
MOST_LINES = 1_000_000
_STATUS_FIELDS = (
    "state", "because", "next", "sentence", "since_s", "node_id", "name", "label", "swarm_id", "swarm_name",
    "version", "digest", "certified", "loss", "val_loss", "val_loss_version", "tokens_per_s",
    "swarm_tokens_per_s", "accepted_tokens", "token_account", "phase", "device", "parameters", "traffic",
    "api", "alerts", "bootstrap", "paused", "loop_lag_s", "codec_reason",
    "inner_steps_reason",
)  # fmt: skip


def fetch_state(folder: DataDir) -> dict[str, Any]:
    """The snapshot of the running daemon. Raises AtollError."""
    try:
        return running(folder).state()
    except (ApiRefused, ApiUnreachable) as error:
        raise refused(error) from error


def status_of(state: dict[str, Any]) -> dict[str, Any]:
    """What `atoll status --json` prints of a snapshot; `peers` counts the others."""
    status = {name: state[name] for name in _STATUS_FIELDS}
    return {**status, "peers": sum(not peer["self"] for peer in state["peers"])}


def _stopped(folder: DataDir) -> dict[str, Any]:
    """The status of a data dir whose daemon does not answer: stopped, starting, or a bootstrap node."""
    facts = folder.node_facts()
    if not folder.is_locked() and not folder.manifest.exists():
        fix = folder.no_swarm().fix.rstrip(".")
        sentence = describe(Facts(State.STOPPED, f"there is no swarm in {folder.root}", fix=fix))
    elif not folder.is_locked():
        reason = f"no daemon is running in {folder.root}"
        sentence = describe(Facts(State.STOPPED, reason, where=where(folder.root)))
    elif facts.get("role") == "bootstrap":
        sentence = describe(Facts(State.SERVING, "nodes find each other through this one"))
    else:
        sentence = describe(Facts(State.STARTING))
    empty: dict[str, Any] = dict.fromkeys(_STATUS_FIELDS)
    return {
        **empty,
        "state": sentence.state.value,
        "because": sentence.because,
        "next": sentence.next,
        "sentence": sentence.text,
        "node_id": facts.get("node_id"),
        "swarm_id": facts.get("swarm_id"),
        "peers": 0,
        "tokens_per_s": 0.0,
        "accepted_tokens": 0,
        "api": None,
    }


def status(arguments: argparse.Namespace) -> int:
    """`atoll status`"""
    folder = DataDir(data_dir_of(arguments.data_dir))
    known = status_of(fetch_state(folder)) if client_of(folder) is not None else _stopped(folder)
    if arguments.json:
        print(json.dumps(known))
        return int(Exit.OK)
    print(known["sentence"])
    if known["api"]:
        print(f"Node {known['name']} of swarm {known['swarm_name'] or '?'}, {known['peers']} peers.")
        print(f"Version {known['version']} ({known['digest'][:12]}){_validation(known)}.")
        print(f"{known['tokens_per_s']:.0f} tokens/s; {known['accepted_tokens']} tokens accepted.")
        print(_traffic(known["traffic"]))
        for reason in ("codec_reason", "inner_steps_reason"):
            if known[reason]:
                print(known[reason])
        for alert in known["alerts"]:
            print(plain(f"! {alert['text']} {alert['fix']}", _LINE))
        print(f"Page and API: {known['api']}; open it with {_login_link(folder)} (works once).")
    return int(Exit.OK)


def _validation(known: dict[str, Any]) -> str:
    """The newest validation loss. It comes seconds after its version, so an older one says whose it is."""
    if known["val_loss"] is None:
        return ", no validation loss yet"
    loss = f"validation loss {known['val_loss']:.4f}"
    of = known["val_loss_version"]
    return f", {loss}" if of == known["version"] else f"; {loss} of version {of}"


def _traffic(traffic: dict[str, Any]) -> str:
    """One line: what each class took in seven days, and what the line was measured to carry."""
    rows = [(n, c["week_sent_bytes"], c["week_received_bytes"]) for n, c in traffic["classes"].items()]
    moved = [f"{name} {size(up)} up, {size(down)} down" for name, up, down in rows if up + down]
    ways = {"up": traffic["upload_bps"], "down": traffic["download_bps"]}
    speeds = [f"{bps / 1e6:.3g} Mbit/s {way}" for way, bps in ways.items() if bps]
    carries = f" The line was seen to carry {', '.join(speeds)}." if speeds else ""
    return f"Traffic in seven days: {'; '.join(moved) or 'nothing yet'}.{carries}"


def _login_link(folder: DataDir) -> str:
    try:
        return running(folder).login_link()
    except (ApiRefused, ApiUnreachable) as error:
        raise refused(error) from error


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    lines = [tuple(str(cell) for cell in row) for row in (head, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def peers(arguments: argparse.Namespace) -> int:
    """`atoll peers`"""
    found = fetch_state(DataDir(data_dir_of(arguments.data_dir)))["peers"]
    if arguments.json:
        print(json.dumps(found))
        return int(Exit.OK)
    rows = [
        (
            p["name"] + (" (this node)" if p["self"] else ""),
            plain(p["label"] or ""),
            p["state"],
            p["version"],
            f"{p['tokens_per_s']:.0f}",
            "" if p["rtt_ms"] is None else f"{p['rtt_ms']:.0f} ms",
            p["id"],
        )
        for p in found
    ]
    _table(("NAME", "LABEL", "STATE", "VERSION", "TOKENS/S", "RTT", "ID"), rows)
    return int(Exit.OK)


def rounds(arguments: argparse.Namespace) -> int:
    """`atoll rounds`"""
    check_range("-n", arguments.n, 1, MOST_LINES)
    found = fetch_state(DataDir(data_dir_of(arguments.data_dir)))["rounds"][-arguments.n :]
    if arguments.json:
        print(json.dumps(found))
        return int(Exit.OK)
    rows = [
        (
            r["version"],
            r["outcome"],
            f"{len(r['contributed'])}/{len(r['planned'])}",
            r["tokens"],
            duration(r["duration_s"]) if r["duration_s"] >= 1 else f"{r['duration_s']:.2f}s",
            size(r["bytes_sent"]),
            "" if r["val_loss"] is None else f"{r['val_loss']:.4f}",
            plain(r["reason"]),
        )
        for r in found
    ]
    _table(("VERSION", "OUTCOME", "PEERS", "TOKENS", "TOOK", "SENT", "VAL LOSS", "REASON"), rows)
    return int(Exit.OK)


def events(arguments: argparse.Namespace) -> int:
    """`atoll events`"""
    check_range("-n", arguments.n, 1, MOST_LINES)
    folder = DataDir(data_dir_of(arguments.data_dir))
    client = client_of(folder) if arguments.follow else None
    past = read_log(folder.events, _LOG_TAIL)[-arguments.n :]
    last = 0
    for event in past:
        last = max(last, int(event.get("sequence", 0)))
        _print_event(event, arguments.json)
    if not arguments.follow:
        return int(Exit.OK)
    if client is None:
        running(folder)
        raise AssertionError("running() raises where no daemon runs")
    try:
        for event in client.events(last):
            if event.get("kind") not in ("state", "reset"):
                _print_event(event, arguments.json)
    except (ApiRefused, ApiUnreachable) as error:
        raise refused(error) from error
    return int(Exit.OK)


def _print_event(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(event), flush=True)
        return
    import time

    at = time.strftime("%H:%M:%S", time.localtime(float(event.get("time", 0))))
    print(f"{at} {plain(str(event.get('text', '')), _LINE)}", flush=True)


def config(arguments: argparse.Namespace) -> int:
    """`atoll config show`"""
    loaded = load(DataDir(data_dir_of(arguments.data_dir)).config, os.environ, {})
    values = {f.name: getattr(loaded.settings, f.name) for f in fields(Settings)}
    if arguments.json:
        shown = {n: {"value": v, "origin": loaded.origins[n]} for n, v in values.items()}
        print(json.dumps(shown if arguments.origin else values))
        return int(Exit.OK)
    for field in fields(Settings):
        origin = f"  [{loaded.origins[field.name]}]" if arguments.origin else ""
        print(f"{field.name} = {json.dumps(values[field.name])}{origin}")
        print(f"    {field.metadata['doc']}", file=sys.stdout)
    return int(Exit.OK)
