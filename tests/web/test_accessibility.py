"""What axe finds on the page: no violation of WCAG 2.2 AA, in each state, in both themes, wide and narrow."""

from pathlib import Path

import axe_playwright_python
import pytest
from playwright.async_api import Page

from .fake_node import make_joining_state
from .test_page import Dashboard, browser, dashboard

__all__ = ["browser", "dashboard"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()
RUN = """async () => (await axe.run(document, {runOnly: {type: "tag",
    values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}})).violations
    .map((v) => `${v.id}: ${v.help} (${v.nodes.map((n) => n.target.join(" ")).slice(0, 5).join(", ")})`)"""


async def violations(page: Page) -> list[str]:
    """Sentences of axe; the library runs outside of what the page's own policy forbids."""
    await page.evaluate(AXE)
    return list(await page.evaluate(RUN))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
async def test_a_healthy_node(dashboard: Dashboard, theme: str, width: int) -> None:
    await dashboard.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    await dashboard.page.set_viewport_size({"width": width, "height": 900})
    await dashboard.open()
    await dashboard.page.locator("#history-chart canvas").wait_for()
    assert await violations(dashboard.page) == []


async def test_a_node_that_joins(dashboard: Dashboard) -> None:
    dashboard.node.snapshot, dashboard.node.reports = make_joining_state(), []
    await dashboard.open()
    assert await violations(dashboard.page) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_a_node_with_trouble(dashboard: Dashboard, theme: str) -> None:
    snapshot = dashboard.node.snapshot
    snapshot["alerts"] = [{"code": "no_round", "since": 0.0, "text": "No commit.", "fix": "See the rounds."}]
    snapshot["state"], snapshot["sentence"] = "blocked", "Blocked: the disk is full (since 2s). Free some."
    dashboard.node.reports[-1]["outcome"] = "aborted"
    await dashboard.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    await dashboard.open()
    assert await violations(dashboard.page) == []


async def test_a_page_that_has_lost_its_node(dashboard: Dashboard) -> None:
    await dashboard.open()
    await dashboard.server.close()
    await dashboard.page.locator('body[data-link="lost"]').wait_for()
    found = await violations(dashboard.page)
    # Chromium itself logs each connection that failed; a page that is gone makes no more of them.
    await dashboard.page.goto("about:blank")
    dashboard.problems[:] = [line for line in dashboard.problems if "net::ERR_" not in line]
    assert found == []
