"""`atoll manifest`: the swarm's signed description, as it is and as the organiser amends it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from atoll.daemon.amending import keep, load, said, shown
from atoll.daemon.config import data_dir_of, where
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage import checkpoint
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol.amendments import AMENDABLE, Amended, AmendmentError, Amendments
from atoll.protocol.manifest import SwarmManifest

AHEAD = 10
"""Unless a round is named, an amendment is in force so many rounds after the newest version here: by then
everybody should have heard of it."""


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
    facts = described(amendments.newest)
    if len(amendments):
        facts["amendments"] = [_facts(one) for one in amendments]
    if not arguments.json:
        facts.get("data", {}).pop("shards", None)  # `atoll shards` lists them
    print(json.dumps(facts) if arguments.json else json.dumps(facts, indent=2, ensure_ascii=False))
    return int(Exit.OK)


def described(manifest: SwarmManifest) -> dict[str, Any]:
    """A manifest as JSON values; what people compare comes first."""
    from google.protobuf.json_format import MessageToDict

    body = MessageToDict(manifest.body, preserving_proto_field_name=True)
    facts: dict[str, Any] = {"organiser": manifest.organiser_fingerprint, "swarm_id": manifest.swarm_id.hex()}
    facts |= {name: value for name, value in body.items() if name != "organiser"}
    facts["organiser_key"] = manifest.body.organiser.hex()
    if facts["inner"].get("schedule") == "constant":
        facts["inner"].pop("total_steps", None)  # it means nothing there
    return facts


def _facts(one: Amended) -> dict[str, Any]:
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
    values = _values(arguments.pairs, amendments)
    from_round = arguments.from_round if arguments.from_round is not None else _soon(folder, amendments)
    try:
        amended = amendments.amend(
            folder.keyring(folder.organiser), values, from_round, int(time.time()), arguments.note
        )
    except AmendmentError as error:
        raise _refused(f"The manifest can't be amended so: {error}.") from error
    if not (arguments.yes or _agreed(amended)):
        print("Nothing was signed.")
        return int(Exit.OK)
    keep(folder, amended)
    if arguments.json:
        print(json.dumps(_facts(amended)))
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
    if isinstance(before, list):
        kind = float if name == "outer.lr_by_contributors" else str
        return [kind(one.strip()) for one in text.split(",")] if text != "none" else []
    return type(before)(text)


def _soon(folder: DataDir, amendments: Amendments) -> int:
    """A round that is ahead for everybody."""
    head = next(iter(checkpoint.versions(folder.checkpoints)), 0)
    last = max((one.from_round for one in amendments), default=0)
    return max(head + AHEAD, last + 1)


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
