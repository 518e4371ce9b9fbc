"""What a manifest says, in the words of the page."""

from __future__ import annotations

from typing import Any

from atoll.protocol.manifest import SwarmManifest
from atoll.web_ui.state_types import Amendment


def update_bytes(manifest: SwarmManifest) -> int:
    """Most bytes of one node's contribution to a round; its mean comes back about as large."""
    from atoll.protocol.codecs import CODECS
    from atoll.protocol.round.codec_choice import allowed

    rounds = manifest.body.rounds
    names = (allowed(rounds.codec)[0], rounds.result_codec)
    return sum(CODECS[name].bound(manifest.body.total_values) for name in names) // 2


def disk_bytes(manifest: SwarmManifest, data_cap: int = 0) -> int:
    """What state and text of the swarm take on disk, with the checkpoints that are kept."""
    text = manifest.body.data.size_bytes
    return 3 * 8 * manifest.body.total_values + (min(text, data_cap) if data_cap else text)


def description(
    manifest: SwarmManifest, organiser_here: bool, amendments: list[Amendment] | None = None
) -> dict[str, Any]:
    """The run for people: `Swarm` of the web room. `organiser_here`: its key is on this machine."""
    body, model = manifest.body, manifest.body.model
    shape = f"{model.layers} layers of {model.width}, context {model.context}"
    rates = list(body.outer.lr_by_contributors)
    return {
        "mode": body.sync.mode or "diloco",
        "model": shape if model.kind == "gpt" else "its own",
        "data": body.data.name,
        "data_bytes": body.data.size_bytes,
        "inner_steps": body.inner.steps,
        "batch": body.inner.batch,
        "fragments": len(manifest.chunks.fragments),
        "optimizer": body.inner.optimizer or "adamw",
        "inner_lr": body.inner.lr,
        "outer_lr": rates[0] if len(set(rates)) == 1 else 0.0,
        "outer_momentum": body.outer.momentum,
        "codec": body.rounds.codec,
        "result_codec": body.rounds.result_codec,
        "min_peers": body.rounds.min_peers_to_start,
        "manifest_version": body.sequence,
        "can_write": model.kind == "gpt",
        "organiser_here": organiser_here,
        "amendments": amendments or [],
    }
