"""A sink that writes TensorBoard's event files, with PyTorch's own writer. Needs the `tensorboard` package.

Figures of a round have the version as their step, those of a moment the seconds since the sink was opened.
"""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from atoll.daemon.exporters.samples import Sample

QUEUED = 100
"""Of the writer's own queue, behind which it has one more thread."""


class TensorBoard:
    """Event files in `folder`, which is made. Raises OSError."""

    def __init__(self, folder: Path, started_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._started_s = started_s
        self._writer = SummaryWriter(str(folder), max_queue=QUEUED)

    def write(self, sample: Sample) -> None:
        step = sample.version
        if step is None:
            step = max(0, round(sample.time_s - self._started_s))
        for name, value in sample.values.items():
            self._writer.add_scalar(name, value, step, walltime=sample.time_s)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
