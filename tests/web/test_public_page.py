"""The page in a real Chromium on the public listener: it draws the swarm and hides what is the owner's."""

from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from atoll.web_ui.public_server import PublicServer

from .fake_node import FakeNode
from .test_accessibility import violations
from .test_page import browser

__all__ = ["browser"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def watched(browser: Browser) -> tuple[Page, list[Any]]:
    """A page, and what it complains of."""
    page = await (await browser.new_context(viewport={"width": 1280, "height": 900})).new_page()
    problems: list[Any] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type in ("error", "warning") else None)
    return page, problems


async def test_it_draws_the_swarm_without_what_is_the_owners(browser: Browser) -> None:
    node = FakeNode()
    server = PublicServer(node, host="127.0.0.1", port=0)
    await server.start()
    page, problems = await watched(browser)
    try:
        await page.goto(server.url)
        await expect(page.locator("body")).to_have_attribute("data-link", "live")
        await expect(page.get_by_role("heading", level=1)).to_have_text(
            "Training: 3 nodes in the swarm at version 41."
        )
        await expect(page.locator("#rounds tbody tr")).to_have_count(41)
        assert await violations(page) == []
        await expect(page.locator("#peers tbody tr")).to_have_count(3)
        await expect(page.locator("#loss-chart canvas")).to_be_visible()
        for hidden in (
            ".controls",
            "#pause",
            "#node-title",
            "#history-title",
            "#connection-title",
            "#sample",
        ):
            await expect(page.locator(hidden)).to_be_hidden()
        for hidden in ("#joining", "#alerts", "#tokens-title", "#network-title"):
            await expect(page.locator(hidden)).to_be_hidden()
        node.advance()
        await expect(page.locator("#rounds tbody tr")).to_have_count(42)
        assert "anna" not in await page.locator("body").inner_text()
    finally:
        await page.context.close()
        await server.close()
    assert problems == []
