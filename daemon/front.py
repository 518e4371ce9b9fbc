"""What people see of a node, and what is kept of it for them: pages, figures over time, snapshots, exports.

Owns the page and the public one, the recorder of figures, the log of snapshots and the exporters. They are
opened with the first stage, so that a node which waits for peers already tells why, and closed after all
others. What happens in rounds is told here once, and goes on to whoever keeps it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from atoll.daemon.events import read_log
from atoll.daemon.exporters.exports import Exports, open_exports
from atoll.daemon.history import COMMITTED
from atoll.daemon.page import start_page, start_public_page
from atoll.daemon.recorder import Recorder
from atoll.daemon.state_log import StateLog
from atoll.daemon.view import View
from atoll.web_ui.security import is_loopback
from atoll.web_ui.server import WebServer

if TYPE_CHECKING:
    from atoll.daemon.node import Node

RESTORED_BYTES = 16 << 20
"""Of the log of events: rounds and events in it are shown again after a restart."""

Spawn = Callable[[Coroutine[Any, Any, None], str], None]


class Front:
    """Of one node; nothing is open until `open`."""

    page: WebServer

    def __init__(self, node: Node) -> None:
        self._node = node
        self.view = View(node)
        self.recorder: Recorder | None = None
        self._exports = Exports([])
        self._state_log: StateLog | None = None
        self.is_open = False

    async def open(self, undo: AsyncExitStack, spawn: Spawn) -> None:
        """Opens pages and logs; what was before this start is there at once. Raises AtollError."""
        node, view = self._node, self.view
        past = await asyncio.to_thread(read_log, node.folder.events, RESTORED_BYTES)
        node.history.restore(past)
        node.events.restore(past)
        self.page = await start_page(view, node.folder, node.settings)
        self.is_open = True
        undo.push_async_callback(self.page.close)
        undo.callback(node.folder.api.unlink, missing_ok=True)
        host = node.settings.api_host
        wide = "" if is_loopback(host) else f"; it listens on {host}"
        node.events.emit("page", f"The dashboard is at {self.page.url}{wide}.")
        public = await start_public_page(view, node.settings)
        if public is not None:
            undo.push_async_callback(public.close)
            node.events.emit("page", f"A page for everybody, for reading only, is at {public.url}.")
        spawn(view.keep(), "view")
        self._state_log = StateLog(view.state, lambda: view.sentence()[0].state.value, node.events)
        spawn(self._state_log.keep(), "state log")
        self._exports = open_exports(
            node.settings, node.name, node.started, lambda text: node.events.emit("export", text)
        )
        undo.push_async_callback(self._exports.close)
        self.recorder = Recorder(node.folder.history, view.figures, node.events, sampled=self._exports.moment)
        undo.push_async_callback(self.recorder.close)
        spawn(self.recorder.keep(), "history")

    # ---- what happens

    def measured(self, version: int, loss: float) -> None:
        """A validation loss is known."""
        self._node.history.measured(version, loss)
        self._exports.measured(time.time(), version, loss)

    def applied(self) -> None:
        """An outer step was taken."""
        if self._state_log is not None:
            self._state_log.round_ended()

    def ended(self, entry: dict[str, Any]) -> None:
        """A session has ended; one that made a version is `applied` soon."""
        self._exports.round(entry)
        if entry["outcome"] not in COMMITTED and self._state_log is not None:
            self._state_log.round_ended()

    def stopping(self) -> None:
        """The node is about to end: the last snapshot says so."""
        if self._state_log is not None:
            self._state_log.write()
