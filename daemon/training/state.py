"""The inner optimizer's state on disk: AdamW's moments survive a restart of the node.

A safetensors file: tensors `<parameter index>.<key>`, and under the metadata key `atoll.inner` a JSON
object with the scalars, the parameter groups' settings and each parameter's shape. Nothing is pickled.
Works for every torch optimizer whose state per parameter is tensors and plain scalars.

Written to a temporary name, fsynced and renamed, so a crash leaves the old file or the new one. A file
that is damaged or belongs to another model is a StateError; the caller then starts fresh and says so.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from atoll.daemon.training.errors import StateError

_KEY = "atoll.inner"
_VERSION = 1


def save_state(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Writes the state atomically. Raises StateError (unsupported kind of state, no space)."""
    raw = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, object] = {}
    for index, entry in raw["state"].items():
        for key, value in entry.items():
            name = f"{index}.{key}"
            if isinstance(value, torch.Tensor):
                tensors[name] = value.detach().cpu().contiguous()
            else:
                scalars[name] = _plain(name, value)
    groups = [
        {key: _plain(key, value) for key, value in group.items() if key != "params"}
        for group in raw["param_groups"]
    ]
    about = {
        "version": _VERSION,
        "optimizer": type(optimizer).__name__,
        "shapes": _shapes(optimizer),
        "scalars": scalars,
        "groups": groups,
    }
    _write(tensors, json.dumps(about), path)


def load_state(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Restores what `save_state` wrote into a fresh optimizer over the same parameters. Raises StateError.

    The optimizer is left untouched when it raises.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if about["version"] != _VERSION:
            raise StateError(f"{path} has version {about['version']}, this build reads {_VERSION}.")
        if about["optimizer"] != type(optimizer).__name__ or about["shapes"] != _shapes(optimizer):
            raise StateError(f"{path} belongs to another optimizer or model.")
        state = _gather({**about["scalars"], **tensors}, len(about["shapes"]))
        groups = _merge(optimizer, about["groups"])
    except (OSError, SafetensorError) as error:
        raise StateError(f"{path} can't be read: {error}.") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise StateError(f"{path} is damaged ({type(error).__name__}: {error}).") from error
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[int]]:
    """Shapes of all parameters in the order of their indices in a state dict."""
    return [list(p.shape) for group in optimizer.param_groups for p in group["params"]]


def _plain(name: str, value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    raise StateError(f"The optimizer keeps {name} as {type(value).__name__}, which can't be saved.")


def _gather(flat: dict[str, Any], count: int) -> dict[int, dict[str, Any]]:
    """`{"3.exp_avg": x}` to `{3: {"exp_avg": x}}`. Raises ValueError on an index without a parameter."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in flat.items():
        index, _, key = name.partition(".")
        if not key or not 0 <= int(index) < count:
            raise ValueError(f"entry {name!r}")
        state.setdefault(int(index), {})[key] = value
    return state


def _merge(optimizer: torch.optim.Optimizer, saved: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The optimizer's own groups with the saved settings; what it keeps as a tuple stays one."""
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    if len(groups) != len(saved):
        raise ValueError(f"{len(saved)} parameter groups, expected {len(groups)}")
    for group, settings in zip(groups, saved, strict=True):
        for key, value in settings.items():
            group[key] = tuple(value) if isinstance(group.get(key), tuple) else value
    return groups


def _write(tensors: dict[str, torch.Tensor], about: str, path: Path) -> None:
    """tmp, fsync, rename, fsync the folder."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata={_KEY: about})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, SafetensorError) as error:
        raise StateError(f"The inner optimizer state can't be written to {path}: {error}.") from error
