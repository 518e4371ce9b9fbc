"""The stage of rounds: makes a node's island and the driver of its rounds, and passes on what they say.

Owns the trainer's process until the island takes it, and the books. What rounds bring is told to neighbours,
page and history here, in one order: who is linked hears of a new version before people do.
"""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from atoll.daemon.account_book import AccountBook
from atoll.daemon.config import size_of
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.history import Said
from atoll.daemon.island import Island
from atoll.daemon.left_out import Seen
from atoll.daemon.privacy_book import open_privacy
from atoll.daemon.rhythm import rhythm_of, terms_of
from atoll.daemon.rounds.config import round_config
from atoll.daemon.storage.files import TROUBLE_CODES
from atoll.daemon.trainers import Trainer, WarmTrainer
from atoll.daemon.training.memory import SharedMemory
from atoll.daemon.trust import surroundings_of
from atoll.daemon.welcome import welcome
from atoll.peers.identity import readable_name
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.round import RoundMachine
from atoll.protocol.round import types as t

if TYPE_CHECKING:
    from atoll.daemon.node import Node
    from atoll.daemon.rounds.driver import RoundDriver


class RoundStage:
    """Of one node. `trainer`: the socket of a person's own script, which trains in place of ours."""

    book: AccountBook

    def __init__(self, node: Node, trainer: socket.socket | None) -> None:
        self._node = node
        self._socket = trainer
        self._warm: WarmTrainer | None = None
        self._traffic = (0, 0)

    @property
    def trains_by_itself(self) -> bool:
        """Whether it brings the trainer along; else a person's own script trains."""
        return self._socket is None

    async def warm_up(self, undo: AsyncExitStack) -> None:
        """Starts the trainer's process, unless nothing will train or it runs already.

        Its libraries take seconds to load: that goes on while peers are looked for and the state is fetched.
        """
        observes = self._node.observes
        if observes and self._warm is not None:
            await self._warm.close()
            self._warm = None
        elif self.trains_by_itself and not observes and self._warm is None:
            self._warm = await WarmTrainer.start()
            undo.push_async_callback(self._warm.close)

    async def open(self, undo: AsyncExitStack, memory: SharedMemory) -> tuple[Island, RoundDriver]:
        """Both, ready for rounds; the trainer is not started. Raises AtollError."""
        node = self._node
        assert node.manifest and node.outer and node.neighbours and node.reader
        from atoll.daemon.rounds.driver import RoundDriver

        manifest, outer, reader, me = node.manifest, node.outer, node.reader, node.keyring.peer_id
        opened = asyncio.to_thread(open_privacy, node.settings, node.folder.privacy)
        node.privacy, node.noise = await opened
        self.book = AccountBook(node.folder, len(manifest.chunks), node.events, node.alerts)
        self.book.catch_up(outer, me)
        island = Island(
            rhythm_of(manifest, node.neighbours.roster),
            self.book.ledger,
            node.events,
            me,
            manifest.chunks,
            reader.place,
            self.book.note,
            self.book.save,
            self._changed,
            lambda: welcome(manifest, node.settings, node.folder, memory, reader.validation, me),
            self._launch,
            may_restart=self.trains_by_itself,
            resets=manifest.body.outer.missed == "reset",
            bug=lambda text: self._trouble("bug", text),
            terms=partial(terms_of, outer.amendments),
            last_version=node.settings.rounds,
        )
        in_force = outer.amendments.due(outer.head)
        driver = RoundDriver(
            RoundMachine(round_config(in_force), node.keyring, outer.head, life=time.time_ns()),
            node.keyring,
            outer,
            memory.snapshot,
            node.neighbours,
            time.monotonic,
            before_apply=island.merged,
            applied=self._applied,
            ended=self._ended,
            trouble=self._trouble,
            around=surroundings_of(node),
        )
        undo.push_async_callback(driver.close)
        island.cap_memory(size_of(node.settings.memory) or 0)
        island.speeds = self._speeds
        island.driver = driver
        undo.push_async_callback(self._save_all)
        undo.push_async_callback(island.stop)
        return island, driver

    async def _launch(self, trainer: Trainer) -> None:
        if self._socket is not None:
            await trainer.attach(self._socket)
        else:
            warm, self._warm = self._warm, None
            await trainer.start(warm)

    def _speeds(self) -> tuple[int, int, bool]:
        """What a plan may ask of this node's line."""
        assert self._node.neighbours is not None
        links = self._node.neighbours.links
        return links.line.upload_bps, links.line.likely_download_bps, links.relayed

    async def _save_all(self) -> None:
        node = self._node
        assert node.driver is not None and node.outer is not None
        await self.book.save()
        try:
            await node.driver.on_disk(node.outer.save_if_due, True)
        except AtollError as error:
            node.events.emit("disk", f"The last checkpoint was not written: {error.sentence()}")

    # ---- what island and driver say

    def _changed(self) -> None:
        node = self._node
        assert node.neighbours is not None and node.island is not None
        if node.island.val_losses:
            version, loss = next(reversed(node.island.val_losses.items()))
            node.front.measured(version, loss)
        node.neighbours.tell_soon()
        node.events.changed()

    async def _applied(self, commit: pb.Commit, head: Head) -> None:
        node = self._node
        assert node.island is not None and node.neighbours is not None
        node.roster_changed()
        node.neighbours.tell_everyone()
        for code in TROUBLE_CODES:
            node.alerts.clear(code)
        node.history.applied(head)
        if len(commit.contributors) > 1:
            node.neighbours.following.met(time.monotonic())
        node.island.committed([(commit, head.digest)], head)
        node.front.applied()
        node.events.changed()

    def _ended(self, report: t.SessionReport) -> None:
        node = self._node
        assert node.neighbours is not None and node.island is not None
        node.island.seen = Seen.of(report, node.keyring.peer_id, time.monotonic())
        traffic = node.neighbours.links.traffic
        sent, received = self._traffic
        self._traffic = (traffic.sent, traffic.received)
        roster, members = node.neighbours.roster.entries, set(report.contributed)
        entry = node.history.ended(
            report,
            time.time(),
            traffic.sent - sent,
            traffic.received - received,
            node.island.phase.phase_loss,
            [_said(entry.status) for peer, entry in roster.items() if peer in members],
        )
        node.front.ended(entry)
        names = ", ".join(readable_name(peer) for peer in report.missing)
        text = f"Round {report.version} ended {report.outcome}: {report.reason}"
        text = f"{text}; missing: {names}." if names else f"{text}."
        node.events.emit("round", f"{text} {report.codec_reason}".rstrip(), record={"round": entry})

    def _trouble(self, code: str, text: str) -> None:
        self._node.alerts.raise_(code, text, "See the log.")
        if code == "bug":
            self._node.fail(AtollError(Exit.BUG, code, text, "Please report it with the log."))


def _said(status: pb.NodeStatus) -> Said:
    """What a member said of its last phase."""
    return Said(
        status.loss if status.HasField("loss") else None,
        status.cosine if status.HasField("cosine") else None,
    )
