"""The codec thread's tools: encoding contributions, averaging them, and the error feedback of what was lost.

Error feedback (Seide et al. 2014; with a decay, MuLoCo 2505.23725 and SparseLoCo 2508.15706): what a coarse
codec lost of an accepted contribution is remembered, times a decay for each round, and added to the next
one. It is this node's own, in no file, and gone with it. A contribution that was not accepted changes
nothing: its progress is still in the local parameters. Costs one parameter-sized buffer and an encoded
payload, where the manifest asks for it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import NamedTuple

import numpy as np
import torch

from atoll.daemon.rounds.noise import Noise
from atoll.daemon.storage.spill import loaded
from atoll.protocol import wire
from atoll.protocol.codecs import CODECS, Codec, aggregate, result_codec
from atoll.protocol.codecs.merging import rda
from atoll.protocol.codecs.robust import ROBUST, robust
from atoll.protocol.judgement import Look
from atoll.protocol.manifest import MEAN, RDA
from atoll.protocol.modes.budget import EVERY, Roughness
from atoll.protocol.outer import Float32
from atoll.protocol.round.codec_choice import allowed
from atoll.protocol.round.types import Part
from atoll.protocol.schema import ChunkTable


class _Piece(NamedTuple):
    """One payload of a reduction: whose it is, and whether it is their mean."""

    members: tuple[int, ...]
    weight: int
    payload: wire.Payload
    is_mean: bool


class CodecWorker:
    """One codec instance for each use, and scratch that is kept. For one thread.

    `codec`: of contributions, "auto" where plans choose it. `feedback`: the decay of what was lost; 0: it is
    forgotten. `seed`: contributions are rounded at random, one that is encoded again to the same bytes; None:
    to the nearest. `measured`: what is called `local` are pseudo-gradients already, and no anchor matters.
    `merge`: what a chunk's owner makes of its contributions, `bucket` of them at a time. `noise`: on what
    this node contributes.
    """

    def __init__(
        self,
        codec: str,
        results: str,
        chunks: ChunkTable,
        feedback: float = 0.0,
        seed: bytes | None = None,
        measured: bool = False,
        merge: str = MEAN,
        bucket: int = 1,
        noise: Noise | None = None,
    ) -> None:
        self._names = allowed(codec)
        self._outs = {name: CODECS[name]() for name in self._names}
        self._ins = {name: CODECS[name]() for name in self._names}
        self._result = result_codec(codec, results, merge)
        self._chunks = chunks
        self._delta = np.empty(chunks.values, dtype=np.float32)
        self._rounding = None if seed is None else torch.Generator()
        self._noise = noise
        self._seed = seed or b""
        self._feedback = feedback
        self._measured = measured
        self._roughness = Roughness()
        self._merge = merge
        self._bucket = bucket
        self.left_out: tuple[int, ...] = ()
        """Members whose contributions the last reduction left out whole."""
        self._apart = torch.empty(chunks.values if merge == RDA else 0)
        self._lost = np.zeros(chunks.total if feedback else 0, dtype=np.float32)
        self._sent: dict[int, bytes] = {}
        self._offer: int | None = None

    def encode(
        self, anchor: Float32, local: Float32, chunk: int, offer: int = 0, codec: str | None = None
    ) -> bytes:
        """Encoded pseudo-gradient anchor − local of one chunk, of whole vectors. Raises NonFinite.

        `codec`: the plan's; None: the only one, or the widest.
        """
        encoder = self._outs[codec or self._names[0]]
        delta = torch.from_numpy(self._given(anchor, local, chunk, offer))
        out = torch.empty(encoder.bound(delta.numel()), dtype=torch.uint8)
        if self._rounding is not None:
            drawn = hashlib.sha256(self._seed + struct.pack(">QI", offer, chunk)).digest()
            self._rounding.manual_seed(int.from_bytes(drawn[:8], "big"))
        payload = encoder.encode(delta, out, self._rounding).numpy().tobytes()
        if self._feedback:
            if offer != self._offer:
                self._offer, self._sent = offer, {}
            self._sent[chunk] = payload
        return payload

    def _given(self, anchor: Float32, local: Float32, chunk: int, offer: int) -> Float32:
        """What is to be encoded: with the bound and noise of this node's owner, if it has any."""
        if self._noise is None:
            return self._measure(anchor, local, chunk)
        return self._noise.apply(self._chunks, chunk, offer, lambda each: self._measure(anchor, local, each))

    def _measure(self, anchor: Float32, local: Float32, chunk: int) -> Float32:
        delta = self._difference(anchor, local, chunk)
        if self._feedback:
            delta += np.float32(self._feedback) * self._lost[self._chunks.span(chunk)]
        return delta

    def _difference(self, anchor: Float32, local: Float32, chunk: int) -> Float32:
        span, delta = self._chunks.span(chunk), self._delta[: self._chunks.size(chunk)]
        if self._measured:
            np.copyto(delta, local[span])
        else:
            np.subtract(anchor[span], local[span], out=delta)
        return delta

    def settle(self, anchor: Float32, local: Float32, chunks: tuple[int, ...], offer: int) -> None:
        """These chunks of an offer were accepted: notes what their payloads lacked. Vectors as there."""
        if not self._feedback or offer != self._offer:
            return
        for chunk in chunks:
            payload = self._sent.pop(chunk, None)
            if payload is None:
                continue  # sent by another life of this process
            delta = torch.from_numpy(self._given(anchor, local, chunk, offer))
            self._one_of(self._outs, payload, delta.numel()).decode_add(_tensor(payload), -1.0, delta)
            self._lost[self._chunks.span(chunk)] = delta.numpy()

    def cosine(self, anchor: Float32, local: Float32, chunk: int, mean: Float32) -> float | None:
        """Between this node's pseudo-gradient of a chunk and the mean, fp32; None where either is zero."""
        delta = self._difference(anchor, local, chunk)
        lengths = float(np.linalg.norm(delta)) * float(np.linalg.norm(mean))
        return float(np.dot(delta, mean)) / lengths if lengths > 0 else None

    def look(self, anchor: Float32, local: Float32, chunk: int, payload: wire.Payload, count: int) -> Look:
        """The result of a chunk, which has `count` contributions, beside this node's pseudo-gradient of it.

        Raises CodecError.
        """
        delta = self._difference(anchor, local, chunk)
        result = torch.empty(delta.size)
        # Where merges hold against liars a result is never the contributions, and weights mean nothing.
        self._result.decode(_tensor(payload), [1] * count, result)
        own, made = delta, result.numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            return Look(float(np.dot(own, made)), float(np.dot(own, own)), float(np.dot(made, made)))

    def roughness(self, anchor: Float32, local: Float32) -> float:
        """How rough this node's loss is, by its last two pseudo-gradients; 0 where it is not known."""
        there, here = anchor[::EVERY], local[::EVERY]
        return self._roughness.of(here if self._measured else there - here, there)

    def check(self, payload: wire.Payload, n: int, codec: str | None = None) -> None:
        """Raises CodecError unless `payload` is an encoded chunk of n values, by `codec` if it is known."""
        self._decoder(payload, n, codec).check(_tensor(payload), n)

    def _decoder(self, payload: wire.Payload, n: int, codec: str | None = None) -> Codec:
        return self._one_of(self._ins, payload, n) if codec is None else self._ins[codec]

    def _one_of(self, codecs: Mapping[str, Codec], payload: Sized, n: int) -> Codec:
        """The codec that makes so many bytes of n values; the first one where none does."""
        fits = (codec for codec in codecs.values() if codec.bound(n) == len(payload))
        return next(fits, codecs[self._names[0]])

    def check_result(self, payload: wire.Payload, n: int, count: int) -> None:
        """The same for the result of `count` contributions, or for what stands for those of a group."""
        self._result.check(_tensor(payload), n, count)

    def length(self, payload: wire.Payload, n: int, codec: str | None = None) -> float:
        """Euclidean length of a contribution that `check` has taken."""
        values = torch.from_numpy(self._delta[:n])
        self._decoder(payload, n, codec).decode(_tensor(payload), values)
        return float(torch.linalg.vector_norm(values, dtype=torch.float64))

    def reduce(
        self, parts: Sequence[Part], weights: Sequence[int], n: int, seed: bytes = b""
    ) -> wire.Payload:
        """The result of some parts, at least one: their encoded mean, or they themselves.

        `weights`: of all contributors of the plan; `seed`: of buckets. A contribution that came before its
        plan may be of another codec than the plan's: its length tells.
        """
        self.left_out = ()
        pieces = sorted(self._pieces(parts, weights, n), key=lambda piece: piece.members)
        # One at a time: those that wait in files don't all come into memory.
        payloads = (_tensor(piece.payload) for piece in pieces)
        if self._result.gathers(n, sum(len(part.members) for part in parts)):
            return self._result.join(list(payloads)).numpy().data
        mean = torch.from_numpy(self._delta[:n])
        decoders = [
            self._result.mean if piece.is_mean else self._decoder(piece.payload, n) for piece in pieces
        ]
        shares = [piece.weight for piece in pieces]
        if self._merge in ROBUST:
            places = robust(self._merge, decoders, payloads, mean, self._bucket, seed)
            self.left_out = tuple(sorted(m for place in places for m in pieces[place].members))
        elif self._merge == RDA:
            rda(decoders, payloads, shares, mean, self._apart[:n])
        else:
            aggregate(decoders, payloads, shares, mean)
        return self._result.encode(mean).numpy().data

    def _pieces(self, parts: Sequence[Part], weights: Sequence[int], n: int) -> Iterator[_Piece]:
        """Each payload in the parts."""
        for part in parts:
            places = self._result.pieces(n, len(part.members)) if part.partial else None
            if places is None:
                yield _Piece(part.members, part.weight, part.payload, part.partial)
                continue
            whole = memoryview(part.payload)
            for member, place in zip(part.members, places, strict=True):
                yield _Piece((member,), weights[member], whole[place], False)

    def find_non_finite(self, anchor: Float32, local: Float32) -> int | None:
        """Flat position of the first value whose pseudo-gradient is not finite."""
        for chunk in range(len(self._chunks)):
            with np.errstate(invalid="ignore", over="ignore"):
                delta = self._difference(anchor, local, chunk)
            if not np.isfinite(delta).all():
                return int(self._chunks.span(chunk).start + np.flatnonzero(~np.isfinite(delta))[0])
        return None


def _tensor(payload: wire.Payload) -> torch.Tensor:
    """The payload's bytes without a copy, where they are not immutable: torch has no read-only tensors."""
    data = loaded(payload) if memoryview(payload).readonly else payload
    return torch.frombuffer(data, dtype=torch.uint8)
