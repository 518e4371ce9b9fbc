"""Writing safetensors files whose bytes follow from their content: same tensors, same file.

The library's own writer puts the metadata in an order that changes from run to run; two nodes that export
the same version should be able to compare files. Format: u64 little-endian header length, JSON header padded
with spaces to 8 bytes, then the tensors one after the other (safetensors format, Hugging Face).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np

from atoll.protocol.outer import Float32


def write_tensors(
    file: BinaryIO, metadata: Mapping[str, str], tensors: Sequence[tuple[str, Float32]]
) -> None:
    """Writes named fp32 tensors of any shape, in the given order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors:
        end = offset + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for _, tensor in tensors:
        file.write(np.ascontiguousarray(tensor, dtype="<f4").data.cast("B"))
