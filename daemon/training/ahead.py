"""A replica whose next phase begins before the commit (eager and delayed modes).

    end of a phase   snapshot += start − local     the pseudo-gradient, and what no commit has taken so far
                     local = start = the outer step from `committed` as if that were the mean   (eager)
                                     `committed` as it is                                        (delayed)
    a commit         snapshot = 0 where it holds this node's contribution; local stays

What a phase changed is measured against where it began, so nothing of it depends on commits that came
meanwhile. Costs one parameter-sized vector, `start`, beside the shared ones.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from atoll.daemon.training.errors import ConfigError, SharedMemoryError
from atoll.daemon.training.memory import SharedMemory
from atoll.daemon.training.rebase import Missed, Span, split
from atoll.daemon.training.replica import Replica
from atoll.protocol.modes.eager import DELAYED, EAGER, eager_start
from atoll.protocol.outer import Float32
from atoll.protocol.schema import ParameterSchema


class AheadReplica(Replica):
    """Local parameters against `start`; the snapshot is a pseudo-gradient."""

    def __init__(
        self, module: nn.Module, schema: ParameterSchema, memory: SharedMemory, mode: str, beta: float
    ) -> None:
        """`mode`: eager or delayed; `beta`: the outer momentum. Raises ConfigError, SharedMemoryError."""
        super().__init__(module, schema, memory, Missed.KEEP)
        if mode not in (EAGER, DELAYED):
            raise ConfigError(f"unknown way to start ahead: {mode!r}.")
        if memory.momentum is None:
            raise SharedMemoryError("The daemon shares no outer momentum.")
        self._momentum: Float32 = memory.momentum
        self._eager = mode == EAGER
        self._beta = beta
        self._start = np.zeros_like(memory.committed)
        self._fresh = np.empty(max(spec.size for spec in schema.tensors), dtype=np.float32)

    def load(self) -> None:
        super().load()
        np.copyto(self._start, self._memory.committed)
        self._memory.snapshot.fill(0)

    def take_snapshot(self) -> bool:
        """Adds what the phase changed to the snapshot, and goes on from the next start."""
        finite = True
        for spec, parameter in self._parameters:
            span, fresh = slice(spec.offset, spec.end), self._fresh[: spec.size]
            torch.from_numpy(fresh).copy_(parameter.detach().reshape(-1))
            start, snapshot = self._start[span], self._memory.snapshot[span]
            np.subtract(start, fresh, out=fresh)
            np.add(snapshot, fresh, out=snapshot)
            finite = finite and bool(np.isfinite(snapshot).all())
            self._begin(span, fresh, parameter)
        self.moved = False
        self.has_snapshot = finite
        return finite

    def _begin(self, span: slice, fresh: Float32, parameter: nn.Parameter) -> None:
        committed, start = self._memory.committed[span], self._start[span]
        if self._eager:
            eager_start(committed, self._momentum[span], fresh, self.outer_lr, self._beta, start)
        else:
            np.copyto(start, committed)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(start).view(parameter.shape))
            # What it rounds to, where the parameter is narrower, is no progress.
            torch.from_numpy(start).copy_(parameter.reshape(-1))

    def rebase(self, keep: Iterable[Span], due: Iterable[Span] = ()) -> None:
        """A commit took what was offered, except for the `keep` spans."""
        for start, stop, contributed in split(0, self._schema.total, keep):
            if contributed:
                self._memory.snapshot[start:stop] = 0
        self.is_outer = self.has_snapshot = False

    def miss(self) -> None:
        """A commit to which this node contributed nothing: the next one is offered what it carries."""
        self.is_outer = False
