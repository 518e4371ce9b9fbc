"""The sentence: every state has a reason, says what is next, and reads as English."""

from __future__ import annotations

import itertools

import pytest

from atoll.daemon.status import Facts, State, describe, duration, since_when, size


@pytest.mark.parametrize("state", list(State))
def test_no_state_lacks_a_reason(state: State) -> None:
    optional = {
        "reason": ("", "the reason"),
        "until_s": (None, 12.0),
        "fetched": (None, (5, 10)),
        "peers": (0, 1, 2),
        "step_s": (None, 0.5),
        "finishing": (False, True),
    }
    for values in itertools.product(*optional.values()):
        facts = Facts(state, steps=10, step=3, **dict(zip(optional, values, strict=True)))  # type: ignore[arg-type]
        sentence = describe(facts)
        assert sentence.state is state
        for part in (sentence.because, sentence.next):
            assert len(part) > 5 and not part.endswith((".", " ", ",", " or"))
        assert sentence.text == f"{state.value.capitalize()}: {sentence.because}. {sentence.next}."


def test_the_sentence_says_how_far_and_when() -> None:
    facts = Facts(State.TRAINING, step=4, steps=10, step_s=2.0, version=6, peers=2)
    assert describe(facts).text == (
        "Training: inner step 4 of 10 of round 7. It averages with 2 peers in about 12s."
    )
    waiting = describe(Facts(State.WAITING, "1 of 3 peers are still training", until_s=75.0))
    assert "at the latest in 1m 15s" in waiting.next
    assert "40 %" in describe(Facts(State.FETCHING, fetched=(4_000, 10_000))).because


def test_since_when_is_beside_what_has_lasted_so_long() -> None:
    training = describe(Facts(State.TRAINING, step=4, steps=10, version=6))
    assert since_when(training, 22.0).startswith("Training (since 22s): inner step 4 of 10 of round 7. ")
    waiting = describe(Facts(State.WAITING, "1 of 3 peers are still training"))
    assert since_when(waiting, 72.0) == (
        "Waiting: 1 of 3 peers are still training (since 1m 12s). Round 1 begins when its nodes are ready."
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0.4, "0s"), (59.4, "59s"), (72, "1m 12s"), (3600, "1h 00m"), (7300, "2h 01m")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1200, "1.2 kB"), (5e12, "5000.0 GB")]
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_hints_name_the_data_dir_and_a_finishing_node_says_so() -> None:
    assert describe(Facts(State.PAUSED, where=" --data-dir x")).next == "`atoll resume --data-dir x` goes on"
    assert "`atoll run --data-dir x`" in describe(Facts(State.STOPPED, where=" --data-dir x")).text
    for state in (State.TRAINING, State.WAITING, State.AVERAGING):
        assert describe(Facts(state, finishing=True)).next.endswith("; then it pauses")
