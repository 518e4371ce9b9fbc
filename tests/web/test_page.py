"""The page in a real Chromium: what it shows, how it follows the node, and that names cannot harm it.

The browser resolves no name and reaches nothing but loopback; each test ends by asserting that the page
logged no error and asked no other origin.
"""

import os
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from atoll.daemon.replay import Recording, ReplayNode
from atoll.web_ui.interface import CommandError
from atoll.web_ui.server import WebServer

from .conftest import TOKEN
from .fake_node import START, FakeNode, make_joining_state, make_rounds, make_state

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]
HOSTILE = '<img src=x onerror="window.harmed=1"><script>window.harmed=1</script>\u202e\u0000"\'&amp;'


def need_chromium() -> None:
    """Without it a test is skipped, or fails where all are required."""
    if CHROMIUM is None:
        if os.environ.get("TESTS_REQUIRE_ALL") == "1":
            pytest.fail("no Chromium on this machine, and TESTS_REQUIRE_ALL=1")
        pytest.skip("no Chromium on this machine")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    need_chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@dataclass
class Dashboard:
    """A served fake node and a page signed in to it."""

    node: FakeNode
    server: WebServer
    page: Page
    problems: list[str] = field(default_factory=list)

    async def open(self) -> None:
        await self.page.goto(self.server.login_url())
        await expect(self.page.locator("body")).to_have_attribute("data-link", "live")


@pytest_asyncio.fixture(loop_scope="module")
async def dashboard(browser: Browser) -> AsyncIterator[Dashboard]:
    node = FakeNode()
    server = WebServer(node, port=0, token=TOKEN)
    await server.start()
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    board = Dashboard(node, server, page)
    page.on("pageerror", lambda error: board.problems.append(str(error)))
    page.on(
        "console",
        lambda line: board.problems.append(line.text) if line.type in ("error", "warning") else None,
    )
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((server.url, "data:")) else board.problems.append(request.url)
        ),
    )
    yield board
    await context.close()
    await board.server.close()  # a test may have put another one in its place
    assert board.problems == []


async def test_a_loss_of_the_round_before_says_so(dashboard: Dashboard) -> None:
    state = dashboard.node.snapshot
    state["val_loss_version"] = state["version"] - 1
    await dashboard.open()
    more = dashboard.page.locator("#tile-loss-more")
    await expect(more).to_contain_text(f"of round {state['version'] - 1}; ")
    await expect(dashboard.page.locator(".tile").first).to_contain_text("nats per byte")


async def test_it_shows_the_sentence_the_figures_the_peers_and_the_rounds(dashboard: Dashboard) -> None:
    await dashboard.open()
    page, state = dashboard.page, dashboard.node.snapshot
    await expect(page.get_by_role("heading", level=1)).to_have_text(state["sentence"])
    await expect(page.locator("#sentence-live")).to_have_text(state["sentence"])
    await expect(page.locator("#tile-loss")).to_have_text(f"{state['val_loss']:.3f}")
    await expect(page.locator("#tile-loss-more")).not_to_contain_text("of round")
    await expect(page.locator("#tile-peers")).to_have_text("2/3")
    await expect(page.locator("#tile-share")).to_have_text("34.2 %")
    await expect(page.locator("#peers tbody tr")).to_have_count(3)
    await expect(page.locator("#peers tbody tr").nth(1)).to_contain_text("quiet-otter anna")
    await expect(page.locator("#rounds tbody tr")).to_have_count(41)
    await page.locator("#strip-more summary").click()
    await expect(page.locator("#strip-table tbody tr")).to_have_count(3)
    row = page.locator("#strip-table tbody tr").first
    reports = [r for r in dashboard.node.reports if 0 in r["contributed"]]
    await expect(row.locator("td").first).to_have_text(str(len(reports)))
    await expect(page.locator("#strip-names li")).to_have_text(["coral-heron", "quiet-otter", "silver-tern"])
    await expect(page.locator("#phase-text")).to_have_text("Training locally: step 12 of 30")
    await expect(page.locator("#loss-chart canvas")).to_be_visible()
    await expect(page.locator("#loss-summary")).to_contain_text("from 5.560 at round 0")
    await expect(page.locator("#events li")).to_have_count(8)
    await expect(page.locator("#events li").first).to_contain_text("Round 41")


