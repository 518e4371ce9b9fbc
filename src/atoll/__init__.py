"""Atoll's public API: train a model of your own in a swarm.

    import atoll

    with atoll.join(ticket, model, optimizer, data_dir="data") as swarm:
        ...                                    # loss.backward(); optimizer.step(); optimizer.zero_grad()
        swarm.step(loss, tokens=n)

Only re-exports, each imported at its first use: `import atoll` and `atoll --help` stay light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atoll.daemon.training.api import create, join
    from atoll.daemon.training.errors import SwarmStopped, TrainingError
    from atoll.daemon.training.session import Session

__version__ = "0.1.0"

__all__ = ["Session", "SwarmStopped", "TrainingError", "__version__", "create", "join"]

_HOME = {
    "Session": "atoll.daemon.training.session",
    "SwarmStopped": "atoll.daemon.training.errors",
    "TrainingError": "atoll.daemon.training.errors",
    "create": "atoll.daemon.training.api",
    "join": "atoll.daemon.training.api",
}


def __getattr__(name: str) -> object:
    """Imports a public name where it lives (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'atoll' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
