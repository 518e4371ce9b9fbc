"""`atoll audit leak`: what the updates of this node tell of its text, by looks that any member could take."""

from __future__ import annotations

import argparse
import json
import math
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atoll.daemon.cli.model import built_in, outer_state_of
from atoll.daemon.config import Settings, data_dir_of, load
from atoll.daemon.errors import AtollError, Exit, check_range
from atoll.daemon.rounds.codec_worker import CodecWorker
from atoll.daemon.rounds.noise import Noise
from atoll.daemon.rounds.outer_state import OuterState
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.training.corpus import BUILTIN, builtin_corpus
from atoll.daemon.training.errors import CorpusError
from atoll.protocol.codecs import CODECS
from atoll.protocol.outer import Float32
from atoll.protocol.round.codec_choice import allowed
from atoll.protocol.text import plain

if TYPE_CHECKING:
    from atoll.daemon.training.model import GPTConfig

MOST_STEPS, MOST_EFFORT, MOST_BYTES = 10_000, 100_000, 256
_READ = 64 << 20


def audit(arguments: argparse.Namespace) -> int:
    """`atoll audit leak`"""
    check_range("--bytes", arguments.bytes, 4, MOST_BYTES)
    check_range("--effort", arguments.effort, 1, MOST_EFFORT)
    check_range("--seed", arguments.seed, 0, 2**63 - 1)
    folder = DataDir(data_dir_of(arguments.data_dir))
    state = outer_state_of(folder)
    config = built_in(state)
    steps = arguments.inner_steps or int(state.manifest.body.inner.steps)
    check_range("--inner-steps", steps, 1, MOST_STEPS)
    settings = load(folder.config, os.environ, {}).settings
    text = _text(folder, state, arguments.text)
    found = _looks(state, config, settings, text, steps, arguments)
    print(json.dumps(found) if arguments.json else _words(found))
    return int(Exit.OK)


def _text(folder: DataDir, state: OuterState, given: str | None) -> bytes:
    """What is looked for: a text of the owner's, or one on which this node trains. Raises AtollError."""
    if given is None and state.manifest.body.data.name == BUILTIN:
        return builtin_corpus()
    shards = sorted(folder.shards.glob("*")) if folder.shards.is_dir() else []
    if given is None and not shards:
        raise AtollError(Exit.USAGE, "no_text", "There is no text here yet.", "Name one: --text FILE.")
    path = Path(given) if given is not None else shards[0]
    try:
        with path.open("rb") as file:
            return file.read(_READ)
    except OSError as error:
        raise AtollError(Exit.USAGE, "no_text", f"{path} can't be read: {error.strerror}.") from error


def _looks(
    state: OuterState,
    config: GPTConfig,
    settings: Settings,
    text: bytes,
    steps: int,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """All that was found, as `--json` prints it. Raises AtollError."""
    from atoll.daemon.training import leak
    from atoll.daemon.training.data import Windows
    from atoll.daemon.training.inner import InnerConfig
    from atoll.daemon.welcome import steps_of

    body = state.manifest.body
    try:
        windows = Windows.of(text, config.context)
    except CorpusError as error:
        raise AtollError(Exit.USAGE, "no_text", str(error), "Name a longer one: --text FILE.") from error
    length = min(arguments.bytes, config.context)
    start = arguments.seed * 7919 % (len(text) - length)
    example = list(text[start : start + length + 1])
    inner = InnerConfig.from_dict(steps_of(state.manifest))
    about = (config, state.schema, state.parameters)

    def tell(what: str) -> None:
        print(f"{what} …", file=sys.stderr, flush=True)

    tell(f"an inner phase of {steps} steps")
    update, seen = leak.phase(*about, windows, inner, steps, arguments.seed)
    exact = leak.gradient(*about, example)
    # As long as a round's update, which is what the owner's bound is measured by.
    exact *= np.float32(np.linalg.norm(update) / max(float(np.linalg.norm(exact)), 1e-20))
    sent = _ways(state, settings)
    found: dict[str, Any] = {
        "version": state.head.version,
        "inner_steps": steps,
        "batch": int(body.inner.batch),
        "update_norm": float(np.linalg.norm(update)),
        "privacy_clip": settings.privacy_clip,
        "privacy_noise": settings.privacy_noise,
        "rows": {},
        "rank": leak.rank(state.schema, exact),
        "rank_most": min(config.width, length),
        "matching": {},
    }
    for name, way in sent.items():
        found["rows"][name] = asdict(leak.rows(state.schema, way(update), seen))
    found["rows"]["one example, one step"] = asdict(leak.rows(state.schema, exact, example))
    for name, way in sent.items():
        tell(f"looking for {length + 1} bytes by their gradient, {name}, {arguments.effort} tries")
        guess = leak.match(*about, way(exact), example, arguments.effort, arguments.seed)
        shown = asdict(guess)
        for key in ("text", "guess"):
            shown[key] = plain(shown[key].decode("latin-1"), MOST_BYTES)
        found["matching"][name] = shown
    return found


def _ways(state: OuterState, settings: Settings) -> dict[str, Callable[[Float32], Float32]]:
    """How an update [total] arrives, by name: as it is, as the swarm encodes it, as the owner blurs it."""
    rounds, chunks = state.manifest.body.rounds, state.manifest.chunks
    codec = allowed(rounds.codec)[0]

    def through(update: Float32, noise: Noise | None) -> Float32:
        import torch

        worker = CodecWorker(codec, rounds.result_codec, chunks, noise=noise)
        zero, out = np.zeros_like(update), np.zeros_like(update)
        for chunk in range(len(chunks)):
            payload = worker.encode(update, zero, chunk, 1)
            part = torch.from_numpy(out[chunks.span(chunk)])
            CODECS[codec]().decode(torch.frombuffer(bytearray(payload), dtype=torch.uint8), part)
        return out

    ways: dict[str, Callable[[Float32], Float32]] = {
        "exact": lambda update: update,
        f"encoded ({codec})": lambda update: through(update, None),
    }
    if settings.privacy_clip:
        noise = settings.privacy_noise
        name = f"clipped to {settings.privacy_clip:g}" + (f", noise {noise:g}" if noise else "")
        ways[name] = lambda update: through(
            update, Noise(settings.privacy_clip, noise, secrets.token_bytes(32))
        )
    return ways


def _words(found: dict[str, Any]) -> str:
    lines = [
        f"What updates of this node tell, at version {found['version']} "
        f"({found['inner_steps']} inner steps of {found['batch']} sequences a round):",
        "",
        "Which bytes its text holds, by the rows of the embedding that moved unlike others:",
    ]
    for name, row in found["rows"].items():
        what = name if "example" in name else f"a round's update, {name}"
        chance = f"{row['by_chance']:.0f} by chance"
        lines.append(f"  {what}: {row['found']} of {row['held']} ({chance})")
    lines += [
        "",
        f"How much text one step was made from, by the rank of its gradient: {found['rank']} of at most "
        f"{found['rank_most']} bytes that this matrix can show.",
        "",
        "The text itself, by matching the gradient of one step on one example:",
    ]
    for name, match in found["matching"].items():
        size = len(match["text"])
        lines.append(
            f"  {name}: {match['in_place']} of {size} bytes in place ({match['by_chance']} by chance), "
            f"{match['at_all']} at all"
        )
        lines.append(f"    {match['text']!r} was guessed as {match['guess']!r}")
    lines += [
        "",
        "No step is sent by itself: a round's update is of many, on many examples, and averaged with others.",
        f"Its length was {_digits(found['update_norm'])}, which is what privacy_clip would bound.",
    ]
    return "\n".join(lines)


def _digits(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"
