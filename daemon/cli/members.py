"""`atoll members`, `pending`, `approve`, and what a ticket of a private swarm carries."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

from atoll.daemon.config import data_dir_of
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.status import duration
from atoll.daemon.storage.data_dir import DataDir

if TYPE_CHECKING:
    from atoll.protocol.manifest import SwarmManifest


def grant_for_ticket(
    folder: DataDir, manifest: SwarmManifest, role: str, uses: int, expires_s: float, label: str
) -> tuple[bytes, bytes, bytes]:
    """(capability, delegation, the grant's key) of a new ticket; nothing where admission is open.

    Raises AtollError.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from atoll.daemon.members import read_roll
    from atoll.daemon.organising import Authority
    from atoll.protocol import membership as m

    roll = read_roll(folder, manifest)
    if roll is None:
        return b"", b"", b""
    authority = Authority(folder, manifest, roll)
    key = Ed25519PrivateKey.generate()
    try:
        grant = m.new_grant(
            authority.keyring,
            manifest.swarm,
            key,
            role=m.ROLES[role],
            uses=uses,
            issued_s=time.time(),
            expires_s=expires_s,
            label=label,
            appointment=authority.appointment,
        )
    except m.MembershipError as error:
        raise AtollError(Exit.USAGE, "no_ticket", f"No ticket can be made: {error}.", "") from error
    return key.private_bytes_raw(), grant.SerializeToString(), key.public_key().public_bytes_raw()


def members(arguments: argparse.Namespace) -> int:
    """`atoll members [list|revoke|ban|appoint]`"""
    from atoll.daemon.organising import Organiser

    folder = DataDir(data_dir_of(arguments.data_dir))
    if arguments.action == "list":
        if arguments.node is not None:
            raise AtollError(Exit.USAGE, "usage", "`atoll members` lists all; it takes no node.")
        return _list(folder, arguments.json)
    if arguments.node is None:
        raise AtollError(Exit.USAGE, "usage", f"Which node? `atoll members {arguments.action} NODE`.")
    organiser = Organiser(folder)
    if arguments.action == "appoint":
        print(organiser.appoint(arguments.node, arguments.reason))
        return int(Exit.OK)
    ban = arguments.action == "ban"
    for line in organiser.revoke(arguments.node, ban, arguments.reason or ""):
        print(line)
    return int(Exit.OK)


def _list(folder: DataDir, as_json: bool) -> int:
    from atoll.daemon.organising import member_of, private_roll

    roll, now = private_roll(folder, folder.load_manifest()), time.time()
    facts = [member_of(standing, now) for standing in roll.standings(now)]
    if as_json:
        print(json.dumps(facts))
        return int(Exit.OK)
    for fact in facts:
        told = fact["reason"] or (
            f"renewed within {duration(fact['ends_in_s'])}" if fact["ends_in_s"] else ""
        )
        print(f"{fact['name']:20} {fact['role'] or 'out':9} {fact['label']:16} {fact['node']}  {told}")
    return int(Exit.OK)


def pending(arguments: argparse.Namespace) -> int:
    """`atoll pending`"""
    from atoll.daemon.organising import private_roll, waiting

    folder = DataDir(data_dir_of(arguments.data_dir))
    private_roll(folder, folder.load_manifest())
    found = waiting(folder)
    if arguments.json:
        print(json.dumps(found))
    elif not found:
        print("Nobody asks to be approved.")
    else:
        for one in found:
            ago = duration(max(0.0, time.time() - one["asked_unix_s"]))
            print(f"{one['name']:20} {one['label']:16} {one['node']}  asked {ago} ago")
    return int(Exit.OK)


def approve(arguments: argparse.Namespace) -> int:
    """`atoll approve NODE`"""
    from atoll.daemon.organising import Organiser

    organiser = Organiser(DataDir(data_dir_of(arguments.data_dir)))
    print(organiser.approve(arguments.node, arguments.role, arguments.label))
    return int(Exit.OK)
