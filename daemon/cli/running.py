"""`atoll run`, `join` and `bootstrap`: the daemon in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import MutableMapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.daemon import extras
from atoll.daemon.config import Config, Settings, data_dir_of, load
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.logs import set_up_logging
from atoll.daemon.storage.data_dir import DataDir

if TYPE_CHECKING:
    from atoll.daemon.cli.progress import Look, Waiting
    from atoll.daemon.enrolling import Invitation
    from atoll.daemon.node import Consent, Node
    from atoll.protocol import messages_pb2 as pb
    from atoll.protocol.manifest import SwarmManifest

LIBRARIES_BYTES = 700_000_000
"""Daemon, libp2p and PyTorch on a CPU, before any model; measured with the smallest one (resident memory)."""


def open_data_dir(arguments: argparse.Namespace) -> tuple[DataDir, Config]:
    """The data dir, made and locked, and its settings. Raises AtollError."""
    folder = DataDir(data_dir_of(arguments.data_dir))
    config = load(folder.config, os.environ, _given(arguments))
    _open(folder, config)
    return folder, config


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of the command line, None where there is none."""
    return {f.name: getattr(arguments, f.name, None) for f in fields(Settings)}


def _open(folder: DataDir, config: Config) -> None:
    extras.check(config.settings)
    folder.create()
    folder.lock()
    # PyTorch makes a cache folder as soon as it is imported; it belongs into the data dir.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder.run / "torch"))
    set_up_logging(config.settings.log_format, config.settings.log_level)


def run(arguments: argparse.Namespace) -> int:
    """`atoll run`"""
    DataDir(data_dir_of(arguments.data_dir)).load_manifest()  # before anything is made where nothing is
    folder, config = open_data_dir(arguments)
    return run_node(folder, config, {"trainer_socket": _trainer_socket(arguments)})


def join(arguments: argparse.Namespace) -> int:
    """`atoll join TICKET`"""
    from atoll.protocol import ticket as tickets

    text = arguments.ticket or ticket_from(os.environ)
    try:
        ticket = tickets.decode(text)
    except tickets.TicketError as error:
        raise AtollError(Exit.USAGE, "ticket_invalid", f"The ticket can't be used: {error}.") from error
    # A ticket matters for the first time only: whoever is in already is never locked out by its age.
    is_in = DataDir(data_dir_of(arguments.data_dir)).manifest.exists()
    if not is_in:
        try:
            tickets.decode(text, time.time())
        except tickets.TicketError as error:
            raise AtollError(
                Exit.NOT_A_MEMBER, "ticket_expired", f"The ticket can't be used: {error}."
            ) from error
    if not (arguments.yes or arguments.dry_run or is_in or sys.stdin.isatty()):
        raise AtollError(
            Exit.USAGE,
            "consent_needed",
            "Nobody is there to accept what the swarm asks of this machine.",
            "Add --yes, or look at it first with --dry-run.",
        )
    if arguments.dry_run:
        return _dry_run(arguments, ticket)
    folder, config = open_data_dir(arguments)
    if not (ticket.addresses or config.settings.mdns or is_in):
        raise AtollError(
            Exit.USAGE,
            "no_address",
            "The ticket has no address to dial.",
            "Add --mdns to find the swarm in this network, or ask for a ticket with addresses.",
        )
    if folder.manifest.exists() and folder.load_manifest().swarm_id != ticket.swarm_id:
        raise AtollError(
            Exit.USAGE,
            "other_swarm",
            f"{folder.root} belongs to another swarm: {folder.load_manifest().swarm_id.hex()[:16]}, "
            f"the ticket is for {ticket.swarm_id.hex()[:16]}.",
            "Give this one its own --data-dir.",
        )
    known = folder.node_facts().get("peers", [])
    folder.remember(peers=list(dict.fromkeys([*ticket.addresses, *known]))[:32])
    details: dict[str, Any] = {
        "swarm_id": bytes(ticket.swarm_id),
        "addresses": tuple(ticket.addresses),
        "invitation": _invitation(ticket),
        "trainer_socket": _trainer_socket(arguments),
    }
    if not (arguments.yes or folder.manifest.exists()):
        details["consent"] = _consent
    return run_node(folder, config, details)


def _dry_run(arguments: argparse.Namespace, ticket: pb.Ticket) -> int:
    """Fetches the manifest and shows it, as a node of no name whose data dir is gone afterwards."""
    config = load(DataDir(data_dir_of(arguments.data_dir)).config, os.environ, _given(arguments))
    # The node whose settings these are may be running: a look takes none of its ports.
    free = replace(
        config.settings,
        port=0,
        api_port=0,
        public_port=0,
        tensorboard="",
        wandb="",
        announce=(),
        nat_port_map=False,
    )

    async def show(manifest: SwarmManifest) -> bool:
        print(consent_card(manifest))
        return False

    with tempfile.TemporaryDirectory(prefix="atoll-dry-run-") as scratch:
        folder = DataDir(Path(scratch))
        _open(folder, config)
        details = {
            "swarm_id": bytes(ticket.swarm_id),
            "addresses": tuple(ticket.addresses),
            "invitation": _invitation(ticket),
            "consent": show,
            "greet": lambda text: None,
        }
        return run_node(folder, Config(free, config.origins), details)


def _invitation(ticket: pb.Ticket) -> Invitation | None:
    """What a ticket of a private swarm admits. Raises AtollError."""
    from atoll.daemon.enrolling import invitation_of
    from atoll.protocol.membership import MembershipError

    try:
        return invitation_of(ticket)
    except MembershipError as error:
        raise AtollError(Exit.USAGE, "ticket_invalid", f"The ticket can't be used: {error}.") from error


