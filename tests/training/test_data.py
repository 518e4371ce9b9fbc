"""Corpus and batches: the same bytes on every node, disjoint parts, typed errors."""

from __future__ import annotations

import gzip

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atoll.daemon.training import corpus
from atoll.daemon.training.corpus import builtin_corpus, cut, text_of
from atoll.daemon.training.data import Windows, part_of
from atoll.daemon.training.errors import CorpusError
from atoll.protocol.shards import MAX_SHARDS

TEXT = bytes(range(256)) * 40


def test_the_shipped_text():
    text = builtin_corpus()
    assert text.isascii() and len(text) == 5_057_321
    assert b"To be, or not to be" in text
    assert whole(corpus.BUILTIN) == text


def test_a_damaged_installation_is_noticed(tmp_path, monkeypatch):
    folder = tmp_path / "texts"
    folder.mkdir()
    monkeypatch.setattr(corpus, "files", lambda package: tmp_path)
    for content in (b"", b"no gzip", gzip.compress(b"short"), gzip.compress(b"x" * 6_000_000)):
        (folder / "shakespeare.txt.gz").write_bytes(content)
        with pytest.raises(CorpusError):
            builtin_corpus()


def whole(source) -> bytes:
    text = text_of(str(source))
    return b"".join(text.read(0, text.size_bytes))


def test_files_and_folders(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"two")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.txt").write_bytes(b"one")
    (tmp_path / ".hidden").write_bytes(b"no")
    (tmp_path / "link.txt").symlink_to(tmp_path / "b.txt")
    assert whole(tmp_path) == b"one\ntwo"
    assert whole(tmp_path / "b.txt") == b"two"
    text = text_of(str(tmp_path))
    for start in range(8):
        for size in range(8 - start):
            assert b"".join(text.read(start, size)) == b"one\ntwo"[start : start + size]
    with pytest.raises(CorpusError, match="1 bytes too early"):
        list(text.read(5, 3))
    with pytest.raises(CorpusError, match="does not exist"):
        text_of(str(tmp_path / "c.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="is empty"):
        text_of(str(tmp_path / "empty"))
    (tmp_path / "b.txt").write_bytes(b"t")
    with pytest.raises(CorpusError, match="shorter"):
        list(text.read(0, 7))
    (tmp_path / "b.txt").unlink()
    with pytest.raises(CorpusError, match="can't be read"):
        list(text.read(0, 7))


@given(st.integers(0, 1 << 40), st.integers(1, 1 << 30), st.integers(1, 4096))
def test_a_text_is_cut_into_shards_of_about_one_size(size, shard, context):
    try:
        sizes = cut(size, shard, context)
    except CorpusError:
        return
    assert sum(sizes) == size and 2 <= len(sizes) <= MAX_SHARDS and min(sizes) > context
    *training, validation = sizes
    assert max(training) <= shard and max(training) - min(training) <= 1
    assert validation == min(size * 5 // 100, 8 << 20)


def test_the_shipped_text_is_one_shard_and_its_last_twentieth():
    assert cut(5_057_321, 64 << 20, 128) == [4_804_455, 252_866]
    assert cut(1 << 30, 64 << 20, 128)[-1] == 8 << 20
    for size, shard, reason in ((100, 1000, "2580"), (1 << 40, 1 << 10, "4096"), (10_000, 100, "too few")):
        with pytest.raises(CorpusError, match=reason):
            cut(size, shard, 128)


def test_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MAX_FILES", 1)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CorpusError, match="more than 1 files"):
        text_of(str(tmp_path))


def test_batches_are_a_pure_function_of_their_arguments():
    first, second = Windows.of(TEXT, 16), Windows.of(TEXT, 16)
    base = (1, "node-a", 5, (0, 2), 6)
    inputs, targets = first.batch(*base)
    assert inputs.shape == targets.shape == (6, 16) and inputs.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs, second.batch(*base)[0])
    for change in ((2, "node-a", 5), (1, "node-b", 5), (1, "node-a", 6)):
        assert first.draw(*change, (0, 2), 6) != first.draw(*base)


def test_parts_are_disjoint_covering_and_about_equal():
    windows = Windows.of(TEXT, 16)
    count = 3
    shards = [
        {w for step in range(400) for w in windows.draw(1, "n", step, (index, count), 8)}
        for index in range(count)
    ]
    assert set.union(*shards) == set(range(windows.count))
    assert sum(map(len, shards)) == windows.count
    assert all(part_of(1, w, count) == index for index in range(count) for w in shards[index])
    assert min(map(len, shards)) > windows.count / count * 0.8


def test_more_nodes_than_windows_still_gives_batches():
    windows = Windows.of(b"abcdefgh" * 20, 7)
    for index in range(100):
        assert all(0 <= w < windows.count for w in windows.draw(0, "n", 0, (index, 100), 2))


def test_a_part_of_one_window_is_found():
    windows = Windows.of(TEXT, 16)
    count = windows.count * 2
    for index in range(5):
        mine = [w for w in range(windows.count) if part_of(3, w, count) == index]
        drawn = set(windows.draw(3, "n", 0, (index, count), 2))
        assert drawn <= set(mine) if mine else drawn


def test_windows_that_are_spread_evenly():
    windows = Windows.of(bytes(range(100)), 16)
    assert windows.count == 6
    inputs, targets = windows.spread(3)
    assert inputs[:, 0].tolist() == [0, 32, 64] and torch.equal(targets, inputs + 1)
    assert windows.spread(1000)[0].shape == (6, 16)
    assert torch.equal(windows.spread(3)[0], inputs)


def test_a_file_is_mapped(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(TEXT)
    mapped, read = Windows.mapped(path, 16), Windows.of(TEXT, 16)
    base = (1, "node-a", 5, (0, 2), 6)
    assert torch.equal(mapped.batch(*base)[0], read.batch(*base)[0])
    path.write_bytes(b"")
    for missing in (path, tmp_path / "none", tmp_path):
        with pytest.raises(CorpusError, match="can't be read"):
            Windows.mapped(missing, 16)
    path.write_bytes(b"short")
    with pytest.raises(CorpusError, match="too few"):
        Windows.mapped(path, 16)


def test_too_little_text():
    with pytest.raises(CorpusError, match="too few"):
        Windows.of(b"short", 16)
