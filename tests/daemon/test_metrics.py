"""What Prometheus reads of a node: a line for each rule that is set up, and no peer's id."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from atoll.daemon.metrics import metrics_of
from atoll.protocol.standing import Standings
from tests.web.fake_node import PEER_IDS, make_state


def test_a_rule_is_one_while_it_pauses_the_node() -> None:
    node: Any = SimpleNamespace(
        driver=None,
        network=None,
        members=None,
        amending=None,
        standings=SimpleNamespace(standings=Standings()),
        neighbours=None,
        loop_lag_s=0.0,
        round_lag_p99_s=None,
        history=SimpleNamespace(outcomes=Counter(certified=3)),
    )
    state = make_state(41)
    by_code = {rule["code"]: rule for rule in state["controls"]["rules"]}
    by_code["battery"].update(active=True)
    by_code["schedule"].update(watched=True, active=True, overridden=True)
    by_code["other_load"].update(watched=True)
    state["paused"] = True
    lines = metrics_of(node, state).splitlines()
    assert [line for line in lines if line.startswith("atoll_rules{")] == [
        'atoll_rules{rule="schedule"} 0.0',
        'atoll_rules{rule="battery"} 1.0',
        'atoll_rules{rule="other_load"} 0.0',
    ]
    assert "atoll_paused 1.0" in lines and 'atoll_sessions_total{outcome="certified"} 3.0' in lines
    assert not any(id in line for line in lines for id in PEER_IDS)
