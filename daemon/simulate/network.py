"""The simulated network: links that keep order per class, with latency, bandwidth, and every way to break.

A link is what peers/links.py makes of a libp2p stream: frames in order, control frames ahead of bulk ones, a
Hello each way first. Bulk bytes wait for the sender's upload and the receiver's download. A link that dies
loses what is under way; each side notices in its own time, or not at all (then the roster's silence must).
Pairs without a link try to dial each other again and again. Files are asked for on streams of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from atoll.daemon.simulate.engine import Engine

if TYPE_CHECKING:
    from atoll.daemon.simulate.node import SimNode

REDIAL_S = (0.4, 1.2)
NOTICE_S = (0.02, 0.3)
REPLAY_S = 3.0
"""A frame that comes twice comes again within so long."""
REQUEST_BYTES = 120
SLICE_BYTES = 64
"""Of a large file: so much goes before the holder looks whether a round has begun."""
YIELD_S = 0.5
"""A holder in a round waits so long with each slice, at most (peers/files.py: longer, as its rounds are)."""


class Link:
    """One stream between two nodes; side 0 is `ends[0]`'s. `up[k]`: side k has had the other's Hello."""

    __slots__ = ("dead", "ends", "last", "latency", "up")

    def __init__(self, first: SimNode, second: SimNode, latency: float) -> None:
        self.ends = (first, second)
        self.up = [False, False]
        self.last = [0.0, 0.0, 0.0, 0.0]
        self.latency = latency
        self.dead = False

    def side(self, node: SimNode) -> int:
        return 0 if self.ends[0] is node else 1


class Network:
    """All links, and what is broken. `groups`: nodes of different groups can't reach each other."""

    def __init__(self, engine: Engine, nodes: list[SimNode], latency_s: tuple[float, float]) -> None:
        self.delivered = 0
        self.duplicates = 0.0  # the chance that a frame comes twice
        self.groups: dict[int, int] = {}
        self.cut_pairs: set[tuple[int, int]] = set()
        self._engine = engine
        self._nodes = nodes
        self._links: dict[tuple[int, int], Link] = {}
        self._latency = {(i, j): engine.between(latency_s) for j in range(len(nodes)) for i in range(j)}

    def start(self) -> None:
        for pair in self._latency:
            self._engine.after(self._engine.random.random() * 0.2, self._dial, pair)

    def reachable(self, a: SimNode, b: SimNode) -> bool:
        pair = (a.index, b.index) if a.index < b.index else (b.index, a.index)
        return self.groups.get(a.index, 0) == self.groups.get(b.index, 0) and pair not in self.cut_pairs

    # ---- links

    def _dial(self, pair: tuple[int, int]) -> None:
        a, b = self._nodes[pair[0]], self._nodes[pair[1]]
        engine = self._engine
        wanted = a.links.get(b.id) is None or b.links.get(a.id) is None
        if wanted and a.awake and b.awake and self.reachable(a, b):
            old = self._links.get(pair)
            if old is not None:
                old.dead = True
            link = self._links[pair] = Link(a, b, self._latency[pair])
            for node in (a, b):
                data = node.hello()
                engine.at(
                    self._arrival(link, link.side(node), len(data), b""), self._arrive, link, node, data, b""
                )
        engine.after(engine.between(REDIAL_S), self._dial, pair)

    def break_links(self, doomed: Callable[[SimNode, SimNode], bool], silent: float) -> None:
        """Links die; with chance `silent` a side does not notice."""
        for pair in sorted(self._links):
            link = self._links[pair]
            if not link.dead and doomed(*link.ends):
                link.dead = True
                for node in link.ends:
                    if self._engine.random.random() >= silent:
                        self._engine.after(self._engine.between(NOTICE_S), self._notice, link, node)

    def _notice(self, link: Link, node: SimNode) -> None:
        node.soon(node.link_ended, link)

    def close(self, node: SimNode, link: Link) -> None:
        """A node ends its side; the other notices if word can reach it."""
        other = link.ends[1 - link.side(node)]
        if not link.dead and self.reachable(node, other):
            lanes = link.last[2 * link.side(node) : 2 * link.side(node) + 2]
            self._engine.at(max(*lanes, self._engine.now + link.latency), self._notice, link, other)

    # ---- frames

    def _arrival(self, link: Link, side: int, size: int, payload: bytes) -> float:
        engine, now = self._engine, self._engine.now
        source, target = link.ends[side], link.ends[1 - side]
        lag = link.latency * (1.0 + 0.5 * engine.random.random())
        if payload:
            source.upload_free = max(now, source.upload_free) + (size + len(payload)) / source.upload_bps
            there = max(source.upload_free + lag, target.download_free)
            target.download_free = when = there + (size + len(payload)) / target.download_bps
            lane = 2 * side + 1
        else:
            when = now + lag + size / source.upload_bps
            lane = 2 * side
        last = link.last
        if when < last[lane]:
            when = last[lane]
        last[lane] = when
        return when

    def send(self, source: SimNode, peer: bytes, data: bytes, payload: bytes = b"") -> bool:
        """Puts a frame on its way; False where there is no link."""
        link = source.links.get(peer)
        if link is None:
            return False
        engine = self._engine
        when = self._arrival(link, link.side(source), len(data), payload)
        engine.at(when, self._arrive, link, source, data, payload)
        if self.duplicates and engine.random.random() < self.duplicates:
            engine.at(when + REPLAY_S * engine.random.random(), self._arrive, link, source, data, payload)
        return True

    def _arrive(self, link: Link, source: SimNode, data: bytes, payload: bytes) -> None:
        target = link.ends[1] if link.ends[0] is source else link.ends[0]
        if not link.dead and target.alive:
            self.delivered += 1
            target.received(link, source.id, data, payload)

    # ---- files

    def ask(
        self,
        node: SimNode,
        holder: SimNode,
        kind: str,
        version: int,
        answer: Callable[[bytes | None], None],
        timeout_s: float,
    ) -> None:
        """Fetches a file of a holder; None where it can't be had. The node hears of it once."""
        engine, life = self._engine, node.life
        done = [False]

        def give(content: bytes | None) -> None:
            if not done[0]:
                done[0] = True
                answer(content)

        def arrived(content: bytes | None) -> None:
            if self.reachable(node, holder):
                self.delivered += 1
                node.do(life, give, content)

        def serve() -> None:
            content = holder.serve(kind, version)
            size = len(content or b"")
            holder.upload_free = max(engine.now, holder.upload_free) + size / holder.upload_bps
            engine.at(holder.upload_free + lag + size / node.download_bps, arrived, content)

        def asked() -> None:
            if holder.alive and self.reachable(node, holder):
                self.delivered += 1
                holder.soon(serve)

        pair = (node.index, holder.index) if node.index < holder.index else (holder.index, node.index)
        lag = self._latency[pair]
        node.later(timeout_s, give, None)
        engine.after(lag + REQUEST_BYTES / node.upload_bps, asked)

    def stream(
        self,
        node: SimNode,
        holder: SimNode,
        kind: str,
        version: int,
        spans: Sequence[slice],
        came: Callable[[bytes | None], None],
    ) -> None:
        """Fetches parts of a file, one after the other: b"" if it is not there, None if the stream broke.

        A holder that can't be reached any more sends nothing at all.
        """
        engine, life, its_life = self._engine, node.life, holder.life
        broken = [False]

        def arrived(data: bytes) -> None:
            if broken[0] or not self.reachable(node, holder):
                return
            self.delivered += 1
            broken[0] = not holder.alive or holder.life != its_life
            node.do(life, came, None if broken[0] else data)

        def serve() -> None:
            content = holder.serve(kind, version)
            parts = [content[span] for span in spans] if content is not None else [b""]
            give(parts, 0, 0)

        def give(parts: list[bytes], n: int, sent: int) -> None:
            """The next slice, once the one before it has gone and no round is under way."""
            size = min(SLICE_BYTES, len(parts[n]) - sent)
            holder.upload_free = max(engine.now, holder.upload_free) + size / holder.upload_bps
            sent += size
            if sent == len(parts[n]):
                engine.at(holder.upload_free + lag + sent / node.download_bps, arrived, parts[n])
                n, sent = n + 1, 0
            if n < len(parts):
                engine.at(
                    holder.upload_free,
                    holder.do,
                    its_life,
                    holder.between_rounds,
                    YIELD_S,
                    give,
                    parts,
                    n,
                    sent,
                )

        def asked() -> None:
            if not holder.alive:
                node.do(life, came, None)
            elif self.reachable(node, holder):
                self.delivered += 1
                holder.soon(serve)

        pair = (node.index, holder.index) if node.index < holder.index else (holder.index, node.index)
        lag = self._latency[pair]
        engine.after(lag + REQUEST_BYTES / node.upload_bps, asked)
