"""Whether what a node keeps outlives the container that it runs in.

Identity, membership and state lie in the data dir. In a container without a volume there they are gone with
it: the next one is another node, and a ticket that was used up does not let it in. So a node that finds
itself like that says so. Nothing is asked outside a container, nor of a folder for temporary files.

Read from /proc/self/mountinfo (proc_pid_mountinfo(5)); where that can't be read, nothing is said.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from atoll.daemon.alerts import Alerts

MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
"""Files that Docker and Podman leave in their containers; others set the variable `container`."""
MOUNTINFO = Path("/proc/self/mountinfo")
_IN_MEMORY = ("tmpfs", "ramfs")
_NAMELESS = re.compile(r"/volumes/[0-9a-f]{64}/_data$")
"""Where the volume of an image lies that nobody gave a name: the next container gets another one."""
_ESCAPED = re.compile(r"\\([0-7]{3})")


def tell_of_loss(root: Path, alerts: Alerts) -> None:
    """An alert where the data dir goes with the container."""
    if not in_container(os.environ, MARKS) or Path(tempfile.gettempdir()).resolve() in root.resolve().parents:
        return
    try:
        text = MOUNTINFO.read_text()
    except OSError:
        return
    reason = lost_because(root.resolve(), text)
    if reason:
        alerts.raise_(
            "data_not_kept",
            f"What this node keeps is gone with its container: {root} {reason}.",
            f"Start it with a volume of its own, such as `docker run -v atoll:{root}`.",
        )


def in_container(environ: Mapping[str, str], marks: tuple[Path, ...]) -> bool:
    """Whether this process runs in a container, as far as that can be seen."""
    return "container" in environ or any(mark.exists() for mark in marks)


def lost_because(folder: Path, mountinfo: str) -> str:
    """Why what lies in `folder`, an absolute path, does not outlive the container; empty where it does."""
    point, root, kind = Path("/"), "/", ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 6 or not after:
            continue
        mounted = Path(_plain(fields[4]))
        # Of several on one point the last one is seen.
        if folder.is_relative_to(mounted) and len(mounted.parts) >= len(point.parts):
            point, root, kind = mounted, _plain(fields[3]), after.split(" ")[0]
    if kind in _IN_MEMORY:
        return "is in memory"
    if point == Path("/"):
        return "is on no volume"
    return "is on a volume without a name" if _NAMELESS.search(root) else ""


def _plain(path: str) -> str:
    """A path of mountinfo, where spaces and the like are written as \\040."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), path)
