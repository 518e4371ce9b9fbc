"""The static files of the page, read once into memory.

Nothing is opened while serving: a path that is no key of the table does not exist, so there is no traversal
to guard against and no disk in the event loop. The files are the package's own and carry no secret. A file
with a suffix that is not listed here is not served at all (licences and checksums stay on disk).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import Response

STATIC_FOLDER = Path(__file__).resolve().parent / "static"
# Our own table: the system's MIME registry is a setting of the machine, and `nosniff` makes a wrong type
# fatal.
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """One file: its bytes, its media type, and the entity tag by which a browser asks whether it changed."""

    body: bytes
    media_type: str
    etag: str

    def reply(self, request: Request) -> Response:
        # Browsers keep the file but ask each time, so that an upgraded node shows its own page at once.
        headers = {"ETag": self.etag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers, media_type=self.media_type)


def load_assets(folder: Path = STATIC_FOLDER) -> MappingProxyType[str, Asset]:
    """Return the servable files below `folder` by their path with forward slashes. Raises OSError."""
    assets = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in _MEDIA_TYPES:
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            assets[path.relative_to(folder).as_posix()] = Asset(body, _MEDIA_TYPES[path.suffix], etag)
    return MappingProxyType(assets)
