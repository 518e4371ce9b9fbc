"""The gate of a node: who may have a link, and files, and whose records in the DHT are believed.

Where admission is open it lets everybody in, and nothing here is asked. Else each Hello carries what its
sender is a member by, and the newest revocations it knows; both are checked before anything else is said.
When a link is up, both sides name the digest of their roll; where these differ each tells the other all it
holds, and whatever was new is told on. So all members soon judge alike, and a revocation cuts links wherever
it arrives.

Owns the roll of this node. What strangers send is bounded by the roll's limits; each refusal is counted by
its code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from google.protobuf.message import DecodeError

from atoll.protocol import membership as m
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.membership import MembershipError
from atoll.protocol.roll import CLOCK_SKEW_S, MAX_AUTHORITIES, MAX_CHAIN, Roll, Standing
from atoll.protocol.signing import Keyring

PAGE = 64
"""Memberships in one frame."""
TELL_ALL_S = 10.0
"""One peer is told the whole roll at most this often."""
MAX_PENDING = 128
MAX_SHOWN_BYTES = 256 << 10
"""Of revocations in one Hello or reply; whatever is left out is told when the link is up."""


class Admission:
    """Judges peers by the roll. `roll` None: everybody may come (admission is open)."""

    def __init__(
        self,
        roll: Roll | None,
        keyring: Keyring,
        clock: Callable[[], float],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`clock`: Unix seconds. `changed`: the roll is to be kept, and links to be looked at anew."""
        self.roll = roll
        self._keyring = keyring
        self._clock = clock
        self._changed = changed
        self._told_all: dict[bytes, float] = {}
        self.pending: dict[bytes, tuple[pb.Membership, str, float]] = {}
        """Who waits for an admin: what it showed, its label, and when it asked last."""
        self.refused = Counter[str]()
        """By code: links, enrolments, records and memberships that were not let in."""

    @property
    def is_open(self) -> bool:
        return self.roll is None

    def standing(self, node: bytes) -> Standing:
        """What a node is here and now; in an open swarm everybody is a member."""
        if self.roll is None:
            return Standing(node, pb.MEMBER)
        return self.roll.standing(node, self._clock())

    def lets_in(self, peer: bytes) -> bool:
        """Whether a peer may have files and links."""
        return self.standing(peer).is_in

    def contributes(self, peer: bytes) -> bool:
        """Whether a peer may train with the others; an observer only sees."""
        return self.standing(peer).contributes

    # ---- handshake

    def introduce(self, hello: pb.Hello) -> None:
        """Adds to this node's Hello what it is a member by."""
        if self.roll is not None:
            hello.membership.extend(self.roll.chain(self._keyring.peer_id))
            hello.revocations.extend(self._shown_revocations())

    def _shown_revocations(self) -> list[pb.Signed]:
        """The organiser's first, as many as fit."""
        assert self.roll is not None
        authority, shown, left = self.roll.swarm.authority, [], MAX_SHOWN_BYTES
        for signed in sorted(self.roll.revocations, key=lambda s: s.signer != authority):
            left -= signed.ByteSize()
            if left >= 0:
                shown.append(signed)
        return shown

    def refuse(self, peer: bytes, hello: pb.Hello) -> str | None:
        """Why a peer is not let in by what its Hello shows, or None if it is."""
        if self.roll is None:
            return None
        new = self._take(hello.membership[: 2 * MAX_CHAIN], hello.revocations)
        if new.members or new.revocations:
            self._changed()
        standing = self.standing(peer)
        if standing.is_in:
            return None
        self.refused[standing.code] += 1
        return f"it may not take part: {standing.reason}"

    def _take(self, members: Iterable[pb.Membership], revocations: Iterable[pb.Signed]) -> pb.Roll:
        """What of it was new; the rest is counted where it is refused."""
        assert self.roll is not None
        new = pb.Roll()
        for signed in list(revocations)[:MAX_AUTHORITIES]:
            try:
                if self.roll.revoke(signed):
                    new.revocations.append(signed)
            except MembershipError as error:
                self.refused[error.code] += 1
                break  # who sends one that is forged is not read on
        added, refused = self.roll.add_all([each for each in members if self._is_past(each)])
        new.members.extend(added)
        if added:
            self.pending = {node: asked for node, asked in self.pending.items() if not self.lets_in(node)}
        if refused is not None:
            self.refused[refused.code] += 1
        return new

    def _is_past(self, message: pb.Membership) -> bool:
        """Whether no member claims to have signed in the future: that would never be outdone."""
        latest = self._clock() + CLOCK_SKEW_S
        try:
            return all(
                pb.Witness.FromString(signed.body).at_unix_s <= latest
                for signed in (message.witness, message.renewal)
            )
        except DecodeError:
            return False

    # ---- what is told on links

    def greeting(self) -> pb.Frame | None:
        """The first frame to a new neighbour."""
        return None if self.roll is None else pb.Frame(roll=pb.Roll(digest=self.roll.digest))

    def heard(self, peer: bytes, said: pb.Roll) -> tuple[list[pb.Frame], pb.Frame | None]:
        """Frames that answer `peer`, and one for all other neighbours if something was new."""
        if self.roll is None:
            return [], None
        new = self._take(said.members[:PAGE], said.revocations)
        news = None
        if new.members or new.revocations:
            self._changed()
            news = pb.Frame(roll=new)  # as large as the frame that it came in, at most
        now = self._clock()
        answers: list[pb.Frame] = []
        if (
            said.digest
            and said.digest != self.roll.digest
            and now - self._told_all.get(peer, 0.0) >= TELL_ALL_S
        ):
            self._told_all = {p: at for p, at in self._told_all.items() if now - at < TELL_ALL_S}
            self._told_all[peer] = now
            answers = list(self._everything())
        return answers, news

    def _everything(self) -> Iterator[pb.Frame]:
        assert self.roll is not None
        for signed in self.roll.revocations:
            yield pb.Frame(roll=pb.Roll(revocations=[signed]))
        members = self.roll.memberships
        for start in range(0, len(members), PAGE):
            yield pb.Frame(roll=pb.Roll(members=members[start : start + PAGE]))

    # ---- admitting

    def enrol(self, node: bytes, request: pb.EnrolRequest) -> tuple[pb.EnrolReply, pb.Frame | None]:
        """The answer to a newcomer (without the manifest), and what to tell the neighbours."""
        if self.roll is None:
            return pb.EnrolReply(), None
        if self.lets_in(node):
            return self._welcome(node), None
        news: pb.Frame | None = None
        try:
            kind = m.LOOK if request.look else m.ENROLMENT
            grant = self.roll.may_enrol(request.enrolment, node, self._clock(), kind)
            if request.look:
                return pb.EnrolReply(), None
            if self._is_to_be_counted(grant, node):
                news = self._witness(node, request)
            self._check_admitted(node, request)
        except MembershipError as error:
            self.refused[error.code] += 1
            return pb.EnrolReply(code=error.code, reason=str(error)), news
        return self._welcome(node), news

    def _welcome(self, node: bytes) -> pb.EnrolReply:
        assert self.roll is not None
        return pb.EnrolReply(membership=self.roll.chain(node), revocations=self._shown_revocations())

    def _is_to_be_counted(self, grant: pb.Grant, node: bytes) -> bool:
        """Whether all members have to hear of this enrolment: it admits, or is a new use of a ticket."""
        assert self.roll is not None
        new_use = bool(grant.uses) and not self.roll.has_used(grant.key, node)
        return self.roll.admission != m.APPROVE or new_use

    def _witness(self, node: bytes, request: pb.EnrolRequest) -> pb.Frame:
        """Signs that this node saw an enrolment. Raises MembershipError."""
        assert self.roll is not None
        me = self._keyring.peer_id
        if not self.standing(me).contributes or not self.roll.may_witness(me, node):
            raise MembershipError("no_witness", "this node can admit nobody: ask another one")
        made = m.witnessed(m.canonical(request.enrolment), self._keyring, self.roll.swarm, self._clock())
        self.roll.add(made)
        self._changed()
        return pb.Frame(roll=pb.Roll(members=[made]))

    def _check_admitted(self, node: bytes, request: pb.EnrolRequest) -> None:
        """Raises MembershipError where a newcomer is no member yet, or can't be one by what it shows."""
        assert self.roll is not None
        standing = self.standing(node)
        if standing.is_in:
            return
        if self.roll.admission == m.APPROVE and standing.code != "used_up":
            self._keep_pending(node, request, self._clock())
            raise MembershipError("pending", "the organiser has not approved this node yet")
        raise MembershipError("no_witness", "this node can't admit it: ask another one")

    def _keep_pending(self, node: bytes, request: pb.EnrolRequest, now: float) -> None:
        """Of too many the one that has not asked for the longest time is forgotten."""
        if node not in self.pending and len(self.pending) >= MAX_PENDING:
            del self.pending[min(self.pending, key=lambda n: self.pending[n][2])]
        shown = pb.Membership()
        shown.CopyFrom(request.enrolment)
        label = request.label if request.label.isprintable() else ""
        self.pending[node] = (shown, label[: m.MAX_LABEL_BYTES], now)

    def admit(self, message: pb.Membership) -> pb.Frame | None:
        """Takes in what an authority on this machine signed; None if that was known.

        Raises MembershipError.
        """
        assert self.roll is not None
        credential = self.roll.add(message)
        if credential is None:
            return None
        self.pending.pop(credential.node, None)
        self._changed()
        return pb.Frame(roll=pb.Roll(members=[message]))

    def revoke(self, signed: pb.Signed) -> pb.Frame | None:
        """Takes a list of revocations in; None if a newer one was known. Raises MembershipError."""
        assert self.roll is not None
        if not self.roll.revoke(signed):
            return None
        self._changed()
        return pb.Frame(roll=pb.Roll(revocations=[signed]))

    def renewed(self, peers: Iterable[bytes]) -> pb.Frame | None:
        """Renews those of these neighbours whose certificates are due; what to tell everybody."""
        if self.roll is None or not self.standing(self._keyring.peer_id).contributes:
            return None
        now, me = self._clock(), self._keyring.peer_id
        made = pb.Roll()
        for peer in peers:
            shown = self.roll.membership(peer)
            due = self.roll.needs_renewal(peer, now) and self.roll.may_witness(me, peer)
            if shown is None or not due or len(made.members) >= PAGE:
                continue
            fresh = m.renewed(shown, self._keyring, self.roll.swarm, now)
            try:
                if self.roll.add(fresh) is not None:
                    made.members.append(fresh)
            except MembershipError as error:
                self.refused[error.code] += 1
        if not made.members:
            return None
        self._changed()
        return pb.Frame(roll=made)
