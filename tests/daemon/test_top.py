"""`atoll top` shows the page's facts as plain text, whatever peers call themselves."""

from __future__ import annotations

import random
from typing import Any

from atoll.daemon.cli.top import bar, lines
from atoll.web_ui.rounds import with_ids
from tests.web.fake_node import FakeNode


def state(**changes: Any) -> dict[str, Any]:
    node = FakeNode()
    rounds = [with_ids(entry, node.ids) for entry in node.reports]
    return {**node.state(), "rounds": rounds, **changes}


def test_it_says_what_the_page_says() -> None:
    facts = state()
    text = "\n".join(lines(facts, 200))
    assert facts["sentence"] in text and facts["swarm_name"] in text and f"version {facts['version']}" in text
    for peer in facts["peers"]:
        assert peer["name"] in text
    last = facts["rounds"][-1]
    assert f"{len(last['contributed'])}/{len(last['planned'])} nodes" in text
    assert f"{facts['accepted_tokens']:,} tokens accepted" in text


def test_each_node_has_a_row_of_cells() -> None:
    facts = state()
    rows = lines(facts, 200)
    peer = facts["peers"][0]
    row = next(line for line in rows if line.startswith(peer["name"]) and "█" in line)
    cells = row[19:]
    recent = facts["rounds"][-48:]
    assert len(cells) <= len(recent)
    ours = [r for r in recent if peer["id"] in r["contributed"] and r["outcome"] == "certified"]
    assert cells.count("█") == len(ours)


def test_alerts_are_on_top_and_nothing_is_wider_than_the_terminal() -> None:
    alert = {
        "code": "no_round",
        "since": 0.0,
        "text": "No commit for 5 rounds.",
        "fix": "See `atoll rounds`.",
    }
    found = lines(state(alerts=[alert]), 60)
    assert found[1].startswith("! No commit for 5 rounds.") and max(map(len, found)) <= 60


def test_names_that_peers_chose_can_not_move_the_cursor() -> None:
    facts = state()
    facts["peers"][1]["label"] = "\x1b[2J\x07evil\nname\u202e"
    text = "".join(lines(facts, 120))
    assert not any(c in text for c in "\x1b\x07\u202e\n") and "evil" in text


def test_a_node_that_has_just_started() -> None:
    empty = state(
        rounds=[], peers=[], alerts=[], loss=None, val_loss=None, device="", swarm_accepted_tokens=0
    )
    assert any("none yet" in line for line in lines(empty, 100))


def test_heights_follow_the_values() -> None:
    assert bar([1, 2, 3]) == "▁▅█" or bar([1, 2, 3]) == "▁▄█"
    assert bar([5.0]) == "▁" and bar([2, 2]) == "▁▁"
    values = [random.Random(1).random() for _ in range(30)]
    assert len(bar(values)) == 30
