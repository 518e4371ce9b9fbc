"""Amendments: new versions of the manifest, each signed by the organiser and in force from a round on.

What the swarm is (its model, data, mode, codecs, chunks and members) can't be amended, for its id and the
bits of its rounds stand on that; AMENDABLE is all that can. Each amendment names the one before it, so there
is one order of them.

Which one is in force is told by the chain itself: a plan names it, and so does the commit that comes of it
(SPEC.md, section 16). From an amendment's round on whoever holds it leads, and follows, only by it; a commit
made without it, because too few had heard of it, is valid all the same, and the next round goes by it. Once
in force it stays so in that chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.message import DecodeError

from atoll.protocol import messages_pb2 as pb
from atoll.protocol import signing
from atoll.protocol.chain import Head
from atoll.protocol.manifest import ManifestError, SwarmManifest, check

KIND = "amendment"
MAX_AMENDMENT_BYTES = 24 << 10
MAX_AMENDMENTS = 128
"""Of one swarm: all of them together have room in what may wait for a slow link."""
MAX_NOTE_BYTES = 280
MAX_ROUND = 1 << 40


class AmendmentError(ValueError):
    """An amendment that is unreadable, not the organiser's, or not possible."""


class UnknownAmendment(AmendmentError):
    """An amendment that is not here, or follows one that is not: peers may have it."""


class OtherAmendment(AmendmentError):
    """The organiser has signed another one where one is here: whoever holds that goes another way."""


@dataclass(frozen=True)
class Field:
    """A value that can be amended. `read`: from a manifest; `write`: into one, as `read` gave it."""

    read: Callable[[pb.Manifest], Any]
    write: Callable[[pb.Manifest, Any], None]


def _number(section: str, name: str) -> Field:
    return Field(
        lambda body: getattr(getattr(body, section), name),
        lambda body, value: setattr(getattr(body, section), name, value),
    )


def _listed(owner: Callable[[pb.Manifest], Any], name: str) -> Field:
    def write(body: pb.Manifest, values: Any) -> None:
        getattr(owner(body), name)[:] = values

    return Field(lambda body: list(getattr(owner(body), name)), write)


AMENDABLE: dict[str, Field] = {
    "inner.lr": _number("inner", "lr"),
    "inner.warmup_steps": _number("inner", "warmup_steps"),
    "inner.total_steps": _number("inner", "total_steps"),
    "outer.lr_by_contributors": _listed(lambda body: body.outer, "lr_by_contributors"),
    "outer.momentum": _number("outer", "momentum"),
    "rounds.min_peers_to_start": _number("rounds", "min_peers_to_start"),
    "rounds.grace_floor_s": _number("rounds", "grace_floor_s"),
    "rounds.grace_cap_s": _number("rounds", "grace_cap_s"),
    "rounds.two_level_above": _number("rounds", "two_level_above"),
    "rounds.validate_every": _number("rounds", "validate_every"),
    "bootstrap": _listed(lambda body: body, "bootstrap"),
    "data.urls": _listed(lambda body: body.data, "urls"),
}
"""By the name that people give it."""


@dataclass(frozen=True)
class Amended:
    """A manifest as amended, in force from the round `from_round` on; `changes`: (field, before, after)."""

    manifest: SwarmManifest
    signed: pb.Signed
    from_round: int
    created_unix_s: int
    note: str
    changes: tuple[tuple[str, Any, Any], ...]

    @property
    def digest(self) -> bytes:
        return self.manifest.amendment

    @property
    def sequence(self) -> int:
        """Of the manifest: 2 for the first amendment."""
        return int(self.manifest.body.sequence)


def digest_of(signed: pb.Signed) -> bytes:
    """What the next one, plans and commits name: SHA-256 of the signed bytes."""
    return hashlib.sha256(b"atoll/1/amendment\0" + signed.body).digest()


