"""A node that lies: it runs the shipping parts, and says something else.

One kind of lie each. Nothing here can be told from a message of an honest node by its signature alone; what
the round machine must refuse, and what must not stop the swarm, follows from the kind.
"""

from __future__ import annotations

import random
from dataclasses import replace

from atoll.daemon.simulate import facts
from atoll.daemon.simulate.download import header_of
from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.daemon.simulate.payloads import Payloads
from atoll.daemon.simulate.store import Store
from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.forks import WINDOW

KINDS = ("payload", "session", "commit", "vote", "head", "state")
Frames = list[tuple[pb.Frame, bytes]]


class Liar:
    """Spoils what a node sends. `frames` gives what goes out instead of one frame."""

    def __init__(
        self, kind: str, keyring: FakeKeyring, slot: int, chance: random.Random, payloads: Payloads
    ) -> None:
        self.kind = kind
        self._keyring = keyring
        self._slot = slot
        self._chance = chance
        self._payloads = payloads
        self.active = True
        self._state: tuple[int, bytes] | None = None  # version and content of one that was made up

    def frames(self, frame: pb.Frame, payload: bytes) -> Frames:
        if not self.active or self._chance.random() < 0.5:
            return [(frame, payload)]
        name = frame.WhichOneof("message")
        if self.kind == "payload" and payload:
            return [(frame, self._spoil(payload, name == "contribution"))]
        if self.kind == "session":
            return self._other_session(frame, payload)
        if self.kind == "commit" and name == "commit":
            return [(self._other_commit(frame), b"")]
        if self.kind == "vote" and name == "vote":
            return self._two_votes(frame)
        return [(frame, payload)]

    def file(self, content: bytes) -> bytes:
        """A file that a peer asked for."""
        if self.kind != "payload" or not self.active or self._chance.random() < 0.5:
            return content
        at = self._chance.randrange(len(content))
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    def serve(self, kind: str, version: int, content: bytes | None) -> bytes | None:
        """What goes out instead of a file: the state that was made up is there for whoever asks."""
        if self._state is not None and self._state[0] == version and kind in ("header", "checkpoint"):
            made_up = self._state[1]
            return made_up if kind == "checkpoint" else header_of(made_up).SerializeToString()
        return self.file(content) if kind == "checkpoint" and content is not None else content

    def _state_ahead(self, status: pb.NodeStatus, store: Store) -> None:
        """Once it has been in rounds: a head far ahead, and a whole state that belongs to it."""
        if not self.active:
            self._state = None
        if not self.active or status.version < 2:
            return
        if self._state is None or self._state[0] <= status.version + WINDOW:
            head = replace(
                store.head,
                version=int(status.version) + 3 * WINDOW,
                digest=self._chance.randbytes(32),
                cumulative_tokens=10 * store.head.cumulative_tokens,
            )
            self._state = (head.version, store.content_of(head, 1 + store.parameters))
            self._link = forks.link_of(replace(head, certified=True))
        self._claim(status, self._link)
        del status.held[:]
        status.held.add(version=self._state[0], state=facts.digest(self._state[1]))

    def status(self, status: pb.NodeStatus, store: Store) -> None:
        """A head that nobody has, far ahead and certified."""
        if self.kind == "state":
            self._state_ahead(status, store)
        if self.kind != "head" or not self.active or not status.digest or self._chance.random() < 0.7:
            return
        ahead = 1 + self._chance.randrange(6)
        digest, tokens = self._chance.randbytes(32), status.cumulative_tokens + 1000 * ahead
        self._claim(status, forks.Link(status.version + ahead, digest, True, tokens))

    def _claim(self, status: pb.NodeStatus, link: forks.Link) -> None:
        status.version, status.digest = link.version, link.digest
        status.certified, status.cumulative_tokens = True, link.cumulative_tokens
        del status.chain[:]
        status.chain.extend(forks.write_chain((link,)))

    def _spoil(self, payload: bytes, contribution: bool) -> bytes:
        kind = self._chance.randrange(3)
        if kind == 0:
            return payload[:-4]
        if kind == 1 or not contribution:
            return b"\xff" * len(payload)
        return self._payloads.spoilt(payload, self._slot, self._chance.randrange(-1000, 1000))

    def _other_session(self, frame: pb.Frame, payload: bytes) -> Frames:
        """The message itself, and one of a session that is not there."""
        lie = pb.Frame()
        lie.CopyFrom(frame)
        match frame.WhichOneof("message"):
            case "contribution" | "want" | "abort" as name:
                session = getattr(lie, name).session
            case "ready":
                lie.ready.parent = self._chance.randbytes(32)
                return [(lie, b""), (frame, payload)]
            case _:
                return [(frame, payload)]
        if self._chance.random() < 0.5:
            session.parent = self._chance.randbytes(32)
        session.view += self._chance.randrange(5)
        session.leader = self._keyring.peer_id
        return [(lie, payload), (frame, payload)]

    def _other_commit(self, frame: pb.Frame) -> pb.Frame:
        commit = pb.Commit.FromString(frame.commit.body)
        match self._chance.randrange(5):
            case 0:
                commit.cumulative_tokens += 1
            case 1:
                commit.outer_lr *= 2
            case 2:
                commit.version += 1
            case 3:
                del commit.chunks[0].contributors[:]
            case _:
                commit.contributors[0].tokens += 1
        return pb.Frame(commit=self._keyring.sign("commit", commit.SerializeToString(deterministic=True)))

    def _two_votes(self, frame: pb.Frame) -> Frames:
        vote = pb.Vote.FromString(frame.vote.body)
        vote.commit = facts.digest(vote.commit)
        other = pb.Frame(vote=self._keyring.sign("vote", vote.SerializeToString(deterministic=True)))
        both = [(frame, b""), (other, b"")]
        return both if self._chance.random() < 0.5 else both[::-1]
