"""Reaching the daemon of a data dir from another process: its address and token are files there."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from atoll.daemon.config import where
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.client import ApiClient, ApiRefused, ApiUnreachable

TIMEOUT_S = 10.0


def program() -> str:
    """What a person writes to run this `atoll`: its name, or its path where the shell does not know it."""
    if shutil.which("atoll"):
        return "atoll"
    beside = Path(sys.executable).with_name("atoll")
    if not beside.exists():
        return shlex.join([sys.executable, "-m", "atoll"])
    here = Path.cwd()
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))


def client_of(folder: DataDir, timeout_s: float = TIMEOUT_S) -> ApiClient | None:
    """A client of the running daemon; None where none is running. `timeout_s`: for its answers."""
    where = files.read_json(folder.api)
    if not folder.is_locked() or not isinstance(where, dict) or "url" not in where:
        return None
    return ApiClient(str(where["url"]), folder.token(), timeout_s)


def running(folder: DataDir) -> ApiClient:
    """A client of the running daemon. Raises AtollError where none is running."""
    client = client_of(folder)
    if client is None and folder.is_locked():
        raise _no_page(folder)
    if client is None and not folder.manifest.exists():
        error = folder.no_swarm()
        raise AtollError(Exit.TEMPORARY, error.code, error.message, error.fix)
    if client is None:
        raise AtollError(
            Exit.TEMPORARY,
            "not_running",
            f"No daemon is running in {folder.root}.",
            f"Start it with `atoll run{where(folder.root)}`, or name its --data-dir.",
        )
    return client


def _no_page(folder: DataDir) -> AtollError:
    """The sentence for a daemon that runs and can't be asked."""
    if folder.node_facts().get("role") == "bootstrap":
        message = f"The node in {folder.root} only helps others to find each other, and has no page."
        return AtollError(Exit.USAGE, "no_page", message, f"See `atoll status{where(folder.root)}`.")
    message = f"The daemon in {folder.root} is only starting, or about to end."
    return AtollError(Exit.TEMPORARY, "starting", message, "Ask again in a moment.")


def refused(error: ApiRefused | ApiUnreachable) -> AtollError:
    """The sentence for a daemon that said no, or nothing."""
    if isinstance(error, ApiRefused):
        # Who tried too often has done nothing wrong now, and may come again.
        status = Exit.TEMPORARY if error.status == 429 else Exit.USAGE
        return AtollError(status, error.code, error.message, error.fix)
    return AtollError(Exit.TEMPORARY, "unreachable", str(error), "See its log.")
