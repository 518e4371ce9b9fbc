"""The control channel between daemon and trainer: JSON lines over a connected Unix stream socket.

One line is one message: a JSON object with "type" and exactly the fields of that message's dataclass
(fields with a default may be left out), at most MAX_LINE_BYTES with its line feed. Anything else is a
ChannelError: unknown type or field, wrong type, a value out of range, NaN, a line that is too long.
Parameters never travel here, only in `memory`.

    trainer                              daemon
       <- Welcome                           what to train, where the memory is
       Hello ->                             the trainer has built it and agrees on the schema
       <- Begin                             load `committed`, start an inner phase
       Merged ->                            `committed` is read (and evaluated, if asked)
       Progress ->                          at most twice a second
       Ready ->                             `snapshot` is written; the trainer waits, or goes on meanwhile
       <- Committed                         a new version; the phase goes on or the next one starts
       Merged ->
       <- Pause, Resume, Threads, Stop      at any time; obeyed at the next step boundary
       Stopped ->                           last message of an orderly end
       Notice, Failed ->                    something a person should know; something that stops progress

Every Begin and every Committed is answered by one Merged, in order; `committed` must not be written in
between. After Failed with code "loss_not_finite" the trainer waits for a Begin or Committed and restarts
from `committed` with a fresh inner optimizer; after any other Failed it exits.

`encode` and `decode_*` are pure and serve the daemon's asyncio side too; `Endpoint` is the blocking side.
"""

from __future__ import annotations

import json
import math
import select
import socket
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from functools import cache
from typing import Any

from atoll.daemon.training.errors import ChannelClosedError, ChannelError

VERSION = 2
"""Version of this protocol, in Welcome and Hello; both sides refuse another."""

MAX_LINE_BYTES = 64 * 1024
MAX_TEXT = 4096
_MAX_INT = 1 << 63
_SEND_DEADLINE_S = 60.0

FD_VARIABLE = "ATOLL_TRAINER_FD"
"""Environment variable with the number of the trainer's inherited socket."""

Shard = tuple[int, int]
"""(index, count): which part of the text, or of the data of its own, this node trains on."""
Spans = tuple[tuple[int, int], ...]
"""Flat positions [start, stop), sorted and disjoint."""


@dataclass(frozen=True)
class Welcome:
    """What to train. `total`, `block` and `schema_digest` (hex) describe the shared memory at path `memory`.

    `model` is GPTConfig.to_dict(), or None for a training loop of the user's own. `data` is
    {"validation": path}, `inner` InnerConfig fields; both empty for an own loop. `missed`: rebase.Missed.
    `overlap`: inner steps that may go on after Ready; `mix`: of local parameters when `committed` is taken
    in, None where they are rebased. `ahead`: "eager", "delayed" or "async", where phases are measured from a
    start of their own and snapshots are pseudo-gradients (`ahead.py`, with the `outer_momentum` beta
    and `braking` of stale ones).
    `compile`: the built-in model's steps.
    """

    version: int
    memory: str
    total: int
    block: int
    schema_digest: str
    model: dict[str, Any] | None
    data: dict[str, Any]
    inner: dict[str, Any]
    node_id: str
    seed: int
    threads: int
    state_path: str | None
    device: str
    missed: str
    overlap: int = 0
    mix: float | None = None
    ahead: str | None = None
    outer_momentum: float = 0.0
    braking: float = 0.0
    compile: bool = False


@dataclass(frozen=True)
class Begin:
    """Load `committed` (of `version`) as local parameters, drop local progress, train `steps` steps.

    `text`: path of the text to read from now on; None where the loop brings its data. `outer_lr`: of the next
    outer step, as far as it is known. `origin`: number of the first step in the whole run; None: phases of
    `steps` since version 0. `inner`: what is other than in the Welcome, since the manifest was amended.
    """

    version: int
    steps: int
    shard: Shard
    evaluate: bool = False
    text: str | None = None
    outer_lr: float = 0.0
    origin: int | None = None
    inner: dict[str, Any] | None = None


