"""The trainer's instructions, from the manifest and this node's settings."""

from __future__ import annotations

from pathlib import Path

from atoll.daemon.config import Settings
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.training import channel
from atoll.daemon.training.memory import SharedMemory
from atoll.protocol.manifest import SwarmManifest

SMALL_MODEL = 2_000_000
"""Below so many parameters a second thread costs more than it brings; several nodes may share the machine."""


def welcome(
    manifest: SwarmManifest,
    settings: Settings,
    folder: DataDir,
    memory: SharedMemory,
    validation: Path | None,
    me: bytes,
) -> channel.Welcome:
    """What the built-in trainer, or a script of one's own, is to train."""
    body, model, inner = manifest.body, manifest.body.model, manifest.body.inner
    built_in = model.kind == "gpt"
    shape = {"layers": model.layers, "width": model.width, "heads": model.heads, "context": model.context}
    steps = {
        "lr": inner.lr,
        "warmup_steps": inner.warmup_steps,
        "total_steps": inner.total_steps,
        "schedule": inner.schedule,
        "batch": inner.batch,
        "micro_batch": inner.batch,
        "weight_decay": inner.weight_decay,
        "clip": inner.clip,
        "betas": [inner.beta1, inner.beta2],
    }
    return channel.Welcome(
        version=channel.VERSION,
        memory=memory.path,
        total=body.total_values,
        schema_digest=body.schema_digest.hex(),
        model=shape if built_in else None,
        data={"validation": str(validation)} if built_in else {},
        inner=steps if built_in else {},
        node_id=me.hex(),
        seed=body.seed,
        threads=settings.threads or (1 if body.parameters < SMALL_MODEL else 0),
        state_path=str(folder.trainer / "optimizer.safetensors"),
        device=settings.device,
        missed=body.outer.missed,
    )
