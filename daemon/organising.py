"""What an organiser does about members: appoint, approve, revoke, ban; and what there is to see of them.

Who may do it: whoever has the organiser's key in the data dir, or a node that the organiser has appointed as
admin. What is signed is left for the node of the data dir, which tells the swarm: so the commands work
whether it runs or not, and its page does what the commands do.
"""

from __future__ import annotations

import time
from typing import Any

from atoll.daemon.config import where
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.members import leave_for_node, read_roll, take
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir
from atoll.peers.identity import readable_name
from atoll.protocol import membership as m
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.membership import MembershipError
from atoll.protocol.roll import Roll, Standing
from atoll.protocol.signing import Ed25519Keyring, peer_bytes, peer_text, public_key_of
from atoll.web_ui.state_types import Member


def may_organise(folder: DataDir, standing: Standing) -> bool:
    """Whether members may be seen to from a data dir: `standing` is that of its node."""
    return folder.organiser.exists() or standing.role == pb.ADMIN


class Authority:
    """A key on this machine that may admit and revoke. Raises AtollError if there is none."""

    def __init__(self, folder: DataDir, manifest: SwarmManifest, roll: Roll) -> None:
        self.keyring: Ed25519Keyring
        self.appointment: pb.Signed | None = None
        if folder.organiser.exists():
            self.keyring = folder.keyring(folder.organiser)
            return
        self.keyring = folder.keyring(folder.identity)
        shown = roll.membership(self.keyring.peer_id)
        if shown is None or not may_organise(folder, roll.standing(self.keyring.peer_id, time.time())):
            raise AtollError(
                Exit.USAGE,
                "no_authority",
                "This node may not admit or revoke: it has neither the organiser's key nor an admin's role.",
                f"Do it where {folder.organiser.name} is, or have the organiser appoint this node: "
                f"`atoll members appoint {folder.node_facts().get('node_id', 'NODE')}`.",
            )
        self.appointment = shown.certificate


