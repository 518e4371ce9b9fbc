"""`atoll status`, `peers`, `rounds`, `events`, `config show`: reading only, and cheap to start."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from typing import Any

from atoll.daemon.cli.api import client_of, refused, running
from atoll.daemon.config import Settings, data_dir_of, load, nearest, where
from atoll.daemon.errors import AtollError, Exit, check_range
from atoll.daemon.events import read_log
from atoll.daemon.status import Facts, describe, duration, size
from atoll.daemon.status import State as Word
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol.text import plain
from atoll.web_ui.client import ApiRefused, ApiUnreachable
from atoll.web_ui.state_types import State

_LOG_TAIL = 16 << 20
"""A report of a round of hundreds of nodes is tens of kB."""
_NAMED = 8
"""Peers in one line."""
_LIVE_TAIL = 1 << 20
"""What is read for an event that has just been written, or for a burst of them."""
_LINE = 2000
MOST_LINES = 1_000_000
_STATUS_FIELDS = tuple(name for name in State.__annotations__ if name not in ("peers", "number", "public"))
"""The snapshot but for the peers, which `atoll peers` tells."""


def fetch_state(folder: DataDir) -> dict[str, Any]:
    """The snapshot of the running daemon. Raises AtollError."""
    try:
        return running(folder).state()
    except (ApiRefused, ApiUnreachable) as error:
        raise refused(error) from error


def fetch_picture(folder: DataDir, rounds: int) -> dict[str, Any]:
    """The snapshot of the running daemon with its newest rounds. Raises AtollError."""
    try:
        return running(folder).picture(rounds)
    except (ApiRefused, ApiUnreachable) as error:
        raise refused(error) from error


def status_of(state: dict[str, Any]) -> dict[str, Any]:
    """What `atoll status --json` prints of a snapshot; `peers` counts the others."""
    status = {name: state.get(name) for name in _STATUS_FIELDS}  # a daemon of another release has others
    return {**status, "peers": sum(not peer["self"] for peer in state["peers"])}


def _stopped(folder: DataDir) -> dict[str, Any]:
    """The status of a data dir whose daemon does not answer: stopped, starting, or a bootstrap node."""
    facts = folder.node_facts()
    if not folder.is_locked() and not folder.manifest.exists():
        fix = folder.no_swarm().fix.rstrip(".")
        sentence = describe(Facts(Word.STOPPED, f"there is no swarm in {folder.root}", fix=fix))
    elif not folder.is_locked():
        reason = f"no daemon is running in {folder.root}"
        sentence = describe(Facts(Word.STOPPED, reason, where=where(folder.root)))
    elif facts.get("role") == "bootstrap":
        sentence = describe(Facts(Word.SERVING, "nodes find each other through this one"))
    else:
        sentence = describe(Facts(Word.STARTING))
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
        peers = f"{known['peers']} peer{'s' if known['peers'] != 1 else ''}"
        print(f"Node {known['name']} of swarm {known['swarm_name'] or '?'}, {peers}.")
        print(f"Version {known['version']} ({known['digest'][:12]}){_validation(known)}.")
        print(f"{known['tokens_per_s']:.0f} tokens/s; {known['accepted_tokens']} tokens accepted.")
        print(_traffic(known["traffic"]))
        if reachable := known.get("reachability"):
            print(plain(f"Reachable by others: {reachable['text']}. {reachable['fix']}".rstrip(), _LINE))
        for reason in ("codec_reason", "inner_steps_reason"):
            if known[reason]:
                print(known[reason])
        if known["privacy"]:
            print(_privacy(known["privacy"]))
        for line in rule_lines(known["controls"]):
            print(plain(line, _LINE))
        for alert in known["alerts"]:
            print(plain(f"! {alert['text']} {alert['fix']}", _LINE))
        print(f"Page and API: {known['api']}; open it with {_login_link(folder)} (works once).")
    return int(Exit.OK)


def rule_lines(controls: Mapping[str, Any]) -> list[str]:
    """The owner's rules that are set up: a line for each, with its code."""
    found = []
    for rule in controls["rules"]:
        if rule["watched"]:
            mark = "is overridden" if rule["overridden"] else "pauses" if rule["active"] else "does not pause"
            found.append(f"Rule {rule['code']} {mark}: {rule['text']}")
    return found


def _validation(known: dict[str, Any]) -> str:
    """The newest validation loss. It comes seconds after its version, so an older one says whose it is."""
    if known["val_loss"] is None:
        return ", no validation loss yet"
    loss = f"validation loss {known['val_loss']:.4f}"
    of = known["val_loss_version"]
    return f", {loss}" if of == known["version"] else f"; {loss} of version {of}"


