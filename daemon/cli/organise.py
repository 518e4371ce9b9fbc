"""`atoll init`, `ticket` and `manifest`: making a swarm and inviting others."""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

from atoll.daemon.config import data_dir_of, is_multiaddr
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.status import duration
from atoll.daemon.storage.data_dir import DataDir

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str) -> float:
    """90s, 30m, 2h, 7d as seconds. Raises AtollError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not match or float(match.group(1)) <= 0:
        raise AtollError(Exit.USAGE, "bad_duration", f"{text!r} is no duration.", "Write 90s, 30m, 2h or 7d.")
    return float(match.group(1)) * _UNITS[match.group(2)]


def init(arguments: argparse.Namespace) -> int:
    """`atoll init NAME`"""
    from atoll.daemon.genesis import NewSwarm, make_swarm

    folder = DataDir(data_dir_of(arguments.data_dir))
    for address in arguments.bootstrap:
        if not is_multiaddr(address) or "/p2p/" not in address:
            raise AtollError(Exit.USAGE, "bad_address", f"{address!r} is no multiaddr with a /p2p/ peer id.")
    folder.create()
    folder.lock()
    wanted = NewSwarm(
        name=arguments.name,
        model=arguments.model,
        data=Path(arguments.data) if arguments.data else None,
        bootstrap=tuple(arguments.bootstrap),
        inner_steps=arguments.inner_steps,
        batch=arguments.batch,
        lr=arguments.lr,
        total_steps=arguments.total_steps,
        min_peers=arguments.min_peers,
        seed=arguments.seed,
        genesis=Path(arguments.genesis) if arguments.genesis else None,
    )
    manifest = make_swarm(folder, wanted, int(time.time()))
    body = manifest.body
    print(f"Swarm {body.name} ({manifest.swarm_id.hex()[:16]}) is made in {folder.root}.")
    print(f"It trains {body.parameters:,} parameters on {body.data.name or 'data of each node'}.")
    print(f"Organiser key {manifest.organiser_fingerprint}; keep {folder.organiser} safe.")
    print("Next: `atoll run`, then `atoll ticket` for everyone who takes part.")
    return int(Exit.OK)


def ticket(arguments: argparse.Namespace) -> int:
    """`atoll ticket` and `atoll ticket show T`"""
    from atoll.protocol import messages_pb2 as pb
    from atoll.protocol import ticket as tickets

    if arguments.show:
        return _show_ticket(arguments)
    folder = DataDir(data_dir_of(arguments.data_dir))
    manifest = folder.load_manifest()
    own = folder.node_facts().get("addresses", [])
    addresses = list(dict.fromkeys([*own, *manifest.body.bootstrap]))[: tickets.MAX_ADDRESSES]
    expires = int(time.time() + seconds_of(arguments.expires)) if arguments.expires else 0
    made = pb.Ticket(
        version=1,
        swarm_id=manifest.swarm_id,
        organiser=manifest.body.organiser,
        addresses=addresses,
        expires_unix_s=expires,
        uses=max(0, arguments.uses),
        swarm_name=manifest.body.name,
        label=arguments.label,
    )
    try:
        text = tickets.encode(made)
    except tickets.TicketError as error:
        raise AtollError(
            Exit.USAGE, "no_address", f"No ticket can be made: {error}.", "Start the node first: `atoll run`."
        ) from error
    if arguments.json:
        print(json.dumps({"ticket": text, "addresses": addresses, "expires_unix_s": expires}))
    else:
        print(text)
    return int(Exit.OK)


def _show_ticket(arguments: argparse.Namespace) -> int:
    from atoll.protocol import ticket as tickets

    if len(arguments.show) != 2 or arguments.show[0] != "show":
        raise AtollError(Exit.USAGE, "usage", "Write `atoll ticket`, or `atoll ticket show TICKET`.")
    try:
        shown = tickets.decode(arguments.show[1])
    except tickets.TicketError as error:
        raise AtollError(Exit.USAGE, "ticket_invalid", f"The ticket can't be read: {error}.") from error
    left = shown.expires_unix_s - time.time()
    expiry = "never" if not shown.expires_unix_s else f"in {duration(left)}" if left > 0 else "expired"
    facts = {
        "swarm": shown.swarm_name,
        "swarm_id": shown.swarm_id.hex(),
        "organiser_key": shown.organiser.hex(),
        "addresses": list(shown.addresses),
        "expires": expiry,
        "uses": shown.uses or "any number",
        "label": shown.label,
    }
    if arguments.json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            print(f"{name:14} {', '.join(value) if isinstance(value, list) else value}")
    return int(Exit.OK)


def manifest(arguments: argparse.Namespace) -> int:
    """`atoll manifest show`"""
    from google.protobuf.json_format import MessageToDict

    loaded = DataDir(data_dir_of(arguments.data_dir)).load_manifest()
    facts = {
        "swarm_id": loaded.swarm_id.hex(),
        "organiser": loaded.organiser_fingerprint,
        **MessageToDict(loaded.body, preserving_proto_field_name=True),
    }
    if arguments.json:
        print(json.dumps(facts))
    else:
        print(json.dumps(facts, indent=2))
    return int(Exit.OK)
