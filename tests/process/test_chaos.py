"""A minute of chaos with real daemons: no certified fork, no standstill, one digest and true books."""

from __future__ import annotations

import os

import pytest

from . import chaos
from .netns import available

pytestmark = pytest.mark.process

MINUTES = 1.0
PEERS = 4


@pytest.mark.timeout(600)
def test_a_minute_of_chaos() -> None:
    network = available()
    if not network and os.environ.get("TESTS_REQUIRE_ALL"):
        pytest.fail("network namespaces are needed: root, and iproute2")
    report = chaos.run(MINUTES, PEERS, seed=2, network=network)
    assert sum(report["faults"].values()) >= 3 and report["rounds"] >= 5
    assert chaos.is_good(report), report
