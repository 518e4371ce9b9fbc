"""Which exporters the settings ask for, and what the node tells them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atoll.daemon.config import Settings
from atoll.daemon.exporters.exporter import Exporter, Sink
from atoll.daemon.exporters.samples import Sample, of_moment, of_round, of_validation

PACKAGES = ("tensorboard", "wandb")
"""Each is the name of a setting, of an extra, and of the package that it needs (extras.py)."""


class Exports:
    """All exporters of one node; without any, everything here does nothing."""

    def __init__(self, exporters: list[Exporter]) -> None:
        self._exporters = exporters
        self._measured: int | None = None

    def round(self, report: Mapping[str, Any]) -> None:
        """A round has ended."""
        self._offer(of_round(report))

    def measured(self, time_s: float, version: int, loss: float) -> None:
        """A version's validation loss is known; what was told before is not told again."""
        if version != self._measured:
            self._measured = version
            self._offer(of_validation(time_s, version, loss))

    def moment(self, time_s: float, figures: Mapping[str, float]) -> None:
        """The figures of a moment."""
        self._offer(of_moment(time_s, figures))

    def _offer(self, sample: Sample) -> None:
        for exporter in self._exporters:
            exporter.offer(sample)

    async def close(self) -> None:
        for exporter in self._exporters:
            await exporter.close()


def open_exports(settings: Settings, name: str, started_s: float, tell: Callable[[str], None]) -> Exports:
    """The exporters that the settings ask for. `name`: the node's; each writes into a folder of that name.

    `tell`: takes a sentence about one that fails.
    """
    folders = {
        package: Path(folder).expanduser() for package in PACKAGES if (folder := getattr(settings, package))
    }

    def tensorboard() -> Sink:
        from atoll.daemon.exporters.tensorboard import TensorBoard

        return TensorBoard(folders["tensorboard"] / name, started_s)

    def wandb() -> Sink:
        from atoll.daemon.exporters.wandb import WandB

        return WandB(folders["wandb"], name, {"node": name, "started_unix_s": started_s})

    makers: dict[str, tuple[str, Callable[[], Sink]]] = {
        "tensorboard": ("TensorBoard's folder", tensorboard),
        "wandb": ("The W&B run", wandb),
    }
    return Exports(
        [Exporter(title, make, tell) for package, (title, make) in makers.items() if package in folders]
    )