async def test_it_follows_the_node_live(dashboard: Dashboard) -> None:
    await dashboard.open()
    page = dashboard.page
    dashboard.node.advance()
    await expect(page.locator("#rounds tbody tr")).to_have_count(42)
    await expect(page.get_by_role("heading", level=1)).to_contain_text("round 43")
    await expect(page.locator("#events li").first).to_contain_text("Round 42")
    await expect(page.locator("#accepted")).to_have_text(
        "Round 41 accepted your update (1.2 MB, weight 33%)."
    )
    dashboard.node.snapshot["sentence"] = "Waiting: 2 of 3 peers needed (since 1m 12s). Retrying in 8 s."
    dashboard.node.snapshot["state"] = "waiting"
    dashboard.node.changed()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Waiting: 2 of 3 peers")
    await expect(page.locator("#sentence-live")).to_contain_text("Waiting")
    await expect(page.locator("#events li")).to_have_count(9)  # a change of state alone is no event to read


async def test_a_storm_of_events_asks_for_few_snapshots(dashboard: Dashboard) -> None:
    await dashboard.open()
    before = dashboard.node.state_reads
    for _ in range(200):
        dashboard.node.changed()
    dashboard.node.snapshot["sentence"] = "Training: after the storm."
    dashboard.node.changed()
    await expect(dashboard.page.get_by_role("heading", level=1)).to_have_text("Training: after the storm.")
    assert dashboard.node.state_reads - before < 10


async def test_a_gap_in_the_events_begins_a_new_list(dashboard: Dashboard) -> None:
    await dashboard.open()
    await expect(dashboard.page.locator("#events li")).to_have_count(8)
    for number in range(2 * 256):  # twice the ring, in one go
        dashboard.node.log.add("note", f"note {number}")
    await expect(dashboard.page.locator("#events li")).to_have_count(200)
    await expect(dashboard.page.locator("#events li").first).to_contain_text("note 511")
    await expect(dashboard.page.locator("#events li").last).to_contain_text("note 312")


async def test_hostile_names_are_inert(dashboard: Dashboard) -> None:
    node, page = dashboard.node, dashboard.page
    other = node.snapshot["peers"][1]
    other["name"], other["label"], other["state"] = HOSTILE, HOSTILE, HOSTILE
    node.reports[-1]["leader"] = HOSTILE
    node.reports[-1]["rejected"] = [{"peer": 1, "reason": HOSTILE}]
    node.snapshot["connection"][0]["text"] = node.snapshot["swarm"]["data"] = HOSTILE
    node.snapshot["swarm_name"] = HOSTILE
    node.snapshot["alerts"] = [{"code": HOSTILE, "since": 0.0, "text": HOSTILE, "fix": HOSTILE}]
    node.log.add(HOSTILE, HOSTILE)
    await dashboard.open()
    await expect(page.locator("#peers tbody")).to_contain_text('<img src=x onerror="window.harmed=1">')
    await expect(page.locator("#report-facts")).to_contain_text("<script>")
    await expect(page.locator("#events li").first).to_contain_text("<script>")
    assert await page.locator("main img, main script").count() == 0
    assert await page.evaluate("window.harmed") is None
    width = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0


async def test_a_figure_is_shown_over_the_time_that_is_chosen(dashboard: Dashboard) -> None:
    await dashboard.open()
    page, summary = dashboard.page, dashboard.page.locator("#history-summary")
    assert await page.locator("#history-figure option").all_inner_texts() == ["My training loss", "Nodes"]
    await expect(page.locator("#history-chart canvas")).to_be_visible()
    await expect(summary).to_contain_text("My training loss: 2.000 now, between 1.000 and 3.000")
    await page.locator("#history-more summary").click()
    cells = page.locator("#history-more tbody tr").first.locator("td")
    await expect(cells).to_have_text(["3.000", "1.000", "2.000"])
    await page.locator("#history-figure").select_option("Nodes")
    await expect(summary).to_contain_text("Nodes: 2 now, between 1 and 3")
    before = await summary.inner_text()
    await page.locator("#history-span").select_option("last 30 days")
    await expect(summary).not_to_have_text(before)
    await expect(page.locator("#history-chart canvas")).to_have_count(1)