@dataclass(frozen=True)
class Committed:
    """`committed` now holds `version`. `keep`: spans of it that this node did not contribute to.

    With `contributed` false this node contributed to nothing. `steps` is the length of the phase that
    goes on or starts; `evaluate` asks for the validation loss of `committed`. `due`: the spans of the
    fragment that the commit was about, `keep` among them; empty: everything. `outer_lr`, `origin` and
    `inner`, of the phase that goes on or starts, as in Begin.
    """

    version: int
    steps: int
    shard: Shard
    keep: Spans
    contributed: bool
    evaluate: bool
    text: str | None = None
    due: Spans = ()
    outer_lr: float = 0.0
    origin: int | None = None
    inner: dict[str, Any] | None = None


@dataclass(frozen=True)
class Pause:
    """Stop before the next step; go on answering."""


@dataclass(frozen=True)
class Resume:
    """Go on."""


@dataclass(frozen=True)
class Threads:
    """CPU threads from the next step on; 0: one for each core. A loop of one's own decides by itself."""

    count: int


@dataclass(frozen=True)
class Stop:
    """End at the next step boundary; `save`: keep the inner optimizer state."""

    save: bool


@dataclass(frozen=True)
class Hello:
    """The trainer's answer to Welcome. `parameters` counts values without padding."""

    version: int
    pid: int
    device: str
    schema_digest: str
    parameters: int


@dataclass(frozen=True)
class Progress:
    """Inner step `step` of `of`; `loss` of that step in the loop's own unit (nats per byte, built in).

    `tokens` trained on since the last contribution, in so many `steps` (0: `step`); `tokens_per_s` over the
    last report interval.
    """

    step: int
    of: int
    loss: float
    tokens: int
    tokens_per_s: float
    steps: int = 0


@dataclass(frozen=True)
class Ready:
    """The snapshot is written. `steps` and `tokens` since the last contribution (or Begin), mean `loss`."""

    steps: int
    tokens: int
    loss: float


@dataclass(frozen=True)
class Merged:
    """`committed` of `version` is taken in; `val_loss` of it if asked for, finite, and there is a way."""

    version: int
    val_loss: float | None


@dataclass(frozen=True)
class Stopped:
    """The trainer ends; `saved`: the inner optimizer state is on disk."""

    saved: bool


@dataclass(frozen=True)
class Notice:
    """Something a person should know that does not stop training."""

    code: str
    message: str


@dataclass(frozen=True)
class Failed:
    """Something that stops progress; `code` is that of the TrainingError."""

    code: str
    message: str


FromDaemon = Welcome | Begin | Committed | Pause | Resume | Threads | Stop
FromTrainer = Hello | Progress | Ready | Merged | Stopped | Notice | Failed
Message = FromDaemon | FromTrainer

_FROM_DAEMON: dict[str, type] = {t.__name__.lower(): t for t in typing.get_args(FromDaemon)}
_FROM_TRAINER: dict[str, type] = {t.__name__.lower(): t for t in typing.get_args(FromTrainer)}


