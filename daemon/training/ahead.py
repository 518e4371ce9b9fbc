"""Replicas whose phases are measured against where they began, whatever is committed meanwhile.

    end of a phase   snapshot += start − local     the pseudo-gradient, and what no commit has taken so far
    a commit         snapshot = 0 where it holds this node's contribution

In the asynchronous mode the next phase begins at the commit that holds the last one. In the eager and delayed
modes it begins at once, before the commit:

                     local = start = the outer step from `committed` as if that were the mean   (eager)
                                     `committed` as it is                                        (delayed)

A commit may take two phases: what is trained after the first of them is one contribution with the second,
offered as soon as the commit is here. A start in between would be from the same committed parameters again.

Costs one parameter-sized vector, `start`, beside the shared ones.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from atoll.daemon.training.errors import ConfigError, SharedMemoryError
from atoll.daemon.training.flat import load_into
from atoll.daemon.training.memory import SharedMemory
from atoll.daemon.training.rebase import Missed, Span, split
from atoll.daemon.training.replica import Replica
from atoll.protocol.modes.braking import brake
from atoll.protocol.modes.eager import DELAYED, EAGER, eager_start
from atoll.protocol.outer import Float32
from atoll.protocol.schema import ParameterSchema


class DifferenceReplica(Replica):
    """Local parameters against `start`; the snapshot is a pseudo-gradient. A phase begins with a commit."""

    def __init__(
        self, module: nn.Module, schema: ParameterSchema, memory: SharedMemory, braking: float = 0.0
    ) -> None:
        """`braking`: of a phase during which others' commits came (modes/braking.py)."""
        super().__init__(module, schema, memory, Missed.KEEP)
        self._braking = braking if memory.momentum is not None else 0.0
        self._stale = False
        self._start = np.zeros_like(memory.committed)
        self._fresh = np.empty(max(spec.size for spec in schema.tensors), dtype=np.float32)

    def load(self) -> None:
        super().load()
        np.copyto(self._start, self._memory.committed)
        self._memory.snapshot.fill(0)
        self._stale = False

    def take_snapshot(self) -> bool:
        """Adds what the phase changed to the snapshot. False if a value of that is not finite."""
        finite = True
        for spec, parameter in self._parameters:
            span, fresh = slice(spec.offset, spec.end), self._fresh[: spec.size]
            torch.from_numpy(fresh).copy_(parameter.detach().reshape(-1))
            start, snapshot = self._start[span], self._memory.snapshot[span]
            np.subtract(start, fresh, out=fresh)
            if self._stale and self._braking and self._memory.momentum is not None:
                brake(fresh, self._memory.momentum[span], self._braking)
            np.add(snapshot, fresh, out=snapshot)
            finite = finite and bool(np.isfinite(snapshot).all())
            self._begin(span, fresh, parameter)
        self.moved = False
        self.has_snapshot = finite
        return finite

    def _begin(self, span: slice, fresh: Float32, parameter: nn.Parameter) -> None:
        """The start of what comes next, which is measured from here: `fresh` is in the snapshot."""
        with torch.no_grad():
            torch.from_numpy(self._start[span]).copy_(parameter.reshape(-1))

    def rebase(self, keep: Iterable[Span], due: Iterable[Span] = ()) -> None:
        """A commit took what was offered, except for the `keep` spans; the next phase begins from it."""
        self._taken(keep)
        load_into(self._module, self._schema, self._memory.committed)
        np.copyto(self._start, self._memory.committed)
        self.is_outer, self._stale = True, False

    def _taken(self, keep: Iterable[Span]) -> None:
        for start, stop, contributed in split(0, self._schema.total, keep):
            if contributed:
                self._memory.snapshot[start:stop] = 0
        self.is_outer = self.has_snapshot = False

    def miss(self) -> None:
        """A commit to which this node contributed nothing: the next one is offered what it carries."""
        self.is_outer, self._stale = False, True


class AheadReplica(DifferenceReplica):
    """One whose next phase begins before the commit."""

    def __init__(
        self, module: nn.Module, schema: ParameterSchema, memory: SharedMemory, mode: str, beta: float
    ) -> None:
        """`mode`: eager or delayed; `beta`: the outer momentum. Raises ConfigError, SharedMemoryError."""
        super().__init__(module, schema, memory)
        if mode not in (EAGER, DELAYED):
            raise ConfigError(f"unknown way to start ahead: {mode!r}.")
        if memory.momentum is None:
            raise SharedMemoryError("The daemon shares no outer momentum.")
        self._momentum: Float32 = memory.momentum
        self._eager = mode == EAGER
        self._beta = beta

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
        self._taken(keep)
