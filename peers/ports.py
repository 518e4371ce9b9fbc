"""Whether a TCP port can be listened on by one process alone."""

from __future__ import annotations

import socket


def try_port(host: str, port: int) -> None:
    """Listens for a moment. `host`: an IP address. Raises OSError where that can't be."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as alone:
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind((host, port))
        # A listener that shares its port is found by listening only.
        alone.listen(1)
