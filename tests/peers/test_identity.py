"""The identity: made once, for its owner's eyes only, and never written over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atoll.peers import identity
from atoll.peers.identity import IdentityError, readable_name
from atoll.protocol.signing import verify


def test_an_identity_is_made_once_and_found_again(tmp_path: Path):
    path = tmp_path / "identity.key"
    made = identity.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    again = identity.load_or_create(path)
    assert again.peer_id == made.peer_id
    assert verify("vote", again.sign("vote", b"x"))
    with pytest.raises(FileExistsError):
        identity.create(path)


def test_an_identity_is_private_whatever_the_umask(tmp_path: Path):
    before = os.umask(0)
    try:
        identity.create(tmp_path / "key")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_any_damage_is_noticed_and_nothing_is_written_over(tmp_path: Path):
    path = tmp_path / "identity.key"
    identity.create(path)
    whole = path.read_bytes()
    damaged = [whole[:-1], whole + b"x", b"", *(_flipped(whole, at) for at in range(len(whole)))]
    for body in damaged:
        path.write_bytes(body)
        with pytest.raises(IdentityError, match="damaged"):
            identity.load_or_create(path)
        assert path.read_bytes() == body


def _flipped(body: bytes, at: int) -> bytes:
    changed = bytearray(body)
    changed[at] ^= 4
    return bytes(changed)


def test_what_cannot_be_read_says_why(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IdentityError, match="Is a directory"):
        identity.load_or_create(tmp_path / "folder")


def test_names_are_two_words_and_the_same_everywhere():
    assert readable_name(b"x" * 38) == readable_name(b"x" * 38)
    names = {readable_name(bytes([k]) * 38) for k in range(200)}
    assert len(names) > 150
    assert all(len(name.split("-")) == 2 and name.replace("-", "").isalpha() for name in names)
