"""The panel "Members" in a real Chromium: who is in, who asks, what an organiser does about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from playwright.async_api import Locator, expect

from atoll.web_ui.interface import CommandError

from .fake_node import NAMES, PEER_IDS
from .test_page import Dashboard, browser, dashboard

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]
__all__ = ["browser", "dashboard"]


@pytest.fixture
def panel(dashboard: Dashboard) -> Locator:
    return dashboard.page.get_by_role("region", name="Members")


async def test_it_shows_who_is_in_who_was_and_who_asks(dashboard: Dashboard, panel: Locator) -> None:
    await dashboard.open()
    rows = panel.get_by_role("row")
    await expect(rows).to_have_count(1 + 3)
    await expect(rows.nth(1)).to_contain_text("owner")
    await expect(rows.nth(2)).to_contain_text("anna")
    await expect(rows.nth(2)).to_contain_text("in 80 d")
    await expect(rows.nth(3)).to_contain_text("out: it was revoked: it left the lab")
    await expect(rows.nth(3)).to_contain_text("<b>bob</b>")
    await expect(panel).to_contain_text("2 in")
    await expect(panel).to_contain_text("used 1/2, ends in")
    await expect(panel).to_contain_text("<i>carl</i>")


async def test_an_organiser_approves_and_revokes_when_sure(dashboard: Dashboard, panel: Locator) -> None:
    await dashboard.open()
    await panel.get_by_role("button", name="Approve patient-otter").click()
    await expect(panel.get_by_role("status")).not_to_be_empty()
    assert dashboard.node.commands == [("approve", {"node": "12D3KooWAsks"})]
    asked: list[str] = []
    answers = [False, True]

    async def answer(dialog) -> None:
        asked.append(dialog.message)
        await (dialog.accept() if answers.pop(0) else dialog.dismiss())

    dashboard.page.on("dialog", answer)
    revoke = panel.get_by_role("button", name=f"Revoke {NAMES[1]}")
    await revoke.click()
    assert len(dashboard.node.commands) == 1 and NAMES[1] in asked[0]
    await revoke.click()
    await expect(panel.get_by_role("status")).not_to_be_empty()
    assert dashboard.node.commands[1:] == [("revoke", {"node": PEER_IDS[1]})]
    await expect(panel.get_by_role("button", name=f"Revoke {NAMES[0]}")).to_have_count(0)


async def test_a_refusal_is_told_in_the_nodes_words(dashboard: Dashboard, panel: Locator) -> None:
    async def refuse(name: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
        raise CommandError("not-admitted", "It stays out.", "Ask the organiser.")

    dashboard.node.command = refuse  # type: ignore[method-assign]
    await dashboard.open()
    await panel.get_by_role("button", name="Approve patient-otter").click()
    await expect(panel.get_by_role("status")).to_have_text("It stays out. Ask the organiser.")
    dashboard.problems[:] = [line for line in dashboard.problems if "409" not in line]


async def test_who_may_not_admit_only_sees_and_an_open_swarm_has_no_panel(
    dashboard: Dashboard, panel: Locator
) -> None:
    shown = dashboard.node.snapshot["organisation"]
    assert shown is not None
    shown["may_admit"] = False
    await dashboard.open()
    await expect(panel.get_by_role("row")).to_have_count(1 + 3)
    await expect(panel.get_by_role("button")).to_have_count(0)
    dashboard.node.snapshot["organisation"] = None
    dashboard.node.changed()
    await expect(panel).to_be_hidden()
