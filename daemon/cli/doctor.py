"""`atoll doctor`: what this machine and its way to others are worth, each with the fix."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from atoll.daemon.cli.api import client_of, refused
from atoll.daemon.cli.progress import spinner
from atoll.daemon.config import data_dir_of, load
from atoll.daemon.errors import Exit
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol.text import plain
from atoll.web_ui.client import ApiClient, ApiRefused, ApiUnreachable

ANSWER_S = 40.0
"""Others dial back meanwhile."""
_LINE = 2000


def doctor(arguments: argparse.Namespace) -> int:
    """`atoll doctor [--json]`"""
    folder = DataDir(data_dir_of(arguments.data_dir))
    settings = load(folder.config, os.environ, {}).settings
    manifest = folder.load_manifest() if folder.manifest.exists() else None
    client = client_of(folder, ANSWER_S)
    from atoll.daemon.doctor import of_machine, of_stopped  # loads numpy

    with spinner("Taking one step of the model, and asking others to dial back"):
        asked = _ask(client) if client is not None else {}
        found = [] if asked.get("trains") else of_machine(manifest, settings)
        found += asked["verdicts"] if asked else of_stopped(folder, manifest, settings)
    blocked = any(each["verdict"] == "blocked" for each in found)
    if arguments.json:
        running = client is not None
        print(json.dumps({"running": running, "blocked": blocked, "verdicts": found}))
    else:
        for each in found:
            print(plain(f"{each['verdict']:9} {each['check']}: {each['text']}", _LINE))
            if each["fix"]:
                print(plain(f"{'':9} {each['fix']}", _LINE))
    return int(Exit.PREFLIGHT if blocked else Exit.OK)


def _ask(client: ApiClient) -> dict[str, Any]:
    try:
        return client.command("doctor")
    except (ApiRefused, ApiUnreachable) as error:
        raise refused(error) from error
