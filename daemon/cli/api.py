"""Reaching the daemon of a data dir from another process: its address and token are files there."""

from __future__ import annotations

from atoll.daemon.config import where
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.client import ApiClient, ApiRefused, ApiUnreachable

TIMEOUT_S = 10.0


def client_of(folder: DataDir) -> ApiClient | None:
    """A client of the running daemon; None where none is running."""
    where = files.read_json(folder.api)
    if not folder.is_locked() or not isinstance(where, dict) or "url" not in where:
        return None
    return ApiClient(str(where["url"]), folder.token(), TIMEOUT_S)


def running(folder: DataDir) -> ApiClient:
    """A client of the running daemon. Raises AtollError where none is running."""
    client = client_of(folder)
    if client is None:
        raise AtollError(
            Exit.TEMPORARY,
            "not_running",
            f"No daemon is running in {folder.root}.",
            f"Start it with `atoll run{where(folder.root)}`, or name its --data-dir.",
        )
    return client


def refused(error: ApiRefused | ApiUnreachable) -> AtollError:
    """The sentence for a daemon that said no, or nothing."""
    if isinstance(error, ApiRefused):
        return AtollError(Exit.USAGE, error.code, error.message, error.fix)
    return AtollError(Exit.TEMPORARY, "unreachable", str(error), "See its log.")
