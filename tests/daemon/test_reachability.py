"""Who is asked to dial back, and when; the dials themselves are in tests/peers/test_dialback.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from atoll.daemon.reachability import AGAIN_S, RECHECK_S, WANTED, Reachability
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol import messages_pb2 as pb

PEERS = [bytes([k]) * 38 for k in range(1, 7)]
SEEN, ADDRESS = "44.0.0.1", "/ip4/44.0.0.1/tcp/31337"


class Node:
    """With links to some, relayed ones to others, and connected to a few without a link."""

    def __init__(
        self, folder: Path, linked: list[bytes], relayed: list[bytes], connected: list[bytes]
    ) -> None:
        links = {peer: SimpleNamespace(relayed=peer in relayed) for peer in [*linked, *relayed]}
        known: Any = SimpleNamespace(peers=tuple(links), get=links.get)
        self.network: Any = SimpleNamespace(
            host=None,
            port=31337,
            addresses=[],
            serves_all=False,
            neighbours=SimpleNamespace(links=known),
            finder=SimpleNamespace(connected=set(connected)),
        )
        self.data_dir = DataDir(folder)
        self.data_dir.create()
        self.told: list[str] = []
        events: Any = SimpleNamespace(emit=lambda kind, text: self.told.append(text))
        alerts: Any = SimpleNamespace()
        self.reachability = Reachability(self.network, self.data_dir, events, alerts)

    def answers(self, peer: bytes, cause: str, code: str = "") -> None:
        result = pb.DialBackResult(address=ADDRESS, cause=cause)
        self.reachability.took(peer, pb.DialBackReply(code=code, seen=SEEN, results=[result]))


def test_those_with_a_direct_link_are_asked_first_and_none_over_a_relay(tmp_path: Path) -> None:
    node = Node(tmp_path, PEERS[:2], PEERS[2:3], PEERS[3:4])
    assert node.reachability.due(0.0, 1e9) == [*PEERS[:2], PEERS[3]]


def test_a_few_answers_are_enough_and_are_renewed(tmp_path: Path, monkeypatch: Any) -> None:
    node = Node(tmp_path, PEERS, [], [])
    monkeypatch.setattr("atoll.daemon.reachability.time.time", lambda: 1e9)
    first = node.reachability.due(0.0, 1e9)
    assert len(first) == WANTED
    for peer in first:
        node.answers(peer, "")
    assert not node.reachability.due(1.0, 1e9 + 1)
    assert len(node.reachability.due(RECHECK_S, 1e9 + RECHECK_S)) == WANTED


def test_who_does_not_answer_makes_room_for_others(tmp_path: Path) -> None:
    node = Node(tmp_path, PEERS[:4], [], [])
    for peer in PEERS[:3]:
        node.reachability._asked[peer] = 0.0
    assert node.reachability.due(1.0, 1e9) == PEERS[3:4]
    assert node.reachability.due(AGAIN_S, 1e9) == PEERS[:3]


def test_who_may_ask_has_a_link(tmp_path: Path) -> None:
    node = Node(tmp_path, PEERS[:1], [], PEERS[1:2])
    assert node.reachability._refuses(PEERS[0]) is None
    assert node.reachability._refuses(PEERS[1]) == "it has no link to this node"
    node.network.neighbours = None
    assert node.reachability._refuses(PEERS[0]) == "this node is not ready yet"
    node.network.serves_all = True
    assert node.reachability._refuses(PEERS[0]) is None


async def test_what_was_found_is_told_once_and_kept(tmp_path: Path) -> None:
    node = Node(tmp_path, PEERS[:2], [], [])
    await node.reachability._settle()
    assert not node.told
    node.answers(PEERS[0], "no answer in 5 s")
    node.answers(PEERS[1], "", code="too_often")
    for _ in range(2):
        await node.reachability._settle()
    assert len(node.told) == 1 and f"{ADDRESS} (no answer in 5 s)" in node.told[0]
    assert node.data_dir.node_facts()["reach"] == {
        "proven": {},
        "failed": [ADDRESS],
        "verdict": "hidden",
        "relays": [],
    }
    view = node.reachability.view()
    assert view["verdict"] == "hidden" and view["tried"] == 1 and "Forward TCP port 31337" in view["fix"]
    node.answers(PEERS[1], "")
    await node.reachability._settle()
    assert len(node.told) == 2 and "1/2 that tried can dial it" in node.told[1]
    assert list(node.data_dir.node_facts()["reach"]["proven"]) == [ADDRESS]
