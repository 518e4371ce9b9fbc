"""`atoll replay`: the page of a node, driven by a recorded log of its events."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import signal
import time
import webbrowser
from pathlib import Path

from atoll.daemon.config import data_dir_of
from atoll.daemon.errors import AtollError, Exit, check_range
from atoll.daemon.replay import Recording, ReplayNode, read_recording
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.listener import WebServerError
from atoll.web_ui.replies import encode_json
from atoll.web_ui.server import WebServer

MAX_SPEED = 1e6


def replay(arguments: argparse.Namespace) -> int:
    """`atoll replay FILE`"""
    check_range("--speed", arguments.speed, 0.01, MAX_SPEED)
    check_range("--port", arguments.port, 0, 65535)
    path = Path(arguments.file) if arguments.file else DataDir(data_dir_of(arguments.data_dir)).events
    recording = read_recording(path)
    if arguments.json:
        return _print_end(recording)
    return asyncio.run(_serve(recording, arguments))


def _print_end(recording: Recording) -> int:
    """Plays it at once and prints what the state is then."""

    async def at_once(_: float) -> None: ...

    node = ReplayNode(recording, 1.0, clock=lambda: 0.0, sleep=at_once)
    asyncio.run(node.play())
    found = {
        "records": len(recording.records),
        "damaged_lines": recording.damaged,
        "state": node.state(),
        "rounds": node.history.named(),
    }
    # What peers had written may be no UTF-8: it is replaced, as in the API.
    print(encode_json(found).encode("utf-8", "replace").decode())
    return int(Exit.OK)


async def _serve(recording: Recording, arguments: argparse.Namespace) -> int:
    """Plays it on a page of this machine, which stays until the person ends it."""
    node = ReplayNode(recording, arguments.speed, clock=time.monotonic, sleep=asyncio.sleep)
    server = WebServer(node, port=arguments.port, token=secrets.token_urlsafe(32))
    try:
        await server.start()
    except WebServerError as error:
        raise AtollError(Exit.PREFLIGHT, error.code, error.message, error.fix) from error
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    lost = f" {recording.damaged} damaged lines are left out." if recording.damaged else ""
    print(
        f"Replaying {len(recording.records)} records of {recording.name} at {arguments.speed:g} times.{lost}"
    )
    print(f"Open {server.login_url()} (works once). Ctrl-C ends.", flush=True)
    if not arguments.no_browser:
        await asyncio.to_thread(webbrowser.open, server.login_url())
    playing = asyncio.create_task(node.play(), name="replay")
    waiting = asyncio.create_task(ended.wait())
    try:
        await asyncio.wait({waiting, playing}, return_when=asyncio.FIRST_COMPLETED)
        if playing.done():
            playing.result()  # its end is on the page; that it failed is not
        await waiting
    finally:
        waiting.cancel()
        playing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await playing
        await server.close()
    return int(Exit.OK)
