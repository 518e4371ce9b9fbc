"""Real daemons of which one lies: it is left out, is told so, and the others go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .harness import Daemon, must, totals, wait_until

pytestmark = pytest.mark.process

LIARS = {
    "updates": ("tests.process.lying_updates", "disagrees", "point elsewhere"),
    "results": ("tests.process.lying_results", "lied", "an audit proved"),
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("module", "reason", "words"), LIARS.values(), ids=LIARS.keys())
def test_a_liar_is_left_out_and_told(
    start: Callable[..., Daemon], tmp_path: Path, module: str, reason: str, words: str
) -> None:
    small = ("--inner-steps", "15", "--batch", "4", "--min-peers", "3")
    must("init", "lab", "--data-dir", str(tmp_path / "n0"), "--untrusted", *small)
    first = start("n0", "run")
    ticket = first.ticket()
    honest = [first, *(start(f"n{k}", "join", ticket, "--yes") for k in (1, 2))]
    liar = start("liar", "join", ticket, "--yes", module=module)
    told = liar.wait_for(lambda s: any(a["code"] == "quarantined" for a in s["alerts"]), "it is told")
    (alert,) = (a for a in told["alerts"] if a["code"] == "quarantined")
    assert words in alert["text"]

    def judged(node: Daemon) -> bool:
        peers = json.loads(must("peers", "--json", "--data-dir", str(node.folder)))
        left_out = {peer["id"]: peer["quarantine"] for peer in peers if peer["quarantine"]}
        assert not left_out or list(left_out) == [told["node_id"]], "nobody but the liar"
        return bool(left_out)

    for node in honest:
        node.wait_for(lambda _, node=node: judged(node), "the liar is left out")
        assert totals(node, "atoll_wrongs")[reason] > 0
    version = max(node.wait_for(lambda s: s["version"], "a version")["version"] for node in honest)
    settled = liar.wait_for_version(version + 1)["accepted_tokens"]
    ends = [node.wait_for_version(version + 3) for node in honest]
    assert all(end["certified"] for end in ends), "the others go on"
    assert liar.wait_for_version(version + 3)["accepted_tokens"] == settled, "it follows, with weight 0"


@pytest.mark.timeout(400)
def test_what_a_lying_leader_made_is_voted_down(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """It has as many with it as certify a commit; they vote against it, and the next one leads."""
    small = ("--inner-steps", "15", "--batch", "4", "--min-peers", "4")
    must("init", "lab", "--data-dir", str(tmp_path / "n0"), "--untrusted", *small)
    first = start("n0", "run")
    ticket = first.ticket()
    honest = [first, *(start(f"n{k}", "join", ticket, "--yes") for k in (1, 2))]
    start("liar", "join", ticket, "--yes", module="tests.process.lying_leader")
    for node in honest:
        node.wait_for_version(1)

    def rounds(node: Daemon) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(must("rounds", "--json", "--data-dir", str(node.folder)))
        return found

    def refused(node: Daemon) -> list[dict[str, Any]]:
        return [r for r in rounds(node) if "voters refuse its results" in r["reason"]]

    wait_until(lambda: sum(bool(refused(node)) for node in honest) >= 2, "a round is voted down")
    judges = [node for node in honest if refused(node)]
    (version,) = {refused(node)[0]["version"] for node in judges}
    for node in judges:
        assert refused(node)[0]["outcome"] == "aborted"
        assert totals(node, "atoll_wrongs")["voted_down"] > 0
        said = must("events", "--data-dir", str(node.folder))
        assert "votes against round" in said and "point against what this node learned" in said
    ends = [node.wait_for_version(version + 2) for node in honest]
    assert all(end["certified"] for end in ends), "the others go on"
    for node in honest:
        made = [r for r in rounds(node) if r["version"] == version and r["outcome"] == "certified"]
        assert made and made[0]["leader"] != refused(judges[0])[0]["leader"], "another one led it"
