"""Which addresses a ticket carries, and for whom each is good. Pure.

A ticket outlives the moment, and whoever gets it can't ask back. So a public address is carried if others
have dialled it; one that nobody has tried yet is marked as such (the first node of a swarm has nobody to
try); one where others tried in vain is left out. Private addresses and those of this machine are carried for
what they are: a person sees their label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.peers import addresses as a
from atoll.protocol.ticket import MAX_ADDRESSES

UNTRIED = "public, but nobody has dialled it yet"
LABELS = {
    a.PUBLIC: "public",
    a.NAME: "by name",
    a.RELAY: "through a relay",
    a.LAN: "this network only",
    a.MACHINE: "this machine only",
}
_ORDER = (a.PUBLIC, a.NAME, a.RELAY, a.LAN, a.MACHINE)


@dataclass(frozen=True)
class Carried:
    """What a ticket gets. `untried`: of them, those that nobody has dialled; `left_out`: tried in vain."""

    addresses: tuple[str, ...]
    untried: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """Of each address, in their order."""
        return [label(address, address in self.untried) for address in self.addresses]

    @property
    def scopes(self) -> set[str]:
        return {a.scope(address) for address in self.addresses}


def label(address: str, untried: bool = False) -> str:
    """For whom an address is, in words."""
    scope = a.scope(address)
    return UNTRIED if untried and scope == a.PUBLIC else LABELS.get(scope, "of a kind that is not known here")


def carried(facts: Mapping[str, Any], bootstrap: Iterable[str]) -> Carried:
    """Of a node's kept facts (its addresses, and `reach`), and the manifest's bootstrap addresses."""
    reach = facts.get("reach")
    reach = reach if isinstance(reach, Mapping) else {}
    own = [x for x in _list(facts.get("addresses")) if isinstance(x, str)]
    proven, failed = set(reach.get("proven") or ()), set(_list(reach.get("failed")))
    me = own[0].rsplit("/p2p/", 1)[1] if own and "/p2p/" in own[0] else ""
    known = {a.bare(address) for address in own}
    # Behind a router a node does not see its own public address; whoever has dialled it there has.
    seen = [f"{address}/p2p/{me}" for address in proven if me and address not in known]
    relays = [x for x in _list(reach.get("relays")) if isinstance(x, str)]
    bad = [x for x in own if a.bare(x) in failed - proven and a.scope(x) == a.PUBLIC]
    good = [x for x in [*own, *seen, *relays] if x not in bad and a.scope(x) != a.OTHER]
    if any(a.scope(x) != a.MACHINE for x in good):
        good = [x for x in good if a.scope(x) != a.MACHINE]
    named = list(bootstrap)
    ordered = sorted(good, key=lambda x: (_ORDER.index(a.scope(x)), a.bare(x) not in proven))
    addresses = tuple(dict.fromkeys([*ordered, *named]))[:MAX_ADDRESSES]
    untried = {x for x in own if a.scope(x) == a.PUBLIC and a.bare(x) not in proven} - set(named)
    return Carried(addresses, tuple(x for x in addresses if x in untried), tuple(bad))


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def note(found: Carried, port: int) -> str:
    """What whoever makes a ticket should know of it, and the fix; empty where there is nothing to say."""
    wide = {a.PUBLIC, a.NAME, a.RELAY} & found.scopes
    failed = (
        f" Others tried {', '.join(found.left_out)} in vain, so it is left out." if found.left_out else ""
    )
    if not wide:
        where = "in this network" if a.LAN in found.scopes else "on this machine"
        return f"This ticket works {where} only.{failed} To be dialled from elsewhere: {open_port(port)}"
    if wide == {a.PUBLIC} and all(x in found.untried for x in found.addresses if a.scope(x) == a.PUBLIC):
        return f"Nobody has dialled {', '.join(found.untried)} yet: if it can't be, {open_port(port, False)}"
    return failed.strip()


def open_port(port: int, begins: bool = True) -> str:
    """The fix of a node that nobody can dial."""
    said = (
        f"forward TCP port {port or 'of this node'} on your router to this machine, open it in the firewall, "
        "and start with --announce /ip4/ADDRESS/tcp/PORT if that is not the address that others see."
    )
    return said[0].upper() + said[1:] if begins else said
