"""A page over a real swarm: each number is the one that `--json` says, the model writes, a restart shows."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright, expect

from atoll.daemon.cli.api import running
from atoll.daemon.events import read_log
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.state_types import State
from tests.web.test_page import CHROMIUM, FLAGS, need_chromium

from .harness import Daemon, must
from .moment import held, reconcile

pytestmark = [pytest.mark.process, pytest.mark.browser]
Start = Callable[..., Daemon]
ROUNDS = 4
LOG_BYTES = 16 << 20
# What the page writes, made of what the commands print with the page's own words for numbers.
EXPECTED = """async ([status, peers, rounds]) => {
    const f = await import("/static/js/format.js");
    const own = peers.find((peer) => peer.self);
    const round = rounds[rounds.length - 1];
    const all = peers.reduce((sum, peer) => sum + peer.accepted_tokens, 0);
    return {
        "#sentence": status.sentence,
        "#tile-loss": f.loss(status.val_loss),
        "#tile-speed": f.count(status.swarm_tokens_per_s),
        "#tile-peers": `${peers.filter((peer) => peer.version === status.version).length}/${peers.length}`,
        "#tile-share": f.percent(status.accepted_tokens, all),
        "#node-facts": [f.bytes(status.traffic.classes.rounds.week_sent_bytes),
            f.count(status.parameters) + " parameters",
            f.count(status.token_account.accepted) + " of " + f.count(status.token_account.produced),
            String(status.version), f.short(status.digest)],
        "#peers tbody": peers.flatMap((peer) => [peer.name, f.short(peer.digest), String(peer.version),
            f.percent(peer.accepted_tokens, all)]),
        "#rounds tbody": rounds.flatMap((each) => [f.loss(each.val_loss), f.loss(each.loss), each.outcome,
            `${each.contributed.length}/${each.planned.length}`, f.duration(each.duration_s)]),
        "#report-facts": [f.count(round.tokens), f.bytes(round.bytes_sent), f.bytes(round.bytes_received),
            `${f.loss(round.loss_min)} to ${f.loss(round.loss_max)}`, round.cosine.toFixed(3),
            String(round.outer_lr), round.codec, f.short(round.digest), round.leader],
        "#own": own.id === status.node_id,
    };
}"""


def said(*arguments: str) -> Any:
    return json.loads(must(*arguments, "--json"))


async def open_page(page: Page, folder: Path) -> list[str]:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type in ("error", "warning") else None)
    await page.goto(running(DataDir(folder)).login_link())
    await expect(page.locator("body")).to_have_attribute("data-link", "live")
    return problems


async def test_every_number_is_that_of_the_commands(start: Start, tmp_path: Path) -> None:
    need_chromium()
    must("init", "lab", "--data-dir", str(tmp_path / "a"), "--inner-steps", "10", "--min-peers", "2")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])  # its own, which no other node takes while it starts again
    a = start("a", "run", "--rounds", str(ROUNDS), "--api-port", port)
    b = start("b", "join", a.ticket(), "--yes", "--rounds", str(ROUNDS))
    where = ("--data-dir", str(tmp_path / "a"))
    for node in (a, b):
        # It stands still then: what is asked at one moment holds at the next.
        node.wait_for(lambda s: s["state"] == "paused" and s["val_loss_version"] == ROUNDS, "the last round")
    state = running(DataDir(tmp_path / "a")).state()
    assert set(state) - {"number"} == State.__required_keys__
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = await browser.new_page()
        problems = await open_page(page, tmp_path / "a")
        await expect(page.locator("#rounds tbody tr")).to_have_count(ROUNDS)
        for _ in range(5):  # traffic of heartbeats goes on: until nothing moved while it was read
            known = [said("status", *where), said("peers", *where), said("rounds", *where)]
            expected = await page.evaluate(EXPECTED, known)
            shown = {place: await page.locator(place).inner_text() for place in expected if place != "#own"}
            wrong = [
                (place, text, shown[place])
                for place, texts in expected.items()
                if place not in ("#own", "#sentence")
                for text in ([texts] if isinstance(texts, str) else texts)
                if text not in shown[place]
            ]
            if not wrong:
                break
        assert wrong == [] and expected["#own"]
        assert shown["#sentence"].startswith("Paused: ") and "Paused: " in expected["#sentence"]
        assert {r["cosine"] is not None for r in known[2][1:]} == {True}

        # The model writes beside all this, what the command writes.
        await page.get_by_label("The text begins with").fill("ROMEO:")
        await page.get_by_role("button", name="Write on").click()
        await expect(page.locator("#sample-answer")).to_contain_text(f"Version {ROUNDS}", timeout=60_000)
        text = await page.locator("#sample-text").inner_text()
        assert text.startswith("ROMEO:") and len(text) > 20

        # Rounds are still there after a restart, and the page follows it.
        assert a.stop() == 0
        await expect(page.locator("body")).to_have_attribute("data-link", "lost")
        a_again = start("a", "run", "--rounds", str(ROUNDS), "--api-port", port)
        await expect(page.locator("body")).to_have_attribute("data-link", "live", timeout=60_000)
        await expect(page.locator("#rounds tbody tr")).to_have_count(ROUNDS)
        assert [line for line in problems if "net::ERR_" not in line] == []
        again = said("rounds", *where)

        # And all of them, not only the main ones, of one moment of this node.
        # Rounds are shown from the log before the node has its state again, and its numbers with it.
        a_again.wait_for(lambda s: s["state"] == "paused" and s["version"] == ROUNDS, "its state again")
        folder = DataDir(tmp_path / "a")
        picture = running(folder).picture()
        assert a_again.stop() == 0
        async with held(folder) as (moment, server):
            moment.become(picture, read_log(folder.events, LOG_BYTES)[-200:])
            await reconcile(await browser.new_page(), folder, moment, server)
        await browser.close()
    kept = ("version", "planned", "contributed", "tokens", "loss", "val_loss", "outcome", "cosine")
    assert [[r[k] for k in kept] for r in again] == [[r[k] for k in kept] for r in known[2]]
