"""Bound and noise on contributions, and the books of what they told."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from atoll.daemon.config import Settings, changed
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.privacy_book import PrivacyBook, open_privacy, privacy_of
from atoll.daemon.rounds.codec_worker import CodecWorker
from atoll.daemon.rounds.noise import Noise
from atoll.protocol.schema import ChunkTable

CHUNKS = ChunkTable(4096, 1024, 64, ((0, 0), (2048, 1)))
"""Four chunks in two fragments."""
RNG = np.random.default_rng(5)
ANCHOR = RNG.standard_normal(4096, dtype=np.float32)
LOCAL = ANCHOR - 0.1 * RNG.standard_normal(4096, dtype=np.float32)
SECRET = b"s" * 32


def measured(vector: np.ndarray, scratch: bool = True):
    """As the codec worker gives it: in scratch that the next call overwrites."""
    held = np.empty(1024, np.float32)

    def measure(chunk: int) -> np.ndarray:
        held[:] = vector[CHUNKS.span(chunk)]
        return held

    return measure


def test_what_a_fragment_sends_is_no_longer_than_the_bound() -> None:
    delta = ANCHOR - LOCAL
    for clip in (0.5, 100.0):
        noise = Noise(clip, 0.0, SECRET)
        for due in CHUNKS.fragments:
            sent = [noise.apply(CHUNKS, chunk, 1, measured(delta)).copy() for chunk in due]
            length = math.sqrt(sum(float(np.square(part, dtype=np.float64).sum()) for part in sent))
            whole = np.concatenate([delta[CHUNKS.span(chunk)] for chunk in due])
            assert length == pytest.approx(min(clip, float(np.linalg.norm(whole))), rel=1e-5)
            assert np.allclose(np.concatenate(sent) * (np.linalg.norm(whole) / length), whole, rtol=1e-4)


def test_noise_is_that_of_the_offer_and_as_much_as_was_asked_for() -> None:
    still = np.zeros(4096, np.float32)
    noise = Noise(2.0, 3.0, SECRET)
    first = [noise.apply(CHUNKS, chunk, 7, measured(still)).copy() for chunk in range(4)]
    again = noise.apply(CHUNKS, 2, 7, measured(still)).copy()
    assert np.array_equal(first[2], again), "a copy tells nothing more"
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(noise.apply(CHUNKS, 2, 8, measured(still)), again)
    assert not np.array_equal(Noise(2.0, 3.0, b"o" * 32).apply(CHUNKS, 2, 7, measured(still)), again)
    values = np.concatenate(first)
    assert float(values.std()) == pytest.approx(6.0, rel=0.05) and abs(float(values.mean())) < 0.5


def test_each_contribution_is_counted_before_it_is_there() -> None:
    counts: list[str] = []

    def full_disk() -> None:
        counts.append("tried")
        raise AtollError(Exit.TEMPORARY, "disk_full", "No space.", "")

    noise = Noise(1.0, 1.0, SECRET, lambda: counts.append("counted"))
    for offer, chunk in [(1, 0), (1, 1), (1, 0), (1, 2), (1, 3), (2, 2)]:
        noise.apply(CHUNKS, chunk, offer, measured(ANCHOR))
    assert len(counts) == 3, "offer 1 in two fragments, offer 2 in one"
    refused = Noise(1.0, 1.0, SECRET, full_disk)
    for _ in range(2):
        with pytest.raises(AtollError):
            refused.apply(CHUNKS, 0, 1, measured(ANCHOR))


@pytest.mark.parametrize("feedback", [0.0, 0.9])
def test_the_codec_worker_sends_what_has_bound_and_noise(feedback: float) -> None:
    noise = Noise(1.0, 0.5, SECRET)
    worker = CodecWorker("fp32", "fp32", CHUNKS, feedback, noise=noise)
    payload = worker.encode(ANCHOR, LOCAL, 1, 3)
    assert worker.encode(ANCHOR, LOCAL, 1, 3) == payload
    sent = np.frombuffer(payload, np.float32)
    expected = Noise(1.0, 0.5, SECRET).apply(CHUNKS, 1, 3, measured(ANCHOR - LOCAL))
    assert np.array_equal(sent, expected)
    worker.settle(ANCHOR, LOCAL, (1,), 3)
    if feedback:
        assert not worker._lost.any(), "noise is not made up for"


def test_the_books_count_as_the_accountant_does(tmp_path: Path) -> None:
    from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

    path = tmp_path / "privacy.json"
    book = PrivacyBook(path, 1e-6)
    assert book.epsilon is None and book.contributions == 0
    for _ in range(3):
        book.count(20.0)
    orders = [1 + k / 50 for k in range(1, 20_000)]
    rdp = compute_rdp(q=1.0, noise_multiplier=20.0, steps=3, orders=orders)
    exact, _ = get_privacy_spent(orders=orders, rdp=rdp, delta=1e-6)
    assert book.epsilon == pytest.approx(exact, rel=0.03) and book.epsilon >= exact - 1e-9
    before = book.epsilon
    book.count(4.0)
    assert book.epsilon > before
    assert PrivacyBook(path, 1e-6).epsilon == book.epsilon, "a restart forgets nothing"
    book.count(0.0)
    assert book.epsilon is None, "one without noise told all that there is"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"contributions": [[1.0, -3]]}', '{"contributions": [["x", 1]]}']
)
def test_damaged_books_stop_the_node(tmp_path: Path, text: str) -> None:
    path = tmp_path / "privacy.json"
    path.write_text(text)
    with pytest.raises(AtollError, match="not known"):
        PrivacyBook(path, 1e-6)
    assert path.read_text() == text


def test_what_was_asked_for_is_what_there_is(tmp_path: Path) -> None:
    path, plain = tmp_path / "privacy.json", Settings()
    assert open_privacy(plain, path) == (None, None) and privacy_of(plain, None) is None
    clipped = changed(plain, {"privacy_clip": 2.0})
    book, noise = open_privacy(clipped, path)
    assert book is None and noise is not None and noise.multiplier == 0 and not path.exists()
    both = changed(clipped, {"privacy_noise": 5.0})
    book, noise = open_privacy(both, path)
    assert book is not None and noise is not None
    noise.apply(CHUNKS, 0, 1, measured(ANCHOR))
    told = privacy_of(both, book)
    assert told is not None and told["contributions"] == 1 and told["epsilon"] == book.epsilon
    # Given up later: what goes out from then on is in no ε.
    book, noise = open_privacy(plain, path)
    assert book is not None and noise is not None and book.epsilon
    sent = noise.apply(CHUNKS, 0, 2, measured(ANCHOR))
    assert np.array_equal(sent, ANCHOR[:1024]) and book.epsilon is None
    with pytest.raises(AtollError, match="privacy_noise"):
        changed(plain, {"privacy_noise": 1.0})