def ticket_from(environ: MutableMapping[str, str]) -> str:
    """The ticket in ATOLL_TICKET or the file ATOLL_TICKET_FILE; it is taken out of the environment."""
    text = environ.pop("ATOLL_TICKET", "")
    path = environ.pop("ATOLL_TICKET_FILE", "")
    if text:
        return text
    if not path:
        raise AtollError(Exit.USAGE, "no_ticket", "Which ticket?", "Give it as `atoll join TICKET`.")
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise AtollError(
            Exit.USAGE, "no_ticket", f"The ticket file {path} can't be read: {error}."
        ) from error


def consent_card(manifest: SwarmManifest) -> str:
    """What a volunteer accepts, in words."""
    from atoll.daemon.status import size
    from atoll.daemon.swarm_facts import update_bytes

    body = manifest.body
    payload = update_bytes(manifest)
    memory = 4 * body.total_values * 8
    text = f", and up to {size(body.data.size_bytes)} for text (data_cap)" if body.data.shards else ""
    source = f", fetched from peers or {', '.join(body.data.urls)}" if body.data.urls else ""
    tokens = "bytes" if body.model.kind == "gpt" else "tokens"
    kept = "" if body.data.shards or body.data.name else ", and the data that your own script trains on"
    per_round = f"per round of {body.inner.steps} inner steps"
    return f"""
  Swarm      {body.name}  ({manifest.swarm_id.hex()[:16]})
  Organiser  {manifest.organiser_fingerprint}
  Trains     a model of {body.parameters:,} parameters on {body.data.name or "each node's own data"}{source}
  Memory     about {size(LIBRARIES_BYTES + memory)}, of it {size(memory)} for parameters and optimizer
  Disk       about {size(3 * 8 * body.total_values)}{text}
  Traffic    up to {size(2 * payload)} each way {per_round}
  Others see this node's id, label, address, speed and loss, and its update of each round
  They may   infer from an update which {tokens} the text holds that it was trained on, and with effort
             more: `atoll audit leak` shows it, the settings privacy_clip and privacy_noise bound it
  Not sent   your files{kept}
"""


async def _consent(manifest: SwarmManifest) -> bool:
    print(consent_card(manifest))
    print("Take part? [y/N] ", end="", flush=True)
    # Not in a thread: one that waits for a line would hold up the end after Ctrl-C.
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _trainer_socket(arguments: argparse.Namespace) -> socket.socket | None:
    if arguments.trainer_fd is None:
        return None
    try:
        return socket.socket(fileno=arguments.trainer_fd)
    except OSError as error:
        raise AtollError(
            Exit.USAGE, "trainer_fd", f"Descriptor {arguments.trainer_fd} is no socket."
        ) from error


def run_node(folder: DataDir, config: Config, details: dict[str, Any]) -> int:
    """Runs a node until it is stopped; the first signal ends it in order, a second one at once."""
    from atoll.daemon.cli.progress import Waiting
    from atoll.daemon.node import Node

    as_json = config.settings.log_format == "json"
    given = {"greet": lambda text: greet(text, as_json), **details}

    async def body() -> int:
        waiting = Waiting(lambda: _look(node), in_terminal=sys.stderr.isatty() and not as_json)
        if "consent" in given:
            given["consent"] = _alone(given["consent"], waiting)
        node = Node(folder, config, **given)
        _on_signals(node)
        shown = asyncio.create_task(waiting.follow(), name="progress")
        try:
            return int(await node.run())
        finally:
            shown.cancel()
            await asyncio.gather(shown, return_exceptions=True)

    return _run(body)


def greet(text: str, as_json: bool) -> None:
    """Tells whoever started the node something that does not belong into the log."""
    line = {"time": round(time.time(), 3), "level": "info", "kind": "greeting", "text": text}
    print(json.dumps(line) if as_json else text, flush=True)


def _look(node: Node) -> Look | None:
    from atoll.daemon.cli.progress import Look

    if not node.front.is_open:
        return None
    sentence, _ = node.front.view.sentence()
    return Look(sentence.state, sentence.text, node.front.view.fetched())


def _alone(consent: Consent, waiting: Waiting) -> Consent:
    """`consent`, with nothing else on the terminal meanwhile."""

    async def asked(manifest: SwarmManifest) -> bool:
        waiting.pause()
        try:
            return await consent(manifest)
        finally:
            waiting.go_on()

    return asked


def _run(body: Any) -> int:
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return int(runner.run(body()))
    except AtollError:
        raise
    except Exception as error:
        logging.getLogger("atoll").error("a bug ended the node", exc_info=error)
        raise AtollError(
            Exit.BUG, "bug", f"A bug ended the node: {error!r}.", "Please report it with the log."
        ) from error


def _on_signals(node: Node | asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    seen = 0

    def received(number: signal.Signals) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            # The children die with this process.
            os._exit(128 + number)
        if isinstance(node, asyncio.Event):
            node.set()
        else:
            node.stop(f"{number.name} was received")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number)


def bootstrap(arguments: argparse.Namespace) -> int:
    """`atoll bootstrap`"""
    folder, config = open_data_dir(arguments)

    async def body() -> int:
        from atoll.daemon.bootstrap import run_bootstrap

        stop = asyncio.Event()
        _on_signals(stop)
        await run_bootstrap(folder, config, stop)
        return int(Exit.OK)

    return _run(body)
