"""Codecs: how a chunk of pseudo-gradient becomes bytes and adds up again. The only torch in this room.

A codec's payload depends on nothing but the values, and decoding is exact fp32 arithmetic, so whoever
decodes a payload holds the same bits. Lengths are whole blocks of 256 values; blocks never span tensors
(schema.py pads them).
"""

from atoll.protocol.codecs.base import Codec, CodecError, NonFinite, aggregate
from atoll.protocol.codecs.float32 import Float32Codec
from atoll.protocol.codecs.int8 import Int8Codec

CODECS: dict[str, type[Codec]] = {codec.name: codec for codec in (Float32Codec, Int8Codec)}

__all__ = ["CODECS", "Codec", "CodecError", "Float32Codec", "Int8Codec", "NonFinite", "aggregate"]
