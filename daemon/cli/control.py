"""`atoll pause`, `resume`, `finish`, `leave`: the owner's controls."""

from __future__ import annotations

import argparse
from typing import Any

from atoll.daemon.cli.api import refused, running
from atoll.daemon.cli.organise import seconds_of
from atoll.daemon.config import data_dir_of
from atoll.daemon.errors import Exit
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.client import ApiRefused, ApiUnreachable


def _ask(arguments: argparse.Namespace, name: str, **details: Any) -> int:
    folder = DataDir(data_dir_of(arguments.data_dir))
    try:
        answer = running(folder).command(name, **details)
    except (ApiRefused, ApiUnreachable) as error:
        raise refused(error) from error
    print(answer.get("sentence", "It ends in order."))
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
    """`atoll leave`"""
    return _ask(arguments, "leave")