async def test_a_history_that_is_still_empty_says_when_it_begins(dashboard: Dashboard) -> None:
    async def nothing(name: str | None, *_: object) -> Mapping[str, Any]:
        return {"names": ["peers"]} if name is None else {"name": name, "bucket_s": 10, "buckets": []}

    dashboard.node.past = nothing  # type: ignore[method-assign]
    await dashboard.open()
    await expect(dashboard.page.locator("#history-empty")).to_be_visible()
    await expect(dashboard.page.locator("#history-chart")).to_be_hidden()


async def test_the_page_says_what_a_week_took_and_what_the_line_carries(dashboard: Dashboard) -> None:
    node, facts = dashboard.node, dashboard.page.locator("#node-facts")
    await dashboard.open()
    await expect(facts).to_contain_text("↑ 20.0 Mbit/s  ↓ –")
    await expect(facts).to_contain_text("Week: files")
    await expect(facts).to_contain_text("↑ 32.8 MB  ↓ 32.8 MB")
    await expect(facts).to_contain_text("↑ 65.6 MB  ↓ 65.4 MB")  # of all classes, since the start
    node.report({**node.reports[-1], "groups": 6})
    node.changed()
    await expect(dashboard.page.locator("#report-facts")).to_contain_text("Groups")


async def test_a_click_on_a_round_shows_its_report(dashboard: Dashboard) -> None:
    await dashboard.open()
    page = dashboard.page
    await expect(page.locator("#report-title")).to_have_text("Round 41")
    button = page.get_by_role("button", name="Report of round 33")
    await button.press("Enter")
    await expect(page.locator("#report-title")).to_have_text("Round 33")
    await expect(page.locator("#report-outcome")).to_have_text("◐ provisional: silver-tern came 4 s late.")
    await expect(page.locator("#report-facts")).to_contain_text(
        "2/3: \u2068coral-heron\u2069, \u2068quiet-otter\u2069"
    )
    dashboard.node.advance()
    await expect(page.locator("#rounds tbody tr")).to_have_count(42)
    await expect(page.locator("#report-title")).to_have_text("Round 33")  # the choice stays
    await expect(button).to_be_focused()
    await page.locator("#strip").focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#report-title")).to_have_text("Round 34")
    await page.keyboard.press("ArrowDown")
    line = page.locator("#strip-line")
    await expect(line).to_contain_text("Round 34, \u2068quiet-otter\u2069: contributed")
    await page.locator("#strip").click(position={"x": 39.5 * 18, "y": 16 + 9})
    await expect(page.locator("#report-title")).to_have_text("Round 40")
    await expect(page.locator("#report-outcome")).to_contain_text("aborted: The leader did not commit")


async def test_peers_sort_by_column(dashboard: Dashboard) -> None:
    await dashboard.open()
    page = dashboard.page
    names = page.locator("#peers tbody th > bdi")
    await expect(names).to_have_text(["coral-heron", "quiet-otter", "silver-tern"])
    column = page.get_by_role("columnheader", name="Tokens/s")
    await column.get_by_role("button").click()
    await expect(column).to_have_attribute("aria-sort", "ascending")
    await expect(names).to_have_text(["silver-tern", "quiet-otter", "coral-heron"])
    await column.get_by_role("button").click()
    await expect(column).to_have_attribute("aria-sort", "descending")
    await expect(names).to_have_text(["coral-heron", "quiet-otter", "silver-tern"])


async def test_pause_and_resume(dashboard: Dashboard) -> None:
    await dashboard.open()
    page = dashboard.page
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Paused: you asked for it.")
    await expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("button", name="Finish")).to_be_visible()
    assert dashboard.node.commands == [("pause", {}), ("resume", {})]


