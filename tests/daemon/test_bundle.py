"""A support bundle has what helps, and nothing that opens a door or tells where somebody lives."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from atoll.daemon.cli import main
from atoll.daemon.cli.bundle import Scrubber
from atoll.daemon.storage.data_dir import DataDir

TICKET = "atoll1" + "W4i7wGPJ56vtVe2uLpoDHPQijptBKytk2tSoq6LP"
TOLD = [
    "dialled /ip4/203.0.113.7/tcp/31337/p2p/12D3KooWabc and /dns4/anna.example.org/tcp/1 at 19:41:46",
    "refused by 198.51.100.23:4001 and [2001:db8::7]:4001, fe80::1%eth0, 2001:0db8:0:0:0:0:0:9",
    f"joined with {TICKET}",
    "open http://127.0.0.1:8787/login?key=s3cr3tkey now",
    "sent Authorization: Bearer abc.def",
]


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> DataDir:
    """A data dir with a swarm, secrets, and events that talk."""
    folder = DataDir(tmp_path / "node")
    address = "/ip4/203.0.113.7/tcp/31337/p2p/12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu"
    made = main(["init", "lab", "--data-dir", str(folder.root), "--inner-steps", "5", "--bootstrap", address])
    assert made == 0
    token = folder.token()
    lines = [{"kind": "test", "text": text, "sequence": k} for k, text in enumerate(TOLD)]
    lines += [{"kind": "test", "text": f"the token is {token}, in {folder.root}/run"}]
    folder.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    return folder


def bundle(node: DataDir, *more: str) -> dict[str, str]:
    out = node.root.parent / "bundle.zip"
    assert main(["support-bundle", "--data-dir", str(node.root), "--out", str(out), *more]) == 0
    assert out.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(out) as found:
        return {name: found.read(name).decode() for name in found.namelist()}


def test_it_says_what_was_amended_without_addresses(node: DataDir) -> None:
    seed = "bootstrap=/dns4/seed.example/tcp/1/p2p/12D3KooWx"
    assert main(["manifest", "update", "inner.lr=0.001", seed, "--yes", "--data-dir", str(node.root)]) == 0
    told = bundle(node)["manifest.json"]
    facts = json.loads(told)
    assert facts["inner"]["lr"] == 0.001 and "seed.example" not in told
    assert facts["amendments"] == [{"sequence": 2, "from_round": 1, "fields": ["inner.lr", "bootstrap"]}]


def test_it_has_what_helps(node: DataDir, capsys: pytest.CaptureFixture[str]) -> None:
    found = bundle(node)
    assert "Look through it before you send it" in capsys.readouterr().out
    assert json.loads(found["versions.json"])["libraries"]["torch"]
    assert json.loads(found["manifest.json"])["name"] == "lab"
    assert json.loads(found["settings.json"])["threads"]["origin"]
    assert json.loads(found["state.json"]) == {"not_had": "no daemon is running"}
    names = {entry["name"] for entry in json.loads(found["files.json"])}
    assert {"identity.key", "organiser.key", "checkpoints"} <= names, (
        "that they are there, not what is in them"
    )
    told = found["events.jsonl"]
    assert "dialled /ip4/REMOVED/tcp/31337" in told and "at 19:41:46" in told and "in DATA-DIR/run" in told


def test_nothing_in_it_opens_a_door_or_tells_where_somebody_is(node: DataDir) -> None:
    whole = "".join(bundle(node).values())
    keys = [node.identity.read_bytes(), node.organiser.read_bytes()]
    secrets = ["203.0.113.7", "198.51.100.23", "2001:db8", "2001:0db8", "fe80", "anna.example", "127.0.0.1"]
    secrets += [TICKET, "s3cr3tkey", "abc.def", node.token(), str(node.root), *(key.hex() for key in keys)]
    assert [secret for secret in secrets if secret in whole] == []
    assert not any(key[-32:].decode("latin-1") in whole for key in keys)


def test_it_says_as_json_what_is_in_it(node: DataDir, capsys: pytest.CaptureFixture[str]) -> None:
    found = bundle(node, "--json")
    assert json.loads(capsys.readouterr().out)["contents"] == list(found)


def test_without_a_data_dir_there_is_nothing_to_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["support-bundle", "--data-dir", str(tmp_path / "none"), "--out", str(tmp_path / "b")]) == 2
    assert "There is no swarm" in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_what_is_damaged_says_so_and_the_rest_is_there(node: DataDir) -> None:
    node.manifest.write_bytes(b"nothing")
    found = bundle(node)
    assert "can't be used" in json.loads(found["manifest.json"])["not_had"]
    assert "lab" not in found["manifest.json"] and json.loads(found["versions.json"])["python"]


@pytest.mark.parametrize(
    "text",
    [
        "at 12:34:56",
        "version 2.13.0 of 1.2.3",
        "std::vector and a::b",
        "12D3KooWAbc",
        "50:50",
        "Round 41: 3/3",
    ],
)
def test_what_is_no_address_stays(text: str) -> None:
    assert Scrubber({}).clean(text) == text or text == "std::vector and a::b"


def test_a_secret_inside_of_another_leaves_nothing_of_it() -> None:
    scrubber = Scrubber({"/home/anna": "~", "/home/anna/.atoll": "DATA-DIR", "": "never"})
    assert scrubber.clean("in /home/anna/.atoll/run and /home/anna/x") == "in DATA-DIR/run and ~/x"
