"""Changing config.toml: the person's own words stay, and nothing is lost when something fails."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from atoll.daemon import config_file
from atoll.daemon.config import load
from atoll.daemon.config_file import with_settings, write_settings
from atoll.daemon.errors import AtollError, Exit

OWN = """# My machine.
label = "tide"    # what the others see

up = "10Mbit"     # the line has 20
# threads = 4
bootstrap = [
    "/ip4/127.0.0.1/tcp/1/p2p/x",  # home
]
# the end
"""


def test_comments_order_and_form_stay() -> None:
    assert with_settings(OWN, {"up": "20Mbit"}) == OWN.replace('"10Mbit"', '"20Mbit"')
    more = with_settings(OWN, {"threads": 2, "pause_on_battery": True, "gb_per_week": 1.5})
    assert more.startswith(OWN)
    assert more[len(OWN) :].splitlines() == ["threads = 2", "pause_on_battery = true", "gb_per_week = 1.5"]


@pytest.mark.parametrize("text", ["", 'label = "x"', 'label = "x"\r\n', "# only this"])
def test_what_is_written_is_read_again(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(text.encode())
    hours = 'mon-fri 22:00-07:00, "sat"'.replace('"', "")
    write_settings(file, {"train_hours": hours, "data_cap": 10**12})
    settings = load(file, {}, {}).settings
    assert (settings.train_hours, settings.data_cap) == (hours, 10**12)
    assert settings.label == ("x" if "label" in text else "")


def test_a_file_that_is_no_toml_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    for damaged in (b"up = \n", b"up = 1\nup = 2\n", b"\xff\xfe"):
        file.write_bytes(damaged)
        with pytest.raises(AtollError) as caught:
            write_settings(file, {"up": "20Mbit"})
        assert caught.value.exit_status is Exit.USAGE
        assert file.read_bytes() == damaged


def test_a_disk_that_refuses_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.toml"
    file.write_text(OWN)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(config_file.files.os, "fsync", full)
    with pytest.raises(AtollError, match="No space"):
        write_settings(file, {"up": "20Mbit"})
    assert file.read_text() == OWN and list(tmp_path.iterdir()) == [file]


def test_a_link_and_the_files_rights_stay(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.toml"
    target.write_text(OWN)
    target.chmod(0o600)
    link = tmp_path / "config.toml"
    link.symlink_to(target)
    write_settings(link, {"up": "20Mbit"})
    assert link.is_symlink() and "20Mbit" in target.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
