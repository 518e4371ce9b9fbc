"""Every number on the page is what `--json` says of the same moment; one that nobody compares is found."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright

from atoll.daemon.storage.data_dir import DataDir
from tests.web.fake_node import NAMES, START, make_setting
from tests.web.test_page import CHROMIUM, FLAGS, need_chromium

from .moment import Moment, held, reconcile, some_history

pytestmark = [pytest.mark.process, pytest.mark.browser]
GONE = "12D3KooWGoneGooseDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDD4"


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    need_chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield await browser.new_page(viewport={"width": 1280, "height": 900})
        await browser.close()


def eventful(node: Moment) -> None:
    """A node of which there is something to tell in every part of the page."""
    state = node.snapshot
    version = state["version"]
    state["label"] = "desk 2"
    state["val_loss_version"] = version - 1
    state["certified"] = False
    state["alerts"] = [
        {
            "code": "clock_skew",
            "since": START + 77,
            "text": "It is 41 s behind.",
            "fix": "Set it.",
        },
        {"code": "disk_low", "since": START + 99, "text": "2 GB are free.", "fix": "Free 3 GB."},
    ]
    state["bootstrap"] = [
        {"address": "/ip4/198.51.100.7/tcp/31337", "state": "failed", "cause": "timeout after 5 s"}
    ]
    state["checklist"] = [{"step": "Get its state", "done": True, "detail": "version 40"}]
    state["token_account"].update(orphaned=1234, expired=56_000, lost=7)
    state["traffic"].update(download_bps=48_000_000, download_cap_bps=50_000_000.0)
    for number, moved in enumerate(state["traffic"]["classes"].values(), 1):
        moved.update(week_sent_bytes=number * 1_234_567, week_received_bytes=number * 7_654_321)
    caps, hours, conditions = (state["controls"][name] for name in ("caps", "hours", "conditions"))
    caps.update(gb_per_week=make_setting(12.5), data_cap=make_setting(3_500_000_000), threads=make_setting(4))
    hours["train_hours"] = make_setting("mon-fri 22:00-07:00")
    conditions["pause_on_load"] = make_setting(35)
    for rule in state["controls"]["rules"]:
        if rule["code"] == "other_load":
            rule.update(watched=True, active=True, text="Other programs use 71 % of the processor.")
    assert state["swarm"] is not None
    state["swarm"].update(fragments=3, min_peers=2)
    state["peers"][1].update(rtt_ms=3.2, software="atoll 0.2.1")
    node.ids.append(GONE)
    odd = node.reports[-3]
    odd.update(
        planned=[0, 1, 2, 3], contributed=[0], late=[1], rejected=[{"peer": 3, "reason": "norm 31 times"}],
        missing=[2], received=[], groups=4, reason="2 of 4 in time", loss_min=None, loss_max=None,
        cosine=None,
    )  # fmt: skip
    assert odd["leader"] in NAMES


async def test_all_that_a_page_can_show(page: Page, tmp_path: Path) -> None:
    folder = DataDir(tmp_path / "a")
    async with held(folder, some_history(time.time())) as (node, server):
        eventful(node)
        await reconcile(page, folder, node, server)
        # A figure that somebody puts on the page is in no `--json` until the comparison knows it.
        await page.evaluate("document.getElementById('main').append('17 more')")
        assert (await page.evaluate("figures.shown()"))["main"] == ["17 more"]
