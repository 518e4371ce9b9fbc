"""A sink that writes an offline run of Weights & Biases. Needs the `wandb` package, and contacts nobody.

The run lies in the folder as `wandb/offline-run-…`; its owner may send it later with `wandb sync`. Offline is
said in the settings and in the environment, where reports of wandb's own errors are turned off as well. It
notes nothing of this machine: no console, no code, no repository, no system figures.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from atoll.daemon.exporters.samples import Sample

# Read when the library is imported.
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_ERROR_REPORTING"] = "false"

import wandb


class WandB:
    """A run in `folder`, which is made. `name`: of the run; `facts`: its configuration. Raises OSError."""

    def __init__(self, folder: Path, name: str, facts: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            mode="offline",
            silent=True,
            console="off",
            disable_code=True,
            disable_git=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
        )
        self._run = wandb.init(
            project="atoll",
            name=name,
            dir=str(folder),
            config=facts,
            settings=settings,
            reinit="create_new",
        )
        # Validation losses come after the rounds that they are of, so the version is the axis, not the order.
        self._run.define_metric("version")
        self._run.define_metric("round/*", step_metric="version")
        self._run.define_metric("unix_s")
        self._run.define_metric("node/*", step_metric="unix_s")

    def write(self, sample: Sample) -> None:
        axis = {"unix_s": sample.time_s} if sample.version is None else {"version": sample.version}
        self._run.log({**sample.values, **axis})

    def flush(self) -> None:
        """Nothing: the library's own process writes as it comes."""

    def close(self) -> None:
        self._run.finish()
        wandb.teardown()  # ends that process
