"""The ticket: one URL-safe string with all that a newcomer needs to find a swarm and to know it again.

`atoll1` + base58 of (protobuf ‖ first 4 bytes of its SHA-256). The checksum turns a mistyped or cut ticket
into a clear error instead of an endless search. What makes a stranger's manifest trustworthy is the swarm
id inside (manifest.py), so the ticket itself needs no signature while admission is open; capability and
delegation are reserved for the modes that do.
"""

from __future__ import annotations

import hashlib

import base58
from google.protobuf.message import DecodeError

from atoll.protocol.messages_pb2 import Ticket

PREFIX = "atoll1"
MAX_TEXT = 4096
MAX_ADDRESSES = 16
MAX_ADDRESS_BYTES = 256


class TicketError(ValueError):
    """The ticket can't be used; the message says why, and what to ask the organiser for."""


def encode(ticket: Ticket) -> str:
    """Text of a ticket; version and limits are checked as in `decode`. Raises TicketError."""
    _check(ticket)
    body = ticket.SerializeToString(deterministic=True)
    checked = body + hashlib.sha256(body).digest()[:4]
    return PREFIX + str(base58.b58encode(checked), "ascii")


def decode(text: str, now_unix_s: float | None = None) -> Ticket:
    """Ticket in `text`; with `now_unix_s`, an expired one is refused. Raises TicketError."""
    text = text.strip()
    if not text.startswith(PREFIX):
        raise TicketError(f"a ticket begins with {PREFIX}; this text does not")
    if len(text) > MAX_TEXT:
        raise TicketError(f"a ticket has at most {MAX_TEXT} characters, this text {len(text)}")
    try:
        data = base58.b58decode(text[len(PREFIX) :])
    except ValueError as error:
        raise TicketError("the ticket has a character that no ticket has: copy it again, whole") from error
    body, check = data[:-4], data[-4:]
    if hashlib.sha256(body).digest()[:4] != check:
        raise TicketError("the ticket is incomplete or mistyped: copy it again, whole")
    try:
        ticket = Ticket.FromString(body)
    except DecodeError as error:
        raise TicketError("the ticket is not readable: ask for a new one") from error
    _check(ticket)
    if now_unix_s is not None and ticket.expires_unix_s and ticket.expires_unix_s < now_unix_s:
        raise TicketError("the ticket has expired: ask the organiser for a new one")
    return ticket


def _check(ticket: Ticket) -> None:
    if ticket.version != 1:
        raise TicketError(f"the ticket is of version {ticket.version}, this software knows 1: upgrade atoll")
    if len(ticket.swarm_id) != 32 or len(ticket.organiser) != 32:
        raise TicketError("the ticket names no swarm")
    if not (ticket.swarm_name + ticket.label).isprintable():
        raise TicketError("the ticket has a name that can't be shown: ask for a new one")
    if len(ticket.addresses) > MAX_ADDRESSES or any(len(a) > MAX_ADDRESS_BYTES for a in ticket.addresses):
        raise TicketError("the ticket has more or longer addresses than a ticket may have")
