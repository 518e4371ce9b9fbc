"""`atoll manifest`: the swarm's signed description, as it is and as the organiser amends it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from atoll.daemon.amending import keep, load, said, shown
from atoll.daemon.cli.api import client_of, refused
from atoll.daemon.config import data_dir_of, is_multiaddr, where
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage import checkpoint
from atoll.daemon.storage.checkpoint import CheckpointError
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol.amendments import AMENDABLE, Amended, AmendmentError, Amendments, UnknownAmendment
from atoll.protocol.manifest import SwarmManifest
from atoll.web_ui.client import ApiRefused, ApiUnreachable

AHEAD = 10
"""Unless a round is named, an amendment is in force so many rounds after the version here: by then everybody
should have heard of it."""


def manifest(arguments: argparse.Namespace) -> int:
    """`atoll manifest show` and `update`"""
    folder = DataDir(data_dir_of(arguments.data_dir))
    genesis = folder.load_manifest()
    if arguments.action == "update":
        return _update(arguments, folder, load(folder, genesis))
    if arguments.pairs:
        text = "`atoll manifest show` takes no values; `atoll manifest update` does."
        raise AtollError(Exit.USAGE, "bad_amendment", text)
    return _show(arguments, load(folder, genesis))


def _show(arguments: argparse.Namespace, amendments: Amendments) -> int:
    facts = facts_of(amendments.newest)
    if len(amendments):
        facts["amendments"] = [facts_of_amendment(one) for one in amendments]
    if not arguments.json:
        facts.get("data", {}).pop("shards", None)  # `atoll shards` lists them
    print(json.dumps(facts) if arguments.json else json.dumps(facts, indent=2, ensure_ascii=False))
    return int(Exit.OK)


def facts_of(manifest: SwarmManifest) -> dict[str, Any]:
    """A manifest as JSON values; what people compare comes first."""
    from google.protobuf.json_format import MessageToDict

    body = MessageToDict(manifest.body, preserving_proto_field_name=True)
    facts: dict[str, Any] = {"organiser": manifest.organiser_fingerprint, "swarm_id": manifest.swarm_id.hex()}
    facts |= {name: value for name, value in body.items() if name != "organiser"}
    facts["organiser_key"] = manifest.body.organiser.hex()
    if facts["inner"].get("schedule") == "constant":
        facts["inner"].pop("total_steps", None)  # it means nothing there
    return facts


def facts_of_amendment(one: Amended) -> dict[str, Any]:
    """An amendment as JSON values."""
    return {
        "sequence": one.sequence,
        "from_round": one.from_round,
        "created_unix_s": one.created_unix_s,
        "note": one.note,
        "changes": {name: {"before": before, "after": after} for name, before, after in one.changes},
    }


def _update(arguments: argparse.Namespace, folder: DataDir, amendments: Amendments) -> int:
    if not folder.organiser.exists():
        raise AtollError(
            Exit.USAGE,
            "no_authority",
            "Only the organiser can amend the manifest, and its key is not here.",
            f"Do it on the machine where {folder.organiser.name} is.",
        )
    head = _head(folder, amendments)
    values = _values(arguments.pairs, amendments)
    if head and "rounds.min_peers_to_start" in values:
        raise _refused("rounds.min_peers_to_start is about round 1, and that was.")
    from_round = arguments.from_round if arguments.from_round is not None else _soon(head, amendments)
    try:
        amended = amendments.amend(
            folder.keyring(folder.organiser), values, from_round, int(time.time()), arguments.note
        )
    except AmendmentError as error:
        raise _refused(f"The manifest can't be amended so: {error}.") from error
    if from_round <= head:
        print(
            f"Round {from_round} was: it is in force as soon as enough nodes have heard of it.",
            file=sys.stderr,
        )
    if not (arguments.yes or _agreed(amended)):
        print("Nothing was signed.")
        return int(Exit.OK)
    keep(folder, amended)
    if arguments.json:
        print(json.dumps(facts_of_amendment(amended)))
        return int(Exit.OK)
    print(f"Version {amended.sequence} of the manifest is signed: {said(amended)}.")
    if folder.is_locked():
        print("The node tells the others within seconds.")
    else:
        print(f"The others hear of it when this node runs: `atoll run{where(folder.root)}`.")
    return int(Exit.OK)


def _refused(text: str) -> AtollError:
    fix = f"These can be amended: {', '.join(AMENDABLE)}. All else is for a new swarm."
    return AtollError(Exit.USAGE, "bad_amendment", text, fix)


def _values(pairs: list[str], amendments: Amendments) -> dict[str, Any]:
    """What NAME=VALUE pairs say. Raises AtollError."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, given, text = pair.partition("=")
        if not given or name in values:
            raise _refused(f"{pair!r} is not NAME=VALUE, or the name comes twice.")
        if name not in AMENDABLE:
            raise _refused(f"{name!r} can't be amended.")
        before = AMENDABLE[name].read(amendments.newest.body)
        try:
            values[name] = _value(name, before, text)
        except ValueError as error:
            raise _refused(f"{name} is {shown(before)}, and can't be {text!r}.") from error
    if not values:
        raise _refused("There is nothing to amend: give NAME=VALUE.")
    return values


def _value(name: str, before: Any, text: str) -> Any:
    """A value as it is written. Raises ValueError."""
    if not isinstance(before, list):
        return type(before)(text)
    listed = [one.strip() for one in text.split(",")] if text != "none" else []
    if name == "outer.lr_by_contributors":
        return [float(one) for one in listed]
    if name == "bootstrap" and not all(is_multiaddr(one) and "/p2p/" in one for one in listed):
        raise ValueError("no multiaddr with a peer id")
    return listed


def _head(folder: DataDir, amendments: Amendments) -> int:
    """The version that the node of this data dir has, as far as it tells.

    Raises AtollError where amendments are lacking: another one would be signed in their place.
    """
    here = checkpoint.versions(folder.checkpoints)
    try:
        saved = [checkpoint.path_of(folder.checkpoints, version) for version in here[:1]]
        heads = [checkpoint.read_header(path, amendments.genesis.swarm_id)[0].head for path in saved]
        for head in heads:
            amendments.manifest(head.amendment)
    except CheckpointError:
        heads = []
    except UnknownAmendment as error:
        text = f"The state in {folder.root} goes by an amendment that is not there."
        fix = f"Let the node run for a while, so that it hears of it: `atoll run{where(folder.root)}`."
        raise AtollError(Exit.USAGE, "amendments_lacking", text, fix) from error
    client = client_of(folder)
    try:
        told = int(client.state()["version"]) if client is not None else 0
    except (ApiRefused, ApiUnreachable) as error:
        raise refused(error) from error
    return max(told, *(head.version for head in heads), 0)


def _soon(head: int, amendments: Amendments) -> int:
    """A round that is ahead for everybody; the first one, before there was any."""
    last = amendments.last.from_round if amendments.last is not None else 0
    return max(head + AHEAD if head else 1, last + 1)


def _agreed(amended: Amended) -> bool:
    """Whether whoever is there wants it signed. Raises AtollError where nobody is."""
    if not sys.stdin.isatty():
        text = "Nobody is there to look at what is to be signed."
        raise AtollError(Exit.USAGE, "consent_needed", text, "Add --yes.")
    width = max(len(name) for name, _, _ in amended.changes)
    for name, before, after in amended.changes:
        print(f"  {name:{width}}  {shown(before)} → {shown(after)}")
    print(f"Every node goes by it from round {amended.from_round} on. Sign it? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
