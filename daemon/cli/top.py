"""`atoll top`: what a node and its swarm are doing, live in a terminal: the page's facts in a few lines."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from atoll.daemon.cli.observe import fetch_picture, status_of
from atoll.daemon.config import data_dir_of
from atoll.daemon.errors import AtollError, Exit, check_range
from atoll.daemon.status import duration, size
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol.text import plain

EVERY_S = 1.0
ROUNDS = 48
"""Of the strip: a cell for each, the newest on the right."""
_HEIGHTS = "▁▂▃▄▅▆▇█"
_CELLS = {"certified": "█", "provisional": "▒", "missed": "·", "aborted": "×"}


def top(arguments: argparse.Namespace) -> int:
    """`atoll top`"""
    check_range("--every", arguments.every, 0.2, 3600)
    folder = DataDir(data_dir_of(arguments.data_dir))
    state = fetch_picture(folder, ROUNDS)
    if arguments.json:
        print(json.dumps({**status_of(state), "nodes": state["peers"], "rounds": state["rounds"]}))
        return int(Exit.OK)
    if arguments.once or not sys.stdout.isatty():
        print("\n".join(lines(state, 100)))
        return int(Exit.OK)
    return _live(folder, state, arguments.every)


def _live(folder: DataDir, state: Mapping[str, Any], every_s: float) -> int:
    """Until the person ends it; what was seen last stays, with why nothing newer comes."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console, trouble = Console(), ""
    with Live(console=console, screen=True, auto_refresh=False) as screen:
        try:
            while True:
                shown = lines(state, console.width)[: console.height - 2]
                screen.update(Text("\n".join([*shown, "", trouble or "Ctrl-C ends."])), refresh=True)
                time.sleep(every_s)
                try:
                    state, trouble = fetch_picture(folder, ROUNDS), ""
                except AtollError as error:
                    trouble = f"Nothing newer: {error.message}"
        except KeyboardInterrupt:
            return int(Exit.OK)


def lines(state: Mapping[str, Any], width: int) -> list[str]:
    """The whole picture as plain text, no line longer than `width`."""
    width = max(40, width)
    found = [state["sentence"], *(f"! {alert['text']} {alert['fix']}" for alert in state["alerts"]), ""]
    found += _tiles(state)
    losses = [r["val_loss"] for r in state["rounds"] if r["val_loss"] is not None][-ROUNDS:]
    if losses:
        found += [
            "",
            f"validation loss  {bar(losses)}  {losses[-1]:.4f} of version {state['val_loss_version']}",
        ]
    if state["rounds"]:
        found += ["", *_strip(state)]
    found += ["", *_peers(state["peers"])]
    return [plain(line, width) for line in found]


def _tiles(state: Mapping[str, Any]) -> list[str]:
    phase, traffic = state["phase"], state["traffic"]
    step = f"{phase['name']} {phase['step']}/{phase['of']}" if phase["of"] else phase["name"]
    all_tokens, own = state["swarm_accepted_tokens"], state["accepted_tokens"]
    share = f"{own / all_tokens:.0%}" if all_tokens else "none yet"
    return [
        f"node {state['name']} of swarm {state['swarm_name'] or '?'}   version {state['version']} "
        f"({'certified' if state['certified'] else 'not certified'})   {step}",
        f"{state['tokens_per_s']:,.0f} tokens/s here, {state['swarm_tokens_per_s']:,.0f} in all   "
        f"{own:,} tokens accepted ({share} of the swarm's)",
        f"sent {size(traffic['sent_bytes'])}, received {size(traffic['received_bytes'])}   "
        f"device {state['device'] or 'not known yet'}",
    ]


def bar(values: Sequence[float]) -> str:
    """Heights between the least and the greatest."""
    low, span = min(values), max(values) - min(values) or 1.0
    return "".join(_HEIGHTS[round((value - low) / span * (len(_HEIGHTS) - 1))] for value in values)


def _strip(state: Mapping[str, Any]) -> list[str]:
    """A row for each node, a cell for each round: whether its update is in it."""
    rounds, found = state["rounds"], []
    names = {peer["id"]: peer["name"] for peer in state["peers"]}
    for node in sorted(
        {n for r in rounds for n in r["planned"]} | names.keys(), key=lambda n: names.get(n, n)
    ):
        cells = "".join(
            _CELLS.get(r["outcome"], "?")
            if node in r["contributed"]
            else "-"
            if node in r["planned"]
            else " "
            for r in rounds
        )
        found.append(f"{names.get(node, node[-8:])[:18]:18} {cells}")
    last = rounds[-1]
    took = duration(last["duration_s"]) if last["duration_s"] >= 1 else f"{last['duration_s']:.2f}s"
    said = f"last round: {last['outcome']}, {len(last['contributed'])}/{len(last['planned'])} nodes, {took}"
    return [*found, f"{said}{', ' + last['reason'] if last['reason'] else ''}"]


def _peers(peers: Sequence[Mapping[str, Any]]) -> list[str]:
    head = f"{'NODE':20}{'STATE':12}{'VERSION':>8}{'TOKENS/S':>10}{'RTT':>9}  LABEL"
    rows = [
        f"{p['name'][:18]:20}{p['state'][:11]:12}{p['version']:>8}{p['tokens_per_s']:>10,.0f}"
        f"{'' if p['rtt_ms'] is None else format(p['rtt_ms'], '.0f') + ' ms':>9}  {p['label'] or ''}"
        for p in peers
    ]
    return [head, *rows]
