"""Corpus and batches: the same bytes on every node, disjoint shards, typed errors."""

from __future__ import annotations

import gzip

import pytest
import torch

from atoll.daemon.training import corpus
from atoll.daemon.training.corpus import builtin_corpus, corpus_digest, load_corpus, read_corpus
from atoll.daemon.training.data import Windows, shard_of
from atoll.daemon.training.errors import CorpusError, CorpusMismatchError

TEXT = bytes(range(256)) * 40


def test_the_shipped_text():
    text = builtin_corpus()
    assert text.isascii() and len(text) == 5_057_321
    assert b"To be, or not to be" in text
    assert load_corpus(corpus.BUILTIN, corpus_digest(text)) == text
    with pytest.raises(CorpusMismatchError):
        load_corpus(corpus.BUILTIN, corpus_digest(b""))


def test_a_damaged_installation_is_noticed(tmp_path, monkeypatch):
    folder = tmp_path / "texts"
    folder.mkdir()
    monkeypatch.setattr(corpus, "files", lambda package: tmp_path)
    for content in (b"", b"no gzip", gzip.compress(b"short"), gzip.compress(b"x" * 6_000_000)):
        (folder / "shakespeare.txt.gz").write_bytes(content)
        with pytest.raises(CorpusError):
            builtin_corpus()


def test_files_and_folders(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"two")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.txt").write_bytes(b"one")
    (tmp_path / ".hidden").write_bytes(b"no")
    (tmp_path / "link.txt").symlink_to(tmp_path / "b.txt")
    assert read_corpus(tmp_path) == b"one\ntwo"
    assert read_corpus(tmp_path / "b.txt") == b"two"
    assert read_corpus(tmp_path, max_bytes=7) == b"one\ntwo"
    with pytest.raises(CorpusError, match="exceeds 6 bytes"):
        read_corpus(tmp_path, max_bytes=6)
    with pytest.raises(CorpusError, match="does not exist"):
        read_corpus(tmp_path / "c.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="is empty"):
        read_corpus(tmp_path / "empty")


def test_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MAX_FILES", 1)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CorpusError, match="more than 1 files"):
        read_corpus(tmp_path)


def test_batches_are_a_pure_function_of_their_arguments():
    first, second = Windows.of(TEXT, 16), Windows.of(TEXT, 16)
    base = (1, "node-a", 5, (0, 2), 6)
    inputs, targets = first.batch(*base)
    assert inputs.shape == targets.shape == (6, 16) and inputs.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs, second.batch(*base)[0])
    for change in ((2, "node-a", 5), (1, "node-b", 5), (1, "node-a", 6)):
        assert first.draw(*change, (0, 2), 6) != first.draw(*base)


def test_shards_are_disjoint_covering_and_about_equal():
    windows = Windows.of(TEXT, 16)
    count = 3
    shards = [
        {w for step in range(400) for w in windows.draw(1, "n", step, (index, count), 8)}
        for index in range(count)
    ]
    assert set.union(*shards) == set(range(windows.training_windows))
    assert sum(map(len, shards)) == windows.training_windows
    assert all(shard_of(1, w, count) == index for index in range(count) for w in shards[index])
    assert min(map(len, shards)) > windows.training_windows / count * 0.8


def test_more_nodes_than_windows_still_gives_batches():
    windows = Windows.of(b"abcdefgh" * 20, 7)
    for index in range(100):
        assert all(0 <= w < windows.training_windows for w in windows.draw(0, "n", 0, (index, 100), 2))


def test_a_shard_of_one_window_is_found():
    windows = Windows.of(TEXT, 16)
    count = windows.training_windows * 2
    for index in range(5):
        mine = [w for w in range(windows.training_windows) if shard_of(3, w, count) == index]
        drawn = set(windows.draw(3, "n", 0, (index, count), 2))
        assert drawn <= set(mine) if mine else drawn


def test_training_never_sees_validation_bytes():
    text = b"t" * 950 + b"v" * 50
    windows = Windows.of(text, 16)
    assert windows.split == 950
    inputs, targets = windows.validation(1000)
    assert inputs.shape == (3, 16) and (inputs == ord("v")).all() and (targets == ord("v")).all()
    for step in range(30):
        assert (windows.batch(0, "n", step, (0, 1), 8)[1] == ord("t")).all()
    assert torch.equal(windows.validation(2)[0], windows.validation(2)[0])


def test_too_little_text():
    with pytest.raises(CorpusError, match="too few"):
        Windows.of(b"short", 16)
