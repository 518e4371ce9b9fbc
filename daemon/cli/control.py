"""`atoll pause`, `resume`, `finish`, `leave`, `config set`: the owner's controls."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

from atoll.daemon.cli.api import client_of, refused, running
from atoll.daemon.cli.organise import seconds_of
from atoll.daemon.cli.progress import spinner
from atoll.daemon.config import LIVE, changed, data_dir_of, load
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.owner_pause import MAX_PAUSE_S
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.client import ApiClient, ApiRefused, ApiUnreachable

LEAVE_TIMEOUT_S = 25.0
"""A daemon ends within 20 s."""
POLL_S = 0.1


def _ask(arguments: argparse.Namespace, name: str, **details: Any) -> int:
    folder = DataDir(data_dir_of(arguments.data_dir))
    try:
        answer = running(folder).command(name, **details)
    except (ApiRefused, ApiUnreachable) as error:
        raise refused(error) from error
    if "sentence" in answer:
        print(answer["sentence"])
    return int(Exit.OK)


def pause(arguments: argparse.Namespace) -> int:
    """`atoll pause [--for 2h]`"""
    details = (
        {"for_s": seconds_of(arguments.for_time, "--for", MAX_PAUSE_S)}
        if arguments.for_time is not None
        else {}
    )
    return _ask(arguments, "pause", **details)


def resume(arguments: argparse.Namespace) -> int:
    """`atoll resume`"""
    try:
        return _ask(arguments, "resume")
    except AtollError as error:
        if error.code != "not-paused":
            raise
        print(error.sentence())  # it is as it was asked for
        return int(Exit.OK)


def finish(arguments: argparse.Namespace) -> int:
    """`atoll finish`"""
    return _ask(arguments, "finish")


def leave(arguments: argparse.Namespace) -> int:
    """`atoll leave`: returns when the process has gone."""
    folder = DataDir(data_dir_of(arguments.data_dir))
    _ask(arguments, "leave")
    print("It ends in order: it saves its state and says goodbye.", flush=True)
    deadline = time.monotonic() + LEAVE_TIMEOUT_S
    with spinner("Waiting for its end"):
        while folder.is_locked():
            if time.monotonic() > deadline:
                raise AtollError(
                    Exit.TEMPORARY,
                    "still_running",
                    f"The daemon in {folder.root} still runs after {LEAVE_TIMEOUT_S:.0f} s.",
                    "See its log; a second SIGTERM ends it at once.",
                )
            time.sleep(POLL_S)
    print("It has ended.")
    return int(Exit.OK)


def set_settings(arguments: argparse.Namespace) -> int:
    """`atoll config set NAME=VALUE ...`: at once where a daemon runs, else from the next start on."""
    folder = DataDir(data_dir_of(arguments.data_dir))
    given = pairs_of(arguments.pairs)
    client = client_of(folder)
    answer = _set_in_file(folder, given) if client is None else _set_while_it_runs(client, folder, given)
    print(json.dumps(answer) if arguments.json else answer["sentence"])
    return int(Exit.OK)


def _set_while_it_runs(client: ApiClient, folder: DataDir, given: dict[str, str]) -> dict[str, Any]:
    """What the node can take up goes to it, the rest waits for its next start; nothing if one is refused."""
    later = {name: value for name, value in given.items() if name not in LIVE}
    if later:
        changed(load(folder.config, os.environ, {}).settings, given)
    now = {name: value for name, value in given.items() if name in LIVE}
    parts = []
    if now:
        try:
            parts.append(client.command("set", **now))
        except (ApiRefused, ApiUnreachable) as error:
            raise refused(error) from error
    if later:
        parts.append(_set_in_file(folder, later, running=True))
    return {
        "done": "set",
        "changed": {name: value for part in parts for name, value in part["changed"].items()},
        "sentence": " ".join(part["sentence"] for part in parts),
    }


def _set_in_file(folder: DataDir, given: dict[str, str], running: bool = False) -> dict[str, Any]:
    """Writes settings for the next start. Raises AtollError."""
    from atoll.daemon.config_file import write_settings

    config = load(folder.config, os.environ, {})
    made = changed(config.settings, given)
    values = {name: getattr(made, name) for name in given}
    folder.create()
    write_settings(folder.config, values)
    wins = [name for name in given if config.origins[name] == "environment"]
    notes = [f"The environment gives {', '.join(wins)}, too, and wins."] if wins else []
    if running:
        written = f"Written to config.toml: {', '.join(given)}; the node reads that at its next start."
        return {"done": "set", "changed": values, "sentence": " ".join([written, *notes])}
    if folder.is_locked():
        notes.append("The one that runs here does not answer yet, and goes on with what it had.")
    text = " ".join(["Written to config.toml; a daemon that starts reads it.", *notes])
    return {"done": "set", "changed": values, "sentence": text}


def pairs_of(texts: list[str]) -> dict[str, str]:
    """Settings from NAME=VALUE. Raises AtollError."""
    fix = "Write it as `atoll config set up=20Mbit threads=2`."
    if not texts:
        raise AtollError(Exit.USAGE, "nothing_to_set", "Which settings?", fix)
    given: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise AtollError(Exit.USAGE, "nothing_to_set", f"{text!r} is not NAME=VALUE.", fix)
        if name in given:
            raise AtollError(Exit.USAGE, "nothing_to_set", f"Setting {name} is given twice.", fix)
        given[name] = value.strip()
    return given
