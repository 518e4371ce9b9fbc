"""Nodes in containers of a test's engine, and what is asked of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from .engine import Engine, EngineError

HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
ENDS_IN_ORDER_S = 20
"""After SIGTERM; an engine then sends SIGKILL, and the status is 137."""

PAUSE_S = 1.0
"""Each question starts a process in a container, which takes its part of two cores."""
NOT_YET = "No node answers"
"""Of a node whose last process was killed, and whose next one is still starting."""


def until(done: Callable[[], bool], what: str, timeout_s: float = 180.0) -> None:
    """Asks again and again; fails when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain: {what}")
        time.sleep(PAUSE_S)


@dataclass
class Container:
    """A running node."""

    engine: Engine
    name: str

    def atoll(self, *arguments: str) -> str:
        return self.engine.docker("exec", self.name, "atoll", *arguments)

    def inspect(self, template: str) -> str:
        return self.engine.docker("inspect", "--format", template, self.name).strip()

    def log(self) -> str:
        """stdout and stderr, the last lines."""
        return self.engine.logs(self.name)

    def status(self) -> dict[str, Any]:
        """The node's state; empty while its daemon does not answer yet."""
        if self.inspect("{{.State.Running}}") != "true":
            pytest.fail(f"{self.name} ended:\n{self.log()}")
        try:
            known: dict[str, Any] = json.loads(self.atoll("status", "--json"))
        except EngineError as error:
            if NOT_YET not in str(error):
                raise
            return {}
        return known

    def wait_for(self, done: Callable[[dict[str, Any]], bool], what: str, timeout_s: float = 180.0) -> None:
        """Until its state is so; its log tells what it did instead."""
        deadline = time.monotonic() + timeout_s
        while not done(self.status()):
            if time.monotonic() > deadline:
                pytest.fail(f"{self.name}: waited in vain: {what}\n{self.log()}")
            time.sleep(PAUSE_S)

    def reaches(self, version: int) -> None:
        self.wait_for(lambda s: (s.get("version") or 0) >= version, f"version {version}")

    def healthy(self) -> bool:
        return self.inspect("{{.State.Health.Status}}") == "healthy"

    def ticket(self, *options: str) -> str:
        """A ticket, as soon as the node has an address."""
        found: list[str] = []

        def made() -> bool:
            try:
                found.append(self.atoll("ticket", *options).splitlines()[-1])
            except EngineError as error:
                if "No ticket can be made" not in str(error):
                    raise
            return bool(found)

        until(made, f"{self.name} makes a ticket")
        return found[0]

    def remove(self) -> None:
        """The container is gone, its volume is not."""
        self.engine.docker("rm", self.name)


def start(engine: Engine, image: str, network: str, name: str, *command: str) -> Container:
    """A node whose volume has its name, and which others find by it: addresses change with containers."""
    options = (
        *("--detach", "--name", name, "--network", network, "--volume", f"{name}:/data"),
        *("--env", f"ATOLL_ANNOUNCE=/dns4/{name}/tcp/31337", "--env", f"ATOLL_LABEL={name}"),
        "--health-interval=5s",
    )
    engine.docker("run", *options, *HARDENED, image, *command)
    return Container(engine, name)


def stop(*nodes: Container) -> None:
    """Stops them together; each ends in order and in time."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        orders = [("stop", f"--time={ENDS_IN_ORDER_S}", node.name) for node in nodes]
        list(pool.map(lambda order: nodes[0].engine.docker(*order), orders))
    assert {node.name: node.inspect("{{.State.ExitCode}}") for node in nodes} == {n.name: "0" for n in nodes}
