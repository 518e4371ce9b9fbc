"""`atoll pause`, `resume`, `finish`, `leave`: the owner's controls."""

from __future__ import annotations

import argparse
import time
from typing import Any

from atoll.daemon.cli.api import refused, running
from atoll.daemon.cli.organise import seconds_of
from atoll.daemon.config import data_dir_of
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.client import ApiRefused, ApiUnreachable

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
    details = {"for_s": seconds_of(arguments.for_time)} if arguments.for_time else {}
    return _ask(arguments, "pause", **details)


def resume(arguments: argparse.Namespace) -> int:
    """`atoll resume`"""
    return _ask(arguments, "resume")


def finish(arguments: argparse.Namespace) -> int:
    """`atoll finish`"""
    return _ask(arguments, "finish")


def leave(arguments: argparse.Namespace) -> int:
    """`atoll leave`: returns when the process has gone."""
    folder = DataDir(data_dir_of(arguments.data_dir))
    _ask(arguments, "leave")
    print("It ends in order: it saves its state and says goodbye.", flush=True)
    deadline = time.monotonic() + LEAVE_TIMEOUT_S
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
