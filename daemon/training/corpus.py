"""Training text: the one that is shipped with Atoll, or a file or folder of one's own.

Owns nothing but the bytes that it returns. All nodes of a swarm must read the same bytes, so the
manifest holds `corpus_digest` and a trainer refuses another text. What can fail: a missing, unreadable,
empty or oversized text, each a CorpusError that names the path.
"""

from __future__ import annotations

import gzip
import hashlib
from importlib.resources import files
from pathlib import Path

from atoll.daemon.training.errors import CorpusError, CorpusMismatchError

BUILTIN = "builtin:shakespeare"
"""How a manifest names the shipped text."""

BUILTIN_DIGEST = bytes.fromhex("04decea0dd965df5e6cfc4a538b0c62623aaa3bfd848ac7fad6734e59c96624d")
_BUILTIN_SIZE_BYTES = 5_057_321

MAX_CORPUS_BYTES = 1 << 30
"""Text is held in memory by every trainer, so its size is bounded (1 GiB)."""

MAX_FILES = 100_000


def corpus_digest(data: bytes) -> bytes:
    """SHA-256 of the text."""
    return hashlib.sha256(data).digest()


def builtin_corpus() -> bytes:
    """The works of Shakespeare, ASCII (texts/NOTICE). Raises CorpusError if the installation is damaged."""
    packed = files("atoll.daemon.training").joinpath("texts", "shakespeare.txt.gz")
    try:
        with packed.open("rb") as file, gzip.GzipFile(fileobj=file) as stream:
            data = stream.read(_BUILTIN_SIZE_BYTES + 1)
    except (OSError, EOFError) as error:
        raise CorpusError(f"The shipped text can't be read: {error}.", "Install Atoll again.") from error
    if corpus_digest(data) != BUILTIN_DIGEST:
        raise CorpusError("The shipped text is damaged.", "Install Atoll again.")
    return data


def read_corpus(path: Path, max_bytes: int = MAX_CORPUS_BYTES) -> bytes:
    """One file, or all files below a folder in the order of their relative names, joined by a line feed.

    Hidden files and folders (a leading dot) and links inside the folder are left out. Raises CorpusError.
    """
    try:
        if path.is_file():
            return _bounded([path], max_bytes, path)
        if path.is_dir():
            return _bounded(_text_files(path), max_bytes, path)
    except OSError as error:
        raise CorpusError(f"The training text {path} can't be read: {error.strerror}.") from error
    raise CorpusError(f"The training text {path} does not exist.", "Give a text file or a folder of them.")


def load_corpus(source: str, digest: bytes | None = None) -> bytes:
    """The text that a manifest names: `BUILTIN` or a path. Raises CorpusError, CorpusMismatchError."""
    data = builtin_corpus() if source == BUILTIN else read_corpus(Path(source))
    if digest is not None and corpus_digest(data) != digest:
        raise CorpusMismatchError(
            f"The training text {source} is not the one of the manifest "
            f"(SHA-256 {corpus_digest(data).hex()[:16]}..., expected {digest.hex()[:16]}...).",
            "Copy the organiser's text to this path.",
        )
    return data


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


def _bounded(paths: list[Path], max_bytes: int, source: Path) -> bytes:
    """Reads and joins; refuses before it would hold more than `max_bytes`."""
    parts: list[bytes] = []
    left = max_bytes
    for path in paths:
        with path.open("rb") as file:
            part = file.read(left + 1)
        left -= len(part) + 1
        if left < -1:
            raise CorpusError(f"The training text {source} exceeds {max_bytes} bytes.", "Use a part of it.")
        parts.append(part)
    data = b"\n".join(parts)
    if not data:
        raise CorpusError(f"The training text {source} is empty.", "Give a text file or a folder of them.")
    return data
