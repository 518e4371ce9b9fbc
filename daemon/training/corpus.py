"""Text to train on: the one that is shipped with Atoll, or files of one's own, and how it is cut into shards.

A text is one range of bytes, however many files it comes from, and is read piece by piece: it need not fit
into memory. What can fail: a missing, unreadable, empty, too small or too large text, each a CorpusError that
names the path.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from atoll.daemon.training.errors import CorpusError
from atoll.protocol.shards import MAX_SHARDS

BUILTIN = "builtin:shakespeare"
"""How a manifest names the shipped text."""

BUILTIN_DIGEST = bytes.fromhex("04decea0dd965df5e6cfc4a538b0c62623aaa3bfd848ac7fad6734e59c96624d")
_BUILTIN_SIZE_BYTES = 5_057_321

VALIDATION_PERCENT = 5
MAX_VALIDATION_BYTES = 8 << 20
"""Every node fetches the validation part, however large the text is."""
MAX_FILES = 100_000
_PIECE_BYTES = 1 << 20


def builtin_corpus() -> bytes:
    """The works of Shakespeare, ASCII (texts/NOTICE). Raises CorpusError if the installation is damaged."""
    packed = files("atoll.daemon.training").joinpath("texts", "shakespeare.txt.gz")
    try:
        with packed.open("rb") as file, gzip.GzipFile(fileobj=file) as stream:
            data = stream.read(_BUILTIN_SIZE_BYTES + 1)
    except (OSError, EOFError) as error:
        raise CorpusError(f"The shipped text can't be read: {error}.", "Install Atoll again.") from error
    if hashlib.sha256(data).digest() != BUILTIN_DIGEST:
        raise CorpusError("The shipped text is damaged.", "Install Atoll again.")
    return data


@dataclass(frozen=True)
class Text:
    """Files or bytes one after the other; `sizes` are those that they had when they were found."""

    parts: tuple[Path | bytes, ...]
    sizes: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return sum(self.sizes)

    def read(self, start: int, size: int) -> Iterator[bytes]:
        """`size` bytes from `start` on, in pieces. Raises CorpusError if a file changed."""
        for part, length in zip(self.parts, self.sizes, strict=True):
            if start < length and size > 0:
                count = min(size, length - start)
                yield from (
                    [part[start : start + count]] if isinstance(part, bytes) else _read(part, start, count)
                )
                size -= count
            start = max(0, start - length)
        if size:
            raise CorpusError(f"The text ends {size} bytes too early.")


def _read(path: Path, start: int, size: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(start)
            while size:
                piece = file.read(min(size, _PIECE_BYTES))
                if not piece:
                    raise CorpusError(f"{path} became shorter while it was read.", "Try again.")
                size -= len(piece)
                yield piece
    except OSError as error:
        raise CorpusError(f"The training text {path} can't be read: {error.strerror}.") from error


def text_of(source: str) -> Text:
    """The text that is named: BUILTIN, one file, or a folder. Raises CorpusError.

    All files below a folder count, in the order of their relative names, joined by line feeds. Hidden files
    and folders (a leading dot) and links inside the folder are left out.
    """
    if source == BUILTIN:
        data = builtin_corpus()
        return Text((data,), (len(data),))
    path = Path(source)
    try:
        if path.is_file():
            found = [path]
        elif path.is_dir():
            found = _text_files(path)
        else:
            raise CorpusError(
                f"The training text {path} does not exist.", "Give a text file or a folder of them."
            )
        sizes = [file.stat().st_size for file in found]
    except OSError as error:
        raise CorpusError(f"The training text {path} can't be read: {error.strerror}.") from error
    if not sum(sizes):
        raise CorpusError(f"The training text {path} is empty.", "Give a text file or a folder of them.")
    parts: list[Path | bytes] = []
    for file in found:
        parts += [b"\n", file] if parts else [file]
    return Text(tuple(parts), tuple(sizes[i // 2] if i % 2 == 0 else 1 for i in range(len(parts))))


def _text_files(folder: Path) -> list[Path]:
    """Regular files below `folder`, in the order of their relative POSIX names (machine-independent)."""
    found: list[tuple[str, Path]] = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or path.is_symlink() or not path.is_file():
            continue
        found.append((relative.as_posix(), path))
        if len(found) > MAX_FILES:
            raise CorpusError(f"{folder} holds more than {MAX_FILES} files.", "Join them into fewer files.")
    return [path for _, path in sorted(found)]


def cut(size_bytes: int, shard_bytes: int, context: int) -> list[int]:
    """Sizes of the shards of a text: training shards of about equal size, then the one for validation.

    The last 5 % are for validation, but at most 8 MiB. Raises CorpusError if a shard would be too small for
    one window of `context` bytes and the byte after it, or there would be too many.
    """
    held_out = min(size_bytes * VALIDATION_PERCENT // 100, MAX_VALIDATION_BYTES)
    rest = size_bytes - held_out
    count = -(-rest // shard_bytes)
    if not 1 <= count < MAX_SHARDS:
        raise CorpusError(
            f"{size_bytes} bytes in shards of {shard_bytes} make {count + 1} shards, more than {MAX_SHARDS}.",
            "Make larger shards.",
        )
    if min(rest // count, held_out) <= context:
        least = -(-100 * (context + 1) // VALIDATION_PERCENT)
        raise CorpusError(
            f"The training text has {size_bytes} bytes, too few for windows of {context}.",
            f"Give at least {least} bytes, in shards of more than {context}.",
        )
    return [(i + 1) * rest // count - i * rest // count for i in range(count)] + [held_out]
