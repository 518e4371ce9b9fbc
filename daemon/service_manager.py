"""Telling systemd how the node is (sd_notify(3)): started, what it does, alive, stopping. Elsewhere nothing.

The event loop sends the sign of life itself: one that hangs is started again by the unit's watchdog.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping

MAX_STATUS = 200
LEAST_PAUSE_S = 0.1

log = logging.getLogger(__name__)


class ServiceManager:
    """Of this process. `environment`: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID as systemd sets them."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # A name that begins with @ is in the abstract namespace.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        pid, micros = environment.get("WATCHDOG_PID", ""), environment.get("WATCHDOG_USEC", "")
        mine = pid in ("", str(os.getpid()))
        self.watchdog_s = int(micros) / 1e6 if self._address and mine and micros.isdecimal() else 0.0

    @property
    def is_there(self) -> bool:
        return bool(self._address)

    def tell(self, **facts: str) -> None:
        """Sends `READY=1` and the like; one that does not listen is not waited for."""
        if not self._address:
            return
        message = "\n".join(f"{name}={value.splitlines()[0]}" for name, value in facts.items() if value)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto(message.encode(), self._address)
        except OSError as error:
            log.debug("the service manager was not told: %s", error)

    async def keep(self, sentence: Callable[[], str]) -> None:
        """Says what the node does, and twice in a watchdog's time that it lives. Runs until cancelled."""
        if not self._address:
            return
        said = ""
        while True:
            now = sentence()[:MAX_STATUS]
            if now != said:
                self.tell(STATUS=now)
                said = now
            if self.watchdog_s:
                self.tell(WATCHDOG="1")
            await asyncio.sleep(max(LEAST_PAUSE_S, min(1.0, self.watchdog_s / 3 or 1.0)))
