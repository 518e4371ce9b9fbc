"""What audits need on disk: records of this node's own chunks, and proofs of others' lies.

`<version>.<chunk>`, records of chunks that this node owned, of the last KEEP commits; `proof.…`, of others',
where they lied.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atoll.daemon.storage import files
from atoll.peers.files import ServedFile
from atoll.protocol import audit
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round.types import Part

KEEP = 2
"""Commits whose records can be asked for."""


class AuditLog:
    """Files of one folder. Blocking."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, version: int, chunk: int, parts: Sequence[Part]) -> None:
        """Writes what came for a chunk; `seal` completes it. Raises OSError."""
        self._folder.mkdir(exist_ok=True)
        with self._part(version, chunk).open("wb") as file:
            for part in parts:
                file.write(part.payload)

    def seal(self, version: int, chunk: int, record: pb.AuditRecord) -> None:
        """Adds what says whose it is, and what was made of it. Raises OSError."""
        part = self._part(version, chunk)
        with part.open("ab") as file:
            file.write(audit.tail(record))
        part.replace(self.path("audit", version, chunk))

    def _part(self, version: int, chunk: int) -> Path:
        return self._folder / f"{version}.{chunk}.part"

    def path(self, kind: str, version: int, chunk: int) -> Path:
        return self._folder / f"{'proof.' if kind == 'proof' else ''}{version}.{chunk}"

    def tidy(self, version: int) -> None:
        """Removes what is older than the last commits, proofs included."""
        for path in self._folder.glob("*"):
            number = path.name.removeprefix("proof.").split(".", 1)[0]
            if not number.isdigit() or int(number) <= version - KEEP:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes what another process left: nobody can ask for it any more. Raises AtollError."""
        for path in self._folder.glob("*"):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise files.disk_error(path, error) from error

    def served(self, kind: str, version: int, chunk: int) -> ServedFile | None:
        """A record, or a proof, for a peer."""
        path = self.path(kind, version, chunk)
        return ServedFile(path, version) if path.is_file() else None
