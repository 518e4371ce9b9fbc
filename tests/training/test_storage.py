"""Shared memory and the inner optimizer's state on disk."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from atoll.daemon.training import memory as memory_module
from atoll.daemon.training.errors import SharedMemoryError, StateError
from atoll.daemon.training.memory import SharedMemory
from atoll.daemon.training.state import load_state, save_state


@pytest.mark.parametrize("platform", ["linux", "elsewhere"])
def test_both_sides_see_the_same_values(tmp_path, monkeypatch, platform):
    monkeypatch.setattr(memory_module.sys, "platform", platform)
    with SharedMemory.create(512, tmp_path) as ours:
        assert (ours.committed == 0).all() and (ours.snapshot == 0).all()
        with SharedMemory.open(ours.path, 512) as theirs:
            ours.committed[:] = np.arange(512)
            theirs.snapshot[3] = 7
            assert np.array_equal(theirs.committed, np.arange(512)) and ours.snapshot[3] == 7
            assert theirs.committed[3] == 3
        for total in (256, 1024):
            with pytest.raises(SharedMemoryError):
                SharedMemory.open(ours.path, total)
        if platform != "linux":
            assert (tmp_path / memory_module.FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.iterdir())
    with pytest.raises(SharedMemoryError):
        _ = ours.committed
    ours.close()


def test_nobody_can_shrink_it(tmp_path):
    with SharedMemory.create(256, tmp_path) as ours:
        fd = os.open(ours.path, os.O_RDWR)
        try:
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)


def test_a_view_outlives_close(tmp_path):
    ours = SharedMemory.create(256, tmp_path)
    view = ours.committed
    ours.close()
    view[0] = 1.0
    assert view[0] == 1.0


def test_impossible_memory(tmp_path):
    for total in (0, -1, 1 << 50):
        with pytest.raises(SharedMemoryError):
            SharedMemory.create(total, tmp_path)
    with pytest.raises(SharedMemoryError):
        SharedMemory.open(str(tmp_path / "gone"), 256)


def test_more_than_the_machine_has_is_refused_before_anything_is_reserved(tmp_path, monkeypatch):
    def reserve(fd, offset, size):
        raise AssertionError("must not be reached")

    monkeypatch.setattr(memory_module.os, "posix_fallocate", reserve)
    monkeypatch.setattr(memory_module, "available_bytes", lambda: memory_module.size_bytes(256) - 1)
    with pytest.raises(SharedMemoryError, match="Cannot allocate memory"):
        SharedMemory.create(256, tmp_path)


def test_available_memory_is_read_from_the_kernel(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    7 kB\n")
    assert memory_module.available_bytes(meminfo) == 7 * 1024
    meminfo.write_text("MemTotal: 9 kB\n")
    with pytest.raises(OSError, match="MemAvailable"):
        memory_module.available_bytes(meminfo)
    assert memory_module.available_bytes() > 0


def test_no_room_leaves_no_file(tmp_path, monkeypatch):
    def full(fd, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory_module.sys, "platform", "elsewhere")
    monkeypatch.setattr(memory_module.os, "posix_fallocate", full)
    with pytest.raises(SharedMemoryError, match="No space left"):
        SharedMemory.create(256, tmp_path)
    assert not list(tmp_path.iterdir())


def trained(kind, seed=0, **options):
    torch.manual_seed(seed)
    model = nn.Linear(5, 3)
    optimizer = kind(model.parameters(), **options)
    train(model, optimizer, 3)
    return model, optimizer


def train(model, optimizer, steps):
    for step in range(steps):
        optimizer.zero_grad()
        (model(torch.full((2, 5), step + 1.0)) ** 2).mean().backward()
        optimizer.step()


KINDS = [
    (torch.optim.AdamW, {"lr": 0.01, "betas": (0.8, 0.9), "fused": True}),
    (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
    (torch.optim.SGD, {"lr": 0.01}),
    (torch.optim.RMSprop, {"lr": 0.01, "centered": True}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_restored_optimizer_goes_on_bit_for_bit(tmp_path, kind, options):
    path = tmp_path / "new" / "inner.safetensors"
    model, optimizer = trained(kind, **options)
    save_state(optimizer, path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    other = nn.Linear(5, 3)
    other.load_state_dict(model.state_dict())
    fresh = kind(other.parameters(), **{**options, "lr": 0.5})
    load_state(fresh, path)
    assert fresh.param_groups[0]["lr"] == 0.01
    for m, o in ((model, optimizer), (other, fresh)):
        train(m, o, 2)
    assert torch.equal(model.weight, other.weight)
    assert type(fresh.param_groups[0].get("betas", ())) is tuple


def test_state_of_something_else_is_refused_and_leaves_the_optimizer_alone(tmp_path):
    path = tmp_path / "inner.safetensors"
    _, optimizer = trained(torch.optim.AdamW)
    save_state(optimizer, path)
    good = path.read_bytes()
    others = [
        torch.optim.SGD(nn.Linear(5, 3).parameters(), momentum=0.9),
        torch.optim.AdamW(nn.Linear(5, 4).parameters()),
        torch.optim.AdamW([{"params": [p]} for p in nn.Linear(5, 3).parameters()]),
    ]
    for other in others:
        with pytest.raises(StateError):
            load_state(other, path)
        assert not other.state
    mine = torch.optim.AdamW(nn.Linear(5, 3).parameters())
    for damaged in (b"", good[:40], good[:-3], b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(StateError):
            load_state(mine, path)
    with pytest.raises(StateError):
        load_state(mine, tmp_path / "gone")


@pytest.mark.parametrize(
    "about",
    [
        "no json",
        "[]",
        "{}",
        json.dumps({"version": 2}),
        json.dumps({"version": 1, "optimizer": "AdamW", "shapes": [[3, 5], [3]], "scalars": 1, "groups": []}),
        json.dumps(
            {"version": 1, "optimizer": "AdamW", "shapes": [[3, 5], [3]], "scalars": {}, "groups": []}
        ),
        json.dumps(
            {"version": 1, "optimizer": "AdamW", "shapes": [[3, 5], [3]], "scalars": {}, "groups": [1]}
        ),
        json.dumps(
            {
                "version": 1,
                "optimizer": "AdamW",
                "shapes": [[3, 5], [3]],
                "scalars": {"9.x": 1},
                "groups": [{}],
            }
        ),
    ],
)
def test_metadata_that_makes_no_sense(tmp_path, about):
    path = tmp_path / "inner.safetensors"
    save_file({}, path, metadata={"atoll.inner": about})
    with pytest.raises(StateError):
        load_state(torch.optim.AdamW(nn.Linear(5, 3).parameters()), path)


def test_what_cannot_be_saved_says_so(tmp_path):
    _, optimizer = trained(torch.optim.SGD, lr=0.01)
    optimizer.param_groups[0]["hook"] = object()
    with pytest.raises(StateError, match="hook"):
        save_state(optimizer, tmp_path / "x")
    _, optimizer = trained(torch.optim.AdamW)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError):
        save_state(optimizer, tmp_path / "file" / "x")
