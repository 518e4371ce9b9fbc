"""What a multiaddr is good for: for whom it can be dialled, and whether it may be dialled on somebody's word.

Pure. An address that can't be read has the scope "other", and nobody dials it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

PUBLIC, LAN, MACHINE, RELAY, NAME, OTHER = "public", "lan", "machine", "relay", "name", "other"
"""Who can dial an address: anybody; nodes of the same network; of the same machine; anybody, through a third
node; anybody, by a name that somebody has to look up."""

_SHARED = ipaddress.ip_network("100.64.0.0/10")  # RFC 6598: behind a provider's NAT, and of some VPNs
_NAMES = ("dns", "dns4", "dns6", "dnsaddr")


def parts(address: str) -> tuple[str, str, int] | None:
    """(kind, host, TCP port) of /ip4/…/tcp/…, /ip6/… or /dns…; None for anything else."""
    words = address.split("/")
    if len(words) < 5 or words[0] or words[3] != "tcp" or words[1] not in ("ip4", "ip6", *_NAMES):
        return None
    if not (words[4].isascii() and words[4].isdecimal() and 0 < int(words[4]) < 65536):
        return None
    return words[1], words[2], int(words[4])


def quic(ip: str, port: int) -> str:
    """Multiaddr of a UDP port where libp2p speaks QUIC."""
    return f"/ip{6 if ':' in ip else 4}/{ip}/udp/{port}/quic-v1"


def quic_port(address: str) -> int:
    """The UDP port of such an address, by IP and without anything after it; 0 for anything else."""
    words = address.split("/")
    if len(words) != 6 or words[3] != "udp" or words[5] != "quic-v1" or ip_of(address) is None:
        return 0
    known = words[4].isascii() and words[4].isdecimal() and 0 < int(words[4]) < 65536
    return int(words[4]) if known else 0


def ip_of(address: str) -> IPAddress | None:
    """The IP address at its beginning; None where there is a name, or nothing that can be read."""
    words = address.split("/")
    if len(words) < 3 or words[0] or words[1] not in ("ip4", "ip6"):
        return None
    try:
        found = ipaddress.ip_address(words[2])
    except ValueError:
        return None
    return unmapped(found) if found.version == int(words[1][2]) else None


def unmapped(ip: IPAddress) -> IPAddress:
    """An IPv4 address that is written as an IPv6 one, as IPv4."""
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def scope(address: str) -> str:
    """Who can dial it."""
    if "/p2p-circuit" in address:
        return RELAY
    if address.split("/")[1:2] and address.split("/")[1] in _NAMES:
        return NAME
    ip = ip_of(address)
    if ip is None or ip.is_unspecified or ip.is_multicast:
        return OTHER
    if ip.is_loopback:
        return MACHINE
    if not ip.is_global or (ip.version == 4 and ip in _SHARED):
        return LAN
    return PUBLIC


def bare(address: str) -> str:
    """It without the peer id at its end; what runs through a relay stays as it is."""
    return address if "/p2p-circuit" in address else address.split("/p2p/")[0]


def direct(addresses: Iterable[str]) -> list[str]:
    """Those that lead to a node without a third one."""
    return [address for address in addresses if scope(address) != RELAY]


def tcp(ip: str, port: int) -> str:
    """Multiaddr of a TCP port."""
    return f"/ip{6 if ':' in ip else 4}/{ip}/tcp/{port}"
