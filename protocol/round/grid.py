"""Two levels in big swarms: who collects for whom, who passes results on to whom. Pure functions of a plan.

The contributors stand in a grid. Its columns are the groups, about as many as each has members; the chunks
of an owner are collected by the other members of its row, each for its own group:

    member ── contribution ──▸ collector (own group, owner's row) ── mean of the group ──▸ owner
    member ◂── result ── collector ◂── result ── owner

So a member exchanges payloads with its group and its row, some 2 · sqrt(N) others, instead of with all. It
sends and receives no more than with one level, but for a mean per group and chunk. Followers stand in line
behind the groups. A plan with one level is a grid of one group: there the owner is its only collector.

Whoever collects and has left is passed by: its group deals with the owner.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from atoll.protocol import messages_pb2 as pb


class Grid:
    """Places of a plan's contributors, by index, and of its followers. The plan was checked."""

    def __init__(self, plan: pb.Plan) -> None:
        count = len(plan.contributors)
        self.groups = int(plan.groups) or 1
        self._order = [int(i) for i in plan.grid] if plan.groups else list(range(count))
        self._place = {index: divmod(k, self.groups) for k, index in enumerate(self._order)}
        self._followers = {bytes(peer): k % self.groups for k, peer in enumerate(plan.followers)}

    def group(self, index: int) -> int:
        """The group of a contributor."""
        return self._place[index][1]

    def group_of_follower(self, peer: bytes) -> int:
        """The group that a follower gets results with."""
        return self._followers.get(peer, 0)

    def members(self, group: int) -> list[int]:
        """The contributors of a group."""
        return self._order[group :: self.groups]

    def followers(self, group: int) -> Iterator[bytes]:
        """The followers behind a group."""
        return (peer for peer, behind in self._followers.items() if behind == group)

    def collector(self, owner: int, group: int, gone: Collection[int] = ()) -> int:
        """Who collects an owner's chunks for a group: itself for its own, or where nobody else is there."""
        row, own = self._place[owner]
        place = row * self.groups + group
        if group == own or place >= len(self._order) or self._order[place] in gone:
            return owner
        return self._order[place]
