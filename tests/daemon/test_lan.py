"""What is told and believed of nodes in one's own network; the search itself: tests/process/test_lan.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.daemon import extras
from atoll.daemon.cli import main
from atoll.daemon.lan import TYPE, tag, told
from atoll.protocol.signing import peer_id_of, peer_text
from atoll.protocol.ticket import decode

SWARM = tag(b"s" * 32)
PEER = peer_text(peer_id_of(b"k" * 32))
NAME = f"{PEER}.{TYPE}"
GOOD = {b"swarm": SWARM.encode()}


def test_private_addresses_of_a_node_of_the_swarm_are_tried() -> None:
    found = told(NAME, 31337, ["192.168.1.5", "44.0.0.1", "127.0.0.1", "8.8.8.8"], GOOD, SWARM)
    assert found == [f"/ip4/192.168.1.5/tcp/31337/p2p/{PEER}"]


@pytest.mark.parametrize(
    ("name", "port", "ips", "properties"),
    [
        (NAME, 31337, ["192.168.1.5"], {b"swarm": tag(b"x" * 32).encode()}),
        (NAME, 31337, ["192.168.1.5"], {}),
        (NAME, 31337, ["192.168.1.5"], None),
        (NAME, 0, ["192.168.1.5"], GOOD),
        (NAME, None, ["192.168.1.5"], GOOD),
        (NAME, 70000, ["192.168.1.5"], GOOD),
        (f"nobody.{TYPE}", 31337, ["192.168.1.5"], GOOD),
        (f"{PEER}/x.{TYPE}", 31337, ["192.168.1.5"], GOOD),
        (f"0OIl.{TYPE}", 31337, ["192.168.1.5"], GOOD),
        (NAME, 31337, [], GOOD),
        (NAME, 31337, ["fe80::1%eth0"], GOOD | {b"swarm": b"\xff"}),
    ],
)
def test_all_else_is_not(name: str, port: int | None, ips: list[str], properties: object) -> None:
    assert not told(name, port, ips, properties, SWARM)


def test_a_ticket_without_addresses_wants_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ["--data-dir", str(tmp_path / "a")]
    assert main(["init", "lab", *where]) == 0
    capsys.readouterr()
    assert main(["ticket", "--lan", *where]) == 0
    out, err = capsys.readouterr()
    assert not decode(out.strip()).addresses and not err
    assert main(["join", out.strip(), "--yes", "--data-dir", str(tmp_path / "b")]) == 2
    assert "--mdns" in capsys.readouterr().err
    monkeypatch.setattr(extras, "_installed", lambda package: package != "zeroconf")
    assert main(["run", "--mdns", *where]) == 2
    assert "atoll[mdns]" in capsys.readouterr().err
