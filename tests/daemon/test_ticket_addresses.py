"""What a ticket carries: addresses that others have dialled, and others only with a word that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atoll.daemon.cli import main
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.ticket_addresses import Carried, carried, note

ME = "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8"
PUBLIC, LAN, LOOP = "/ip4/44.0.0.1/tcp/31337", "/ip4/192.168.1.5/tcp/31337", "/ip4/127.0.0.1/tcp/31337"
BOOTSTRAP = "/ip4/44.0.0.9/tcp/31337/p2p/12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"


def full(address: str) -> str:
    return f"{address}/p2p/{ME}"


def of(*own: str, bootstrap: tuple[str, ...] = (), **reach: Any) -> Carried:
    return carried({"addresses": [full(x) for x in own], "reach": reach}, bootstrap)


def test_what_others_have_dialled_comes_first_and_loopback_is_left_out_beside_it() -> None:
    found = of(LOOP, LAN, PUBLIC, proven={PUBLIC: 1.0})
    assert found.addresses == (full(PUBLIC), full(LAN)) and found.labels == ["public", "this network only"]
    assert not found.untried and not note(found, 31337)


def test_a_first_node_has_nobody_who_could_try_and_says_so() -> None:
    found = of(LOOP, LAN, PUBLIC)
    assert found.untried == (full(PUBLIC),)
    assert found.labels[0] == "public, but nobody has dialled it yet"
    assert "Nobody has dialled" in note(found, 31337) and "TCP port 31337" in note(found, 31337)


def test_what_others_tried_in_vain_is_left_out() -> None:
    found = of(LOOP, LAN, PUBLIC, failed=[PUBLIC])
    assert found.addresses == (full(LAN),) and found.left_out == (full(PUBLIC),)
    said = note(found, 31337)
    assert "in this network only" in said and "in vain" in said and "Forward TCP port 31337" in said
    assert not of(PUBLIC, failed=[PUBLIC]).addresses


def test_the_address_that_only_others_see_is_carried_once_they_have_dialled_it() -> None:
    found = of(LOOP, LAN, proven={PUBLIC: 1.0})
    assert found.addresses == (full(PUBLIC), full(LAN)) and found.labels[0] == "public"


def test_on_one_machine_the_ticket_is_for_this_machine() -> None:
    found = of(LOOP, proven={LOOP: 1.0})
    assert found.addresses == (full(LOOP),) and found.labels == ["this machine only"]
    assert "on this machine only" in note(found, 31337)


def test_bootstrap_addresses_are_the_manifests_word() -> None:
    found = of(PUBLIC, failed=[PUBLIC], bootstrap=(BOOTSTRAP,))
    assert found.addresses == (BOOTSTRAP,) and not found.untried


@pytest.mark.parametrize("reach", [None, [], "x", {"proven": None, "failed": 3, "relays": [1]}])
def test_facts_that_somebody_has_written_in_do_no_harm(reach: Any) -> None:
    assert carried({"addresses": [full(LAN), 7], "reach": reach}, ()).addresses == (full(LAN),)
    assert not carried({"addresses": "x"}, ()).addresses


def test_the_commands_say_for_whom_each_address_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data-dir", str(tmp_path)]
    assert main(["init", "lab", *where]) == 0
    capsys.readouterr()
    folder = DataDir(tmp_path)
    folder.remember(addresses=[full(PUBLIC), full(LAN), full(LOOP)], port=31337)
    assert main(["ticket", *where]) == 0
    out, err = capsys.readouterr()
    assert "Nobody has dialled" in err and "31337" in err
    assert main(["ticket", "show", out.strip(), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["labels"] == ["public, but nobody has dialled it yet", "this network only"]
    folder.remember(reach={"proven": {PUBLIC: 1.0}})
    assert main(["ticket", *where, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["labels"] == ["public", "this network only"] and not made["note"]
    assert main(["ticket", "show", made["ticket"]]) == 0
    assert f"{full(PUBLIC)}  (public)" in capsys.readouterr().out
    folder.remember(addresses=[full(PUBLIC)], reach={"failed": [PUBLIC]})
    assert main(["ticket", *where]) == 2
    assert "could not" in (said := capsys.readouterr().err) and "Forward TCP port 31337" in said
