"""A node that lies: it runs the shipping parts, and says something else.

One kind of lie each. Nothing here can be told from a message of an honest node by its signature alone; what
the round machine must refuse, and what must not stop the swarm, follows from the kind.
"""

from __future__ import annotations

import random

import numpy as np

from atoll.daemon.simulate import facts
from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.protocol import messages_pb2 as pb

KINDS = ("payload", "session", "commit", "vote", "head")
Frames = list[tuple[pb.Frame, bytes]]


class Liar:
    """Spoils what a node sends. `frames` gives what goes out instead of one frame."""

    def __init__(self, kind: str, keyring: FakeKeyring, slot: int, chance: random.Random) -> None:
        self.kind = kind
        self._keyring = keyring
        self._slot = slot
        self._chance = chance
        self.active = True

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

    def status(self, status: pb.NodeStatus) -> None:
        """A head that nobody has, far ahead and certified."""
        if self.kind != "head" or not self.active or not status.digest or self._chance.random() < 0.7:
            return
        ahead = 1 + self._chance.randrange(6)
        status.version += ahead
        status.digest = self._chance.randbytes(32)
        status.certified = True
        status.cumulative_tokens += 1000 * ahead
        newest = pb.ChainLink(
            version=status.version,
            digest=status.digest,
            certified=True,
            cumulative_tokens=status.cumulative_tokens,
        )
        del status.chain[:]
        status.chain.append(newest)

    def _spoil(self, payload: bytes, contribution: bool) -> bytes:
        kind = self._chance.randrange(3)
        if kind == 0:
            return payload[:-4]
        if kind == 1 or not contribution:
            return b"\xff" * len(payload)
        values = np.frombuffer(payload, np.float32).copy()
        values[self._slot] = self._chance.randrange(-1000, 1000)
        return values.tobytes()

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
