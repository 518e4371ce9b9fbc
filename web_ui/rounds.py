"""Reports of rounds with peer ids instead of the numbers that travel (round_types.Rounds)."""

from collections.abc import Mapping, Sequence
from typing import Any

LISTS = ("planned", "contributed", "received", "late", "missing")


def with_ids(entry: Mapping[str, Any], ids: Sequence[str]) -> dict[str, Any]:
    """A report with ids; `entry` holds places in `ids`. Raises IndexError."""
    named = {name: [ids[place] for place in entry[name]] for name in LISTS}
    rejected = [{**each, "peer": ids[each["peer"]]} for each in entry["rejected"]]
    return {**entry, **named, "rejected": rejected}
