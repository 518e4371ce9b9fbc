"""What the reading commands print, without a daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atoll.daemon.cli import main, observe
from atoll.daemon.events import Events
from atoll.daemon.history import History
from atoll.daemon.storage.data_dir import DataDir
from atoll.peers.identity import readable_name
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round.types import SessionReport
from atoll.protocol.signing import peer_id_of, peer_text


def test_events_that_come_live_are_the_lines_of_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = DataDir(tmp_path)
    log = Events(folder.events, lambda: 1.0)
    log.emit("round", "Round 1.", record={"round": {"version": 1}}, more=1)

    class Node:
        def events(self, since: int) -> Iterator[dict[str, Any]]:
            log.emit("round", "Round 2.", record={"round": {"version": 2}}, more=2)
            log.emit("stop", "It ends.")
            yield {"kind": "reset", "sequence": since}
            yield from log.since(since)[0]
            yield {"sequence": 9, "time": 2.0, "kind": "lost", "text": "The disk refused it."}

    monkeypatch.setattr(observe, "client_of", lambda folder: Node())
    assert main(["events", "--follow", "--json", "--data-dir", str(tmp_path)]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = [json.loads(line) for line in folder.events.read_text().splitlines()]
    assert printed[:-1] == written and [e["round"]["version"] for e in printed[:2]] == [1, 2]
    assert printed[-1]["kind"] == "lost"


def test_rounds_name_who_was_up_but_is_not_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c = (_peer(letter) for letter in b"abc")
    history = History()
    report = SessionReport(
        pb.SessionId(leader=a), 7, "certified", "", planned=(a, b), followers=(c,), contributed=(a, b)
    )
    entry = history.ended(report, 1.0, 0, 0, None)
    Events(DataDir(tmp_path).events, lambda: 1.0).emit("round", "Round 7.", record={"round": entry})
    assert main(["rounds", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(f"not in it: {readable_name(c)}")
    entry["received"] = [peer_text(_peer(n)) for n in range(20)]
    assert observe._left_out(entry).endswith(" and 12 more")


def _peer(number: int) -> bytes:
    return peer_id_of(bytes([number]) * 32)
