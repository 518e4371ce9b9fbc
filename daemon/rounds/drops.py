"""Messages that were ignored: counted by reason for the operator, and by sender for whoever reads the log.

Reasons are sentences of this code, never a stranger's words, and carry no peer's name: they become labels of
the metrics. Both tables are bounded, whatever comes in.
"""

from __future__ import annotations

import logging
from collections import Counter

from atoll.peers.identity import readable_name

log = logging.getLogger(__name__)

MAX_REASONS = 128
MAX_SENDERS = 256
OTHER = "other"


class Drops:
    """Counts of one node. `senders`: those of the senders that were heard of last, newest last."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.senders: dict[bytes, int] = {}

    def note(self, sender: bytes, reason: str, detail: str = "") -> None:
        """Counts a message and names its sender in the log; `detail` is for the log alone."""
        known = reason in self.reasons or len(self.reasons) < MAX_REASONS - 1
        self.reasons[reason if known else OTHER] += 1
        count = self.senders.pop(sender, 0) + 1
        self.senders[sender] = count
        if len(self.senders) > MAX_SENDERS:
            del self.senders[next(iter(self.senders))]
        text = f"{reason} ({detail})" if detail else reason
        log.info("dropped a message of %s: %s; %d of its messages so far", readable_name(sender), text, count)
