"""The trainer's parameters beside the shared vectors: load, snapshot, rebase, look through the outer ones.

Owns no parameter-sized buffer (but one where missed commits are rebased): values go tensor by tensor between
the caller's module and the shared memory. Knows nothing of messages; `session` decides when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from atoll.daemon.training.flat import load_into, match, store, views
from atoll.daemon.training.memory import SharedMemory
from atoll.daemon.training.rebase import Missed, Span, rebase_
from atoll.protocol.schema import ParameterSchema


class Replica:
    """Local parameters (the module's) against `committed` and `snapshot`.

    `moved` tells that the parameters changed since the last snapshot, `is_outer` that they equal
    `committed`; the owner calls `touch` after each optimizer step.
    """

    def __init__(
        self,
        module: nn.Module,
        schema: ParameterSchema,
        memory: SharedMemory,
        missed: Missed,
        mix: float | None = None,
    ) -> None:
        self._module = module
        self._schema = schema
        self._memory = memory
        self._missed = missed
        self._mix = mix
        self._parameters = match(module, schema)
        self._anchor = np.zeros_like(memory.committed) if missed is Missed.REBASE else None
        """What was taken in last: when it is asked for, `committed` holds the next version already."""
        self.is_outer = False
        self.moved = False
        self.has_snapshot = False
        """A snapshot was taken that no commit has used yet."""
        self.outer_lr = 0.0
        """Of the next outer step, as far as it is known."""

    @property
    def device(self) -> str:
        return str(self._parameters[0][1].device)

    def touch(self) -> None:
        """The optimizer changed the local parameters."""
        self.moved = True
        self.is_outer = False

    def load(self) -> None:
        """local = committed; local progress and snapshot are void."""
        load_into(self._module, self._schema, self._memory.committed)
        self._taken_in(is_outer=True)

    def take_snapshot(self) -> bool:
        """snapshot = local. False if a value is not finite: such a snapshot must not be contributed."""
        store(self._module, self._schema, self._memory.snapshot)
        self.moved = False
        # Tensor by tensor: the answer for the whole vector at once would be another large buffer.
        values = (tensor for _, tensor in views(self._schema, self._memory.snapshot))
        self.has_snapshot = all(bool(torch.isfinite(tensor).all()) for tensor in values)
        return self.has_snapshot

    def rebase(self, keep: Iterable[Span], due: Iterable[Span] = ()) -> None:
        """Takes `committed` in after a commit, except for the `keep` spans, to which this node did not
        contribute. `due`: what the commit was about; empty: everything.
        """
        keep, due = tuple(keep), tuple(due)
        self._take_in(keep, due or None)
        whole = not due and (not keep or self._missed is Missed.RESET)
        self._taken_in(is_outer=whole and not self.moved)

    def miss(self) -> None:
        """A commit to which this node contributed nothing; where local moves, an older snapshot is void.

        What is to be reset is begun anew by the daemon; in the middle of a phase local stays.
        """
        self.is_outer = False
        if self._missed is Missed.REBASE:
            self._take_in(((0, self._schema.total),))
            self._taken_in(is_outer=False)

    def _take_in(self, keep: tuple[Span, ...], due: tuple[Span, ...] | None = None) -> None:
        before = self._memory.snapshot if self.moved else None
        with torch.no_grad():
            for (spec, parameter), (_, new) in zip(
                self._parameters, views(self._schema, self._memory.committed), strict=True
            ):
                old, anchor = (
                    None if vector is None else torch.from_numpy(vector[spec.offset : spec.end])
                    for vector in (before, self._anchor)
                )
                # A view where the layout allows it, else a copy that is written back.
                flat = parameter.detach().reshape(-1)
                rebase_(flat, new.view(-1), old, spec.offset, keep, self._missed, anchor, due, self._mix)
                if flat.data_ptr() != parameter.data_ptr():
                    parameter.copy_(flat.view(parameter.shape))

    def _taken_in(self, is_outer: bool) -> None:
        self.is_outer = is_outer
        self.has_snapshot = False
        if self._anchor is not None:
            np.copyto(self._anchor, self._memory.committed)

    @contextmanager
    def outer(self) -> Iterator[None]:
        """While it is open the module's parameters are `committed`; then the local ones are back.

        fp32 parameters on the CPU become views of the shared memory, without a copy; others need one on
        their device for as long as it is open. The module is in evaluation mode, without gradients.
        """
        training = self._module.training
        local: list[Tensor] = [parameter.data for _, parameter in self._parameters]
        try:
            if not self.is_outer:
                for (_, parameter), (_, new) in zip(
                    self._parameters, views(self._schema, self._memory.committed), strict=True
                ):
                    parameter.data = new.to(parameter.device, parameter.dtype)
            self._module.eval()
            with torch.no_grad():
                yield
        finally:
            for (_, parameter), data in zip(self._parameters, local, strict=True):
                parameter.data = data
            self._module.train(training)
