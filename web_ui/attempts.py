"""How often somebody may show a wrong token or a wrong login key: a bucket of tries for each client.

A client is an address as its network sees it (an IPv6 one by its /64, which is one line). Whoever has used up
its tries is told to wait, and what it shows meanwhile is not looked at, so that guessing gets no faster by
insisting. Only wrong tries count, and only those of the same client: sessions are signed and never asked, and
one client cannot lock another out. Requests through a proxy share a bucket of their own, beside that of the
address that they come from, so those who come directly (`atoll status`) do not suffer for what comes through.

At most `MAX_CLIENTS` are remembered. When there are more, the one whose last try was longest ago is
forgotten, which at worst gives it its tries back. Nothing can fail.
"""

import ipaddress
import math
from collections.abc import Callable

TRIES = 10
"""Wrong ones, at once."""
SECONDS_PER_TRY = 6.0
"""After which one more is allowed."""
MAX_CLIENTS = 1024


class Attempts:
    """Wrong tries of all clients of one listener. `clock`: seconds that only grow."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._used: dict[
            str, tuple[float, float]
        ] = {}  # client -> tries used, and when that was; oldest first

    def wait_s(self, client: str) -> int:
        """Seconds until this client may try; 0: now."""
        over = self._used_now(client) - (TRIES - 1)
        return max(0, math.ceil(over * SECONDS_PER_TRY))

    def failed(self, client: str) -> None:
        """Counts a wrong try."""
        used = min(self._used_now(client) + 1, float(TRIES))
        self._used.pop(client, None)
        while len(self._used) >= MAX_CLIENTS:
            del self._used[next(iter(self._used))]
        self._used[client] = (used, self._clock())

    def _used_now(self, client: str) -> float:
        used, at = self._used.get(client, (0.0, 0.0))
        return max(0.0, used - (self._clock() - at) / SECONDS_PER_TRY)


def client_of(address: str, proxied: bool) -> str:
    """Who a request comes from. `address`: of the other end, empty where it is not known."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        line = address[:64]
    else:
        mapped = getattr(ip, "ipv4_mapped", None)
        if mapped is None and ip.version == 6:
            line = str(ipaddress.ip_network((ip, 64), strict=False))
        else:
            line = str(mapped or ip)
    return f"{line} by a proxy" if proxied else line


def is_here(address: str) -> bool:
    """Whether an address, of the other end of a connection, is of this machine."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return bool((getattr(ip, "ipv4_mapped", None) or ip).is_loopback)
