"""The roll: who is a member of a private swarm, by all that this node has been shown. Sans-IO; time comes in.

It holds memberships and revocations that were checked by themselves (membership.py) and judges what needs the
others: whether a witness is a member, how often a ticket was used, what has ended or been revoked. Two nodes
that hold the same entries judge alike at the same time: entries are only added, or replaced by later ones,
and of more enrolments than a ticket has uses the earliest count.

Whoever is revoked is believed in nothing any more, whatever time it writes: neither as a witness nor as an
admin. So whoever revokes gives certificates to those who stand on the revoked and are to stay
(cli/members.py). Whoever is only made an observer is believed in what it witnessed before: what it was a
member by is kept for that. What the roll can't know: a member that lies about when it witnessed an enrolment
can admit somebody with a ticket that has expired, or before others who used it; so can one that was made an
observer. It is named as the witness.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from atoll.protocol import membership as m
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.membership import Credential, MembershipError, Swarm

MAX_MEMBERS = 1024
MAX_AUTHORITIES = 64
MAX_CHAIN = 16
"""Memberships in a row, from a node's own to one that the organiser, an admin or the founder stands for."""
SPARE_USES = 16
"""So many enrolments beyond a ticket's uses are remembered: two members may have witnessed at once."""
CLOCK_SKEW_S = 300.0


@dataclass(frozen=True)
class Standing:
    """What a node is: a role, or none and why. `code` is empty for members."""

    node: bytes
    role: int
    code: str = ""
    reason: str = ""
    credential: Credential | None = None

    @property
    def is_in(self) -> bool:
        return self.role != pb.ROLE_UNSPECIFIED

    @property
    def contributes(self) -> bool:
        """Whether it may train with the others; an observer only sees."""
        return self.role in (pb.MEMBER, pb.ADMIN, pb.OWNER)


@dataclass(frozen=True)
class _Entry:
    message: pb.Membership
    credential: Credential


