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
from collections.abc import Sequence

import numpy as np
import torch

from atoll.protocol import wire
from atoll.protocol.codecs import CODECS, aggregate
from atoll.protocol.outer import Float32
from atoll.protocol.schema import ChunkTable


class CodecWorker:
    """One codec instance for each use, and scratch that is kept. For one thread.

    `feedback`: the decay of what was lost; 0: it is forgotten. `seed`: contributions are rounded at random,
    one that is encoded again to the same bytes; None: to the nearest.
    """

    def __init__(
        self,
        codec: str,
        result_codec: str,
        chunks: ChunkTable,
        feedback: float = 0.0,
        seed: bytes | None = None,
    ) -> None:
        self._out = CODECS[codec]()
        self._in = CODECS[codec]()
        self._result = CODECS[result_codec]()
        self._chunks = chunks
        self._delta = np.empty(chunks.values, dtype=np.float32)
        self._noise = None if seed is None else torch.Generator()
        self._seed = seed or b""
        self._feedback = feedback
        self._lost = np.zeros(chunks.total if feedback else 0, dtype=np.float32)
        self._sent: dict[int, bytes] = {}
        self._offer: int | None = None

    def encode(self, anchor: Float32, local: Float32, chunk: int, offer: int = 0) -> bytes:
        """Encoded pseudo-gradient anchor − local of one chunk, of whole vectors. Raises NonFinite."""
        delta = torch.from_numpy(self._measure(anchor, local, chunk))
        out = torch.empty(self._out.bound(delta.numel()), dtype=torch.uint8)
        if self._noise is not None:
            drawn = hashlib.sha256(self._seed + struct.pack(">QI", offer, chunk)).digest()
            self._noise.manual_seed(int.from_bytes(drawn[:8], "big"))
        payload = self._out.encode(delta, out, self._noise).numpy().tobytes()
        if self._feedback:
            if offer != self._offer:
                self._offer, self._sent = offer, {}
            self._sent[chunk] = payload
        return payload

    def _measure(self, anchor: Float32, local: Float32, chunk: int) -> Float32:
        span = self._chunks.span(chunk)
        delta = np.subtract(anchor[span], local[span], out=self._delta[: self._chunks.size(chunk)])
        if self._feedback:
            delta += np.float32(self._feedback) * self._lost[span]
        return delta

    def settle(self, anchor: Float32, local: Float32, chunks: tuple[int, ...], offer: int) -> None:
        """These chunks of an offer were accepted: notes what their payloads lacked. Vectors as there."""
        if not self._feedback or offer != self._offer:
            return
        for chunk in chunks:
            payload = self._sent.pop(chunk, None)
            if payload is None:
                continue  # sent by another life of this process
            delta = torch.from_numpy(self._measure(anchor, local, chunk))
            self._out.decode_add(_tensor(payload), -1.0, delta)
            self._lost[self._chunks.span(chunk)] = delta.numpy()

    def check(self, payload: wire.Payload, n: int) -> None:
        """Raises CodecError unless `payload` is an encoded chunk of n values."""
        self._in.check(_tensor(payload), n)

    def check_result(self, payload: wire.Payload, n: int) -> None:
        """The same for an encoded result."""
        self._result.check(_tensor(payload), n)

    def reduce(self, payloads: Sequence[wire.Payload], weights: Sequence[int], n: int) -> bytes:
        """The encoded weighted mean."""
        mean = torch.from_numpy(self._delta[:n])
        aggregate(self._in, [_tensor(p) for p in payloads], weights, mean)
        out = torch.empty(self._result.bound(n), dtype=torch.uint8)
        return self._result.encode(mean, out).numpy().tobytes()

    def find_non_finite(self, anchor: Float32, local: Float32) -> int | None:
        """Flat position of the first value whose pseudo-gradient is not finite."""
        for chunk in range(len(self._chunks)):
            span = self._chunks.span(chunk)
            delta = self._delta[: self._chunks.size(chunk)]
            with np.errstate(invalid="ignore", over="ignore"):
                np.subtract(anchor[span], local[span], out=delta)
            if not np.isfinite(delta).all():
                return int(span.start + np.flatnonzero(~np.isfinite(delta))[0])
        return None


def _tensor(payload: wire.Payload) -> torch.Tensor:
    """The payload's bytes without a copy, where they are not immutable: torch has no read-only tensors."""
    data = payload if isinstance(payload, bytearray) else bytearray(payload)
    return torch.frombuffer(data, dtype=torch.uint8)
