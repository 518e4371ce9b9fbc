"""How many inner steps: for a new swarm, and by what a running node sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atoll.daemon.choosing import for_new_swarm, for_running, measured_step_s
from atoll.daemon.errors import AtollError
from atoll.daemon.genesis import NewSwarm
from atoll.protocol.manifest import SwarmManifest

from .swarm import keyring, make_manifest

LINE = (20e6, 20e6)


def test_slow_lines_and_fast_machines_have_longer_rounds() -> None:
    slow, _ = for_new_swarm(NewSwarm("lab"), 8, (2e6, 2e6), 0.05)
    fast, chosen = for_new_swarm(NewSwarm("lab"), 8, (200e6, 200e6), 0.05)
    assert slow.inner_steps is not None and fast.inner_steps is not None
    assert slow.inner_steps > 4 * fast.inner_steps
    assert str(chosen.number) in chosen.sentence
    patient, _ = for_new_swarm(NewSwarm("lab"), 8, (2e6, 2e6), 5.0)
    assert patient.inner_steps == 30


def test_what_a_mode_hides_is_no_reason_for_longer_rounds() -> None:
    found = [
        for_new_swarm(NewSwarm("lab", model="11m", mode=mode), 8, (50e6, 50e6), 0.3)[0].inner_steps
        for mode in ("diloco", "streaming", "eager")
    ]
    assert found[0] > found[1] > found[2]  # type: ignore[operator]
    assert found[1] is not None and found[1] % 3 == 0, "its fragments share them"


def test_a_step_is_measured_unless_it_is_given(tmp_path: Path) -> None:
    assert 0 < measured_step_s(NewSwarm("lab", batch=1)) < 60
    with pytest.raises(AtollError, match="measured by its script"):
        measured_step_s(NewSwarm("lab", genesis=tmp_path / "own.safetensors"))


def rounds(*durations: float, outcome: str = "certified") -> list[dict[str, Any]]:
    return [{"outcome": outcome, "duration_s": seconds} for seconds in durations]


@pytest.fixture(scope="module")
def manifest() -> SwarmManifest:
    return make_manifest(keyring(0), 2)


def test_a_running_node_says_what_averaging_costs_it(manifest: SwarmManifest) -> None:
    steps = int(manifest.body.inner.steps)
    said = for_running(manifest, rounds(30.0, 10.0, 10.0, 11.0), 1.0)
    takes = 10.5
    assert said.startswith(f"Averaging takes {takes} s and stops this node for {takes / (takes + steps):.0%}")
    assert "105 inner steps" in said and said.endswith(f"It has {steps}.")


def test_it_says_nothing_before_it_knows(manifest: SwarmManifest) -> None:
    assert for_running(manifest, rounds(10.0, 10.0), 1.0) == ""
    assert for_running(manifest, rounds(10.0, 10.0, 10.0), None) == ""
    assert for_running(manifest, rounds(*[10.0] * 5, outcome="aborted"), 1.0) == ""
