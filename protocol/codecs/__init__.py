"""Codecs: how a chunk of pseudo-gradient becomes bytes and adds up again. The only torch in this room.

A codec's payload depends on nothing but the values, and decoding is exact fp32 arithmetic, so whoever
decodes a payload holds the same bits. Lengths are whole blocks; blocks never span tensors (schema.py pads).
"""

from atoll.protocol.codecs.base import Codec, CodecError, NonFinite, aggregate
from atoll.protocol.codecs.codebook import TwoBitCodec
from atoll.protocol.codecs.floats import BFloat16Codec, Float32Codec
from atoll.protocol.codecs.levels import E3M0Codec, Int4Codec, Int8Codec
from atoll.protocol.codecs.result import ResultCodec
from atoll.protocol.codecs.topk import TopKCodec
from atoll.protocol.manifest import MEAN

CODECS: dict[str, type[Codec]] = {
    codec.name: codec
    for codec in (
        Float32Codec,
        BFloat16Codec,
        Int8Codec,
        Int4Codec,
        E3M0Codec,
        TwoBitCodec,
        TopKCodec,
    )
}


def result_codec(contributions: str, results: str, merge: str = "") -> ResultCodec:
    """How results are encoded where the manifest names these two codecs; `contributions` may be "auto".

    `merge`: the manifest's. What is not the mean, only the owner of a chunk makes: then no result is the
    contributions themselves.
    """
    contribution = CODECS.get(contributions) if merge in ("", MEAN) else None
    return ResultCodec(CODECS[results](), contribution() if contribution else None)


__all__ = [
    "CODECS",
    "BFloat16Codec",
    "Codec",
    "CodecError",
    "E3M0Codec",
    "Float32Codec",
    "Int4Codec",
    "Int8Codec",
    "NonFinite",
    "ResultCodec",
    "TopKCodec",
    "TwoBitCodec",
    "aggregate",
    "result_codec",
]
