"""Packed payloads: what comes out is what went in, and nothing that a peer sends makes memory grow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from atoll.peers import packing
from atoll.protocol.codecs import CODECS
from atoll.protocol.wire import MAX_PAYLOAD_BYTES, WireError

from .hosts import Hosts
from .nodes import contribution, pair


def encoded(codec: str, n: int = 1 << 16) -> bytes:
    """A chunk of Gaussian values, whose levels are not equally likely."""
    values = torch.from_numpy(np.random.default_rng(1).standard_normal(n).astype(np.float32))
    made = CODECS[codec]()
    return made.encode(values, torch.empty(made.bound(n), dtype=torch.uint8)).numpy().tobytes()


@pytest.mark.parametrize(("codec", "saves"), [("int4", 0.10), ("int8", 0.04)])
def test_quantised_levels_shrink_and_come_back(codec: str, saves: float) -> None:
    payload = encoded(codec)
    packed = packing.pack(payload)
    assert packed is not None and len(packed) < (1 - saves) * len(payload)
    assert packing.unpack(memoryview(packed), len(payload)) == payload


def test_what_does_not_shrink_goes_as_it_is() -> None:
    assert packing.pack(np.random.default_rng(1).bytes(1 << 16)) is None
    assert packing.pack(bytes(packing.LEAST_BYTES - 1)) is None


@pytest.mark.parametrize("size", [0, 4095, 4097, MAX_PAYLOAD_BYTES + 1])
def test_another_size_than_announced_is_refused(size: int) -> None:
    packed = packing.pack(bytes(4096))
    assert packed is not None
    with pytest.raises(WireError):
        packing.unpack(packed, size)


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    """A few bytes that say nothing of their size, or less than they hold."""
    huge = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(bytes(64 << 20))
    assert len(huge) < 8192
    with pytest.raises(WireError):
        packing.unpack(huge, MAX_PAYLOAD_BYTES)
    honest = zstandard.ZstdCompressor(level=1).compress(bytes(1000))
    liar = honest.replace((1000 - 256).to_bytes(2, "little"), (500 - 256).to_bytes(2, "little"), 1)
    assert liar != honest
    with pytest.raises(WireError):
        packing.unpack(liar, 500)


@given(st.binary(max_size=2000), st.integers(0, MAX_PAYLOAD_BYTES + 2))
def test_any_bytes_are_refused_or_have_their_size(data: bytes, size: int) -> None:
    for packed in (data, zstandard.ZstdCompressor().compress(data), b"\x28\xb5\x2f\xfd" + data):
        try:
            assert len(packing.unpack(packed, size)) == size
        except WireError:
            continue


def test_it_pays_on_slow_lines_that_were_measured() -> None:
    assert packing.pays(50e6) and not packing.pays(1e9) and not packing.pays(0.0)


async def test_a_link_packs_once_it_is_known_to_be_slow(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "PAYS_BPS", float("inf"))
    a, b = await pair(hosts)
    payload = encoded("int4")
    await a.links.send_bulk(b.id, contribution(0), payload)
    plain = a.links.traffic.sent
    assert plain > len(payload), "nothing was measured yet"
    await a.links.send_bulk(b.id, contribution(1), payload)
    await b.when(lambda: len(b.frames) == 2)
    assert [bytes(came) for _, _, came in b.frames] == [payload, payload]
    assert all(not frame.unpacked_size for _, frame, _ in b.frames)
    assert a.links.traffic.sent - plain < 0.92 * len(payload)


async def test_what_is_not_packed_well_ends_the_link(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PAYS_BPS", float("inf"))
    monkeypatch.setattr(packing, "pack", lambda payload: b"no frame of zstd")
    a, b = await pair(hosts)
    await a.links.send_bulk(b.id, contribution(0), encoded("int4"))
    await a.links.send_bulk(b.id, contribution(1), encoded("int4"))
    await b.when(lambda: b.downs)
    assert len(b.frames) == 1 and "packed payload" in b.downs[0][1]
