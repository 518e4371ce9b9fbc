"""`atoll demo`: a whole swarm on this machine, of real daemons with real data dirs, DHT and text.

Owns P child processes (`atoll run` and P − 1 times `atoll join`) and watches them over their APIs. Each
node pauses itself when the last round is committed, so all end at the same version. Ctrl-C, an error and the
ordinary end all stop the children in order (SIGTERM, and SIGKILL to whatever is left after 18 s). What the
nodes wrote is gone then, unless a folder for it was named.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.daemon.cli.api import client_of, program
from atoll.daemon.config import where
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage.data_dir import DataDir
from atoll.peers.process import die_with_parent
from atoll.web_ui.client import ApiClient, ApiError

STOP_TIMEOUT_S = 18.0
START_TIMEOUT_S = 90.0
STALL_TIMEOUT_S = 180.0
POLL_S = 0.5
MAX_PEERS = 16
_LOG_TAIL_LINES = 15


@dataclass
class Member:
    """One node of the demo: its folder, its process, and the last that its API said."""

    index: int
    folder: DataDir
    process: subprocess.Popen[bytes] | None = None
    state: dict[str, Any] = field(default_factory=dict)
    login: str = ""
    val_losses: dict[int, float] = field(default_factory=dict)
    """By version, from all polls: the node itself shows the newest rounds only."""

    @property
    def log(self) -> Path:
        return self.folder.root / "demo.log"

    def poll(self) -> None:
        """Asks the node for its state; a node that is still starting says nothing yet."""
        if self.process is not None and self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
            raise AtollError(
                Exit.BUG,
                "demo_node",
                f"Node {self.index} ended with status {self.process.returncode}.\n{tail}",
                f"Its log is {self.log}.",
            )
        try:
            client = self._client()
            if client is not None:
                self.state = client.picture()
                self.login = self.login or client.login_link()
                rounds = self.state["rounds"]
                self.val_losses |= {r["version"]: r["val_loss"] for r in rounds if r["val_loss"] is not None}
        except (ApiError, OSError):
            # It may be starting, or too busy for the moment; a lasting silence is a stall, with a deadline.
            return

    def _client(self) -> ApiClient | None:
        return client_of(self.folder)

    @property
    def version(self) -> int:
        return int(self.state.get("version", 0))


def demo(arguments: argparse.Namespace) -> int:
    """Runs the demo to its end and prints the summary."""
    if not 1 <= arguments.peers <= MAX_PEERS or arguments.rounds < 1:
        raise AtollError(Exit.USAGE, "usage", f"A demo has 1 to {MAX_PEERS} peers and at least 1 round.")
    temporary = None if arguments.data_dir else Path(tempfile.mkdtemp(prefix="atoll-demo-"))
    root = Path(arguments.data_dir) if arguments.data_dir else temporary
    assert root is not None
    began = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    members = [Member(i, DataDir(root / f"node-{i}")) for i in range(arguments.peers)]
    interactive = sys.stdout.isatty() and not arguments.json
    try:
        _make_swarm(members[0], arguments)
        with _view(interactive, arguments.rounds) as show:
            _start(members, arguments, show)
            if interactive and not arguments.no_browser:
                _open_page(members[0])
            _watch(members, arguments.rounds, show)
        wall_s = time.monotonic() - began
        summary = summarise(members, wall_s)
        _print_summary(summary, members, arguments, interactive)
        _say_what_stays(members[0], temporary is None)
        if interactive and not arguments.no_browser:
            _keep_serving(members)
    except KeyboardInterrupt:
        print("Stopping all nodes.", file=sys.stderr)
    finally:
        # A second Ctrl-C must not leave a child behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop_all(members)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return int(Exit.OK)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _make_swarm(first: Member, arguments: argparse.Namespace) -> None:
    from atoll.daemon.genesis import NewSwarm, make_swarm

    first.folder.create()
    wanted = NewSwarm(name="demo", min_peers=arguments.peers, seed=arguments.seed)
    make_swarm(first.folder, wanted, int(time.time()))


Show = Callable[[list[Member], str], None]


def _start(members: list[Member], arguments: argparse.Namespace, show: Show) -> None:
    first, *others = members
    _launch(first, ["run"], arguments)
    _wait(members, lambda: bool(first.folder.node_facts().get("addresses")), "node 0 starts", show)
    ticket = _ticket_of(first)
    for member in others:
        _launch(member, ["join", ticket, "--yes"], arguments)


def _open_page(first: Member) -> None:
    """Opens the dashboard where there is a screen; elsewhere its printed address has to do."""
    client = client_of(first.folder)
    if client is not None and any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        webbrowser.open(client.login_link())


def _ticket_of(member: Member) -> str:
    from atoll.protocol import messages_pb2 as pb
    from atoll.protocol import ticket as tickets

    manifest = member.folder.load_manifest()
    return tickets.encode(
        pb.Ticket(
            version=1,
            swarm_id=manifest.swarm_id,
            organiser=manifest.body.organiser,
            addresses=member.folder.node_facts()["addresses"],
            swarm_name=manifest.body.name,
        )
    )


def _launch(member: Member, command: list[str], arguments: argparse.Namespace) -> None:
    member.folder.create()
    cores = os.cpu_count() or 1
    settings = {
        "--data-dir": str(member.folder.root),
        "--host": "127.0.0.1",
        # Each node takes a free port, whatever ATOLL_PORT says (it would be the same for all).
        "--port": "0",
        "--api-port": "0",
        "--shard": f"{member.index}/{arguments.peers}",
        "--threads": str(max(1, cores // arguments.peers)),
        "--rounds": str(arguments.rounds),
    }
    options = [word for pair in settings.items() for word in pair]
    with member.log.open("wb") as log:
        member.process = subprocess.Popen(
            [sys.executable, "-m", "atoll", *command, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches the demo alone, which then stops its nodes in order.
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )


def _wait(members: list[Member], done: Callable[[], bool], what: str, show: Show) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not done():
        if time.monotonic() > deadline:
            raise AtollError(Exit.TEMPORARY, "demo_stalled", f"Nothing happened for a long time: {what}.")
        for member in members:
            member.poll()
        show(members, what)
        time.sleep(POLL_S)


def _watch(members: list[Member], rounds: int, show: Show) -> None:
    """Polls until every node has committed and evaluated the last round. Raises AtollError on a stall."""
    best, since = -1, time.monotonic()
    while True:
        for member in members:
            member.poll()
        show(members, "training")
        versions = [m.version for m in members]
        if all(v >= rounds and _evaluated(m, rounds) for v, m in zip(versions, members, strict=True)):
            return
        if sum(versions) != best:
            best, since = sum(versions), time.monotonic()
        if time.monotonic() - since > STALL_TIMEOUT_S:
            said = "; ".join(str(m.state.get("sentence", "silent")) for m in members)
            raise AtollError(Exit.BUG, "demo_stalled", f"No round for {STALL_TIMEOUT_S:.0f} s: {said}")
        time.sleep(POLL_S)


def _evaluated(member: Member, version: int) -> bool:
    return version in member.val_losses


def summarise(members: list[Member], wall_s: float) -> dict[str, Any]:
    """What the demo showed; the JSON contract of `atoll demo --json`."""
    first = members[0].state
    versions = [m.version for m in members]
    losses: dict[int, float] = {}
    for member in reversed(members):
        losses |= member.val_losses
    return {
        "swarm_id": first["swarm_id"],
        "peers": len(members),
        "rounds_committed": min(versions),
        "versions": versions,
        "digests": [m.state["digest"] for m in members],
        "val_loss": [losses[v] for v in sorted(losses) if v > 0],
        "val_loss_before": first["val_loss_before"],
        "tokens": first["swarm_accepted_tokens"],
        "bytes_sent": [m.state["traffic"]["sent_bytes"] for m in members],
        "wall_s": round(wall_s, 1),
        "outcomes": [r["outcome"] for r in first["rounds"]],
        "first_round_s": first["rounds"][0]["time"] - first["started"] if first["rounds"] else None,
    }


def _print_summary(
    summary: dict[str, Any], members: list[Member], arguments: argparse.Namespace, interactive: bool
) -> None:
    if arguments.json:
        print(json.dumps(summary), flush=True)
        return
    same = "the same" if len(set(summary["digests"])) == 1 else "DIFFERENT"
    print(
        f"{summary['peers']} nodes, {summary['rounds_committed']} rounds in {summary['wall_s']:.0f} s: "
        f"validation loss {summary['val_loss_before']:.3f} → {summary['val_loss'][-1]:.3f}, "
        f"{summary['tokens']:,} tokens; all nodes hold {same} bits ({summary['digests'][0][:16]})."
    )
    if interactive and not arguments.no_browser:
        for member in members:
            print(f"Dashboard of node {member.index}: {member.login} (works once)")
        print("Ctrl-C ends the demo.")


def _say_what_stays(first: Member, kept: bool) -> None:
    """On stderr: what can be tried with the folders, or that they go. `kept`: somebody named the folder."""
    root = first.folder.root
    if kept:
        commands = ", ".join(
            f"`{name}`" for name in ("rounds", "replay", "generate", "export --out FILE", "run")
        )
        text = (
            f"The nodes stay in {root.parent}. To try: `{program()} generate{where(root)}`; also {commands}."
        )
    else:
        text = f"{root.parent} is deleted at the end; `--keep DIR` keeps the nodes."
    print(text, file=sys.stderr, flush=True)


def _keep_serving(members: list[Member]) -> None:
    """Keeps the pages up until Ctrl-C."""
    while True:
        for member in members:
            member.poll()
        time.sleep(2 * POLL_S)


def _view(interactive: bool, rounds: int) -> Any:
    from atoll.daemon.cli.demo_view import LiveView, PlainView

    return LiveView(rounds) if interactive else PlainView()


def stop_all(members: list[Member]) -> None:
    """Ends every child; returns when none is left."""
    running = [m.process for m in members if m.process is not None and m.process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
