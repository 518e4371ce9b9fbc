"""What a node tells its peers of itself: everything at first, then only the lists that have changed. Sans-IO.

A status is sent to every peer every other second, and its lists (chain, links, checkpoints) are nearly all of
it: three kilobytes each time in a big swarm, which a home line would feel. Links lose nothing and keep the
order, so a list that this link has carried is not sent again; all of them are now and then.
"""

from __future__ import annotations

from collections.abc import Iterable

from atoll.protocol import messages_pb2 as pb

LISTS = ("chain", "linked", "held")
"""Fields of a NodeStatus that may be left out; bit k of `unchanged` stands for the k-th."""
WHOLE_EVERY_S = 30.0


class Telling:
    """What each peer was told over its present link."""

    def __init__(self) -> None:
        self._told: dict[bytes, tuple[float, tuple[bytes, ...]]] = {}

    def forget(self, peer: bytes) -> None:
        """The link to this peer is new, or over."""
        self._told.pop(peer, None)

    def statuses(
        self, peers: Iterable[bytes], status: pb.NodeStatus, now: float
    ) -> dict[bytes, pb.NodeStatus]:
        """For each peer the status, without the lists that its link has carried already."""
        lists = tuple(pb.NodeStatus(**{name: getattr(status, name)}).SerializeToString() for name in LISTS)
        made = {0: status}
        found = {}
        for peer in peers:
            at, told = self._told.get(peer, (0.0, ()))
            same = 0
            if told and now - at < WHOLE_EVERY_S:
                same = sum(1 << k for k, (old, new) in enumerate(zip(told, lists, strict=True)) if old == new)
            else:
                at = now
            self._told[peer] = (at, lists)
            if same not in made:
                made[same] = _without(status, same)
            found[peer] = made[same]
        return found


def _without(status: pb.NodeStatus, same: int) -> pb.NodeStatus:
    brief = pb.NodeStatus()
    brief.CopyFrom(status)
    brief.unchanged = same
    for k, name in enumerate(LISTS):
        if same >> k & 1:
            brief.ClearField(name)
    return brief


def completed(status: pb.NodeStatus, before: pb.NodeStatus) -> pb.NodeStatus:
    """A peer's status with the lists that it has left out, as it told them `before`."""
    if not status.unchanged:
        return status
    whole = pb.NodeStatus()
    whole.CopyFrom(status)
    whole.unchanged = 0
    for k, name in enumerate(LISTS):
        if status.unchanged >> k & 1:
            whole.ClearField(name)
            getattr(whole, name).extend(getattr(before, name))
    return whole
