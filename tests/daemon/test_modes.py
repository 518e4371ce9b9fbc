"""Every mode makes a swarm that its own rules allow, with the numbers of its paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.daemon.errors import AtollError
from atoll.daemon.genesis import MODES, NewSwarm, make_swarm
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol import manifest as manifests


def made(folder: Path, **wanted: object) -> manifests.SwarmManifest:
    return make_swarm(DataDir(folder / "node"), NewSwarm("lab", **wanted), 1)  # type: ignore[arg-type]


def test_all_modes_can_be_made() -> None:
    assert set(MODES) == set(manifests.MODES)


@pytest.mark.parametrize(
    ("mode", "steps", "codec", "feedback", "momentum", "lr", "optimizer", "fragments"),
    [
        ("diloco", 100, "int8", 0.0, 0.9, 0.6, "adamw", 1),
        ("streaming", 102, "e3m0", 0.0, 0.9, 0.4, "adamw", 3),
        ("fedavg", 100, "int8", 0.0, 0.0, 1.0, "adamw", 1),
        ("photon", 128, "int8", 0.0, 0.0, 1.0, "adamw", 1),
        ("sparseloco", 30, "topk", 0.95, 0.0, 1.0, "adamw", 1),
        ("muloco", 30, "2bit", 0.9, 0.9, 0.8, "muon", 1),
        ("eager", 100, "int8", 0.0, 0.9, 0.4, "adamw", 1),
        ("delayed", 100, "int8", 0.0, 0.5, 0.4, "adamw", 1),
    ],
)
def test_a_mode_has_the_numbers_of_its_paper(
    tmp_path: Path,
    mode: str,
    steps: int,
    codec: str,
    feedback: float,
    momentum: float,
    lr: float,
    optimizer: str,
    fragments: int,
) -> None:
    manifest = made(tmp_path, mode=mode)

    body = manifest.body
    assert (body.inner.steps, body.rounds.codec, body.rounds.feedback) == (steps, codec, feedback)
    assert (body.outer.momentum, manifest.outer_lr(2), body.inner.optimizer) == (momentum, lr, optimizer)
    assert len(manifest.chunks.fragments) == fragments
    assert manifest.segment_steps * fragments == steps


@pytest.mark.parametrize("mode", ["eager", "delayed"])
def test_trainers_ahead_go_on_for_a_whole_phase_unless_told_otherwise(tmp_path: Path, mode: str) -> None:
    whole = made(tmp_path, mode=mode, inner_steps=20)
    assert (whole.ahead, whole.body.sync.overlap_steps, whole.body.outer.missed) == (mode, 20, "keep")
    part = made(tmp_path / "part", mode=mode, inner_steps=20, overlap=5)
    assert part.body.sync.overlap_steps == 5
    assert made(tmp_path / "other", mode="streaming").ahead is None
    for delay in (1, 2):
        late = made(tmp_path / f"late-{delay}", mode=mode, inner_steps=20, delay=delay)
        assert late.body.sync.overlap_steps == 20 * delay


def test_what_is_asked_for_stands_over_the_mode(tmp_path: Path) -> None:
    body = made(
        tmp_path,
        mode="streaming",
        fragments=2,
        overlap=0,
        mix=0.0,
        codec="int4",
        outer_lr=0.5,
        outer_momentum=0.8,
        optimizer="muon",
        inner_steps=20,
    ).body
    assert (body.rounds.codec, body.outer.momentum, list(body.outer.lr_by_contributors)) == (
        "int4",
        0.8,
        [0.5],
    )
    assert (body.sync.overlap_steps, body.sync.mix, body.inner.steps, body.inner.optimizer) == (
        0,
        0,
        20,
        "muon",
    )


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"mode": "gossip"}, "no mode"),
        ({"mode": "diloco", "overlap": 1}, "can't go on"),
        ({"mode": "diloco", "fragments": 2}, "can't have 2 fragments"),
        ({"mode": "streaming", "fragments": 99}, "can't make 99 fragments"),
        ({"mode": "streaming", "inner_steps": 10}, "share 10 inner steps"),
        ({"mode": "streaming", "missed": "rebase"}, "--missed"),
        ({"mode": "photon", "outer_momentum": 0.5}, "--outer-momentum"),
        ({"mode": "sparseloco", "codec": "int8"}, "codec"),
        ({"mode": "sparseloco", "feedback": 0.0}, "feedback"),
        ({"mode": "muloco", "optimizer": "adamw"}, "optimizer"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"mode": "eager", "missed": "reset"}, "--missed"),
        ({"mode": "eager", "overlap": 0}, "needs --overlap"),
        ({"mode": "delayed", "overlap": 201}, "--overlap is 201, more than 2 phases: at most 200"),
        ({"mode": "eager", "delay": 3}, "more than 2 phases"),
        ({"mode": "eager", "delay": 2, "overlap": 5}, "both say how long"),
        ({"mode": "streaming", "delay": 1}, "no outer steps of delay"),
        ({"mode": "eager", "fragments": 2}, "can't have 2 fragments"),
    ],
)
def test_other_combinations_do_not_exist_and_leave_nothing(
    tmp_path: Path, wanted: dict[str, object], reason: str
) -> None:
    with pytest.raises(AtollError, match=reason):
        made(tmp_path, **wanted)
    assert not (tmp_path / "node").exists()
