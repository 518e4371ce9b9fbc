"""Tickets that end are told of in time, as long as somebody may still want to use them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atoll.daemon.alerts import Alerts, Circumstances
from atoll.daemon.cli import main
from atoll.daemon.events import Events
from atoll.daemon.ticket_book import LOOK_S, MAX_TICKETS, MadeTicket, TicketBook

from .private import private_swarm

HOUR = 3600
GRANT = bytes(range(32))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def book(folder: Path, clock: Clock, used: int = 0) -> TicketBook:
    return TicketBook(folder / "tickets.json", lambda grant: used if grant == GRANT else 0, clock)


def a_ticket(label: str = "anna", hours: float = 10, uses: int = 1) -> MadeTicket:
    return MadeTicket(label, 0, int(hours * HOUR), uses, GRANT.hex())


def test_a_ticket_is_told_of_in_the_last_tenth_of_its_time(tmp_path: Path) -> None:
    clock = Clock()
    kept = book(tmp_path, clock)
    kept.note(a_ticket())
    for hours, told in ((8.9, 0), (9.0, 1), (9.99, 1), (10.0, 0)):
        clock.now = hours * HOUR
        assert len(kept.ending()) == told, hours
    weeks = a_ticket("long", 1000)
    assert weeks.warn_at_s == (1000 - 24) * HOUR, "at most a day before"


def test_one_that_is_used_up_or_never_ends_is_not(tmp_path: Path) -> None:
    clock = Clock()
    kept = book(tmp_path, clock, used=1)
    for ticket in (a_ticket(), a_ticket("never", 0), a_ticket("two", uses=2), a_ticket("any", uses=0)):
        kept.note(ticket)
    clock.now = 9.5 * HOUR
    assert [ticket.label for ticket in kept.ending()] == ["two", "any"]


def test_what_has_ended_is_forgotten_and_there_are_never_too_many(tmp_path: Path) -> None:
    clock = Clock()
    kept = book(tmp_path, clock)
    kept.note(a_ticket("old", 1))
    clock.now = 2.0 * HOUR
    for k in range(MAX_TICKETS + 3):
        kept.note(a_ticket(str(k)))
    labels = [each["label"] for each in json.loads((tmp_path / "tickets.json").read_text())]
    assert len(labels) == MAX_TICKETS and labels[-1] == str(MAX_TICKETS + 2)


@pytest.mark.parametrize("text", ["", "{}", "[1, {}]", '[{"label": 1}]', "[" * 50])
def test_whatever_stands_in_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "tickets.json").write_text(text)
    clock = Clock()
    kept = book(tmp_path, clock)
    assert kept.ending() == []
    clock.now = LOOK_S
    bad = MadeTicket("bad", 0, 20, 1, "no hex")
    (tmp_path / "tickets.json").write_text(json.dumps([bad.__dict__]))
    assert kept.ending() == []


def test_the_alert_names_the_next_one(tmp_path: Path) -> None:
    alerts = Alerts(Events(tmp_path / "events.jsonl", lambda: 0.0))
    ending = [a_ticket("bob", 11), a_ticket("anna", 10), a_ticket("", 12)]
    alerts.check(Circumstances(tickets=ending, now_s=9.5 * HOUR))
    (alert,) = alerts.all()
    assert alert["code"] == "ticket_expires" and "atoll ticket" in alert["fix"]
    assert alert["text"] == "The ticket for anna ends in 30m 00s and is not used up, 2 more soon after."
    alerts.check(Circumstances(tickets=[a_ticket("", uses=0)], now_s=9.5 * HOUR))
    assert alerts.all()[0]["text"] == "A ticket without a label ends in 30m 00s for whoever has it."
    alerts.check(Circumstances())
    assert alerts.all() == []


def test_a_ticket_that_is_made_is_noted_without_its_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = private_swarm(tmp_path / "a")
    assert main(["ticket", "--expires", "1h", "--label", "anna", "--data-dir", str(folder.root)]) == 0
    assert main(["ticket", "--data-dir", str(folder.root)]) == 0, "this one never ends"
    (noted,) = json.loads(folder.tickets.read_text())
    assert (noted["label"], noted["uses"], len(noted["grant"])) == ("anna", 1, 64)
    assert noted["expires_s"] - noted["made_s"] in (3599, 3600)
