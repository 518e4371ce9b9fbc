"""How much this node's contributions have told so far, as an accountant counts it: privacy.json.

The unit is one whole contribution, whatever was trained on for it: (ε, δ)-differential privacy towards a run
in which this node had contributed nothing but noise, by Rényi composition of Gaussian mechanisms (1702.07476;
the accountant is Opacus's). Counted before a contribution goes out, so that a crash makes it more than it was
and never less. Books that are damaged stop the node: to begin anew is its owner's decision.
"""

from __future__ import annotations

import json
import math
import secrets
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from atoll.daemon.config import Settings
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.rounds.noise import Noise
from atoll.daemon.storage import files
from atoll.web_ui.state_types import Privacy

MAX_BYTES = 1 << 16


class PrivacyBook:
    """Of one data dir. `epsilon`: of all that was counted; None: nothing was, or one was without noise."""

    def __init__(self, path: Path, delta: float) -> None:
        """Raises AtollError where the accountant is not installed, or the books are damaged."""
        self.delta = delta
        self._path = path
        self._counts = _read(path)
        self.epsilon = self._spent()

    @property
    def contributions(self) -> int:
        return self._counts.total()

    def count(self, multiplier: float) -> None:
        """One more contribution with noise of this multiplier. Blocking. Raises AtollError."""
        self._counts[multiplier] += 1
        rows = [[each, number] for each, number in sorted(self._counts.items())]
        files.write_json(self._path, {"contributions": rows})
        self.epsilon = self._spent()

    def _spent(self) -> float | None:
        if not self._counts or 0.0 in self._counts:
            return None
        rdp, spent, orders = _accountant()
        total = sum(
            rdp(q=1.0, noise_multiplier=multiplier, steps=number, orders=orders)
            for multiplier, number in self._counts.items()
        )
        epsilon, _ = spent(orders=orders, rdp=total, delta=self.delta)
        return float(epsilon)


def open_privacy(settings: Settings, path: Path) -> tuple[PrivacyBook | None, Noise | None]:
    """What the owner asked for; books also where noise was asked for before. Raises AtollError."""
    book = None
    if settings.privacy_noise or path.exists():
        book = PrivacyBook(path, settings.privacy_delta)
        if settings.privacy_noise:
            _accountant()  # so that what is lacking is said at the start
    if not settings.privacy_clip:
        # Without a bound and noise each contribution tells what it tells.
        return book, Noise(math.inf, 0.0, b"", lambda: book.count(0.0)) if book is not None else None
    multiplier = settings.privacy_noise
    count = (lambda: book.count(multiplier)) if book is not None else (lambda: None)
    return book, Noise(settings.privacy_clip, multiplier, secrets.token_bytes(32), count)


def privacy_of(settings: Settings, book: PrivacyBook | None) -> Privacy | None:
    """For the snapshot of a node."""
    if not settings.privacy_clip and book is None:
        return None
    return {
        "clip": settings.privacy_clip or None,
        "noise": settings.privacy_noise,
        "contributions": book.contributions if book is not None else 0,
        "epsilon": book.epsilon if book is not None else None,
        "delta": settings.privacy_delta,
    }


@cache
def _accountant() -> tuple[Any, Any, list[float]]:
    """Rényi divergence of Gaussian mechanisms, ε from it, and the orders to look at. Raises AtollError."""
    try:
        from opacus.accountants import RDPAccountant
        from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent
    except ImportError as error:
        raise AtollError(
            Exit.PREFLIGHT,
            "no_accountant",
            "privacy_noise is set, and what counts how much was told is not installed.",
            "pip install 'atoll[privacy]'",
        ) from error
    # Beside Opacus's own orders larger ones: noise of many times the clip needs them.
    return compute_rdp, get_privacy_spent, [*RDPAccountant.DEFAULT_ALPHAS, *map(float, range(64, 1025, 32))]


def _read(path: Path) -> Counter[float]:
    counts = Counter[float]()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        for multiplier, number in json.loads(path.read_text())["contributions"]:
            if not math.isfinite(multiplier) or multiplier < 0 or not isinstance(number, int) or number < 1:
                raise ValueError("a count that is impossible")
            counts[float(multiplier)] += number
    except FileNotFoundError:
        return counts
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AtollError(
            Exit.PREFLIGHT,
            "privacy_unknown",
            f"How much this node has told so far is not known: {path} can't be read ({error}).",
            "Move it away to count from zero; what was told before is then not in the sum.",
        ) from error
    return counts
