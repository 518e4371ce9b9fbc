"""What the demo shows while it runs: a live table in a terminal, a line for each event of note elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from atoll.daemon.cli.api import program
from atoll.daemon.config import where
from atoll.daemon.status import duration, size

if TYPE_CHECKING:
    from atoll.daemon.cli.demo import Member

_BARS = "▁▂▃▄▅▆▇█"


def _where_nodes_live(members: list[Member]) -> str:
    """Other commands reach the nodes of a demo by their folders."""
    first = members[0].folder.root
    others = f"; the others: node-1 to node-{len(members) - 1}" if len(members) > 2 else ""
    others = "; the other: node-1" if len(members) == 2 else others
    return f"While it runs: `{program()} status{where(first)}` (shows a new link, too{others})"


class PlainView:
    """Lines on stderr, so that stdout holds only the result."""

    def __init__(self) -> None:
        self._version = -1
        self._linked = False

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def __call__(self, members: list[Member], what: str) -> None:
        first = members[0]
        if first.login and not self._linked:
            self._linked = True
            print(f"The dashboard is at {first.login} (works once)", file=sys.stderr, flush=True)
            print(_where_nodes_live(members), file=sys.stderr, flush=True)
        rounds = first.state.get("rounds", [])
        newest = next((r for r in reversed(rounds) if r["val_loss"] is not None), None)
        if newest is None or newest["version"] <= self._version:
            return
        self._version = newest["version"]
        print(
            f"round {newest['version']}: {newest['outcome']}, {len(newest['contributed'])}/"
            f"{len(newest['planned'])} nodes, {newest['tokens']} tokens, {size(newest['bytes_sent'])} sent, "
            f"validation loss {newest['val_loss']:.4f}",
            file=sys.stderr,
            flush=True,
        )


class LiveView:
    """The sentence, the nodes and the losses, redrawn in place."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._began = time.monotonic()
        self._live = Live(console=Console(), refresh_per_second=4, transient=False)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def __call__(self, members: list[Member], what: str) -> None:
        self._live.update(self._draw(members, what))

    def _draw(self, members: list[Member], what: str) -> Group:
        first = members[0].state
        elapsed = duration(time.monotonic() - self._began)
        lines: list[Any] = [
            Text(f"Atoll demo · {len(members)} nodes on this machine · {elapsed}", style="bold"),
            Text(str(first.get("sentence", f"Starting: {what}."))),
            self._nodes(members),
            self._losses(first),
        ]
        if members[0].login:
            link = f"Dashboard: {members[0].login} (works once)"
            lines.append(Text(link, style="cyan", overflow="fold"))
            lines.append(Text(_where_nodes_live(members), overflow="fold"))
        return Group(*lines)

    def _nodes(self, members: list[Member]) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("node", "state", "round", "step", "loss", "tokens/s", "sent", "peers", "digest"):
            table.add_column(name, justify="left" if name in ("node", "state", "digest") else "right")
        for member in members:
            state = member.state
            if not state:
                table.add_row(f"{member.index}", "starting", *[""] * 7)
                continue
            phase = state["phase"]
            table.add_row(
                f"{member.index} {state['name']}",
                state["state"],
                f"{state['version']}/{self._rounds}",
                f"{phase['step']}/{phase['of']}",
                "" if state["loss"] is None else f"{state['loss']:.3f}",
                f"{state['tokens_per_s']:.0f}",
                size(state["traffic"]["sent_bytes"]),
                f"{len(state['peers']) - 1}",
                state["digest"][:8],
            )
        return table

    def _losses(self, state: dict[str, Any]) -> Text:
        losses = [r["val_loss"] for r in state.get("rounds", []) if r["val_loss"] is not None]
        if state.get("val_loss_before") is not None:
            losses.insert(0, state["val_loss_before"])
        if not losses:
            return Text("Validation loss: after the first evaluation.")
        low, high = min(losses), max(losses)
        span = (high - low) or 1.0
        bars = "".join(_BARS[round((v - low) / span * (len(_BARS) - 1))] for v in losses)
        return Text(f"Validation loss {losses[0]:.3f} {bars} {losses[-1]:.3f}")
