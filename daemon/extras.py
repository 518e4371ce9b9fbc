"""What some settings need that is not installed with Atoll itself: the extras of pyproject.toml."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from atoll.daemon.config import Settings
from atoll.daemon.errors import AtollError, Exit

PACKAGES: Mapping[str, str] = {"tensorboard": "tensorboard", "wandb": "wandb", "mdns": "zeroconf"}
"""By setting, which is the name of the extra as well: the package that it needs."""


def check(settings: Settings) -> None:
    """That what the settings ask for is installed. Raises AtollError (usage)."""
    for setting, package in PACKAGES.items():
        if getattr(settings, setting) and not _installed(package):
            off = "off" if isinstance(getattr(settings, setting), bool) else "empty"
            raise AtollError(
                Exit.USAGE,
                "extra_missing",
                f"The setting {setting} needs the package {package}, which is not installed.",
                f"Install it with `pip install 'atoll[{setting}]'`, or leave the setting {off}.",
            )


def _installed(package: str) -> bool:
    # A folder of that name where the daemon was started (wandb makes one) is no package.
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None
