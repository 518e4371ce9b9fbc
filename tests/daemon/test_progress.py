"""What a person sees while a node joins: a line when there is news, a bar in a terminal."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from atoll.daemon.cli import build_parser, progress
from atoll.daemon.cli.progress import SILENCE_S, Bar, Lines, Look, Waiting, spinner, steps
from atoll.daemon.status import State

CONNECTING = Look(State.CONNECTING, "Connecting: nobody has answered yet.")
TRAINING = Look(State.TRAINING, "Training: inner step 1 of 5.")


def fetching(here: int, total: int = 1000) -> Look:
    return Look(State.FETCHING, f"Fetching: {here} of {total}.", (here, total))


def test_a_line_is_due_when_there_is_news_and_when_there_was_silence() -> None:
    lines = Lines()
    assert lines.due(0.0, CONNECTING) and not lines.due(1.0, CONNECTING)
    assert not lines.due(SILENCE_S - 0.1, CONNECTING) and lines.due(SILENCE_S, CONNECTING)
    said = [here for here in range(0, 1001, 10) if lines.due(SILENCE_S + 1, fetching(here))]
    assert said == list(range(0, 1001, 100)), "each tenth of a download"
    assert fetching(0, 0).percent is None and CONNECTING.percent is None


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "atoll")
    return caplog


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_S", 0.0)


async def test_a_node_is_followed_until_it_takes_part(said: pytest.LogCaptureFixture, no_pause: None) -> None:
    looks: Iterator[Look | None] = iter(
        [None, CONNECTING, fetching(0), fetching(50), fetching(500), TRAINING]
    )
    await Waiting(lambda: next(looks), in_terminal=False).follow()
    assert next(looks, "none left") == "none left"
    assert [record.message for record in said.records] == [
        CONNECTING.sentence,
        fetching(0).sentence,
        fetching(500).sentence,
    ]
    assert said.records[0].event == {"kind": "progress"}  # type: ignore[attr-defined]


async def test_a_question_to_the_person_stands_alone(said: pytest.LogCaptureFixture, no_pause: None) -> None:
    waiting = Waiting(lambda: looks.pop(0), in_terminal=False)
    looks = [CONNECTING, TRAINING]
    waiting.pause()
    await waiting.follow()
    assert said.records == []


class Terminal(io.StringIO):
    """A terminal that remembers what was written."""

    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal as stderr, for the rest of a test."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    return found


def test_the_bar_shows_the_sentence_and_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, bar = terminal_of(monkeypatch), Bar()
    for look in (CONNECTING, fetching(200_000, 1_000_000), fetching(5, 10)):
        bar.show(look)
    bar.clear()
    bar.clear()
    drawn = terminal.getvalue()
    assert "nobody has answered yet" in drawn and "5/10 bytes" in drawn
    assert sys.stderr is terminal, "the bar gives stderr back"


def test_a_log_line_does_not_break_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    from atoll.daemon.logs import _Stderr

    terminal, bar, handler = terminal_of(monkeypatch), Bar(), _Stderr()
    bar.show(CONNECTING)
    handler.handle(logging.LogRecord("atoll", logging.INFO, "", 0, "a line of the log", (), None))
    assert sys.stderr is not terminal  # what is written goes above the bar
    bar.clear()
    assert "a line of the log" in terminal.getvalue()


def test_steps_and_spinners_show_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with steps("Cutting [bold]") as told:
        told(512, 1024)
    with spinner("Waiting"):
        pass
    assert "Cutting [bold]" in terminal.getvalue()
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    with steps("Cutting") as told, spinner("Waiting"):
        told(512, 1024)
    assert plain.getvalue() == ""


@pytest.mark.parametrize(
    "name",
    ["status", "peers", "rounds", "events", "top", "replay", "plot", "support-bundle", "ticket", "shards"],
)
def test_every_command_that_reads_speaks_json(name: str) -> None:
    assert build_parser().parse_args([name, "--json"]).json