class Amendments:
    """A swarm's manifest and what has amended it since, oldest first. One thread adds, any may read."""

    def __init__(self, genesis: SwarmManifest, signed: Iterable[pb.Signed] = ()) -> None:
        """Raises AmendmentError."""
        self.genesis = genesis
        self._all: tuple[Amended, ...] = ()
        for one in signed:
            self.add(one)

    def __iter__(self) -> Iterator[Amended]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def last(self) -> Amended | None:
        return self._all[-1] if self._all else None

    @property
    def newest(self) -> SwarmManifest:
        """As it will be once all are in force."""
        return self.last.manifest if self.last is not None else self.genesis

    def add(self, signed: pb.Signed) -> bool:
        """Takes in the next one; False: it is here already. Raises AmendmentError."""
        if signed.ByteSize() > MAX_AMENDMENT_BYTES:
            raise AmendmentError(f"an amendment of {signed.ByteSize()} bytes is over {MAX_AMENDMENT_BYTES}")
        digest = digest_of(signed)
        if any(one.digest == digest for one in self._all):
            return False
        self._all = (*self._all, self._read(signed))
        return True

    def amend(
        self,
        organiser: signing.Ed25519Keyring,
        values: dict[str, Any],
        from_round: int,
        created_unix_s: int,
        note: str = "",
    ) -> Amended:
        """A new one that sets these fields of AMENDABLE; it is not taken in. Raises AmendmentError."""
        if not 0 < from_round <= MAX_ROUND:
            raise AmendmentError(f"round {from_round} can't be the first: it has to be 1 to {MAX_ROUND}")
        if any("\ud800" <= letter <= "\udfff" for letter in note):
            raise AmendmentError("the note is no text")
        body = pb.Manifest()
        body.CopyFrom(self.newest.body)
        for name, value in values.items():
            try:
                AMENDABLE[name].write(body, value)
            except KeyError:
                raise AmendmentError(f"{name} can't be amended; {', '.join(AMENDABLE)} can") from None
            except (TypeError, ValueError) as error:
                raise AmendmentError(f"{name} can't be {value!r}") from error
        amendment = pb.Amendment(
            swarm_id=self.genesis.swarm_id,
            sequence=int(self.genesis.body.sequence) + len(self._all) + 1,
            previous=self.newest.amendment,
            from_round=from_round,
            created_unix_s=created_unix_s,
            note=note,
            inner=body.inner,
            outer=body.outer,
            rounds=body.rounds,
            bootstrap=body.bootstrap,
            urls=body.data.urls,
        )
        return self._read(organiser.sign(KIND, amendment.SerializeToString(deterministic=True)))

    def place(self, digest: bytes) -> int:
        """How many are in force under the one with this digest (empty: none). Raises UnknownAmendment."""
        if not digest:
            return 0
        for place, one in enumerate(self._all, 1):
            if one.digest == digest:
                return place
        raise UnknownAmendment(f"the manifest was amended ({digest.hex()[:16]}), and that is not here")

    def manifest(self, digest: bytes) -> SwarmManifest:
        """As it is under the amendment with this digest (empty: none). Raises UnknownAmendment."""
        place = self.place(digest)
        return self._all[place - 1].manifest if place else self.genesis

    def due(self, head: Head) -> SwarmManifest:
        """As it is in the round after `head`: by all whose round has come. Raises UnknownAmendment."""
        manifest = self.manifest(head.amendment)
        for one in self._all[self.place(head.amendment) :]:
            if one.from_round <= head.version + 1:
                manifest = one.manifest
        return manifest

    def under(self, head: Head, amendment: bytes) -> SwarmManifest:
        """As it is in a commit that follows `head` and names this amendment.

        Raises UnknownAmendment; AmendmentError where the commit may not go by it.
        """
        place, before = self.place(amendment), self.place(head.amendment)
        if place < before:
            raise AmendmentError("an older manifest than that of the version before")
        if place > before and (first := self._all[place - 1].from_round) > head.version + 1:
            raise AmendmentError(f"an amendment that is in force from round {first} on")
        return self.manifest(amendment)

    def _read(self, signed: pb.Signed) -> Amended:
        """Raises AmendmentError unless it follows the newest one here."""
        if len(self._all) >= MAX_AMENDMENTS:
            raise AmendmentError(f"a manifest can be amended {MAX_AMENDMENTS} times")
        organiser = bytes(self.genesis.body.organiser)
        if signed.signer != signing.peer_id_of(organiser) or not signing.verify(KIND, signed):
            raise AmendmentError("the amendment's signature is not the organiser's")
        try:
            said = pb.Amendment.FromString(signed.body)
        except DecodeError as error:
            raise AmendmentError("the amendment is not readable") from error
        if said.swarm_id != self.genesis.swarm_id:
            raise AmendmentError("the amendment is of another swarm")
        if said.previous != self.newest.amendment:
            if said.previous in {b"", *(one.digest for one in self._all)}:
                raise OtherAmendment(f"the organiser has signed two different versions {said.sequence}")
            raise UnknownAmendment("the amendment follows another one than the newest here")
        self._check_order(said)
        body = self._amended(said)
        before = self.newest.body
        changes = tuple(
            (name, field.read(before), field.read(body))
            for name, field in AMENDABLE.items()
            if field.read(before) != field.read(body)
        )
        if not changes:
            raise AmendmentError("the amendment changes nothing")
        return Amended(
            replace(self.genesis, body=body, amendment=digest_of(signed)),
            signed,
            int(said.from_round),
            int(said.created_unix_s),
            str(said.note),
            changes,
        )

    def _check_order(self, said: pb.Amendment) -> None:
        last = self.last
        if said.sequence != self.newest.body.sequence + 1:
            raise AmendmentError(f"version {said.sequence} does not follow {self.newest.body.sequence}")
        if not (last.from_round if last else 0) < said.from_round <= MAX_ROUND:
            after = f"after {last.from_round}, that of the amendment before" if last else "1 or later"
            raise AmendmentError(f"round {said.from_round} can't be the first: it has to be {after}")
        if len(said.note.encode()) > MAX_NOTE_BYTES or not said.note.isprintable():
            raise AmendmentError(f"the note has to be at most {MAX_NOTE_BYTES} bytes of printable text")

    def _amended(self, said: pb.Amendment) -> pb.Manifest:
        """The manifest as amended. Raises AmendmentError where that is not possible."""
        body, only = pb.Manifest(), pb.Manifest()
        body.CopyFrom(self.genesis.body)
        body.inner.CopyFrom(said.inner)
        body.outer.CopyFrom(said.outer)
        body.rounds.CopyFrom(said.rounds)
        AMENDABLE["bootstrap"].write(body, said.bootstrap)
        AMENDABLE["data.urls"].write(body, said.urls)
        only.CopyFrom(self.genesis.body)
        for field in AMENDABLE.values():
            field.write(only, field.read(body))
        if only != body:
            raise AmendmentError(f"it amends what can't be; {', '.join(AMENDABLE)} can")
        if self.genesis.ahead and body.outer.momentum != self.genesis.body.outer.momentum:
            raise AmendmentError(f"outer.momentum can't be amended: {self.genesis.ahead} goes by it")
        body.sequence = said.sequence
        try:
            check(body)
        except ManifestError as error:
            raise AmendmentError(str(error)) from error
        return body