class Roll:
    """All memberships and revocations of one swarm. `founder`: the node that may commit round 1."""

    def __init__(self, swarm: Swarm, admission: str, founder: bytes) -> None:
        self.swarm = swarm
        self.admission = admission
        self.founder = founder
        self._entries: dict[bytes, _Entry] = {}
        self._former: dict[bytes, _Entry] = {}
        """Of those who are observers now: what they were members by last."""
        self._spent: dict[bytes, dict[bytes, _Entry]] = {}
        """By ticket: the enrolment with which each node used it first."""
        self._revocations: dict[bytes, tuple[pb.Signed, pb.Revocations]] = {}
        self._digest: bytes | None = None
        self._gone: set[bytes] | None = None

    # ---- what comes in

    def add(self, message: pb.Membership) -> Credential | None:
        """Takes a membership in; None if it says nothing new.

        Raises MembershipError, also where its witness has no membership here (yet).
        """
        credential = m.check(message, self.swarm)
        node = credential.node
        known = self._entries.get(node)
        outdone = known is not None and self._rank(credential, message) <= self._rank(
            known.credential, known.message
        )
        was_member = outdone and self._is_later_former(credential, message)
        if outdone and not was_member and not self._is_earlier_use(credential):
            return None
        if credential.witness:
            above = self._above(credential.witness, credential.since_s)
            if above is None or node in above:
                raise MembershipError("unknown_witness", "who admitted it is no member")
        if known is None and len(self._entries) >= MAX_MEMBERS:
            self._make_room(credential)
        kept = pb.Membership()
        kept.CopyFrom(message)
        entry = _Entry(kept, credential)
        self._spend(entry)
        if was_member:
            self._former[node] = entry
        elif not outdone:
            self._replace(entry)
        self._digest = self._gone = None
        return credential

    def _replace(self, entry: _Entry) -> None:
        node = entry.credential.node
        before = self._entries.pop(node, None)
        self._entries[node] = entry
        if entry.credential.role != pb.OBSERVER:
            self._former.pop(node, None)
        elif before is not None and before.credential.role != pb.OBSERVER:
            self._former[node] = before

    def _remove(self, node: bytes) -> None:
        del self._entries[node]
        self._former.pop(node, None)

    def _rank(self, credential: Credential, message: pb.Membership) -> tuple[bool, int, bool, int, bytes]:
        """Of two memberships of one node the higher stands; by content where the times are equal."""
        content = hashlib.sha256(message.SerializeToString(deterministic=True)).digest()
        applies = self._only_applies(credential)
        return not applies, credential.since_s, not credential.witness, credential.renewed_s, content

    def _only_applies(self, credential: Credential) -> bool:
        """Whether it makes nobody a member: where an admin approves, an enrolment asks for that."""
        return self.admission == m.APPROVE and bool(credential.grant)

    def _is_later_former(self, credential: Credential, message: pb.Membership) -> bool:
        """Whether it tells what an observer was a member by, later than what is known of that."""
        if self._entries[credential.node].credential.role != pb.OBSERVER or credential.role == pb.OBSERVER:
            return False
        known = self._former.get(credential.node)
        return known is None or self._rank(known.credential, known.message) < self._rank(credential, message)

    def _make_room(self, credential: Credential) -> None:
        """An authority's certificate takes the place of the latest enrolment. Raises MembershipError."""
        enrolled = [e.credential for e in self._entries.values() if e.credential.grant]
        if credential.grant or not enrolled:
            raise MembershipError("full", f"the swarm has {MAX_MEMBERS} members already")
        self._remove(max(enrolled, key=lambda c: (c.since_s, c.node)).node)

    def _is_earlier_use(self, credential: Credential) -> bool:
        """Whether it tells a use of a ticket that is not known, or an earlier one of the same node."""
        if not credential.uses:
            return False
        known = self._spent.get(credential.grant, {}).get(credential.node)
        return known is None or credential.since_s < known.credential.since_s

    def _spend(self, entry: _Entry) -> None:
        """Keeps what shows a use of a ticket: it stays one whatever else its node is given.

        Raises MembershipError.
        """
        credential = entry.credential
        if not self._is_earlier_use(credential):
            return
        spent = self._spent.setdefault(credential.grant, {})
        spent[credential.node] = entry
        if len(spent) <= credential.uses + SPARE_USES:
            return
        last = max((used.credential.since_s, node) for node, used in spent.items())[1]
        del spent[last]
        if last == credential.node:
            raise MembershipError("used_up", "the ticket has been used as often as it may be")
        if last in self._entries and self._entries[last].credential.grant == credential.grant:
            self._remove(last)

    def add_all(
        self, messages: Iterable[pb.Membership]
    ) -> tuple[list[pb.Membership], MembershipError | None]:
        """Takes in what comes in any order: what of it was new, and why something was not taken."""
        left, new = list(messages), []
        while True:
            refused: list[tuple[pb.Membership, MembershipError]] = []
            for message in left:
                try:
                    if self.add(message) is not None:
                        new.append(message)
                except MembershipError as error:
                    refused.append((message, error))
            again = [message for message, error in refused if error.code == "unknown_witness"]
            if len(again) == len(left) or not again:
                return new, refused[0][1] if refused else None
            left = again

    def revoke(self, signed: pb.Signed) -> bool:
        """Takes a list of revocations in; False if it says nothing new. Raises MembershipError."""
        body = m.check_revocations(signed, self.swarm)
        signer = bytes(signed.signer)
        known = self._revocations.get(signer)
        if known is not None and _newness(*known) >= _newness(signed, body):
            return False
        if known is None and len(self._revocations) >= MAX_AUTHORITIES:
            raise MembershipError("full", f"{MAX_AUTHORITIES} authorities have revoked already")
        kept = pb.Signed()
        kept.CopyFrom(signed)
        self._revocations[signer] = (kept, body)
        self._digest = self._gone = None
        return True

    # ---- what it says

    def standing(self, node: bytes, now_s: float) -> Standing:
        """What a node is at this time, and why not a member if it is none."""
        revoked = self._revoked(node)
        entry = self._entries.get(node)
        credential = entry.credential if entry is not None else None
        issued_s = credential.issued_s if credential is not None else 0
        if revoked is not None and (revoked.ban or revoked.at_unix_s >= issued_s):
            code = "banned" if revoked.ban else "revoked"
            why = f"it was {code}: {revoked.reason or 'no reason was given'}"
            return _none(node, code, why, credential)
        if node == self.founder:
            return Standing(node, pb.OWNER, credential=credential)
        if credential is None:
            return _none(node, "no_certificate", "it has no certificate of this swarm")
        why_not = self._doubts(credential, now_s)
        if why_not is not None:
            return _none(node, *why_not, credential)
        return Standing(node, credential.role, credential=credential)

    def _doubts(self, credential: Credential, now_s: float) -> tuple[str, str] | None:
        """Why a credential makes nobody a member now, as code and words; None if it does."""
        if self._is_void(credential):
            return "revoked", "what admitted it was revoked"
        if credential.since_s > now_s + CLOCK_SKEW_S:
            return "clock", "its certificate begins in the future"
        until_s = self._until(credential)
        if until_s and until_s < now_s - CLOCK_SKEW_S:
            return "expired", "its certificate has expired"
        if credential.witness and self._above(credential.witness, credential.since_s) is None:
            return "unknown_witness", "who admitted it is no member"
        if credential.uses and credential.node not in self._first(credential):
            return "used_up", "its ticket had been used as often as it may be"
        if self._only_applies(credential):
            return "pending", "the organiser has not approved it yet"
        return None

    def _until(self, credential: Credential) -> int:
        """When it ends, in Unix seconds; 0: never. A renewal counts if a member signed it."""
        if not credential.renewed_s or self._above(credential.renewer, credential.renewed_s) is None:
            return credential.until_s
        return max(credential.until_s, credential.renewed_s + m.LIFETIME_S)

    def _above(self, node: bytes, at_s: float) -> list[bytes] | None:
        """Who stands for a node that witnessed something then: itself, its witness and so on.

        None if that counts nothing.
        """
        found: list[bytes] = []
        revoked = self._all_revoked()
        while len(found) < MAX_CHAIN:
            found.append(node)
            if node in revoked:
                return None
            if node == self.founder:
                return found
            entry = self._as_witness(node, at_s)
            if entry is None or self._is_void(entry.credential) or self._only_applies(entry.credential):
                return None
            if not entry.credential.witness:
                return found
            node, at_s = entry.credential.witness, entry.credential.since_s
        return None

    def _as_witness(self, node: bytes, at_s: float) -> _Entry | None:
        """By what a node could witness then: an observer by what it was a member by until it became one."""
        entry = self._entries.get(node)
        if entry is None or entry.credential.role != pb.OBSERVER:
            return entry
        return self._former.get(node) if at_s <= entry.credential.since_s else None

    def _first(self, credential: Credential) -> set[bytes]:
        """Whom a ticket admitted: the earliest, as many as it has uses."""
        spent = self._spent.get(credential.grant, {})
        order = sorted((used.credential.since_s, node) for node, used in spent.items())
        return {node for _, node in order[: credential.uses]}

    # ---- revocations

    def _revoked(self, node: bytes) -> pb.Revocation | None:
        """What an authority says of a node: a ban before all else, else the latest."""
        said = [entry for entry in self._valid() if entry.node == node]
        return max(said, key=lambda e: (e.ban, e.at_unix_s), default=None)

    def _valid(self) -> Iterator[pb.Revocation]:
        """Revocations of the organiser and its admins; these revoke neither each other nor the founder."""
        for signer, (_, body) in self._revocations.items():
            of_organiser = signer == self.swarm.authority
            if not of_organiser and not self._is_admin(signer):
                continue
            for entry in body.entries:
                if of_organiser or (entry.node != self.founder and not self._is_admin(bytes(entry.node))):
                    yield entry

    def _is_admin(self, node: bytes) -> bool:
        """By what the organiser signed last, and has not revoked since."""
        entry = self._entries.get(node)
        if entry is None or entry.credential.role != pb.ADMIN:
            return False
        said = self._revocations.get(self.swarm.authority)
        return said is None or all(e.node != node for e in said[1].entries)

    def _all_revoked(self) -> set[bytes]:
        """Nodes and tickets in a valid list, whatever was issued to them later."""
        if self._gone is None:
            self._gone = {bytes(entry.node or entry.grant) for entry in self._valid()}
        return self._gone

    def _is_void(self, credential: Credential) -> bool:
        """Whether it comes from a ticket that was revoked, or from who is no authority any more."""
        if credential.authority != self.swarm.authority and not self._is_admin(credential.authority):
            return True
        return bool(credential.grant) and credential.grant in self._all_revoked()

    # ---- enrolments, renewals

    def may_enrol(
        self, enrolment: pb.Membership, node: bytes, now_s: float, kind: str = m.ENROLMENT
    ) -> pb.Grant:
        """The terms under which a member may witness this enrolment now. Raises MembershipError."""
        grant = m.check_enrolment(enrolment, node, self.swarm, kind)
        revoked = self._revoked(node)
        if revoked is not None and (revoked.ban or revoked.at_unix_s >= grant.issued_unix_s):
            code = "banned" if revoked.ban else "revoked"
            why = revoked.reason or "no reason was given"
            raise MembershipError(code, f"this node was {code}: {why}")
        if grant.key in self._all_revoked():
            raise MembershipError("revoked", "the ticket was revoked: ask for a new one")
        signer = bytes(enrolment.grant.signer)
        if signer != self.swarm.authority and not self._is_admin(signer):
            raise MembershipError("revoked", "the ticket is of somebody who is no admin any more")
        if grant.expires_unix_s and grant.expires_unix_s < now_s:
            raise MembershipError("expired", "the ticket has expired: ask for a new one")
        used = self._spent.get(grant.key, {}).keys() - {node}
        if grant.uses and len(used) >= grant.uses:
            why = "the ticket has been used as often as it may be: ask for a new one"
            raise MembershipError("used_up", why)
        return grant

    def has_used(self, grant: bytes, node: bytes) -> bool:
        """Whether a node has used a ticket, by its grant's key."""
        return node in self._spent.get(grant, ())

    def uses_of(self, grant: bytes) -> int:
        """How often a ticket was used, by its grant's key."""
        return len(self._spent.get(grant, ()))

    def may_witness(self, me: bytes, node: bytes) -> bool:
        """Whether this node's word counts for another now: a member's, that does not stand on that one."""
        above = self._above(me, math.inf)
        return above is not None and len(above) < MAX_CHAIN and node not in above

    def needs_renewal(self, node: bytes, now_s: float) -> bool:
        """Whether a member's enrolment has less than two thirds of its time left."""
        standing = self.standing(node, now_s)
        credential = standing.credential
        if not standing.is_in or credential is None or not credential.witness:
            return False
        return self._until(credential) - now_s < m.LIFETIME_S * 2 / 3

    # ---- to be told and kept

    def membership(self, node: bytes) -> pb.Membership | None:
        """What a node shows, as far as it is known here."""
        entry = self._entries.get(node)
        return entry.message if entry is not None else None

    def chain(self, node: bytes) -> list[pb.Membership]:
        """A node's membership and those of its witnesses, then of renewers, for who knows none of them."""
        found: list[pb.Membership] = []
        seen: set[bytes] = set()
        renewers: list[bytes] = []
        entry = self._entries.get(node)
        while entry is not None and node not in seen and len(seen) < MAX_CHAIN:
            seen.add(node)
            found += self._shown(node)
            renewers.append(entry.credential.renewer)
            node, at_s = entry.credential.witness, entry.credential.since_s
            entry = self._as_witness(node, at_s)
        for renewer in renewers[:2]:
            if renewer not in seen:
                seen.add(renewer)
                found += self._shown(renewer)
        return found

    def _shown(self, node: bytes) -> list[pb.Membership]:
        """A node's own, and what it was a member by before."""
        known = (self._entries.get(node), self._former.get(node))
        return [entry.message for entry in known if entry is not None]

    @property
    def memberships(self) -> list[pb.Membership]:
        """All, and those that others have replaced but for what they still show.

        Tickets stay used, and what observers witnessed as members holds.
        """
        now = {node: entry.message for node, entry in self._entries.items()}
        replaced = [
            used.message
            for spent in self._spent.values()
            for node, used in spent.items()
            if used.message != now.get(node)
        ]
        return [*now.values(), *(entry.message for entry in self._former.values()), *replaced]

    @property
    def revocations(self) -> list[pb.Signed]:
        return [signed for signed, _ in self._revocations.values()]

    def revoked_by(self, authority: bytes) -> pb.Revocations | None:
        """The newest list of one authority."""
        known = self._revocations.get(authority)
        return known[1] if known else None

    def standings(self, now_s: float) -> list[Standing]:
        """Of everybody who ever was in, the founder first; who only asked to be is not among them."""
        nodes = [node for node, entry in self._entries.items() if not self._only_applies(entry.credential)]
        return [self.standing(node, now_s) for node in dict.fromkeys((self.founder, *nodes))]

    @property
    def digest(self) -> bytes:
        """SHA-256 of what stands: two rolls with the same digest hold the same.

        Memberships that others have replaced are not in it: whoever holds what stands on them holds them.
        """
        if self._digest is None:
            held = [*(entry.message for entry in self._entries.values()), *self.revocations]
            digests = sorted(hashlib.sha256(h.SerializeToString(deterministic=True)).digest() for h in held)
            self._digest = hashlib.sha256(b"atoll/1/roll\0" + b"".join(digests)).digest()
        return self._digest


def _none(node: bytes, code: str, reason: str, credential: Credential | None = None) -> Standing:
    return Standing(node, pb.ROLE_UNSPECIFIED, code, reason, credential)


def _newness(signed: pb.Signed, body: pb.Revocations) -> tuple[int, bytes]:
    """Of two lists of one authority the higher stands; by content where it gave the same version twice."""
    return int(body.version), hashlib.sha256(signed.body).digest()