async def test_a_refused_command_is_answered_in_the_nodes_words(dashboard: Dashboard) -> None:
    await dashboard.open()

    async def refuse(name: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
        """As when it was paused behind the page's back, of which the page has not heard yet."""
        raise CommandError("already-paused", "The node is paused already.", "Resume it first.")

    dashboard.node.command = refuse  # type: ignore[method-assign]
    await dashboard.page.get_by_role("button", name="Finish").click()
    answer = dashboard.page.locator("#control-answer")
    await expect(answer).to_have_text("The node is paused already. Resume it first.")
    dashboard.problems[:] = [
        line for line in dashboard.problems if "409" not in line
    ]  # Chromium logs each refusal


async def test_it_keeps_what_it_has_when_the_node_goes_and_comes_back(dashboard: Dashboard) -> None:
    await dashboard.open()
    page, port = dashboard.page, dashboard.server.port
    await dashboard.server.close()
    await expect(page.locator("body")).to_have_attribute("data-link", "lost")
    await expect(page.locator("#notice")).to_contain_text("The node does not answer. What you see is from")
    await expect(page.locator("#peers tbody tr")).to_have_count(3)
    await expect(page.locator(".tiles")).to_have_css("filter", "grayscale(1) brightness(0.97)")

    dashboard.node = FakeNode(version=43)
    dashboard.server = WebServer(dashboard.node, port=port, token=TOKEN)
    await dashboard.server.start()
    await expect(page.locator("body")).to_have_attribute("data-link", "live", timeout=15_000)
    await expect(page.get_by_role("heading", level=1)).to_contain_text("round 44")
    await expect(page.locator("#notice")).to_be_hidden()
    # Chromium itself logs each connection that failed; nothing else may have gone wrong.
    dashboard.problems[:] = [line for line in dashboard.problems if "net::ERR_" not in line]


async def test_a_session_that_ended_says_how_to_get_a_new_one(dashboard: Dashboard) -> None:
    await dashboard.open()
    await dashboard.page.context.clear_cookies()
    await dashboard.server.close()  # a stream that is open stays
    dashboard.server = WebServer(dashboard.node, port=dashboard.server.port, token=TOKEN)
    await dashboard.server.start()
    await expect(dashboard.page.locator("body")).to_have_attribute("data-link", "signed-out")
    await expect(dashboard.page.locator("#notice")).to_contain_text("run `atoll status`")
    away = ("401", "net::ERR_")
    dashboard.problems[:] = [line for line in dashboard.problems if not any(code in line for code in away)]


async def test_while_joining_it_lists_the_steps_and_the_addresses(dashboard: Dashboard) -> None:
    dashboard.node.snapshot, dashboard.node.reports = make_joining_state(), []
    await dashboard.open()
    page = dashboard.page
    await expect(page.locator("#checklist li")).to_have_count(5)
    await expect(page.locator("#checklist li").first).to_have_text("Identity (done)12D3KooWCoral…")
    await expect(page.locator("#bootstrap li").first).to_contain_text("connection refused")
    await expect(page.locator("#alert-list li")).to_contain_text("Check that port 31337 is open")
    for name in ("loss", "strip", "rounds", "report", "peers"):
        await expect(page.locator(f"#{name}-empty")).to_be_visible()
    dashboard.node.snapshot, dashboard.node.reports = make_state(3), make_rounds(3)
    dashboard.node.changed()
    await expect(page.locator("#rounds tbody tr")).to_have_count(3)
    await expect(page.locator("#joining")).to_be_hidden()
    await expect(page.locator("#loss-empty")).to_be_hidden()


@pytest.mark.parametrize(("width", "columns"), [(1280, 4), (800, 2), (390, 1), (320, 1)])
async def test_it_fits_the_window(dashboard: Dashboard, width: int, columns: int) -> None:
    await dashboard.page.set_viewport_size({"width": width, "height": 800})
    await dashboard.open()
    overflow = await dashboard.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0
    grid = await dashboard.page.evaluate(
        "getComputedStyle(document.querySelector('.tiles')).gridTemplateColumns.split(' ').length"
    )
    assert grid == columns


async def test_the_log_scale_and_both_themes_draw(dashboard: Dashboard) -> None:
    await dashboard.open()
    button = dashboard.page.get_by_role("button", name="Log scale")
    await button.click()
    await expect(button).to_have_attribute("aria-pressed", "true")
    for scheme in ("dark", "light"):
        await dashboard.page.emulate_media(color_scheme=scheme)
        await expect(dashboard.page.locator("#loss-chart canvas")).to_be_visible()
    await button.click()
    await expect(button).to_have_attribute("aria-pressed", "false")


async def test_without_a_session_there_is_only_the_help(dashboard: Dashboard) -> None:
    await dashboard.page.goto(dashboard.server.url)
    await expect(dashboard.page.get_by_role("heading")).to_have_text("This is an Atoll node")
    await expect(dashboard.page.locator("main")).to_have_css(
        "font-size", "17px"
    )  # its style passed the policy
    dashboard.problems[:] = [line for line in dashboard.problems if "401" not in line]


async def test_numbers_and_cells_read_as_intended(dashboard: Dashboard) -> None:
    await dashboard.open()
    results = await dashboard.page.evaluate("""async () => {
        const f = await import("/static/js/format.js");
        const { cellsOf } = await import("/static/js/store.js");
        const round = { planned: [0, 1, 2, 3, 4], contributed: [0], received: [1, 2], late: [2],
                        rejected: [{ peer: 3, reason: "norm" }], missing: [], outcome: "certified" };
        const cells = cellsOf(round);
        return {
            numbers: [f.count(0), f.count(999), f.count(999.7), f.count(1500), f.count(12345), f.count(2.5e8),
                      f.bytes(1214000), f.count(null), f.loss(NaN), f.percent(1, 0), f.percent(1, 3)],
            times: [f.duration(0.84), f.duration(9.96), f.duration(59.6), f.duration(200), f.duration(18120),
                    f.duration(273600), f.ago(0.2), f.ago(1.2), f.ago(75)],
            kinds: [0, 1, 2, 3, 4, 9].map((place) => cells.get(place) ?? "absent")
                   .concat(cellsOf({ ...round, outcome: "aborted" }).get(4)),
        };
    }""")
    assert results["numbers"] == [
        "0",
        "999",
        "1.00 k",
        "1.50 k",
        "12.3 k",
        "250 M",
        "1.21 MB",
        "–",
        "–",
        "–",
        "33.3 %",
    ]
    assert results["times"] == [
        "0.84 s",
        "10 s",
        "1 m 0 s",
        "3 m 20 s",
        "5 h 2 m",
        "3 d 4 h",
        "now",
        "1 s ago",
        "1 m 15 s ago",
    ]
    assert results["kinds"] == ["contributed", "received", "late", "rejected", "missing", "absent", "void"]


async def test_the_charts_over_time_of_a_recording(dashboard: Dashboard) -> None:
    """Its figures lie where the recording does, years ago."""
    node = dashboard.node
    records = []
    for version in range(1, 30):
        node.advance()
        state = {**node.snapshot, "time": None, "peers": None}
        records.append(
            {
                "kind": "snapshot", "text": "", "time": START + 14 * version, "whole": True,
                "state": state, "peers": node.snapshot["peers"], "gone": [],
            }
        )  # fmt: skip

    async def at_once(_: float) -> None: ...

    replay = ReplayNode(Recording("events.jsonl", records, 0), 1.0, clock=lambda: 0.0, sleep=at_once)
    await replay.play()
    server = WebServer(replay, port=0, token=TOKEN)
    await server.start()
    page = await dashboard.page.context.new_page()
    await page.goto(server.login_url())
    for name in ("tokens", "network", "history"):
        await expect(page.locator(f"#{name}-chart canvas")).to_be_visible()
        await expect(page.locator(f"#{name}-empty")).to_be_hidden()
        await page.locator(f"#{name}-more summary").click()
        await expect(page.locator(f"#{name}-more tbody tr").nth(20)).to_be_visible()
    await expect(page.locator("#tokens-summary")).to_contain_text(
        "49.5 k tokens per second in the newest point, of them mine 21.4 k"
    )
    await page.close()
    await server.close()
