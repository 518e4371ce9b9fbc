"""The page in all the states that a person may meet, each looked at: a picture of each is kept.

Pictures lie in the folder SCREENSHOTS, else with pytest's temporary files.
"""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from atoll.web_ui.server import WebServer

from .conftest import TOKEN
from .fake_node import START, FakeNode, crowd_in, make_big_node, make_joining_state, make_peer, make_rounds
from .test_accessibility import violations
from .test_page import HOSTILE, Dashboard, browser, dashboard

__all__ = ["browser", "dashboard"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.getbasetemp() / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def healthy(node: FakeNode) -> None:
    """As it is made."""


def joining(node: FakeNode) -> None:
    node.snapshot, node.reports = make_joining_state(), []


def alone(node: FakeNode) -> None:
    state = node.snapshot
    state["peers"] = [make_peer(0, state["version"])]
    state["swarm_tokens_per_s"] = state["tokens_per_s"]
    state["sentence"] = "Training: inner step 12 of 30 of round 42 (since 6s). It averages alone in about 8s."
    state["alerts"] = [
        {
            "code": "training_alone",
            "since": START,
            "text": "No other node is connected: this one trains alone.",
            "fix": "Nothing has to be done; others join with a ticket.",
        }
    ]


def relay_only(node: FakeNode) -> None:
    for peer in node.snapshot["peers"][1:]:
        peer["direct"], peer["way"] = False, "relay"
        peer["lane"] = "libp2p: the link runs over a relay"
    node.snapshot["alerts"] = [
        {
            "code": "relay_only",
            "since": START,
            "text": "All links of this node run over relays: updates go slowly.",
            "fix": "Forward its port on your router, or open it in the firewall.",
        }
    ]
    node.snapshot["connection"][2]["text"] = "0/2 without a relay"


def forked(node: FakeNode) -> None:
    node.snapshot["certified"] = False
    node.snapshot["peers"][2]["digest"] = "ff" * 32
    node.snapshot["alerts"] = [
        {
            "code": "fork_suspected",
            "since": START,
            "text": "The nodes hold two different histories.",
            "fix": "They settle it by themselves: what a majority holds stays, then what has more tokens.",
        }
    ]


def hostile(node: FakeNode) -> None:
    for peer in node.snapshot["peers"][1:]:
        peer["name"] = peer["label"] = peer["state"] = peer["software"] = HOSTILE
    node.reports[-1]["leader"] = node.reports[-1]["reason"] = HOSTILE
    node.snapshot["swarm_name"] = HOSTILE
    node.log.add(HOSTILE, HOSTILE)


CASES: dict[str, tuple[Callable[[FakeNode], None], str]] = {
    "healthy": (healthy, "Training: round 42"),
    "joining": (joining, "Joining: no bootstrap peer answers"),
    "alone": (alone, "this one trains alone"),
    "relay-only": (relay_only, "All links of this node run over relays"),
    "fork": (forked, "two different histories"),
    "hostile": (hostile, "<script>"),
}


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("case", CASES)
async def test_a_case_is_told_and_fits(
    dashboard: Dashboard, pictures: Path, case: str, theme: str, width: int
) -> None:
    make, told = CASES[case]
    make(dashboard.node)
    page = dashboard.page
    await page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    await page.set_viewport_size({"width": width, "height": 900})
    await dashboard.open()
    await expect(page.locator("body")).to_contain_text(told)
    await picture(page, pictures / f"{case}-{theme}-{width}.png")
    assert await violations(page) == []
    assert await page.evaluate("window.harmed") is None


async def picture(page: Page, path: Path) -> None:
    """Kept, and not wider than the window."""
    overflow = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0
    await page.screenshot(path=path, full_page=True)
    assert path.stat().st_size > 10_000


async def test_disconnected(dashboard: Dashboard, pictures: Path) -> None:
    await dashboard.open()
    await dashboard.server.close()
    await expect(dashboard.page.locator("#notice")).to_contain_text("The node does not answer")
    await picture(dashboard.page, pictures / "disconnected-light-1280.png")
    dashboard.problems[:] = [line for line in dashboard.problems if "net::ERR_" not in line]


async def test_a_large_swarm(browser: Browser, pictures: Path) -> None:
    node = make_big_node(200, 500)
    server = WebServer(node, port=0, token=TOKEN)
    await server.start()
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    await page.goto(server.login_url())
    # How soon is measured by benchmarks/page; here both sides share a loaded machine.
    await expect(page.locator("body")).to_have_attribute("data-link", "live", timeout=60_000)
    await expect(page.locator("#peers tbody tr")).to_have_count(200, timeout=60_000)
    await expect(page.locator("#rounds tbody tr").first).to_contain_text("500")
    assert await page.evaluate("document.getElementById('strip').width >= 500 * 4")
    await picture(page, pictures / "large-light-1280.png")
    assert await violations(page) == []
    await page.locator("#peers-search").fill("peer-07")
    await expect(page.locator("#peers tbody tr")).to_have_count(10)
    await page.locator("#peers-search").fill("")
    # A round later the strip has moved by one column, as if it were drawn anew.
    entry = {**node.reports[-1], "version": 501, "outcome": "certified"}
    entry["time"] += 14.2
    crowd_in(entry, 200, random.Random(9))  # type: ignore[arg-type]
    node.report(entry)  # type: ignore[arg-type]
    node.changed()
    await expect(page.locator("#rounds tbody tr").first).to_contain_text("501")
    moved = await page.evaluate("document.getElementById('strip').toDataURL()")
    await page.reload()
    await expect(page.locator("#rounds tbody tr").first).to_contain_text("501")
    await expect(page.locator("#strip-line")).not_to_be_empty()
    assert await page.evaluate("document.getElementById('strip').toDataURL()") == moved
    await context.close()
    await server.close()
    assert problems == []


async def test_seven_tabs_share_one_stream(browser: Browser, pictures: Path) -> None:
    node = FakeNode()
    server = WebServer(node, port=0, token=TOKEN)
    await server.start()
    context = await browser.new_context()
    pages = [await context.new_page() for _ in range(7)]
    await pages[0].goto(server.login_url())
    await expect(pages[0].locator("body")).to_have_attribute("data-link", "live")
    for page in pages[1:]:
        await page.goto(server.url)
    for page in pages:
        await expect(page.locator("body")).to_have_attribute("data-link", "live")
    assert server._streams.count == 1
    node.advance()
    for page in pages:
        await expect(page.locator("#rounds tbody tr").first).to_contain_text("42")
        await expect(page.locator("#events li").first).to_contain_text("Round 42")
    await picture(pages[6], pictures / "seventh-tab-light-1280.png")
    for page in pages[:6]:
        await page.close()
    node.advance()
    await expect(pages[6].locator("#rounds tbody tr").first).to_contain_text("43")
    await pages[6].close()
    async with asyncio.timeout(20):
        while server._streams.count:
            await asyncio.sleep(0.05)
    await context.close()
    await server.close()


async def test_a_daemon_that_starts_again_under_the_page(dashboard: Dashboard, pictures: Path) -> None:
    """Another life: its reports have other revisions, its events other numbers."""
    await dashboard.open()
    page, port = dashboard.page, dashboard.server.port
    await expect(page.locator("#rounds tbody tr")).to_have_count(41)
    await dashboard.server.close()
    dashboard.node = FakeNode(version=3)
    dashboard.node.snapshot["started"] = START + 5000
    dashboard.server = WebServer(dashboard.node, port=port, token=TOKEN)
    await dashboard.server.start()
    await expect(page.locator("#rounds tbody tr")).to_have_count(3, timeout=15_000)
    await expect(page.locator("#events li")).to_have_count(3)
    dashboard.node.advance()
    await expect(page.locator("#rounds tbody tr")).to_have_count(4)
    await expect(page.locator("#events li").first).to_contain_text("Round 4")
    await picture(page, pictures / "started-again-light-1280.png")
    dashboard.problems[:] = [line for line in dashboard.problems if "net::ERR_" not in line]


async def test_events_of_a_kind_or_with_a_word(dashboard: Dashboard) -> None:
    await dashboard.open()
    page = dashboard.page
    dashboard.node.log.add("alert", "The disk is nearly full.")
    await page.locator("#events-kind").select_option("alert")
    shown = page.locator("#events li:visible")
    await expect(shown).to_have_count(1)
    await page.locator("#events-word").fill("nowhere")
    await expect(shown).to_have_count(0)
    await expect(page.locator("#events-empty")).to_have_text("None of the events is so.")
    await page.locator("#events-kind").select_option("all")
    await page.locator("#events-word").fill("disk is NEARLY")
    await expect(shown).to_have_count(1)


async def test_the_model_writes_on_from_a_prompt(dashboard: Dashboard) -> None:
    await dashboard.open()
    page = dashboard.page
    await page.get_by_label("The text begins with").fill("JULIET:")
    await page.get_by_role("button", name="Write on").click()
    await expect(page.locator("#sample-text")).to_have_text("JULIET: Thou art.")
    await expect(page.locator("#sample-answer")).to_have_text("Version 41, 4.2 s.")
    assert dashboard.node.commands == [("sample", {"prompt": "JULIET:", "temperature": 0.8})]
    await page.get_by_label("The text begins with").fill("please refuse")
    await page.get_by_role("button", name="Write on").click()
    await expect(page.locator("#sample-answer")).to_have_text(
        "It is writing already. Wait until that is done."
    )
    dashboard.problems[:] = [line for line in dashboard.problems if "409" not in line]


async def test_more_reports_than_a_change_carries_are_fetched(dashboard: Dashboard) -> None:
    dashboard.node.reports = []
    dashboard.node.snapshot["peers"] = dashboard.node.snapshot["peers"][:1]
    await dashboard.open()
    page = dashboard.page
    await expect(page.locator("#rounds-empty")).to_be_visible()
    dashboard.node.reports = make_rounds(300)
    dashboard.node.changed()
    await expect(page.locator("#rounds tbody tr").first).to_contain_text("300")
    await expect(page.locator("#loss-summary")).to_contain_text("from 5.560 at round 0")


async def test_a_node_that_too_many_pages_watch_is_asked_now_and_then(browser: Browser) -> None:
    node = FakeNode()
    server = WebServer(node, port=0, token=TOKEN, max_streams=1)
    await server.start()
    contexts = [await browser.new_context() for _ in range(2)]
    pages = [await context.new_page() for context in contexts]
    for page, link in zip(pages, ("live", "polling"), strict=True):
        await page.goto(server.login_url())
        await expect(page.locator("body")).to_have_attribute("data-link", link)
    await expect(pages[1].locator("#notice")).to_be_hidden()
    await expect(pages[1].locator("#link-text")).to_contain_text("asking now and then")
    await contexts[0].close()
    await expect(pages[1].locator("body")).to_have_attribute("data-link", "live", timeout=30_000)
    node.advance()
    await expect(pages[1].locator("#rounds tbody tr").first).to_contain_text("42")
    await contexts[1].close()
    await server.close()
