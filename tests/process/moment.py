"""One moment of a node, held still: page and commands are answered by the same server from the same figures.

A node goes on while it is looked at: between a page's answer and a command's its traffic, ages and memory
have moved. Here a snapshot, reports, events and history are served by the real server over a data dir that
the commands take for that of a running node, and nothing moves but what a test moves.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from atoll.daemon.cli import main
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.storage.series import Sample, Series, answer
from atoll.web_ui.rounds import LISTS
from atoll.web_ui.server import WebServer
from tests.web.fake_node import FakeNode, RingLog

SCRIPT = Path(__file__).with_name("figures.js").read_text()
FIGURES = ("tokens_per_s", "swarm_tokens_per_s", "sent_bps", "received_bps", "loss")
"""Of the history: those that the page draws at first."""


class Moment(FakeNode):
    """A node that stands still, with a history on disk."""

    def __init__(self, series: Series) -> None:
        super().__init__()
        self._series = series

    async def past(self, name: str | None, since: float, until: float, points: int) -> Mapping[str, Any]:
        return answer(self._series, name, since, until, points)

    def become(self, picture: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> None:
        """What a real node was: its snapshot, reports with ids, and events."""
        state = dict(picture)
        reports = state.pop("rounds")
        self.snapshot = state  # type: ignore[assignment]
        self.ids, self.log = [], RingLog()
        self.reports = [self._numbered(report) for report in reports]
        for event in events:
            self.log.add(event["kind"], event["text"], event["time"])

    def _numbered(self, report: Mapping[str, Any]) -> Any:
        rejected = [{**each, "peer": self._place(each["peer"])} for each in report["rejected"]]
        lists = {name: [self._place(id) for id in report[name]] for name in LISTS}
        return {**report, **lists, "rejected": rejected}

    def _place(self, id: str) -> int:
        if id not in self.ids:
            self.ids.append(id)
        return self.ids.index(id)


def some_history(now: float) -> list[Sample]:
    """Samples of the last 20 minutes, with a break of five."""
    ages = [age for age in range(1200, 40, -10) if not 300 < age < 600]
    return [
        (
            now - age,
            {
                "loss": 2 + age / 997,
                "tokens_per_s": 900.0 + age,
                "swarm_tokens_per_s": 2900.0 + 2 * age,
                "sent_bps": 1e6 + 1e3 * age,
                "received_bps": 2e6 + 3e3 * (age % 70),
            },
        )
        for age in ages
    ]


@asynccontextmanager
async def held(folder: DataDir, history: Iterable[Sample] = ()) -> AsyncIterator[tuple[Moment, WebServer]]:
    """Serves a moment over a data dir, whose history is what is there already and `history`."""
    folder.create()
    folder.lock()
    series = Series(folder.history)
    series.add(history)
    node = Moment(series)
    server = WebServer(node, port=0, token=folder.token())
    await server.start()
    files.write_json(folder.api, {"url": server.url})
    try:
        yield node, server
    finally:
        await server.close()
        series.close()
        folder.unlock()


def printed(*arguments: str) -> str:
    """What a command prints, run in this process: a dozen of their own would take half a minute."""
    with redirect_stdout(io.StringIO()) as out:
        assert main(list(arguments)) == 0
    return out.getvalue()


async def reconcile(page: Page, folder: DataDir, node: Moment, server: WebServer) -> None:
    """Every number that the page shows is that of `--json`. Fails with those that are not."""
    # Histories end at the present: a page's at that of the node, a command's at its own.
    node.snapshot["time"] = time.time()
    lines = [json.dumps(event) for event in node.log.since(0)[0]]
    await asyncio.to_thread(folder.events.write_text, "\n".join(lines) + "\n")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "history?name=" in request.url else None)
    await page.goto(server.login_url())
    await expect(page.locator("body")).to_have_attribute("data-link", "live")
    await expect(page.locator("#rounds tbody tr")).to_have_count(len(node.reports))
    await expect(page.locator("#history-summary")).to_contain_text("now")
    await page.evaluate(SCRIPT)
    await page.evaluate("figures.openAll()")
    for name in ("tokens", "network", "history"):
        await expect(page.locator(f"#{name}-more tbody tr").first).to_be_visible()
    points = asked[-1].rpartition("points=")[2]

    where = ("--json", "--data-dir", str(folder.root))
    plots = {name: ("plot", name, "--for", "1h", "--points", points) for name in FIGURES}
    commands = {
        "status": ("status",),
        "peers": ("peers",),
        "rounds": ("rounds", "-n", "500"),
        "events": ("events", "-n", "200"),
        **plots,
    }
    texts = {name: await asyncio.to_thread(printed, *command, *where) for name, command in commands.items()}
    said = {name: json.loads(texts[name]) for name in ("status", "peers", "rounds")}
    said["events"] = [json.loads(line) for line in texts["events"].splitlines()]
    said["history"] = {name: json.loads(texts[name]) for name in FIGURES}
    expected = await page.evaluate("(said) => figures.expected(said)", said)

    shown = await page.evaluate("figures.shown()")
    places = expected["places"]
    wrong = [
        f"{place}: the page shows {shown.get(place)}, and of `--json` it would be {places.get(place)}"
        for place in sorted({*shown, *places})
        if shown.get(place) != places.get(place)
    ]
    assert not wrong, "\n".join(wrong)
    walked = await page.evaluate("figures.walk()")
    assert walked["reports"] == expected["reports"]
    assert walked["cells"] == expected["cells"]
