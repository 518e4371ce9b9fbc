"""`atoll members`, `pending`, `approve`, and what a ticket of a private swarm carries.

Who may do it: whoever has the organiser's key in the data dir, or a node that the organiser has appointed as
admin. What is signed is left for the node of the data dir, which tells the swarm.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from atoll.daemon.config import data_dir_of, where
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.status import duration
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir

if TYPE_CHECKING:
    from atoll.protocol import messages_pb2 as pb
    from atoll.protocol.manifest import SwarmManifest
    from atoll.protocol.roll import Roll, Standing
    from atoll.protocol.signing import Ed25519Keyring


class Authority:
    """A key on this machine that may admit and revoke. Raises AtollError if there is none."""

    def __init__(self, folder: DataDir, manifest: SwarmManifest, roll: Roll) -> None:
        from atoll.protocol import messages_pb2 as pb

        self.keyring: Ed25519Keyring
        self.appointment: pb.Signed | None = None
        if folder.organiser.exists():
            self.keyring = folder.keyring(folder.organiser)
            return
        self.keyring = folder.keyring(folder.identity)
        standing = roll.standing(self.keyring.peer_id, time.time())
        shown = roll.membership(self.keyring.peer_id)
        if standing.role != pb.ADMIN or shown is None:
            raise AtollError(
                Exit.USAGE,
                "no_authority",
                "This node may not admit or revoke: it has neither the organiser's key nor an admin's role.",
                f"Do it where {folder.organiser.name} is, or have the organiser appoint this node: "
                f"`atoll members appoint {folder.node_facts().get('node_id', 'NODE')}`.",
            )
        self.appointment = shown.certificate


def _opened(arguments: argparse.Namespace) -> tuple[DataDir, SwarmManifest, Roll]:
    from atoll.daemon.members import read_roll

    folder = DataDir(data_dir_of(arguments.data_dir))
    manifest = folder.load_manifest()
    roll = read_roll(folder, manifest)
    if roll is None:
        raise AtollError(
            Exit.USAGE,
            "open_swarm",
            f"Anybody may take part in {manifest.body.name}: it has no members to list, admit or revoke.",
            "Make a private swarm with `atoll init NAME --private`.",
        )
    return folder, manifest, roll


def grant_for_ticket(
    folder: DataDir, manifest: SwarmManifest, role: str, uses: int, expires_s: float, label: str
) -> tuple[bytes, bytes, bytes]:
    """(capability, delegation, the grant's key) of a new ticket; nothing where admission is open.

    Raises AtollError.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from atoll.daemon.members import read_roll
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
    folder, manifest, roll = _opened(arguments)
    if arguments.action == "list":
        if arguments.node is not None:
            raise AtollError(Exit.USAGE, "usage", "`atoll members` lists all; it takes no node.")
        return _list(roll, arguments.json)
    if arguments.node is None:
        raise AtollError(Exit.USAGE, "usage", f"Which node? `atoll members {arguments.action} NODE`.")
    authority = Authority(folder, manifest, roll)
    if arguments.action == "appoint":
        node = _node_of(arguments.node, [s.node for s in roll.standings(time.time())])
        return _certify(folder, manifest, roll, authority, node, "admin", arguments.reason)
    return _revoke(folder, manifest, roll, authority, arguments)


def _list(roll: Roll, as_json: bool) -> int:
    now = time.time()
    facts = [_facts(standing, now) for standing in roll.standings(now)]
    if as_json:
        print(json.dumps(facts))
        return int(Exit.OK)
    for fact in facts:
        told = fact["reason"] or (
            f"renewed within {duration(fact['ends_in_s'])}" if fact["ends_in_s"] else ""
        )
        print(f"{fact['name']:20} {fact['role'] or 'out':9} {fact['label']:16} {fact['node']}  {told}")
    return int(Exit.OK)


def _facts(standing: Standing, now: float) -> dict[str, Any]:
    from atoll.peers.identity import readable_name
    from atoll.protocol.membership import ROLE_NAMES
    from atoll.protocol.signing import peer_text

    credential = standing.credential
    return {
        "node": peer_text(standing.node),
        "name": readable_name(standing.node),
        "role": ROLE_NAMES[standing.role] if standing.is_in else "",
        "code": standing.code,
        "reason": standing.reason,
        "label": credential.label if credential else "",
        "since_unix_s": credential.since_s if credential else 0,
        "ends_in_s": max(0, credential.until_s - int(now)) if credential and credential.until_s else 0,
        "admitted_by": readable_name(credential.witness or credential.authority) if credential else "",
    }


def _node_of(text: str, known: list[bytes]) -> bytes:
    """A node by its peer id or by its two words. Raises AtollError."""
    from atoll.peers.identity import readable_name
    from atoll.protocol.signing import peer_bytes, peer_text, public_key_of

    named = [node for node in known if text in (readable_name(node), peer_text(node))]
    if len(named) == 1:
        return named[0]
    if len(named) > 1:
        ids = ", ".join(peer_text(node) for node in named)
        raise AtollError(Exit.USAGE, "bad_node", f"Two nodes are called {text}: {ids}.", "Give the peer id.")
    try:
        node = peer_bytes(text)
    except ValueError:
        node = b""
    if public_key_of(node) is None:
        fix = "Give its peer id, or its two words as `atoll members` lists them."
        raise AtollError(Exit.USAGE, "bad_node", f"{text!r} is no node.", fix)
    return node


def _revoke(
    folder: DataDir, manifest: SwarmManifest, roll: Roll, authority: Authority, arguments: argparse.Namespace
) -> int:
    """Revokes a node, or a ticket that is given as such; who stands on it gets a certificate, and stays."""
    from atoll.daemon.members import leave_for_node, take
    from atoll.peers.identity import readable_name
    from atoll.protocol import messages_pb2 as pb

    now, reason = time.time(), arguments.reason or ""
    ban = arguments.action == "ban"
    if arguments.node.startswith("atoll1"):
        gone, named = _grant_of(arguments.node), "The ticket"
        entry = pb.Revocation(grant=gone, at_unix_s=int(now), reason=reason)
        stays = [s for s in roll.standings(now) if s.is_in and s.credential and gone == s.credential.grant]
    else:
        gone = _node_of(arguments.node, [s.node for s in roll.standings(now)])
        named = readable_name(gone)
        if gone in (roll.founder, folder.keyring(folder.identity).peer_id):
            whose = "the founder's" if gone == roll.founder else "this machine's own"
            raise AtollError(Exit.USAGE, "not_revoked", f"{named} is {whose} node: it can't be revoked here.")
        entry = pb.Revocation(node=gone, at_unix_s=int(now), ban=ban, reason=reason)
        stays = [
            s
            for s in roll.standings(now)
            if s.is_in and s.credential and gone in (s.credential.witness, s.credential.authority)
        ]
    said = _revocations(manifest, roll, authority, gone, entry)
    kept = [
        _certificate(manifest, authority, s.node, s.role, s.credential.label if s.credential else "")
        for s in stays
        if s.node != gone
    ]
    change = pb.Roll(revocations=[said], members=kept)
    take(roll, change)
    if gone != entry.grant and roll.standing(gone, now).is_in:
        fix = "Have the organiser do it: admins don't revoke each other."
        raise AtollError(Exit.USAGE, "not_revoked", f"{named} can't be revoked with this key.", fix)
    leave_for_node(folder, change)
    print(f"{named} is {'banned' if ban else 'revoked'}. {_when(folder)}")
    if kept:
        print(f"{len(kept)} whom it had admitted stay, with certificates of their own.")
    return int(Exit.OK)


def _grant_of(text: str) -> bytes:
    """The key of a ticket's grant. Raises AtollError."""
    from atoll.daemon.enrolling import invitation_of
    from atoll.protocol import ticket as tickets
    from atoll.protocol.membership import MembershipError

    try:
        invitation = invitation_of(tickets.decode(text))
    except (tickets.TicketError, MembershipError) as error:
        raise AtollError(Exit.USAGE, "ticket_invalid", f"The ticket can't be read: {error}.") from error
    if invitation is None:
        raise AtollError(Exit.USAGE, "ticket_invalid", "That ticket admits nobody: it is of an open swarm.")
    return invitation.key.public_key().public_bytes_raw()


def _revocations(
    manifest: SwarmManifest, roll: Roll, authority: Authority, gone: bytes, entry: pb.Revocation | None
) -> pb.Signed:
    """This authority's list with `entry` in place of what it said of `gone`. Raises AtollError."""
    from atoll.protocol import membership as m

    before = roll.revoked_by(authority.keyring.peer_id)
    entries = [e for e in (before.entries if before else ()) if gone not in (e.node, e.grant)]
    # By the clock: a key that is used on two machines, or restored without its lists, is never behind.
    version = max(before.version + 1 if before else 1, time.time_ns() // 1_000_000)
    try:
        entries += [] if entry is None else [entry]
        return m.new_revocations(authority.keyring, manifest.swarm, version, entries, authority.appointment)
    except (m.MembershipError, UnicodeError) as error:
        why = str(error) if isinstance(error, m.MembershipError) else "the reason is no text"
        fix = f"A reason has at most {m.MAX_REASON_BYTES} bytes."
        raise AtollError(Exit.USAGE, "not_revoked", f"It can't be revoked: {why}.", fix) from error


def _certificate(
    manifest: SwarmManifest, authority: Authority, node: bytes, role: int, label: str
) -> pb.Membership:
    """Raises AtollError."""
    from atoll.protocol import membership as m

    try:
        return m.new_certificate(
            authority.keyring,
            manifest.swarm,
            node,
            role=role,
            issued_s=time.time(),
            label=label,
            appointment=authority.appointment,
        )
    except (m.MembershipError, UnicodeError) as error:
        why = str(error) if isinstance(error, m.MembershipError) else "the label is no text"
        fix = f"A label has at most {m.MAX_LABEL_BYTES} bytes."
        raise AtollError(Exit.USAGE, "not_admitted", f"No certificate can be made: {why}.", fix) from error


def _certify(
    folder: DataDir,
    manifest: SwarmManifest,
    roll: Roll,
    authority: Authority,
    node: bytes,
    role: str,
    label: str | None,
) -> int:
    """Makes a node a member or admin; what this authority had revoked of it, it takes back."""
    from atoll.daemon.members import leave_for_node, take
    from atoll.peers.identity import readable_name
    from atoll.protocol import membership as m
    from atoll.protocol import messages_pb2 as pb

    now = time.time()
    known = roll.standing(node, now).credential
    label = label if label is not None else known.label if known else ""
    change = pb.Roll(members=[_certificate(manifest, authority, node, m.ROLES[role], label)])
    before = roll.revoked_by(authority.keyring.peer_id)
    if before is not None and any(e.node == node for e in before.entries):
        change.revocations.append(_revocations(manifest, roll, authority, node, None))
    take(roll, change)
    standing, name = roll.standing(node, now), readable_name(node)
    if not standing.is_in:
        raise AtollError(Exit.USAGE, "not_admitted", f"{name} stays out: {standing.reason}.")
    leave_for_node(folder, change)
    article = "an" if role[0] in "ao" else "a"
    print(f"{name} is {article} {role} of {manifest.body.name}. {_when(folder)}")
    return int(Exit.OK)


def _when(folder: DataDir) -> str:
    if folder.is_locked():
        return "The node tells the others within seconds."
    return f"The others hear of it when this node runs: `atoll run{where(folder.root)}`."


def pending(arguments: argparse.Namespace) -> int:
    """`atoll pending`"""
    folder, _, _ = _opened(arguments)
    waiting = files.read_json(folder.pending)
    waiting = waiting if isinstance(waiting, list) else []
    if arguments.json:
        print(json.dumps(waiting))
    elif not waiting:
        print("Nobody asks to be approved.")
    else:
        for one in waiting:
            ago = duration(max(0.0, time.time() - one["asked_unix_s"]))
            print(f"{one['name']:20} {one['label']:16} {one['node']}  asked {ago} ago")
    return int(Exit.OK)


def approve(arguments: argparse.Namespace) -> int:
    """`atoll approve NODE`"""
    from atoll.protocol.signing import peer_bytes

    folder, manifest, roll = _opened(arguments)
    waiting = files.read_json(folder.pending)
    asked = {peer_bytes(one["node"]): one for one in waiting} if isinstance(waiting, list) else {}
    node = _node_of(arguments.node, list(asked))
    of_ticket = asked.get(node, {})
    role = arguments.role or of_ticket.get("role") or "member"
    label = arguments.label if arguments.label is not None else of_ticket.get("label")
    authority = Authority(folder, manifest, roll)
    return _certify(folder, manifest, roll, authority, node, role, label)
