"""What goes into the transfer machine and what comes out: frozen values, no behaviour."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Content:
    """What is fetched: its size and the SHA-256 of each of its pieces."""

    size_bytes: int
    digests: tuple[bytes, ...]
    piece_bytes: int = PIECE_BYTES

    def __post_init__(self) -> None:
        if self.piece_bytes <= 0 or len(self.digests) != -(-self.size_bytes // self.piece_bytes):
            raise ValueError(f"{len(self.digests)} pieces for {self.size_bytes} bytes")

    @cached_property
    def id(self) -> bytes:
        """SHA-256 over size and piece digests: names the content in requests (SPEC.md, section 10)."""
        total = hashlib.sha256(b"atoll/1/content\0" + self.size_bytes.to_bytes(8, "big"))
        for digest in self.digests:
            total.update(digest)
        return total.digest()

    def size(self, piece: int) -> int:
        """Bytes of a piece: the last one may be shorter."""
        return min(self.piece_bytes, self.size_bytes - piece * self.piece_bytes)

    def span_bytes(self, first: int, end: int) -> int:
        """Bytes of the pieces from `first` up to, not including, `end`."""
        return min(end * self.piece_bytes, self.size_bytes) - min(first * self.piece_bytes, self.size_bytes)


@dataclass(frozen=True)
class Limits:
    """Bytes that may be asked for and not here yet; a single piece is always allowed."""

    in_flight_bytes: int = 8 << 20
    per_holder_bytes: int = 4 << 20


# ---- events


@dataclass(frozen=True)
class HolderCame:
    """A holder of this content can be asked; one that was dropped stays so."""

    holder: bytes


@dataclass(frozen=True)
class HolderLeft:
    """A holder can't be asked any more; it may come back."""

    holder: bytes
    reason: str


@dataclass(frozen=True)
class Received:
    """Some bytes of a request's next piece came (0: a sign of life)."""

    request: int
    size_bytes: int


@dataclass(frozen=True)
class PieceCame:
    """The next piece of a request is whole; `digest` is the SHA-256 of what came."""

    request: int
    digest: bytes


@dataclass(frozen=True)
class Ended:
    """A request ended before its last piece. `refused`: the holder does not have it, or breaks the rules."""

    request: int
    reason: str
    refused: bool = False


Event = HolderCame | HolderLeft | Received | PieceCame | Ended


# ---- effects


@dataclass(frozen=True)
class Ask:
    """Ask `holder` for `count` pieces from `first` on."""

    request: int
    holder: bytes
    first: int
    count: int


@dataclass(frozen=True)
class Cancel:
    """Nothing more is wanted of this request."""

    request: int


@dataclass(frozen=True)
class Keep:
    """The piece that just came is good and new: it is to be written."""

    piece: int


@dataclass(frozen=True)
class Dropped:
    """A holder is not asked any more."""

    holder: bytes
    reason: str


@dataclass(frozen=True)
class Done:
    """All pieces are good."""


@dataclass(frozen=True)
class Failed:
    """No holder is left; why, for each that there was."""

    reasons: Mapping[bytes, str]


Effect = Ask | Cancel | Keep | Dropped | Done | Failed
