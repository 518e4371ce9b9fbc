"""The sentence: state, because, next, when. Made here and nowhere else; log, CLI, API and page show it.

`describe` is a pure function of the facts. Every state has a reason and says what comes next; a test walks
them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """What a node is doing, as people are told."""

    STARTING = "starting"
    CONNECTING = "connecting"
    FETCHING = "fetching"
    PREPARING = "preparing"
    TRAINING = "training"
    WAITING = "waiting"
    AVERAGING = "averaging"
    PAUSED = "paused"
    BLOCKED = "blocked"
    SERVING = "serving"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Facts:
    """What the sentence is made of. Durations in seconds, None where unknown."""

    state: State
    reason: str = ""
    step: int = 0
    steps: int = 0
    step_s: float | None = None
    version: int = 0
    peers: int = 0
    ready: int = 0
    expected: int = 0
    until_s: float | None = None
    fetched: tuple[int, int] | None = None
    finishing: bool = False
    where: str = ""
    """What a command needs so that it means this data dir: nothing, or " --data-dir DIR"."""
    following: str = ""
    """What comes next, where a rule says so itself."""
    cause: str = ""
    """What the reason is called where its words change while it lasts."""
    fix: str = ""
    """What a person has to do, where that is not the usual."""


@dataclass(frozen=True)
class Sentence:
    """Because and next are parts of sentences; `text` is the whole, without the time since when."""

    state: State
    because: str
    next: str

    @property
    def text(self) -> str:
        return f"{self.state.value.capitalize()}: {self.because}. {self.next}."


def describe(facts: Facts) -> Sentence:
    """The sentence for these facts."""
    because, following = _TABLE[facts.state](facts)
    return Sentence(facts.state, because, following)


def since_when(sentence: Sentence, seconds: float) -> str:
    """The sentence with the time since when. A step is not what takes so long, but training; a reason is."""
    head, since = sentence.state.value.capitalize(), f"(since {duration(seconds)})"
    if sentence.state is State.TRAINING:
        return f"{head} {since}: {sentence.because}. {sentence.next}."
    return f"{head}: {sentence.because} {since}. {sentence.next}."


def duration(seconds: float) -> str:
    """1m 12s: for people."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def size(count: float) -> str:
    """1.2 MB: for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def _within(facts: Facts, what: str) -> str:
    return f"{what} within {duration(facts.until_s)}" if facts.until_s else what


def _starting(facts: Facts) -> tuple[str, str]:
    return facts.reason or "the node is being set up", "It looks for its swarm in a moment"


def _connecting(facts: Facts) -> tuple[str, str]:
    again = f"in {duration(facts.until_s)}" if facts.until_s else "at once"
    return facts.reason or "no node of the swarm has answered yet", f"It tries all addresses again {again}"


def _fetching(facts: Facts) -> tuple[str, str]:
    what = facts.reason or "the swarm's state is on its way"
    if facts.fetched and facts.fetched[1]:
        here, total = facts.fetched
        what += f" ({100 * here // total} % of {size(total)})"
    return what, "Training begins when it is here and checked"


def _preparing(facts: Facts) -> tuple[str, str]:
    return facts.reason or "the trainer is starting", "The first inner step follows"


def _training(facts: Facts) -> tuple[str, str]:
    because = f"inner step {facts.step} of {facts.steps} of round {facts.version + 1}"
    if facts.reason:
        because += f"; {facts.reason}"
    left = facts.steps - facts.step
    when = f" in about {duration(left * facts.step_s)}" if facts.step_s and left > 0 else " next"
    whom = f"with {facts.peers} peer{'s' if facts.peers != 1 else ''}" if facts.peers else "alone"
    return because, f"It averages {whom}{when}{_pauses(facts)}"


def _pauses(facts: Facts) -> str:
    return "; then it pauses" if facts.finishing else ""


def _waiting(facts: Facts) -> tuple[str, str]:
    because = facts.reason or f"{facts.ready} of {facts.expected} peers are ready"
    begins = f"Round {facts.version + 1} begins when its nodes are ready"
    latest = f", at the latest in {duration(facts.until_s)}" if facts.until_s else ""
    return because, f"{begins}{latest}{_pauses(facts)}"


def _averaging(facts: Facts) -> tuple[str, str]:
    return (
        f"round {facts.version + 1}: {facts.reason or 'pseudo-gradients are being averaged'}",
        _within(facts, "The next inner phase follows") + _pauses(facts),
    )


def _paused(facts: Facts) -> tuple[str, str]:
    reason = facts.reason or "you asked for it"
    if facts.following:
        then = "; then it contributes once more and pauses" if facts.finishing else ""
        return reason, facts.following + then
    if facts.until_s:
        return reason, f"It resumes in {duration(facts.until_s)}"
    return reason, f"`atoll resume{facts.where}` goes on"


def _blocked(facts: Facts) -> tuple[str, str]:
    again = f"It tries again in {duration(facts.until_s)}" if facts.until_s else "It needs you"
    return facts.reason or "something stops this node", again


def _serving(facts: Facts) -> tuple[str, str]:
    return facts.reason or f"{facts.peers} nodes find each other through this one", "It goes on until stopped"


def _stopping(facts: Facts) -> tuple[str, str]:
    return facts.reason or "you asked for it", "It saves its state, says goodbye and ends"


def _stopped(facts: Facts) -> tuple[str, str]:
    reason = facts.reason or "no daemon is running in this data dir"
    return reason, facts.fix or f"`atoll run{facts.where}` starts it"


_TABLE = {
    State.STARTING: _starting,
    State.CONNECTING: _connecting,
    State.FETCHING: _fetching,
    State.PREPARING: _preparing,
    State.TRAINING: _training,
    State.WAITING: _waiting,
    State.AVERAGING: _averaging,
    State.PAUSED: _paused,
    State.BLOCKED: _blocked,
    State.SERVING: _serving,
    State.STOPPING: _stopping,
    State.STOPPED: _stopped,
}
