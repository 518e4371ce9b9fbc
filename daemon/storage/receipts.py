"""Receipts of what a swarm accepted of this node: a file each, named by version and digest.

Written when a commit is decided, and again when more votes for it come. Of more than KEEP_BYTES the oldest
versions go; what they add up to stays in the token account.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from atoll.daemon.errors import AtollError
from atoll.daemon.storage import files
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import receipt as receipts
from atoll.protocol.receipt import Receipt, ReceiptError

KEEP_BYTES = 64 << 20
SUFFIX = ".receipt"


class Receipts:
    """Of one node. `me`: its peer id."""

    def __init__(self, folder: Path, me: bytes) -> None:
        self._folder = folder
        self._me = me
        self._sizes: dict[Path, int] = {}
        """Of the files that are here, once one was written."""

    def keep(self, record: pb.RoundRecord, voters: tuple[bytes, ...]) -> Receipt | None:
        """Keeps the receipt in a commit that was decided; None: it accepts nothing of this node.

        Blocking. Raises AtollError where it can't be written.
        """
        data = receipts.make(record, voters)
        try:
            found = receipts.check(data, self._me)
        except ReceiptError:
            return None
        path = self._folder / f"{found.version:012d}-{found.digest.hex()[:16]}{SUFFIX}"
        if path.exists():
            known = self._read(path)
            if known is not None and known.votes >= found.votes:
                return known
        try:
            self._folder.mkdir(exist_ok=True)
            files.write_bytes(path, data)
            self._make_room(path)
        except OSError as error:
            raise files.disk_error(self._folder, error) from error
        return found

    def all(self) -> Iterator[tuple[Path, Receipt | None]]:
        """All that are here, by version; None: damaged, or of another node."""
        for path in self._paths():
            yield path, self._read(path)

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{SUFFIX}")) if self._folder.is_dir() else []

    def _read(self, path: Path) -> Receipt | None:
        try:
            return receipts.check(read(path), self._me)
        except (ReceiptError, AtollError):
            return None

    def _make_room(self, written: Path) -> None:
        """The oldest go; never the one that was just written."""
        if not self._sizes:
            self._sizes = {path: path.stat().st_size for path in self._paths()}
        self._sizes[written] = written.stat().st_size
        for path in sorted(self._sizes):
            if sum(self._sizes.values()) <= KEEP_BYTES:
                return
            if path != written:
                path.unlink(missing_ok=True)
                del self._sizes[path]


def read(path: Path) -> bytes:
    """The bytes of a receipt. Raises AtollError, and ReceiptError where it is too long for one."""
    try:
        if path.stat().st_size > receipts.MAX_BYTES:
            raise ReceiptError("it is too long")
        return path.read_bytes()
    except OSError as error:
        raise files.disk_error(path, error, "read") from error
