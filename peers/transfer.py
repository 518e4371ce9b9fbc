"""One content from several holders at once: who is asked for which pieces, and what if they fail. Sans-IO.

Events go in with the time, requests come out; no sockets, no clock, no disk. The order of events decides all.

A holder has a window that follows from its measured speed, each request goes to whoever would have it done
first, and what is in flight is bounded for each and for all. Of a holder that breaks off or sends nothing for
too long (its own speed says how long that is) the pieces are taken back; it is asked again after a pause, and
dropped when that did not help. One that refuses, or sends a piece without its digest, is dropped at once.
When a faster holder would be idle, it is asked for a piece that a slower one sits on, too; where there is no
room left for that, the slower one's request is taken back. All holders together have to bring a least rate:
one that brings less than its share of it has stalled, too, although it is never silent. A transfer ends
`Done`, or `Failed` with a reason for every holder when none is left.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from atoll.peers.pacing import RateCap
from atoll.peers.transfer_types import (
    Ask,
    Cancel,
    Content,
    Done,
    Dropped,
    Effect,
    Ended,
    Event,
    Failed,
    HolderCame,
    HolderLeft,
    Keep,
    Limits,
    PieceCame,
    Received,
)

__all__ = [
    "Ask", "Cancel", "Content", "Done", "Dropped", "Effect", "Ended", "Event", "Failed", "HolderCame",
    "HolderLeft", "Keep", "Limits", "PieceCame", "Received", "Transfer",
]  # fmt: skip

WINDOW_S = 4.0
"""What a holder sends in so long may be in flight from it."""
MEMORY_S = 5.0
"""A holder's speed is measured over about so long."""
STALL_FLOOR_S, STALL_START_S, STALL_CAP_S = 2.0, 10.0, 20.0
STALL_FACTOR = 4.0
"""Silence of so many times what the bytes in flight should take is a stall."""
SLOW_BYTES_PER_S = 8 * 1024
"""Holders that are asked at the same time have to bring so much together, each its share."""
SLOW_WINDOW_S = 30.0
"""It is measured over so long; a content that is smaller than that has to be here by then."""
PATIENCE_S = 1.0
PAUSE_S = 1.0
MAX_STRIKES = 3
MAX_REQUESTS = 3
"""Requests to one holder at once; it gives a peer only so many places (files.py)."""
DAMAGED = "it sent a piece that does not have its digest"


@dataclass
class _Request:
    """`next`: the piece that is coming; `end`: after the last one."""

    holder: bytes
    next: int
    end: int
    asked_at: float
    last: float


@dataclass
class _Holder:
    """Speed is `measured_bytes` in `measured_s`, counted while something is asked of it; `window_bytes` came
    since `window_began`, when its share of the least rate was looked at last."""

    measured_bytes: float = 0.0
    measured_s: float = 0.0
    mark: float = 0.0
    window_bytes: int = 0
    window_began: float = 0.0
    in_flight: int = 0
    strikes: int = 0
    paused_until: float = -math.inf
    requests: list[int] = field(default_factory=list)

    @property
    def known(self) -> bool:
        return self.measured_bytes > 0

    @property
    def speed(self) -> float:
        """Bytes per second of one that is known."""
        return self.measured_bytes / max(self.measured_s, 1e-6)

    def begin_window(self, now: float) -> None:
        self.window_bytes, self.window_began = 0, now

    def measure(self, size_bytes: int, now: float) -> None:
        self.measured_bytes += size_bytes
        self.measured_s += max(0.0, now - self.mark)
        self.mark = now
        if self.measured_s > MEMORY_S:
            self.measured_bytes /= 2
            self.measured_s /= 2

    def disappointed(self, now: float) -> None:
        """It was given time and sent nothing in it; if that is all that is known of it, it is slow."""
        self.measure(0 if self.known else 1, now)

    def stall_s(self) -> float:
        """How long it may be silent; longer after a strike, which may have been unjust."""
        expected = STALL_FACTOR * self.in_flight / self.speed if self.known else STALL_START_S
        return min(STALL_CAP_S, max(STALL_FLOOR_S, expected) * float(2**self.strikes))