def encode(message: Message) -> bytes:
    """The line of a message, line feed included. Raises ChannelError if it breaks the rules."""
    body = {"type": type(message).__name__.lower(), **asdict(message)}
    try:
        line = json.dumps(body, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ChannelError(f"A {body['type']} message can't be written as JSON: {error}.") from error
    if len(line) > MAX_LINE_BYTES:
        raise ChannelError(f"A {body['type']} message of {len(line)} bytes is too long.")
    return line


def decode_from_daemon(line: bytes) -> FromDaemon:
    """What the daemon sent. Raises ChannelError."""
    return typing.cast(FromDaemon, _decode(line, _FROM_DAEMON))


def decode_from_trainer(line: bytes) -> FromTrainer:
    """What the trainer sent. Raises ChannelError."""
    return typing.cast(FromTrainer, _decode(line, _FROM_TRAINER))


def _decode(line: bytes, known: Mapping[str, type]) -> object:
    if len(line) > MAX_LINE_BYTES:
        raise ChannelError(f"A line of {len(line)} bytes is too long.")
    try:
        body = json.loads(line, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ChannelError(f"A line is no JSON: {str(error)[:100]}.") from error
    if not isinstance(body, dict) or not isinstance(body.get("type"), str):
        raise ChannelError("A line is no JSON object with a type.")
    kind = known.get(body.pop("type"))
    if kind is None:
        raise ChannelError("A message of unknown type.")
    expected = _fields(kind)
    unknown = [name for name in body if name not in expected]
    missing = [n for n, (_, f) in expected.items() if n not in body and f.default is MISSING]
    if unknown or missing:
        raise ChannelError(f"{kind.__name__}: unknown fields {unknown[:3]}, missing fields {missing[:3]}.")
    values = {name: _check(f"{kind.__name__}.{name}", expected[name][0], v) for name, v in body.items()}
    return kind(**values)


@cache
def _fields(kind: type) -> dict[str, tuple[Any, Field[Any]]]:
    """Annotation and field by name."""
    hints = typing.get_type_hints(kind)
    return {f.name: (hints[f.name], f) for f in fields(kind)}


def _check(where: str, kind: Any, value: Any) -> Any:
    """`value` as the annotation `kind` wants it. Raises ChannelError."""
    if kind == Shard:
        index, count = _pair(where, value)
        if index >= count:
            raise ChannelError(f"{where}: shard {index} of {count}.")
        return index, count
    if kind == Spans:
        return _spans(where, value)
    if isinstance(kind, types.UnionType):  # X | None
        inner = next(arm for arm in typing.get_args(kind) if arm is not types.NoneType)
        return None if value is None else _check(where, inner, value)
    plain = typing.get_origin(kind) or kind
    if plain is float and type(value) is int and abs(value) < _MAX_INT:
        return float(value)
    if type(value) is not plain:
        raise ChannelError(f"{where} must be {plain.__name__}, not {type(value).__name__}.")
    if plain is int and not -_MAX_INT <= value < _MAX_INT:
        raise ChannelError(f"{where} is out of range.")
    if plain is int and value < 0 and not where.endswith(".seed"):
        raise ChannelError(f"{where} is negative.")
    if plain is str and (len(value) > MAX_TEXT or not _encodable(value)):
        raise ChannelError(f"{where} is too long or no Unicode text.")
    return value


def _encodable(text: str) -> bool:
    """False for a lone surrogate, which JSON can hold but no terminal can show."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _pair(where: str, value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise ChannelError(f"{where} must hold pairs of integers.")
    return _check(where, int, value[0]), _check(where, int, value[1])


def _spans(where: str, value: Any) -> Spans:
    if not isinstance(value, list):
        raise ChannelError(f"{where} must be a list.")
    spans = tuple(_pair(where, item) for item in value)
    edges = [edge for span in spans for edge in span]
    if any(start >= stop for start, stop in spans) or edges != sorted(edges):
        raise ChannelError(f"{where}: spans must be sorted, disjoint and not empty.")
    return spans


def _finite(text: str) -> float:
    """A JSON number. Raises ValueError on NaN, Infinity and what overflows to it."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) != len(pairs):
        raise ValueError("a name occurs twice")
    return body


class Endpoint:
    """The trainer's end of the channel, for blocking code. Owns the socket; one thread at a time."""

    def __init__(self, sock: socket.socket, send_deadline_s: float = _SEND_DEADLINE_S) -> None:
        self._socket = sock
        self._socket.setblocking(False)
        self._send_deadline_s = send_deadline_s
        self._buffer = bytearray()

    def send(self, message: FromTrainer) -> None:
        """Sends all of it. Raises ChannelClosedError if the daemon is gone or stops reading."""
        left = memoryview(encode(message))
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, self._send_deadline_s)
            except OSError as error:
                raise ChannelClosedError(f"The daemon is gone: {error.strerror}.") from error

    def receive(self, timeout_s: float | None = None) -> FromDaemon | None:
        """The next message, or None if none is complete within `timeout_s` (0: only look; None: wait).

        Raises ChannelClosedError at the end of the stream, ChannelError on a line that breaks the rules.
        """
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return decode_from_daemon(line)
            if len(self._buffer) >= MAX_LINE_BYTES:
                raise ChannelError("A line from the daemon is too long.")
            if not self._poll(select.POLLIN, timeout_s):
                return None
            try:
                data = self._socket.recv(MAX_LINE_BYTES - len(self._buffer))
            except BlockingIOError:
                continue
            except OSError as error:
                raise ChannelClosedError(f"The daemon is gone: {error.strerror}.") from error
            if not data:
                raise ChannelClosedError("The daemon closed the control channel.")
            self._buffer += data

    def close(self) -> None:
        self._socket.close()

    def _wait(self, event: int, timeout_s: float) -> None:
        if not self._poll(event, timeout_s):
            raise ChannelClosedError(f"The daemon has not read its messages for {timeout_s:.0f} s.")

    def _poll(self, event: int, timeout_s: float | None) -> bool:
        poller = select.poll()
        poller.register(self._socket, event)
        return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))
