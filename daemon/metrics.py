"""Metrics of a node for Prometheus. Labels never carry peer ids; docs/operations.md lists the names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

if TYPE_CHECKING:
    from atoll.daemon.node import Node


def metrics_of(node: Node, state: Mapping[str, Any]) -> str:
    """Prometheus text of the present moment."""
    registry = CollectorRegistry()

    def gauge(name: str, doc: str, value: float | None) -> None:
        if value is not None:
            Gauge(f"atoll_{name}", doc, registry=registry).set(value)

    gauge("version", "Outer steps applied", state["version"])
    gauge("peers", "Live peers, this node not counted", len(state["peers"]) - 1)
    gauge("loss", "Training loss of the last inner phase", state["loss"])
    gauge("validation_loss", "Validation loss of the outer parameters", state["val_loss"])
    gauge("tokens_per_second", "Tokens trained on per second, this node", state["tokens_per_s"])
    cosine = node.driver.cosine if node.driver else None
    gauge("contribution_cosine", "Between this node's last contribution and the mean", cosine)
    gauge("event_loop_lag_seconds", "Recent worst delay of the event loop", node.loop_lag_s)
    p99 = node.round_lag_p99_s
    gauge("event_loop_lag_in_rounds_p99_seconds", "99 % of delays in recent rounds were below it", p99)
    gauge("alerts", "Alerts that are on", len(state["alerts"]))
    rules = Gauge(
        "atoll_rules", "The owner's rules: 1 where one pauses this node", ["rule"], registry=registry
    )
    for rule in state["controls"]["rules"]:
        if rule["watched"]:
            rules.labels(rule["code"]).set(rule["active"] and not rule["overridden"])
    gauge("paused", "1 while the owner or a rule pauses this node", float(state["paused"]))
    tokens = Counter("atoll_tokens", "Tokens by what became of them", ["category"], registry=registry)
    for category, count in state["token_account"].items():
        tokens.labels(category).inc(count)
    traffic = Counter("atoll_traffic_bytes", "Bytes over links", ["direction"], registry=registry)
    traffic.labels("sent").inc(state["traffic"]["sent_bytes"])
    traffic.labels("received").inc(state["traffic"]["received_bytes"])
    by_class = Counter(
        "atoll_class_bytes", "Bytes by class of traffic", ["kind", "direction"], registry=registry
    )
    for kind, moved in state["traffic"]["classes"].items():
        by_class.labels(kind, "sent").inc(moved["sent_bytes"])
        by_class.labels(kind, "received").inc(moved["received_bytes"])
    gauge("upload_bits_per_second", "What receivers took of late", state["traffic"]["upload_bps"])
    gauge("download_bits_per_second", "What came of late", state["traffic"]["download_bps"])
    sessions = Counter("atoll_sessions", "Sessions by outcome", ["outcome"], registry=registry)
    for outcome, count in node.history.outcomes.items():
        sessions.labels(outcome).inc(count)
    dropped = Counter("atoll_dropped_messages", "Messages dropped, by reason", ["reason"], registry=registry)
    for reason, count in (node.driver.dropped.reasons if node.driver else {}).items():
        dropped.labels(reason).inc(count)
    for reason, count in (node.amending.refused.reasons if node.amending else {}).items():
        dropped.labels(reason).inc(count)
    refused = Counter(
        "atoll_refused_lanes", "Direct connections not let in, by reason", ["reason"], registry=registry
    )
    lanes = node.network.lanes if node.network else None
    for reason, count in (lanes.refused if lanes else {}).items():
        refused.labels(reason).inc(count)
    _count_strangers(node, registry)
    _count_wrongs(node, registry)
    return generate_latest(registry).decode()


def _count_wrongs(node: Node, registry: CollectorRegistry) -> None:
    """What members did wrong, by this node's own finding, and how many results it has made again."""
    wrongs = Counter("atoll_wrongs", "What members did wrong, by reason", ["reason"], registry=registry)
    for reason, count in node.standings.standings.strikes.items():
        wrongs.labels(reason).inc(count)
    audits = Counter("atoll_audits", "Results of others that were made again", registry=registry)
    audits.inc(node.driver.guard.auditor.done if node.driver else 0)


def _count_strangers(node: Node, registry: CollectorRegistry) -> None:
    """Who was not let in, and what was not taken of strangers."""
    refused = Counter(
        "atoll_refused", "Strangers and what they showed, by reason", ["reason"], registry=registry
    )
    if node.members is not None:
        for reason, count in node.members.admission.refused.items():
            refused.labels(reason).inc(count)
    if node.neighbours is not None:
        links = node.neighbours.links
        refused.labels("handshakes").inc(links.turned_away)
        for reason, count in links.refused.items():
            refused.labels(f"handshake_{reason}").inc(count)
        refused.labels("file_request").inc(node.neighbours.files.turned_away)
        for kind, count in node.neighbours.unwanted.items():
            refused.labels(f"observer_{kind}").inc(count)
    if node.network is not None:
        refused.labels("dht_record").inc(node.network.refused_records)
        refused.labels("dht_request").inc(node.network.refused_requests)
    if node.network is not None and node.network.enrolments is not None:
        refused.labels("enrolment_dropped").inc(node.network.enrolments.dropped)
    if node.network is not None and node.network.relay is not None:
        for reason, count in node.network.relay.refused.items():
            refused.labels(f"relay_{reason}").inc(count)
