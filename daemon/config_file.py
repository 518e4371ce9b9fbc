"""Changing config.toml for its owner: only what is asked for changes, and comments and order stay.

tomlkit keeps a document as it was written. The file is replaced atomically, and stays as it is when anything
fails: a file that is no TOML, a disk that refuses. A link is followed, so that what it points to is changed.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage import files

MODE = 0o644


def with_settings(text: str, values: Mapping[str, Any]) -> str:
    """The text of config.toml with these settings in it. Raises AtollError where it is no TOML."""
    # Only who changes a setting waits for this import.
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        for name, value in values.items():
            document[name] = list(value) if isinstance(value, tuple) else value
        return tomlkit.dumps(document)
    except TOMLKitError as error:
        raise AtollError(
            Exit.USAGE,
            "config_invalid",
            f"config.toml can't be read: {error}.",
            "Correct it, or move it away.",
        ) from error


def write_settings(path: Path, values: Mapping[str, Any]) -> None:
    """Puts these settings into the file at `path`, which need not be there. Blocking. Raises AtollError."""
    try:
        target = path.resolve()
        text, mode = "", MODE
        if target.exists():
            text, mode = target.read_bytes().decode(), stat.S_IMODE(target.stat().st_mode)
    except OSError as error:
        raise files.disk_error(path, error, "read") from error
    except UnicodeDecodeError as error:
        raise AtollError(
            Exit.USAGE, "config_invalid", f"{path} is no text: {error}.", "Correct it, or move it away."
        ) from error
    files.write_bytes(target, with_settings(text, values).encode(), mode)