class Organiser:
    """Authority over one private swarm, from one data dir.

    Raises AtollError where there is nothing to organise, or no key to do it with.
    """

    def __init__(self, folder: DataDir) -> None:
        self.folder = folder
        self.manifest = folder.load_manifest()
        self.roll = private_roll(folder, self.manifest)
        self._authority = Authority(folder, self.manifest, self.roll)

    def appoint(self, node: str, label: str | None) -> str:
        """Makes a node an admin. What is to be said of it. Raises AtollError."""
        known = [s.node for s in self.roll.standings(time.time())]
        return self._certify(node_of(node, known), "admin", label)

    def approve(self, node: str, role: str | None, label: str | None) -> str:
        """Lets in a node that asked. What is to be said of it. Raises AtollError."""
        asked = {peer_bytes(one["node"]): one for one in waiting(self.folder)}
        found = node_of(node, list(asked))
        of_ticket = asked.get(found, {})
        label = label if label is not None else of_ticket.get("label")
        return self._certify(found, role or of_ticket.get("role") or "member", label)

    def revoke(self, what: str, ban: bool, reason: str) -> list[str]:
        """Revokes a node, or a ticket given as such; who stands on it gets a certificate, and stays.

        What is to be said of it. Raises AtollError.
        """
        now, roll = time.time(), self.roll
        if what.startswith("atoll1"):
            gone, named = _grant_of(what), "The ticket"
            entry = pb.Revocation(grant=gone, at_unix_s=int(now), reason=reason)
            stays = [
                s for s in roll.standings(now) if s.is_in and s.credential and gone == s.credential.grant
            ]
        else:
            gone = node_of(what, [s.node for s in roll.standings(now)])
            named = readable_name(gone)
            if gone in (roll.founder, self.folder.keyring(self.folder.identity).peer_id):
                whose = "the founder's" if gone == roll.founder else "this machine's own"
                text = f"{named} is {whose} node: it can't be revoked here."
                raise AtollError(Exit.USAGE, "not_revoked", text)
            entry = pb.Revocation(node=gone, at_unix_s=int(now), ban=ban, reason=reason)
            stays = [
                s
                for s in roll.standings(now)
                if s.is_in and s.credential and gone in (s.credential.witness, s.credential.authority)
            ]
        said = self._revocations(gone, entry)
        kept = [
            self._certificate(s.node, s.role, s.credential.label if s.credential else "")
            for s in stays
            if s.node != gone
        ]
        change = pb.Roll(revocations=[said], members=kept)
        take(roll, change)
        if gone != entry.grant and roll.standing(gone, now).is_in:
            fix = "Have the organiser do it: admins don't revoke each other."
            raise AtollError(Exit.USAGE, "not_revoked", f"{named} can't be revoked with this key.", fix)
        leave_for_node(self.folder, change)
        told = [f"{named} is {'banned' if ban else 'revoked'}. {self._when()}"]
        if kept:
            told.append(f"{len(kept)} whom it had admitted stay, with certificates of their own.")
        return told

    def _certify(self, node: bytes, role: str, label: str | None) -> str:
        """Makes a node a member or admin; what this authority had revoked of it, it takes back."""
        now, roll = time.time(), self.roll
        known = roll.standing(node, now).credential
        label = label if label is not None else known.label if known else ""
        change = pb.Roll(members=[self._certificate(node, m.ROLES[role], label)])
        before = roll.revoked_by(self._authority.keyring.peer_id)
        if before is not None and any(e.node == node for e in before.entries):
            change.revocations.append(self._revocations(node, None))
        take(roll, change)
        standing, name = roll.standing(node, now), readable_name(node)
        if not standing.is_in:
            raise AtollError(Exit.USAGE, "not_admitted", f"{name} stays out: {standing.reason}.")
        leave_for_node(self.folder, change)
        article = "an" if role[0] in "ao" else "a"
        return f"{name} is {article} {role} of {self.manifest.body.name}. {self._when()}"

    def _revocations(self, gone: bytes, entry: pb.Revocation | None) -> pb.Signed:
        """This authority's list with `entry` in place of what it said of `gone`. Raises AtollError."""
        authority = self._authority
        before = self.roll.revoked_by(authority.keyring.peer_id)
        entries = [e for e in (before.entries if before else ()) if gone not in (e.node, e.grant)]
        # By the clock: a key that is used on two machines, or restored without its lists, is never behind.
        version = max(before.version + 1 if before else 1, time.time_ns() // 1_000_000)
        swarm = self.manifest.swarm
        try:
            entries += [] if entry is None else [entry]
            return m.new_revocations(authority.keyring, swarm, version, entries, authority.appointment)
        except (MembershipError, UnicodeError) as error:
            why = str(error) if isinstance(error, MembershipError) else "the reason is no text"
            fix = f"A reason has at most {m.MAX_REASON_BYTES} bytes."
            raise AtollError(Exit.USAGE, "not_revoked", f"It can't be revoked: {why}.", fix) from error

    def _certificate(self, node: bytes, role: int, label: str) -> pb.Membership:
        """Raises AtollError."""
        try:
            return m.new_certificate(
                self._authority.keyring,
                self.manifest.swarm,
                node,
                role=role,
                issued_s=time.time(),
                label=label,
                appointment=self._authority.appointment,
            )
        except (MembershipError, UnicodeError) as error:
            why = str(error) if isinstance(error, MembershipError) else "the label is no text"
            fix = f"A label has at most {m.MAX_LABEL_BYTES} bytes."
            raise AtollError(
                Exit.USAGE, "not_admitted", f"No certificate can be made: {why}.", fix
            ) from error

    def _when(self) -> str:
        if self.folder.is_locked():
            return "The node tells the others within seconds."
        return f"The others hear of it when this node runs: `atoll run{where(self.folder.root)}`."


def private_roll(folder: DataDir, manifest: SwarmManifest) -> Roll:
    """The roll of a private swarm. Raises AtollError where anybody may take part."""
    roll = read_roll(folder, manifest)
    if roll is None:
        raise AtollError(
            Exit.USAGE,
            "open_swarm",
            f"Anybody may take part in {manifest.body.name}: it has no members to list, admit or revoke.",
            "Make a private swarm with `atoll init NAME --private`.",
        )
    return roll


def member_of(standing: Standing, now: float) -> Member:
    """What there is to see of one who is, or was, a member."""
    credential = standing.credential
    return {
        "node": peer_text(standing.node),
        "name": readable_name(standing.node),
        "role": m.ROLE_NAMES[standing.role] if standing.is_in else "",
        "code": standing.code,
        "reason": standing.reason,
        "label": credential.label if credential else "",
        "since_unix_s": credential.since_s if credential else 0,
        "ends_in_s": max(0, credential.until_s - int(now)) if credential and credential.until_s else 0,
        "admitted_by": readable_name(credential.witness or credential.authority) if credential else "",
    }


def waiting(folder: DataDir) -> list[dict[str, Any]]:
    """Who asks to be approved, as the node wrote it down."""
    found = files.read_json(folder.pending)
    return found if isinstance(found, list) else []


def node_of(text: str, known: list[bytes]) -> bytes:
    """A node by its peer id or by its two words. Raises AtollError."""
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


def _grant_of(text: str) -> bytes:
    """The key of a ticket's grant. Raises AtollError."""
    from atoll.daemon.enrolling import invitation_of
    from atoll.protocol import ticket as tickets

    try:
        invitation = invitation_of(tickets.decode(text))
    except (tickets.TicketError, MembershipError) as error:
        raise AtollError(Exit.USAGE, "ticket_invalid", f"The ticket can't be read: {error}.") from error
    if invitation is None:
        raise AtollError(Exit.USAGE, "ticket_invalid", "That ticket admits nobody: it is of an open swarm.")
    return invitation.key.public_key().public_bytes_raw()
