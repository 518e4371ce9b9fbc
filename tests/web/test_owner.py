"""The panel "Your machine" in a real Chromium: pauses, leaving, caps, hours, and the rules that pause."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from playwright.async_api import Locator, expect

from atoll.web_ui.interface import CommandError

from .fake_node import make_setting
from .test_page import Dashboard, browser, dashboard

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]
__all__ = ["browser", "dashboard"]


@pytest.fixture
def panel(dashboard: Dashboard) -> Locator:
    return dashboard.page.get_by_role("region", name="Your machine")


async def test_it_pauses_for_some_hours(dashboard: Dashboard) -> None:
    await dashboard.open()
    group = dashboard.page.get_by_role("group", name="Pause for")
    await group.get_by_role("button", name="4 hours").click()
    await expect(dashboard.page.locator("#control-answer")).to_have_text("Paused: 4 hours.")
    assert dashboard.node.commands == [("pause", {"for_s": 4 * 3600})]
    await expect(group).to_be_hidden()


async def test_until_tomorrow_is_the_next_morning(dashboard: Dashboard) -> None:
    await dashboard.open()
    seconds = await dashboard.page.evaluate("""async () => {
        const { untilTomorrow } = await import("/static/js/owner.js");
        return [untilTomorrow(new Date(2026, 4, 4, 23, 30)), untilTomorrow(new Date(2026, 4, 31, 0, 0))];
    }""")
    assert seconds == [8.5 * 3600, 32 * 3600]


async def test_it_leaves_only_when_somebody_is_sure(dashboard: Dashboard, panel: Locator) -> None:
    await dashboard.open()
    leave = panel.get_by_role("button", name="Leave the swarm")
    await leave.press("Enter")
    await expect(leave).to_have_attribute("aria-expanded", "true")
    await expect(panel.get_by_role("button", name="Stay")).to_be_focused()
    await panel.get_by_role("button", name="Stay").press("Enter")
    await expect(leave).to_be_focused()
    await expect(panel.get_by_role("button", name="Yes, leave")).to_be_hidden()
    assert dashboard.node.commands == []
    await leave.click()
    await panel.get_by_role("button", name="Yes, leave").click()
    await expect(panel.get_by_role("status")).to_contain_text("It leaves")
    assert dashboard.node.commands == [("leave", {})]


async def test_caps_and_hours_are_shown_and_only_what_changed_is_sent(
    dashboard: Dashboard, panel: Locator
) -> None:
    controls = dashboard.node.snapshot["controls"]
    controls["caps"]["data_cap"] = make_setting(2_500_000_000, "config.toml")
    await dashboard.open()
    await expect(panel.get_by_label("Send at most")).to_have_value("20Mbit")
    await expect(panel.get_by_label("Disk for texts, GB")).to_have_value("2.5")
    await expect(panel.get_by_label("Rest on battery")).to_be_checked()
    await expect(panel.get_by_label("Receive at most")).to_have_accessible_description(
        "such as 50Mbit; empty: no cap. The command line gives it: a change here lasts until the next start."
    )
    await panel.get_by_role("button", name="Save").click()
    await expect(panel.get_by_role("status")).to_have_text("Nothing was changed.")
    await panel.get_by_label("Send at most").fill("30Mbit")
    await panel.get_by_label("Disk for texts, GB").fill("3.5")
    await panel.get_by_label("Traffic in seven days, GB").fill("40")
    await panel.get_by_label("Links to other nodes").fill("32")
    await panel.get_by_label("Device").fill(" cuda:1 ")
    await panel.get_by_label("Rest while another program computes on the GPU").check()
    await panel.get_by_label("Train only in these hours").fill("mon-fri 22:00-07:00")
    await panel.get_by_label("Rest on battery").uncheck()
    await panel.get_by_label("Train only in these hours").press("Enter")
    await expect(panel.get_by_role("status")).to_have_text("Set what you asked for.")
    (sent,) = dashboard.node.commands
    assert sent == (
        "set",
        {
            "up": "30Mbit",
            "gb_per_week": 40,
            "data_cap": 3_500_000_000,
            "connections": 32,
            "device": "cuda:1",
            "train_hours": "mon-fri 22:00-07:00",
            "pause_on_gpu": True,
            "pause_on_battery": False,
        },
    )
    dashboard.node.snapshot["controls"]["caps"]["up"] = make_setting("25Mbit", "config.toml")
    dashboard.node.changed()
    await expect(panel.get_by_label("Send at most")).to_have_value("25Mbit")


async def test_what_is_refused_stays_to_be_corrected_and_can_be_put_back(
    dashboard: Dashboard, panel: Locator
) -> None:
    await dashboard.open()
    rate = panel.get_by_label("Send at most")
    await rate.fill("fast")
    await panel.get_by_role("button", name="Save").click()
    await expect(rate).to_have_accessible_description(re.compile("Send at most: 'fast'; it must be a rate."))
    await expect(rate).to_be_focused()
    dashboard.node.advance()
    await expect(dashboard.page.get_by_role("heading", level=1)).to_contain_text("round 43")
    await expect(rate).to_have_value("fast")
    await panel.get_by_role("button", name="Put back").click()
    await expect(rate).to_have_value("20Mbit")
    threads = panel.get_by_label("Processor threads")
    await threads.fill("-1")
    await panel.get_by_role("button", name="Save").click()
    await expect(panel.locator("#owner-threads-wrong")).to_contain_text("no number of 0 or more")
    await expect(panel.locator("#owner-up-wrong")).to_be_empty()
    await expect(threads).to_be_focused()
    dashboard.problems[:] = [line for line in dashboard.problems if "409" not in line]


async def test_rules_say_whether_they_pause(dashboard: Dashboard, panel: Locator) -> None:
    await dashboard.open()
    items = panel.get_by_role("listitem")
    await expect(items).to_have_count(6)
    battery, traffic = items.nth(3), items.nth(2)
    await expect(battery).to_contain_text("Batteryset up, not pausing now")
    await expect(battery).to_contain_text("It pauses on battery.")
    await expect(traffic).to_contain_text("not set up")
    await expect(traffic).to_contain_text("It moved 262 MB.")
    rule = dashboard.node.snapshot["controls"]["rules"][3]
    rule.update(active=True, text="This machine runs on battery. <b>It</b> resumes later.")
    dashboard.node.changed()
    await expect(battery).to_contain_text("pauses it now")
    await expect(battery).to_contain_text("<b>It</b> resumes later.")
    rule["overridden"] = True
    dashboard.node.changed()
    await expect(battery).to_contain_text("set aside by you")


async def test_a_node_that_is_still_starting_can_be_paused_too(dashboard: Dashboard) -> None:
    async def refuse(name: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
        raise CommandError("not-training", "This node does not train yet.", "Try again when it does.")

    dashboard.node.command = refuse  # type: ignore[method-assign]
    await dashboard.open()
    await dashboard.page.get_by_role("button", name="1 hour").click()
    await expect(dashboard.page.locator("#control-answer")).to_have_text(
        "This node does not train yet. Try again when it does."
    )
    dashboard.problems[:] = [line for line in dashboard.problems if "409" not in line]


@pytest.mark.parametrize("width", [1280, 390, 320])
async def test_it_fits_the_window(dashboard: Dashboard, panel: Locator, width: int) -> None:
    await dashboard.page.set_viewport_size({"width": width, "height": 800})
    await dashboard.open()
    await panel.get_by_role("button", name="Leave the swarm").click()
    assert await dashboard.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    unnamed = await panel.evaluate(
        "p => [...p.querySelectorAll('input')].filter(i => i.labels.length !== 1).length"
    )
    assert unnamed == 0


async def test_commands_are_said_without_backticks(dashboard: Dashboard) -> None:
    dashboard.node.snapshot.update(
        state="paused", sentence="Paused: you asked for it (since 2s). `atoll resume --data-dir x` goes on."
    )
    await dashboard.open()
    await expect(dashboard.page.get_by_role("heading", level=1)).to_have_text(
        "Paused: you asked for it (since 2s). The button Resume goes on."
    )
