"""A module's parameters as one flat fp32 vector, and back.

What is averaged: parameters that require grad, in `named_parameters()` order, a shared (tied) one once
under its first name. Buffers (running statistics, tables) stay local. Works for modules on any device and
in any floating dtype: values are converted as they are copied, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.daemon.training.errors import SchemaMismatchError
from atoll.protocol.schema import BLOCK, ParameterSchema, SchemaError, TensorSpec


def trained_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Name and parameter of all that is averaged, in flat order."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def schema_of(module: nn.Module, block: int = BLOCK) -> ParameterSchema:
    """The layout of the module's parameters, each at a multiple of `block` values.

    Raises SchemaMismatchError if there is nothing to average.
    """
    parameters = trained_parameters(module)
    for name, parameter in parameters:
        if not parameter.is_floating_point():
            raise SchemaMismatchError(f"Parameter {name} is {parameter.dtype}; only real ones are averaged.")
    try:
        # A scalar parameter has the empty shape ().
        return ParameterSchema.of(((name, tuple(p.shape)) for name, p in parameters), block)
    except SchemaError as error:
        raise SchemaMismatchError(f"This model can't be trained in a swarm: {error}.") from error


def match(module: nn.Module, schema: ParameterSchema) -> list[tuple[TensorSpec, nn.Parameter]]:
    """Each tensor of the schema with its parameter. SchemaMismatchError names the first difference."""
    parameters = trained_parameters(module)
    for spec, (name, parameter) in zip(schema.tensors, parameters, strict=False):
        if (spec.name, spec.shape) != (name, tuple(parameter.shape)):
            raise SchemaMismatchError(
                f"This model has {name} {tuple(parameter.shape)}, the swarm {spec.name} {spec.shape}.",
                "Build the same model as the organiser.",
            )
    if len(parameters) != len(schema.tensors):
        raise SchemaMismatchError(
            f"This model has {len(parameters)} parameters to train, the swarm {len(schema.tensors)}.",
            "Build the same model as the organiser.",
        )
    return list(zip(schema.tensors, (p for _, p in parameters), strict=True))


def views(schema: ParameterSchema, flat: NDArray[np.float32]) -> Iterator[tuple[TensorSpec, Tensor]]:
    """Each tensor of the schema as a view (no copy) of `flat`, in its shape."""
    _check_length(schema, flat)
    for spec in schema.tensors:
        yield spec, torch.from_numpy(flat[spec.offset : spec.end]).view(spec.shape)


def load_into(module: nn.Module, schema: ParameterSchema, flat: NDArray[np.float32]) -> None:
    """Sets the module's parameters from `flat`, fp32 [schema.total]. Raises SchemaMismatchError."""
    with torch.no_grad():
        pairs = zip(match(module, schema), views(schema, flat), strict=True)
        for (_, parameter), (_, values) in pairs:
            parameter.copy_(values)


def store(module: nn.Module, schema: ParameterSchema, flat: NDArray[np.float32]) -> None:
    """Writes the module's parameters into `flat`; its padding is left as it is (zero)."""
    with torch.no_grad():
        pairs = zip(match(module, schema), views(schema, flat), strict=True)
        for (_, parameter), (_, values) in pairs:
            values.copy_(parameter)


def flatten(module: nn.Module, block: int = BLOCK) -> tuple[ParameterSchema, NDArray[np.float32]]:
    """The module's layout and its parameters, fp32 [total], padding zero. Raises SchemaMismatchError."""
    schema = schema_of(module, block)
    flat = np.zeros(schema.total, dtype=np.float32)
    store(module, schema, flat)
    return schema, flat


def _check_length(schema: ParameterSchema, flat: NDArray[np.float32]) -> None:
    if flat.shape != (schema.total,) or flat.dtype != np.float32:
        raise SchemaMismatchError(
            f"Expected {schema.total} fp32 values for this schema, got {flat.dtype} {flat.shape}."
        )
