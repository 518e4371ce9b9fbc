"""What a node that is ready tells the leader, and what of it a plan has to name. Pure functions."""

from __future__ import annotations

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.round import codec_choice
from atoll.protocol.round.company import Company
from atoll.protocol.round.door import MAX_PHASE_MS
from atoll.protocol.round.plan import MAX_ROUNDS, Offered
from atoll.protocol.round.types import LocalReady, RoundConfig


def ready(config: RoundConfig, head: Head, company: Company, local: LocalReady, next_view: int) -> pb.Ready:
    """The Ready of a node whose trainer is. `next_view`: the lowest that it would take part in."""
    line = company.me_trains
    return pb.Ready(
        parent=head.digest,
        version=head.version,
        tokens=local.tokens,
        steps=local.steps,
        offer=local.offer,
        shard=local.shard,
        upload_bps=line.upload_bps,
        download_bps=line.download_bps,
        relayed=line.relayed,
        codecs=codec_choice.allowed(config.codec),
        unreachable=company.unreachable(),
        next_view=next_view,
        phase_ms=min(MAX_PHASE_MS, int(1000 * local.phase_s)),
        rounds=local.rounds,
        roughness=local.roughness,
    )


def offered(config: RoundConfig, local: LocalReady) -> Offered:
    """What a plan that has this node among its contributors says of it."""
    return Offered(
        local.tokens,
        local.offer,
        local.shard,
        min(local.rounds, MAX_ROUNDS) if config.by_attendance else 0,
    )
