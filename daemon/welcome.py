"""The trainer's instructions, from the manifest and this node's settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atoll.daemon.config import Settings
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.training import channel
from atoll.daemon.training.memory import SharedMemory
from atoll.protocol.manifest import STREAMING, SwarmManifest

SMALL_MODEL = 2_000_000
"""Below so many parameters a second thread costs more than it brings; several nodes may share the machine."""


@dataclass
class MicroBatch:
    """How often the micro-batch was halved in this run: the next trainer must not begin with the whole again.

    The trainer says so where it noticed; one that the kernel killed for memory (signal 9) says nothing. Once
    may have been anybody; what is killed twice in a row is given a smaller one.
    """

    halvings: int = 0
    kills: int = 0
    whole: int = 0
    """Sequences at a time with which a trainer would begin; 0: none has been told."""

    @property
    def is_least(self) -> bool:
        """Whether there is nothing left to halve."""
        return self.whole > 0 and self.whole >> min(self.halvings, 64) <= 1

    def forget(self) -> None:
        """There is more memory: the next trainer may begin with the whole again."""
        self.halvings = self.kills = 0

    def noticed(self, code: str) -> None:
        """The trainer said something."""
        if code == "micro_batch_halved":
            self.halvings += 1

    def ended(self, killed: bool) -> None:
        """A trainer ended by itself, or was killed: by somebody else, or by a cap on its memory."""
        self.kills = self.kills + 1 if killed else 0
        if self.kills == 2:
            self.kills = 0
            self.halvings += 1

    def applied(self, message: channel.Welcome) -> channel.Welcome:
        """The instructions for the next trainer."""
        if "micro_batch" not in message.inner:
            return message
        self.whole = int(message.inner["micro_batch"])
        size = max(1, self.whole >> min(self.halvings, 64))
        return replace(message, inner={**message.inner, "micro_batch": size})


def threads_of(manifest: SwarmManifest, wanted: int) -> int:
    """CPU threads for training, where a person wants so many (0: as many as suit the model); 0: all cores."""
    return wanted or (1 if manifest.body.parameters < SMALL_MODEL else 0)


def shape_of(manifest: SwarmManifest) -> dict[str, int]:
    """The built-in model, as its config wants it."""
    model = manifest.body.model
    return {"layers": model.layers, "width": model.width, "heads": model.heads, "context": model.context}


def steps_of(manifest: SwarmManifest) -> dict[str, Any]:
    """The inner steps, as their config wants them."""
    inner = manifest.body.inner
    return {
        "lr": inner.lr,
        "warmup_steps": inner.warmup_steps,
        "total_steps": inner.total_steps,
        "schedule": inner.schedule,
        "batch": inner.batch,
        "micro_batch": inner.batch,
        "weight_decay": inner.weight_decay,
        "clip": inner.clip,
        "betas": [inner.beta1, inner.beta2],
        "optimizer": inner.optimizer or "adamw",
    }


def welcome(
    manifest: SwarmManifest,
    settings: Settings,
    folder: DataDir,
    memory: SharedMemory,
    validation: Path | None,
    me: bytes,
) -> channel.Welcome:
    """What the built-in trainer, or a script of one's own, is to train."""
    body = manifest.body
    built_in = body.model.kind == "gpt"
    return channel.Welcome(
        version=channel.VERSION,
        memory=memory.path,
        total=body.total_values,
        block=manifest.block,
        schema_digest=body.schema_digest.hex(),
        model=shape_of(manifest) if built_in else None,
        data={"validation": str(validation)} if built_in else {},
        inner=steps_of(manifest) if built_in else {},
        node_id=me.hex(),
        seed=body.seed,
        threads=threads_of(manifest, settings.threads),
        state_path=str(folder.trainer / "optimizer.safetensors"),
        device=settings.device,
        missed=body.outer.missed,
        overlap=body.sync.overlap_steps,
        mix=body.sync.mix if body.sync.mode == STREAMING else None,
        compile=settings.compile,
        ahead=manifest.ahead,
        outer_momentum=body.outer.momentum,
        braking=body.outer.braking,
    )
