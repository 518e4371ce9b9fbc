"""The control channel: every message round trips; nothing else gets through."""

from __future__ import annotations

import contextlib
import json
import socket
import typing
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.daemon.training import channel
from atoll.daemon.training.channel import (
    Begin,
    Committed,
    Endpoint,
    Hello,
    Merged,
    Progress,
    Resume,
    Stop,
    decode_from_daemon,
    decode_from_trainer,
    encode,
)
from atoll.daemon.training.errors import ChannelClosedError, ChannelError

texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=50)
counts = st.integers(0, (1 << 63) - 1)
floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
objects = st.dictionaries(texts, st.one_of(st.none(), st.booleans(), counts, texts), max_size=4)
shards = st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n)))
spans = st.sets(st.integers(0, 1 << 40), max_size=20).map(
    lambda edges: tuple(zip(*[iter(sorted(edges))] * 2, strict=False))
)
BY_TYPE = {
    int: counts,
    str: texts,
    float: floats,
    bool: st.booleans(),
    int | None: st.none() | counts,
    str | None: st.none() | texts,
    float | None: st.none() | floats,
    dict[str, typing.Any]: objects,
    dict[str, typing.Any] | None: st.none() | objects,
    channel.Shard: shards,
    channel.Spans: spans,
}


def any_of(union):
    return st.one_of(
        *(
            st.builds(kind, **{name: BY_TYPE[hint] for name, hint in typing.get_type_hints(kind).items()})
            for kind in typing.get_args(union)
        )
    )


@given(any_of(channel.FromDaemon))
def test_daemon_messages_round_trip(message):
    assert decode_from_daemon(encode(message)) == message


@given(any_of(channel.FromTrainer))
def test_trainer_messages_round_trip(message):
    assert decode_from_trainer(encode(message)) == message


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_understood(line):
    for decode in (decode_from_daemon, decode_from_trainer):
        with contextlib.suppress(ChannelError):
            encode(decode(line))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(any_of(channel.Message), st.data())
def test_a_field_of_any_value_never_gets_past_its_type(message, data):
    body = {"type": type(message).__name__.lower(), **asdict(message)}
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(json_values)
    line = json.dumps(body).encode()
    decode = decode_from_daemon if isinstance(message, channel.FromDaemon) else decode_from_trainer
    try:
        parsed = decode(line)
    except ChannelError:
        return
    assert decode(encode(parsed)) == parsed


GOOD = {"type": "committed", "version": 1, "steps": 2, "shard": [0, 1], "keep": [], "contributed": True}


@pytest.mark.parametrize(
    "change",
    [
        {},  # `evaluate` is missing
        {"evaluate": False, "more": 1},
        {"evaluate": 0},
        {"evaluate": False, "version": True},
        {"evaluate": False, "version": -1},
        {"evaluate": False, "version": 1 << 63},
        {"evaluate": False, "version": 1.0},
        {"evaluate": False, "version": "1"},
        {"evaluate": False, "shard": [1, 1]},
        {"evaluate": False, "shard": [0, 1, 2]},
        {"evaluate": False, "keep": [[5, 5]]},
        {"evaluate": False, "keep": [[0, 9], [8, 10]]},
        {"evaluate": False, "keep": [[8, 9], [0, 1]]},
        {"evaluate": False, "keep": [3]},
        {"evaluate": False, "keep": {}},
        {"evaluate": False, "type": "ready"},
        {"evaluate": False, "type": "nothing"},
        {"evaluate": False, "type": None},
    ],
)
def test_hostile_fields(change):
    with pytest.raises(ChannelError):
        decode_from_daemon(json.dumps({**GOOD, **change}).encode())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"1",
        b'{"type":"stop"}',
        b'{"type":"stop","save":true,"save":false}',
        b'{"type":"stop","save":true',
        b'{"type":"resume"}' + b" " * channel.MAX_LINE_BYTES,
        b"[" * 30000,
        b'{"type":"' + b"9" * 5000 + b'"}',
    ],
)
def test_hostile_lines(line):
    with pytest.raises(ChannelError):
        decode_from_daemon(line)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "1" + "0" * 400, '"1"', "true", "null"])
def test_losses_must_be_finite_numbers(value):
    with pytest.raises(ChannelError):
        decode_from_trainer(
            f'{{"type":"progress","step":1,"of":2,"loss":{value},"tokens":3,"tokens_per_s":1}}'.encode()
        )


def test_an_integer_is_a_float_where_one_is_wanted():
    line = b'{"type":"progress","step":1,"of":2,"loss":3,"tokens":3,"tokens_per_s":1}'
    assert decode_from_trainer(line) == Progress(1, 2, 3.0, 3, 1.0)


def test_lone_surrogates_are_refused():
    with pytest.raises(ChannelError):
        decode_from_trainer(b'{"type":"notice","code":"x","message":"\\ud800"}')


def test_encode_refuses_what_decode_would():
    with pytest.raises(ChannelError):
        encode(Merged(1, float("nan")))
    with pytest.raises(ChannelError):
        encode(channel.Notice("x", "y" * channel.MAX_LINE_BYTES))


def test_the_two_directions_do_not_mix():
    with pytest.raises(ChannelError):
        decode_from_daemon(encode(Merged(1, None)))
    with pytest.raises(ChannelError):
        decode_from_trainer(encode(Resume()))


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    endpoint = Endpoint(ours, send_deadline_s=0.01)
    yield endpoint, theirs
    endpoint.close()
    theirs.close()


def test_endpoint_joins_pieces_and_splits_lines(pair):
    endpoint, daemon = pair
    line = encode(Begin(1, 2, (0, 1)))
    daemon.sendall(line[:10])
    assert endpoint.receive(0) is None
    daemon.sendall(line[10:] + encode(Stop(True)) + encode(Resume())[:3])
    assert endpoint.receive(0) == Begin(1, 2, (0, 1))
    assert endpoint.receive(None) == Stop(True)
    assert endpoint.receive(0) is None


def test_endpoint_takes_the_longest_line_and_no_longer_one(pair):
    endpoint, daemon = pair
    daemon.setblocking(False)
    longest = b'{"type":"resume"' + b" " * (channel.MAX_LINE_BYTES - 18) + b"}\n"
    assert len(longest) == channel.MAX_LINE_BYTES
    daemon.sendall(longest)
    assert endpoint.receive(0) == Resume()
    daemon.sendall(b"x" * channel.MAX_LINE_BYTES)
    with pytest.raises(ChannelError):
        endpoint.receive(0)


def test_endpoint_knows_when_the_daemon_is_gone(pair):
    endpoint, daemon = pair
    daemon.sendall(encode(Resume()) + b'{"half')
    daemon.close()
    assert endpoint.receive(None) == Resume()
    with pytest.raises(ChannelClosedError):
        endpoint.receive(None)
    with pytest.raises(ChannelClosedError):
        endpoint.send(Merged(1, None))


def test_endpoint_gives_up_on_a_daemon_that_does_not_read(pair):
    endpoint, _ = pair
    message = Hello(1, 2, "x" * 4000, "y", 3)
    with pytest.raises(ChannelClosedError):
        for _ in range(10_000):
            endpoint.send(message)


def test_committed_of_a_large_model_fits():
    keep = tuple((i << 20, (i << 20) + (1 << 19)) for i in range(1000))
    assert decode_from_daemon(encode(Committed(1, 2, (0, 1), keep, True, False))).keep == keep
