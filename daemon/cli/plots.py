"""`atoll plot`: one figure of this node over time, as a line in the terminal, a picture, or JSON."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from atoll.daemon.cli.api import client_of, refused
from atoll.daemon.config import data_dir_of
from atoll.daemon.errors import AtollError, Exit, check_range
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.client import ApiRefused, ApiUnreachable

MAX_POINTS = 2000
"""As many as a node answers at once (storage/series.py, which takes SQLite along)."""
COLUMNS = 72
EMPTY_PART = 0.1
"""Of the time that was asked for: if at its begin so much is without figures, it is left out."""
LOOKS = 4
"""Each is at finer buckets, whose first begins later."""
_DAY_S = 86_400
_HEIGHTS = "▁▂▃▄▅▆▇█"


def plot(arguments: argparse.Namespace) -> int:
    """`atoll plot [NAME]`"""
    from atoll.daemon.cli.organise import seconds_of

    folder = DataDir(data_dir_of(arguments.data_dir))
    check_range("--points", arguments.points, 1, MAX_POINTS)
    until = time.time()
    since = until - seconds_of(arguments.for_time, "--for")
    if arguments.name is None:
        names = _past(folder, None, since, until, arguments.points)["names"]
        print(json.dumps({"names": names}) if arguments.json else "\n".join(names))
        return int(Exit.OK)
    found = _past(folder, arguments.name, since, until, arguments.points)
    buckets = found["buckets"]
    for _ in range(LOOKS):
        if not buckets or buckets[0]["start"] - since <= EMPTY_PART * (until - since):
            break
        # A young node's figures would be a few points at the right edge: again, from where they begin.
        since = float(buckets[0]["start"])
        found = _past(folder, arguments.name, since, until, arguments.points)
        buckets = found["buckets"]
    if not buckets and not arguments.json:
        raise AtollError(
            Exit.USAGE,
            "no_history",
            f"There is no history of {arguments.name} in the last {arguments.for_time}.",
            "`atoll plot` names the figures that there are.",
        )
    if arguments.out is not None:
        _draw(Path(arguments.out), found, since, until)
    if arguments.json:
        print(json.dumps(found))
    elif arguments.out is not None:
        print(f"{arguments.name} of the last {arguments.for_time} is in {arguments.out}.")
    else:
        print(_line(found, since, until))
    return int(Exit.OK)


def _past(folder: DataDir, name: str | None, since: float, until: float, points: int) -> dict[str, Any]:
    """Of the running daemon, else from the file that it left. Raises AtollError."""
    client = client_of(folder)
    if client is not None:
        try:
            return client.past(name, since, until, points)
        except (ApiRefused, ApiUnreachable) as error:
            raise refused(error) from error
    if not folder.history.exists():
        text = f"No node has left any history in {folder.root}."
        raise AtollError(Exit.USAGE, "no_history", text, "It is written while a node runs.")
    from atoll.daemon.storage.series import Series, answer

    series = Series(folder.history)
    try:
        return answer(series, name, since, until, points)
    finally:
        series.close()


def _draw(out: Path, found: dict[str, Any], since: float, until: float) -> None:
    from atoll.daemon.plot import band
    from atoll.daemon.storage import files

    points = [(b["start"], b["min"], b["mean"], b["max"]) for b in found["buckets"]]
    files.write_bytes(out, band(found["name"], points, since, until, found["bucket_s"]).encode())


def _line(found: dict[str, Any], since: float, until: float) -> str:
    """Means as heights, with a gap where nothing was written; then what they are."""
    buckets = found["buckets"]
    columns: list[list[float]] = [[] for _ in range(COLUMNS)]
    for bucket in buckets:
        at = min(max(bucket["start"], since), until)
        columns[min(COLUMNS - 1, int((at - since) / (until - since) * COLUMNS))].append(bucket["mean"])
    means = [sum(column) / len(column) if column else None for column in columns]
    known = [mean for mean in means if mean is not None]
    low, span = min(known), max(known) - min(known) or 1.0
    drawn = "".join(
        " " if mean is None else _HEIGHTS[round((mean - low) / span * (len(_HEIGHTS) - 1))] for mean in means
    )
    least, greatest = min(b["min"] for b in buckets), max(b["max"] for b in buckets)
    last = buckets[-1]["mean"]
    return f"{drawn}\n{_axis(since, until)}\n{found['name']}: {last:.6g} now, {least:.6g} to {greatest:.6g}"


def _axis(since: float, until: float) -> str:
    """When the line begins, its middle and its end, on this machine's clock."""
    style = "%H:%M" if until - since <= _DAY_S else "%d %b %H:%M"
    begin, middle, end = (
        time.strftime(style, time.localtime(at)) for at in (since, (since + until) / 2, until)
    )
    return f"{begin}{middle.center(COLUMNS - len(begin) - len(end))}{end}"