class Transfer:
    """Drives one transfer. `good`: pieces that are here already; `over`: how it ended, None while it runs."""

    def __init__(
        self,
        content: Content,
        holders: Sequence[bytes],
        good: Iterable[int] = (),
        cap: RateCap | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.content = content
        self.over: Done | Failed | None = None
        self.reasons: dict[bytes, str] = {}
        self.in_flight = 0
        self._limits = limits or Limits()
        self._cap = cap or RateCap()
        self._holders = {holder: _Holder() for holder in holders}
        self._dropped: set[bytes] = set()
        self._requests: dict[int, _Request] = {}
        self._serial = 0
        self._good = bytearray(len(content.digests))
        for piece in good:
            self._good[piece] = 1
        self._asked = bytearray(len(content.digests))  # requests under way that will bring it
        self._todo = [piece for piece, here in enumerate(self._good) if not here]  # a heap: asked of nobody
        self._left = len(self._todo)
        self._wake = math.inf

    # ---- in and out

    def start(self, now: float) -> list[Effect]:
        """The first requests."""
        return self._go_on([], now)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What follows from an event; nothing once the transfer is over."""
        if self.over is not None:
            return []
        match event:
            case Received():
                return self._received(event, now)
            case PieceCame():
                return self._piece_came(event, now)
            case Ended():
                return self._ended(event, now)
            case HolderCame():
                if event.holder not in self._dropped:
                    self._holders.setdefault(event.holder, _Holder())
                return self._go_on([], now)
            case HolderLeft():
                return self._go_on(self._part(event.holder, event.reason), now)
        assert_never(event)

    def deadline(self) -> float:
        """When `tick` has something to do at the latest."""
        if self.over is not None:
            return math.inf
        stalls = (r.last + self._holders[r.holder].stall_s() for r in self._requests.values())
        windows = (h.window_began + SLOW_WINDOW_S for h in self._holders.values() if h.requests)
        return min(self._wake, min(stalls, default=math.inf), min(windows, default=math.inf))

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: who has stalled, whose pause is over, who can be relieved."""
        if self.over is not None:
            return []
        effects: list[Effect] = []
        for request in list(self._requests.values()):
            holder = self._holders.get(request.holder)
            if holder is not None and holder.requests and request.last + holder.stall_s() <= now:
                effects += self._strike(
                    request.holder, f"it sent nothing for {now - request.last:.0f} s", now
                )
        return self._go_on(effects + self._strike_the_slow(now), now)

    def _strike_the_slow(self, now: float) -> list[Effect]:
        """Whoever brought less than its share of the least rate in its window is as good as silent."""
        busy = {peer: holder for peer, holder in self._holders.items() if holder.requests}
        effects: list[Effect] = []
        for peer, holder in busy.items():
            took = now - holder.window_began
            if took < SLOW_WINDOW_S:
                continue
            least = min(SLOW_BYTES_PER_S, self.content.size_bytes / SLOW_WINDOW_S) / len(busy)
            if holder.window_bytes < least * SLOW_WINDOW_S:
                reason = f"it sent {holder.window_bytes} bytes in {took:.0f} s, which is too slow"
                effects += self._strike(peer, reason, now)
            holder.begin_window(now)
        return effects

    # ---- events

    def _received(self, event: Received, now: float) -> list[Effect]:
        request = self._requests.get(event.request)
        if request is not None:
            request.last = now
            if event.size_bytes:
                self._holders[request.holder].measure(event.size_bytes, now)
                self._holders[request.holder].window_bytes += event.size_bytes
        return []

    def _piece_came(self, event: PieceCame, now: float) -> list[Effect]:
        request = self._requests.get(event.request)
        if request is None:
            return []
        piece = request.next
        if event.digest != self.content.digests[piece]:
            return self._go_on(self._drop(request.holder, DAMAGED), now)
        holder = self._holders[request.holder]
        holder.strikes = 0
        request.last = now
        request.next += 1
        self._landed(holder, self.content.size(piece))
        self._asked[piece] -= 1
        effects: list[Effect] = []
        if not self._good[piece]:
            self._good[piece] = 1
            self._left -= 1
            effects.append(Keep(piece))
        if request.next == request.end:
            self._forget(event.request)
        if self._asked[piece]:
            effects += self._spare()
        return self._go_on(effects, now)

    def _ended(self, event: Ended, now: float) -> list[Effect]:
        request = self._requests.get(event.request)
        if request is None:
            return []
        self._take_back(event.request)
        if event.refused:
            return self._go_on(self._drop(request.holder, event.reason), now)
        return self._go_on(self._strike(request.holder, event.reason, now), now)

    # ---- losing holders and requests

    def _strike(self, peer: bytes, reason: str, now: float) -> list[Effect]:
        """A holder broke off or stalled: its pieces are taken back, and it has a pause."""
        holder = self._holders[peer]
        holder.disappointed(now)
        holder.strikes += 1
        if holder.strikes >= MAX_STRIKES:
            return self._drop(peer, reason)
        holder.paused_until = now + PAUSE_S * 2 ** (holder.strikes - 1)
        return self._take_all_back(peer)

    def _drop(self, peer: bytes, reason: str) -> list[Effect]:
        """A holder is not asked any more."""
        self._dropped.add(peer)
        return [*self._part(peer, reason), Dropped(peer, reason)]

    def _part(self, peer: bytes, reason: str) -> list[Effect]:
        if peer not in self._holders:
            return []
        effects = self._take_all_back(peer)
        del self._holders[peer]
        self.reasons[peer] = reason
        return effects

    def _take_all_back(self, peer: bytes) -> list[Effect]:
        effects: list[Effect] = []
        for request in list(self._holders[peer].requests):
            self._take_back(request)
            effects.append(Cancel(request))
        return effects

    def _take_back(self, number: int) -> None:
        """What a request has not brought is to be asked for again."""
        request = self._requests[number]
        for piece in range(request.next, request.end):
            self._asked[piece] -= 1
            if not self._good[piece] and not self._asked[piece]:
                heapq.heappush(self._todo, piece)
        size = self.content.span_bytes(request.next, request.end)
        self._landed(self._holders[request.holder], size)
        self._cap.refund(size)
        self._forget(number)

    def _landed(self, holder: _Holder, size_bytes: int) -> None:
        holder.in_flight -= size_bytes
        self.in_flight -= size_bytes

    def _forget(self, number: int) -> None:
        request = self._requests.pop(number)
        self._holders[request.holder].requests.remove(number)

    def _spare(self) -> list[Effect]:
        """Cancels requests that would bring only what is here by now."""
        effects: list[Effect] = []
        for number, request in list(self._requests.items()):
            if all(self._good[request.next : request.end]):
                self._take_back(number)
                effects.append(Cancel(number))
        return effects

    # ---- asking

    def _go_on(self, effects: list[Effect], now: float) -> list[Effect]:
        """Ends the transfer, or asks for what there is room for."""
        self._wake = math.inf
        if not self._left:
            self.over = Done()
        elif not self._holders:
            self.over = Failed(dict(self.reasons))
        if self.over is not None:
            for number in list(self._requests):
                self._take_back(number)
                effects.append(Cancel(number))
            return [*effects, self.over]
        while self._todo and self._is_free() and (willing := self._willing(now)):
            if not self._may_spend(now):
                return effects
            peer, holder = min(willing, key=lambda item: self._expected_s(item[1]))
            effects.append(self._ask(peer, holder, now))
        return effects + self._relieve(now)

    def _willing(self, now: float) -> list[tuple[bytes, _Holder]]:
        """Holders that have room in their window and no pause."""
        pauses = [h.paused_until for h in self._holders.values() if h.paused_until > now]
        self._wake = min(self._wake, min(pauses, default=math.inf))
        return [(p, h) for p, h in self._holders.items() if h.paused_until <= now and self._wants_more(h)]

    def _expected_s(self, holder: _Holder) -> float:
        """When a holder would have sent one piece more; one that was not measured yet is worth trying."""
        return (holder.in_flight + self.content.piece_bytes) / holder.speed if holder.known else 0.0

    def _window(self, holder: _Holder) -> int:
        if not holder.known:
            return self.content.piece_bytes
        return int(max(self.content.piece_bytes, min(self._limits.per_holder_bytes, WINDOW_S * holder.speed)))

    def _wants_more(self, holder: _Holder) -> bool:
        if len(holder.requests) >= MAX_REQUESTS:
            return False
        return not holder.in_flight or holder.in_flight + self.content.piece_bytes <= self._window(holder)

    def _is_free(self) -> bool:
        size = self.in_flight + self.content.piece_bytes
        return not self.in_flight or size <= self._limits.in_flight_bytes

    def _may_spend(self, now: float) -> bool:
        """Whether the cap allows to ask now; if not, when to look again."""
        if self._cap.ready_at() > now:
            self._wake = min(self._wake, self._cap.ready_at())
            return False
        return True

    def _ask(self, peer: bytes, holder: _Holder, now: float) -> Ask:
        """The next run of pieces, half a window at most: so another request is always on its way."""
        room = min(self._window(holder) - holder.in_flight, self._limits.in_flight_bytes - self.in_flight)
        half = self._window(holder) // 2
        most = 1 if self._cap.bytes_per_s else max(1, min(room, half) // self.content.piece_bytes)
        first = heapq.heappop(self._todo)
        end = first + 1
        while self._todo and self._todo[0] == end and end - first < most:
            heapq.heappop(self._todo)
            end += 1
        return self._request(peer, holder, first, end, now)

    def _request(self, peer: bytes, holder: _Holder, first: int, end: int, now: float) -> Ask:
        if not holder.requests:
            holder.mark = now
            holder.begin_window(now)
        self._serial += 1
        self._requests[self._serial] = _Request(peer, first, end, now, now)
        holder.requests.append(self._serial)
        for piece in range(first, end):
            self._asked[piece] += 1
        size = self.content.span_bytes(first, end)
        holder.in_flight += size
        self.in_flight += size
        self._cap.spend(size, now)
        return Ask(self._serial, peer, first, end - first)

    # ---- when a holder would be idle

    def _relieve(self, now: float) -> list[Effect]:
        """Lets holders that have room take over from slower ones: each one request at most, now."""
        effects: list[Effect] = []
        for peer, holder in sorted(self._willing(now), key=lambda item: self._expected_s(item[1])):
            number = self._slowest(peer, now)
            if number is None:
                continue
            self._wake = min(self._wake, now + PATIENCE_S / 2)
            if self._remaining_s(number, now) <= 2 * self._expected_s(holder) + PATIENCE_S:
                continue
            if not self._may_spend(now):
                break
            request = self._requests[number]
            if self._todo or not self._is_free():
                self._holders[request.holder].disappointed(now)
                self._take_back(number)
                effects.append(Cancel(number))
                if self._is_free():
                    effects.append(self._ask(peer, holder, now))
            else:
                piece = self._alone(request)[-1]
                effects.append(self._request(peer, holder, piece, piece + 1, now))
        return effects

    def _slowest(self, peer: bytes, now: float) -> int | None:
        """Of the others' requests the one that will take longest, if only it brings a piece."""
        others = (n for n, r in self._requests.items() if r.holder != peer and self._alone(r))
        return max(others, key=lambda number: self._remaining_s(number, now), default=None)

    def _alone(self, request: _Request) -> list[int]:
        """Pieces that only this request will bring."""
        pieces = range(request.next, request.end)
        return [piece for piece in pieces if not self._good[piece] and self._asked[piece] == 1]

    def _remaining_s(self, number: int, now: float) -> float:
        """What a request will still take: by its holder's speed, at least as long as it was silent."""
        request = self._requests[number]
        holder = self._holders[request.holder]
        expected = holder.in_flight / holder.speed if holder.known else now - request.asked_at
        return max(expected, now - request.last)
