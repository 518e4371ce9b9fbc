"""What a node shows again of its life before, from the first moment of its page."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from atoll.daemon.config import load
from atoll.daemon.events import Events, older_than
from atoll.daemon.node import Node
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.rounds import with_ids
from tests.daemon.swarm import keyring
from tests.web.fake_node import PEER_IDS, make_rounds


async def test_rounds_and_events_are_there_again_whichever_file_they_are_in(tmp_path: Path) -> None:
    folder = DataDir(tmp_path)
    folder.create()
    before = Events(folder.events, lambda: 1.0)
    for entry in make_rounds(4):
        text = f"Round {entry['version']} ended."
        before.emit("round", text, record={"round": with_ids(entry, PEER_IDS)})
        if entry["version"] == 2:
            folder.events.rename(older_than(folder.events))

    node = Node(folder, load(folder.config, {}, {}))
    node.keyring, node.name = keyring(1), "coral-heron"
    node.events.emit("start", "It starts.")
    async with contextlib.AsyncExitStack() as undo:
        await node._start_page(undo)
        assert [entry["version"] for entry in node.history.rounds] == [1, 2, 3, 4]
        found, gap = node.events.since(0)
        assert not gap and [event["sequence"] for event in found] == list(range(1, len(found) + 1))
        assert [event["kind"] for event in found][:5] == ["round"] * 4 + ["start"]
        assert not any("round" in event for event in found)
        for task in (tasks := list(node._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
