"""What the manifest fixes for rounds, as the round machine takes it."""

from __future__ import annotations

from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.modes.doors import ALL
from atoll.protocol.round import RoundConfig
from atoll.protocol.round.plan import MAX_MEMBERS, MAX_PHASE_S
from atoll.protocol.round.types import TWO_LEVEL_ABOVE

SLOWEST_BPS = 500_000.0
"""A line slower than this (bits/s) is not waited for; faster ones get the time they need from the start."""


def round_config(manifest: SwarmManifest) -> RoundConfig:
    """Rounds as the manifest describes them."""
    body = manifest.body
    leg_s = leg_cap_s(body.total_values)
    return RoundConfig(
        swarm_id=manifest.swarm_id,
        chunks=len(manifest.chunks),
        fragments=manifest.chunks.fragments,
        codec=body.rounds.codec,
        result_codec=body.rounds.result_codec,
        values=body.total_values,
        outer_lr=manifest.outer_lr,
        genesis_node=bytes(body.genesis_node),
        amendment=manifest.amendment,
        # Whoever collects for a group sends the owner no payload of any one's: nothing to audit.
        two_level_above=MAX_MEMBERS if body.rounds.audit else body.rounds.two_level_above or TWO_LEVEL_ABOVE,
        door=body.rounds.door or ALL,
        door_s=body.rounds.door_s,
        small_commits=manifest.small_commits,
        by_attendance=body.rounds.by_attendance,
        by_roughness=body.rounds.by_roughness,
        holds=manifest.holds,
        min_peers_to_start=body.rounds.min_peers_to_start,
        grace_floor_s=body.rounds.grace_floor_s,
        grace_cap_s=body.rounds.grace_cap_s,
        scatter_s=leg_s,
        reduce_s=leg_s,
    )


def leg_cap_s(values: int) -> float:
    """The cap of a leg leaves room for a whole payload on the slowest line that is waited for."""
    whole_s = 8.0 * values / SLOWEST_BPS  # int8 both ways: about a byte a value
    return min(MAX_PHASE_S, 60.0 + whole_s)
