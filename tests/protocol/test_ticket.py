"""The ticket: there and back, and one clear sentence for everything else."""

from __future__ import annotations

import hashlib

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol.messages_pb2 import Ticket
from atoll.protocol.ticket import MAX_ADDRESSES, MAX_TEXT, PREFIX, TicketError, decode, encode

TICKET = Ticket(
    version=1,
    swarm_id=bytes(range(32)),
    organiser=bytes(32),
    addresses=["/ip4/192.0.2.1/tcp/31337/p2p/12D3KooWA"],
    swarm_name="lab",
)


def text_of(body: bytes) -> str:
    """A ticket with these bytes and a right checksum."""
    return PREFIX + base58.b58encode(body + hashlib.sha256(body).digest()[:4]).decode()


@given(
    st.binary(min_size=32, max_size=32),
    st.lists(st.text(st.characters(codec="ascii"), max_size=100), min_size=1, max_size=MAX_ADDRESSES),
    st.integers(0, 2**40),
)
def test_there_and_back(swarm_id: bytes, addresses: list[str], expires: int):
    ticket = Ticket(
        version=1, swarm_id=swarm_id, organiser=bytes(32), addresses=addresses, expires_unix_s=expires
    )
    text = encode(ticket)
    assert text.startswith(PREFIX) and text.isalnum(), "safe in a URL and selected by a double click"
    assert decode(f"  {text}\n", expires) == ticket


def test_an_expired_ticket_is_refused_only_by_those_who_say_the_time():
    expiring = Ticket()
    expiring.CopyFrom(TICKET)
    expiring.expires_unix_s = 100
    text = encode(expiring)
    assert decode(text) == decode(text, 100.0) == expiring
    with pytest.raises(TicketError, match="expired"):
        decode(text, 100.5)


def test_every_mistyped_character_is_noticed():
    text = encode(TICKET)
    for position in range(len(PREFIX), len(text)):
        other = "2" if text[position] == "1" else "1"
        with pytest.raises(TicketError, match="copy it again"):
            decode(text[:position] + other + text[position + 1 :])
    for size in range(len(PREFIX), len(text)):
        with pytest.raises(TicketError, match="copy it again"):
            decode(text[:size])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begins with atoll1"),
        ("hello", "begins with atoll1"),
        (PREFIX + "0OIl", "a character that no ticket has"),
        (PREFIX + "é", "a character that no ticket has"),
        (PREFIX + "1" * MAX_TEXT, "at most"),
        (text_of(b"\xff"), "not readable"),
        (text_of(Ticket(version=2).SerializeToString()), "version 2"),
    ],
)
def test_what_is_no_ticket_is_refused(text: str, reason: str):
    with pytest.raises(TicketError, match=reason):
        decode(text)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("version", 0, "version 0"),
        ("swarm_id", b"short", "names no swarm"),
        ("organiser", b"", "names no swarm"),
        ("addresses", ["/a"] * (MAX_ADDRESSES + 1), "more or longer"),
        ("addresses", ["/" * 257], "more or longer"),
        ("swarm_name", "\x1b[2J", "can't be shown"),
        ("label", "a\nb", "can't be shown"),
    ],
)
def test_a_ticket_that_breaks_a_rule_is_neither_made_nor_taken(field: str, value: object, reason: str):
    fields = {d.name: getattr(TICKET, d.name) for d, _ in TICKET.ListFields()} | {field: value}
    ticket = Ticket(**fields)
    with pytest.raises(TicketError, match=reason):
        encode(ticket)
    with pytest.raises(TicketError, match=reason):
        decode(text_of(ticket.SerializeToString()))


@given(st.text(max_size=60))
def test_any_text_is_a_ticket_or_an_error(text: str):
    with pytest.raises(TicketError):
        decode(PREFIX + text)
