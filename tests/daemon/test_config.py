"""Settings: where they come from, and what is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from atoll.daemon.config import Settings, data_dir_of, load, rate_of, shard_of, where
from atoll.daemon.errors import AtollError, Exit


def test_precedence_and_origins(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('port = 1\nlabel = "file"\ndevice = "cpu"\nbootstrap = ["/ip4/127.0.0.1/tcp/1/p2p/x"]\n')
    environ = {"ATOLL_LABEL": "env", "ATOLL_DEVICE": "cuda", "ATOLL_HOME": "/x", "PATH": "/bin"}
    config = load(file, environ, {"device": "cuda:1", "port": None})
    s = config.settings
    assert (s.port, s.label, s.device, s.api_port) == (1, "env", "cuda:1", 0)
    assert s.bootstrap == ("/ip4/127.0.0.1/tcp/1/p2p/x",)
    origins = [config.origins[n] for n in ("port", "label", "device", "api_port")]
    assert origins == ["config.toml", "environment", "command line", "default"]


def test_every_setting_is_documented() -> None:
    assert all(len(f.metadata["doc"]) > 8 for f in fields(Settings))


@pytest.mark.parametrize(
    ("environ", "text", "word"),
    [
        ({"ATOLL_PROT": "1"}, "", "'port'"),
        ({"ATOLL_XYZZY": "1"}, "", "Known settings"),
        ({"ATOLL_PORT": "many"}, "", "port"),
        ({"ATOLL_PORT": "70000"}, "", "65535"),
        ({"ATOLL_STATE_RATE": "1000"}, "", "65536"),
        ({}, "state_rate = -1", "65536"),
        ({"ATOLL_NAT_PORT_MAP": "perhaps"}, "", "nat_port_map"),
        ({"ATOLL_BOOTSTRAP": "localhost"}, "", "multiaddr"),
        ({"ATOLL_ANNOUNCE": "here"}, "", "announce is 'here'"),
        ({"ATOLL_API_NAMES": "here,http://there/"}, "", "without port"),
        ({"ATOLL_DEVICE": "abacus"}, "", "cuda:N"),
        ({"ATOLL_SHARD": "3/3"}, "", "INDEX/COUNT"),
        ({"ATOLL_UP": "fast"}, "", "20Mbit"),
        ({}, 'down = "100kbit"', "500kbit"),
        ({"ATOLL_DATA_CAP": "-1"}, "", "data_cap"),
        ({}, "port = true", "port"),
        ({}, "log_format = 3", "log_format"),
        ({}, 'log_level = "loud"', "log_level"),
        ({}, "port = ", "config.toml"),
        ({}, "prot = 1", "'port'"),
        ({}, "data_cap = 1" + 30 * "0", "data_cap"),
        ({}, "data_cap = 1" + 5000 * "0", "config.toml"),
        ({}, "gb_per_week = 1" + 400 * "0", "gb_per_week"),
        ({}, "gb_per_week = inf", "gb_per_week"),
        ({}, "threads = inf", "threads"),
        ({}, "rounds = nan", "rounds"),
        ({"ATOLL_STATE_RATE": 5000 * "9"}, "", "state_rate"),
    ],
)
def test_refused(tmp_path: Path, environ: dict[str, str], text: str, word: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(AtollError) as caught:
        load(file, environ, {})
    assert caught.value.exit_status is Exit.USAGE
    assert word in caught.value.sentence()


def test_shards() -> None:
    assert shard_of("2/3") == (2, 3)
    assert [shard_of(t) for t in ("3/3", "-1/3", "1", "a/b", "1/")] == [None] * 5


def test_rates() -> None:
    given = {"20Mbit": 2e7, "2.5 mbit/s": 2.5e6, "800kbps": 8e5, "1Gbit": 1e9, "": 0.0, " 0 ": 0.0}
    assert {text: rate_of(text) for text in given} == given
    assert [rate_of(text) for text in ("20", "20MB", "-1Mbit", "Mbit", "1e3Mbit", "infMbit")] == [None] * 6


def test_the_data_dir() -> None:
    assert data_dir_of("/a", {"ATOLL_HOME": "/b"}) == Path("/a")
    assert data_dir_of(None, {"ATOLL_HOME": "/b"}) == Path("/b")
    assert data_dir_of(None, {"XDG_DATA_HOME": "/c"}) == Path("/c/atoll")
    assert data_dir_of(None, {"HOME": "/home/x"}) == Path("/home/x/.local/share/atoll")


def test_what_a_shown_command_needs_to_mean_this_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_HOME", "/b")
    assert where(Path("/b")) == ""
    assert where(Path("/a b")) == " --data-dir '/a b'"
