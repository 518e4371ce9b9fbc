"""What the page costs a browser and its node: `python -m benchmarks.page`, minutes; Chromium.

Browser: a made-up node of 200 peers and 500 rounds. First paint on loopback; scripting of each update, in
which a tenth of the peers and now and then a round are new; the page's heap after garbage collection, before
and after 10,000 events. Node: a real swarm of two daemons that trains, with 50 clients of one node's events
and without, in turns: CPU of that daemon's process, and the time of its rounds, as ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.async_api import CDPSession, async_playwright
from tests.web.fake_node import FakeNode, crowd_in, make_big_node
from tests.web.test_page import CHROMIUM, FLAGS

from atoll.web_ui.server import WebServer
from benchmarks.page.streams import Cost, cost_of_clients

RESULT = Path(__file__).parents[1] / "results" / "page.md"
TOKEN = "a-token-of-some-length"
EVENTS_A_BATCH = 50


@dataclass(frozen=True)
class Figures:
    """Of one page. Milliseconds and bytes."""

    first_paint_ms: float
    update_ms: float
    updates: int
    heap_before: int
    heap_after: int
    events: int


async def metrics(session: CDPSession) -> dict[str, float]:
    """Chromium's own accounts of the page."""
    found = await session.send("Performance.getMetrics")
    return {metric["name"]: metric["value"] for metric in found["metrics"]}


async def heap(session: CDPSession) -> int:
    """Bytes of JavaScript in use after garbage collection."""
    for _ in range(3):
        await session.send("HeapProfiler.collectGarbage")
    return int((await session.send("Runtime.getHeapUsage"))["usedSize"])


def churn(node: FakeNode, rng: random.Random, number: int) -> None:
    """A tenth of the peers and a step are new; now and then a round has ended."""
    entry: Any
    for peer in rng.sample(node.snapshot["peers"], len(node.snapshot["peers"]) // 10):
        peer["tokens_per_s"] = rng.uniform(5000, 25000)
        peer["last_seen"] += 10
    node.snapshot["phase"]["step"] = number % 30
    if number % 5 == 0:
        entry = {**node.reports[-1], "version": node.snapshot["version"] + 1}
        entry["time"] += 14.2
        crowd_in(entry, len(node.ids), rng)
        node.snapshot["version"] += 1
        node.report(entry)
    node.changed()


async def drawn(page_updates: asyncio.Queue[str]) -> None:
    """Until the page has drawn what was pushed last."""
    async with asyncio.timeout(60):
        await page_updates.get()


async def browse(peers: int, rounds: int, updates: int, events: int) -> Figures:
    node, rng = make_big_node(peers, rounds), random.Random(5)
    server = WebServer(node, port=0, token=TOKEN, gap_s=0.05)
    await server.start()
    told: asyncio.Queue[str] = asyncio.Queue()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        await page.expose_function("benchmarkTold", told.put_nowait)
        # The step is on the page when an update is drawn.
        await page.add_init_script("""addEventListener("DOMContentLoaded", () => new MutationObserver(() =>
            benchmarkTold(document.getElementById("phase-text").textContent)).observe(
            document.getElementById("phase-text"), {childList: true, characterData: true, subtree: true}))""")
        session = await page.context.new_cdp_session(page)
        await session.send("Performance.enable")
        await page.goto(server.login_url())
        await page.wait_for_url(f"{server.url}/")
        await page.locator('body[data-link="live"]').wait_for()
        paint = await page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1"
        )
        for number in range(10):
            churn(node, rng, number)
            await drawn(told)
        before = await metrics(session)
        for number in range(updates):
            churn(node, rng, 10 + number)
            await drawn(told)
        after = await metrics(session)
        spent = sum(after[name] - before[name] for name in ("ScriptDuration",))
        heap_before = await heap(session)
        for number in range(events // EVENTS_A_BATCH):
            for turn in range(EVENTS_A_BATCH):
                node.log.add("note", f"event {number}.{turn}: something happened, and is told in a sentence")
            churn(node, rng, number + 1)
            await drawn(told)
        await page.locator("#events li", has_text=f"event {number}.{turn}:").wait_for()
        heap_after = await heap(session)
        await browser.close()
    await server.close()
    return Figures(paint, 1000 * spent / updates, updates, heap_before, heap_after, events)


def report(figures: Figures, costs: list[Cost], clients: int, peers: int, rounds: int) -> str:
    cpu = statistics.median(c.with_cpu - c.without_cpu for c in costs)
    slower = statistics.median(c.with_round_s / c.without_round_s for c in costs)
    rows = [
        ("first contentful paint, loopback", f"{figures.first_paint_ms:.0f} ms", "below 1000 ms"),
        (
            f"scripting of one update, mean of {figures.updates}",
            f"{figures.update_ms:.2f} ms",
            "below 4 ms",
        ),
        (
            f"heap after {figures.events:,} events, to before",
            f"{figures.heap_after / figures.heap_before:.3f} ({figures.heap_before / 1e6:.1f} MB before)",
            "0.9 to 1.1",
        ),
        (f"CPU of the daemon for {clients} clients, of one core", f"{100 * cpu:.1f} %", "below 5 %"),
        (f"time of a round with {clients} clients, to without", f"{slower:.3f}", "1"),
    ]
    lines = [
        "# What the page costs",
        "",
        f"Made by `python -m benchmarks.page`. The browser shows a made-up node of {peers} peers and",
        f"{rounds} rounds; the clients are those of a node of a real swarm of two, which trains. CPU and",
        f"rounds: the median of {len(costs)} turns, each with and without clients.",
        "",
        "| | measured | goal |",
        "|---|---|---|",
        *(f"| {name} | {value} | {goal} |" for name, value, goal in rows),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--peers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--turns", type=int, default=3, help="with and without clients (3)")
    parser.add_argument("--only-browser", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    figures = asyncio.run(browse(args.peers, args.rounds, args.updates, args.events))
    if args.only_browser:
        print(figures)
        return
    costs = cost_of_clients(args.clients, args.turns)
    text = report(figures, costs, args.clients, args.peers, args.rounds)
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
