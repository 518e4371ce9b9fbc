"""The dashboard for Grafana asks for metrics that there are, and for all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def exported() -> set[str]:
    """Names in /metrics, as the code makes them."""
    text = (ROOT / "daemon" / "metrics.py").read_text()
    gauges = {f"atoll_{name}" for name in re.findall(r'gauge\("([a-z0-9_]+)"', text)}
    counters = {f"{name}_total" for name in re.findall(r'Counter\(\s*"(atoll_[a-z_]+)"', text)}
    gauges |= set(re.findall(r'Gauge\(\s*"(atoll_[a-z_]+)"', text))
    assert len(gauges) > 8 and len(counters) > 4
    return gauges | counters


def test_it_asks_for_what_there_is() -> None:
    board = json.loads((ROOT / "docs" / "grafana.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"atoll_[a-z0-9_]+", target["expr"])
    }
    lines = {"atoll_upload_bits_per_second", "atoll_download_bits_per_second", "atoll_loss"}
    assert asked <= exported()
    assert exported() - asked == lines, "what a line carried, and a node's own loss, are in no panel"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len(set(places)) == len(places)