def _privacy(told: dict[str, Any]) -> str:
    bound = "without a bound" if told["clip"] is None else f"no longer than {told['clip']:g}"
    if not told["noise"]:
        return f"Contributions are {bound}, and without noise."
    spent = "nothing yet" if told["epsilon"] is None else f"ε = {told['epsilon']:.3g}"
    return (
        f"Contributions are {bound}, with noise of {told['noise']:g} times that; "
        f"{told['contributions']} of them told {spent} at δ = {told['delta']:g}."
    )


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
            p["state"] + (", quarantine" if p.get("quarantine") else ""),
            p["version"],
            f"{p['tokens_per_s']:.0f}",
            "" if p["rtt_ms"] is None else f"{p['rtt_ms']:.0f} ms",
            p.get("way") or "",  # a daemon of another release has none
            p["id"],
        )
        for p in found
    ]
    _table(("NAME", "LABEL", "STATE", "VERSION", "TOKENS/S", "RTT", "WAY", "ID"), rows)
    for p in found:
        if p.get("quarantine"):
            print(plain(f"{p['name']} is in quarantine here: {p['quarantine']}.", _LINE))
    return int(Exit.OK)


def rounds(arguments: argparse.Namespace) -> int:
    """`atoll rounds`"""
    check_range("-n", arguments.n, 1, MOST_LINES)
    folder = DataDir(data_dir_of(arguments.data_dir))
    if client_of(folder) is None and folder.events.exists() and not folder.is_locked():
        found = _past_rounds(folder)[-arguments.n :]
    else:
        found = fetch_picture(folder, arguments.n)["rounds"]
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
            plain("; ".join(part for part in (r["reason"], _left_out(r)) if part), _LINE),
        )
        for r in found
    ]
    _table(("VERSION", "OUTCOME", "PEERS", "TOKENS", "TOOK", "SENT", "VAL LOSS", "REASON"), rows)
    return int(Exit.OK)


def _left_out(report: dict[str, Any]) -> str:
    """Who was up and got a round's result, but is not in it."""
    absent = [peer for peer in report["received"] if peer not in report["contributed"]]
    if not absent:
        return ""
    from atoll.peers.identity import readable_name
    from atoll.protocol.signing import peer_bytes

    rest = len(absent) - _NAMED
    names = ", ".join(readable_name(peer_bytes(peer)) for peer in absent[:_NAMED])
    return f"not in it: {names}" + (f" and {rest} more" if rest > 0 else "")


def _past_rounds(folder: DataDir) -> list[dict[str, Any]]:
    """Rounds of a node that does not run, from its log of events."""
    from atoll.daemon.history import History

    history = History()
    history.restore(read_log(folder.events, _LOG_TAIL))
    return history.named()


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
        whole = _Whole(folder)
        for event in client.events(last):
            if event.get("kind") != "reset":
                _print_event(whole.of(event), arguments.json)
    except (ApiRefused, ApiUnreachable) as error:
        raise refused(error) from error
    return int(Exit.OK)


class _Whole:
    """Events that come live, as the log has them: the API leaves out what has an answer of its own there.

    The node writes an event before any stream can send it, so a line that is missing was refused by the disk.
    """

    def __init__(self, folder: DataDir) -> None:
        self._path = folder.events
        self._lines: dict[int, dict[str, Any]] = {}

    def of(self, event: dict[str, Any]) -> dict[str, Any]:
        """The same event with all that was noted of it; as it came where the log does not have it."""
        sequence = int(event.get("sequence", 0))
        if sequence not in self._lines:  # one look serves a burst
            newest = read_log(self._path, _LIVE_TAIL)
            self._lines = {int(line.get("sequence", 0)): line for line in newest}
        return self._lines.get(sequence, event)


def _print_event(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(event), flush=True)
        return
    import time

    at = time.strftime("%H:%M:%S", time.localtime(float(event.get("time", 0))))
    print(f"{at} {plain(str(event.get('text', '')), _LINE)}", flush=True)


def config(arguments: argparse.Namespace) -> int:
    """`atoll config show` and `atoll config set NAME=VALUE ...`"""
    if arguments.action == "set":
        from atoll.daemon.cli.control import set_settings

        return set_settings(arguments)
    loaded = load(DataDir(data_dir_of(arguments.data_dir)).config, os.environ, {})
    shown_fields = _chosen(arguments.pairs)
    values = {f.name: getattr(loaded.settings, f.name) for f in shown_fields}
    if arguments.json:
        shown = {n: {"value": v, "origin": loaded.origins[n]} for n, v in values.items()}
        print(json.dumps(shown if arguments.origin else values))
        return int(Exit.OK)
    for field in shown_fields:
        origin = f"  [{loaded.origins[field.name]}]" if arguments.origin else ""
        print(f"{field.name} = {json.dumps(values[field.name])}{origin}")
        print(f"    {field.metadata['doc']}", file=sys.stdout)
    return int(Exit.OK)


def _chosen(names: list[str]) -> list[Field[Any]]:
    """The settings of these names, all where none is given. Raises AtollError."""
    known = {field.name: field for field in fields(Settings)}
    wanted = [name.replace("-", "_") for name in names]
    for name in wanted:
        if "=" in name:
            raise AtollError(
                Exit.USAGE, "usage", "`config show` takes names only.", "Did you mean `config set`?"
            )
        if name not in known:
            raise AtollError(
                Exit.USAGE, "config_invalid", f"Unknown setting {name!r}.", nearest(name, [*known])
            )
    return [known[name] for name in wanted] or [*known.values()]
