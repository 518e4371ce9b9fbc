"""A bound on the length of what this node contributes, and Gaussian noise on it, where its owner wants it.

The Gaussian mechanism (Dwork and Roth 2014, appendix A; clipping and noise as in DP-SGD, 1607.00133, here on
a whole contribution and by the node itself, so that nobody else has to be trusted): the pseudo-gradient of
the fragment that is due is made no longer than `clip`, and each of its values gets noise of standard
deviation `multiplier · clip`. DP-BREM (2306.12608) clips around the last aggregate, at a server that
everybody trusts; a swarm has no such server.

One contribution has one noise: encoded again, for another owner of a chunk or after a round that failed, it
is the same, so that averaging its copies takes nothing away. The generator (Philox, counter-based) is keyed
with bytes that never leave this process.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable

import numpy as np

from atoll.protocol.outer import Float32
from atoll.protocol.schema import ChunkTable


class Noise:
    """Of one node's contributions; for the codec thread.

    `multiplier` 0: clip only. `secret`: of this process. `count`: called before a contribution of a new offer
    goes out, and returns when that is on disk.
    """

    def __init__(
        self,
        clip: float,
        multiplier: float,
        secret: bytes,
        count: Callable[[], None] = lambda: None,
    ) -> None:
        self.clip = clip
        self.multiplier = multiplier
        self._secret = secret
        self._count = count
        self._known: tuple[int, int] | None = None
        self._share = 0.0

    def apply(self, chunks: ChunkTable, chunk: int, offer: int, measure: Callable[[int], Float32]) -> Float32:
        """`measure(chunk)` [n] fp32, clipped with its fragment and with noise.

        What `measure` returns may be scratch that its next call overwrites; it is changed in place.
        """
        due = next(each for each in chunks.fragments if chunk in each)
        if self._known != (offer, due[0]):
            # NaN stays NaN: the codec refuses it.
            squares = sum(float(np.square(measure(each), dtype=np.float64).sum()) for each in due)
            length = math.sqrt(squares)
            self._share = 1.0 if length <= self.clip else self.clip / length
            self._count()
            self._known = (offer, due[0])
        delta = measure(chunk)
        if self._share != 1.0:
            delta *= np.float32(self._share)
        if self.multiplier:
            drawn = hashlib.sha256(self._secret + struct.pack(">qI", offer, chunk)).digest()
            generator = np.random.Generator(np.random.Philox(key=int.from_bytes(drawn[:16], "big")))
            delta += np.float32(self.multiplier * self.clip) * generator.standard_normal(
                delta.size, dtype=np.float32
            )
        return delta
