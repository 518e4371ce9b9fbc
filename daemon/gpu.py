"""What nvidia-smi tells of the GPUs here: which programs compute on each, and how hot they are.

The tool is asked only where it is on the PATH, with a deadline; blocking, so in threads. Where it is not
there, fails or takes too long the answer is None: not known.

It names processes by the numbers that the machine itself has for them. In a container those may be others
than the ones seen inside, so an answer without this node's own trainer in it tells nothing: None, too.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Collection, Mapping

TOOL = "nvidia-smi"
DEADLINE_S = 5.0
"""A daemon that ends waits for its threads."""
EVERY_S = 15.0
"""Between two questions: without a driver that stays loaded, each costs a second."""
PROGRAMS = "--query-compute-apps=gpu_uuid,pid"
TEMPERATURES = "--query-gpu=temperature.gpu"
Ask = Callable[[str], str | None]


def ask(question: str) -> str | None:
    """What the tool answers; None where it does not."""
    path = shutil.which(TOOL)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, question, "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=DEADLINE_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def programs(text: str) -> Mapping[str, set[int]]:
    """Processes that compute on each GPU, by the GPU's name. Lines that are not understood are left out."""
    found: dict[str, set[int]] = {}
    for line in text.splitlines():
        name, comma, pid = (part.strip() for part in line.partition(","))
        if comma and name and pid.isascii() and pid.isdecimal():
            found.setdefault(name, set()).add(int(pid))
    return found


def others(computing: Mapping[str, Collection[int]], ours: Collection[int]) -> int | None:
    """Programs of others on the GPUs that ours compute on; None where ours are on none."""
    mine = set(ours)
    shared = [set(pids) for pids in computing.values() if mine & set(pids)]
    return len(set().union(*shared) - mine) if shared else None


def hottest_c(text: str) -> float | None:
    """The highest temperature, degrees Celsius; None where no GPU tells."""
    found = [int(line.strip()) for line in text.splitlines() if line.strip().isdecimal()]
    return float(max(found)) if found else None


def other_programs(ours: Callable[[], Collection[int]], tell: Ask = ask) -> int | None:
    """How many other programs compute on the GPU that trains. Blocking."""
    text = tell(PROGRAMS)
    return None if text is None else others(programs(text), ours())


def temperature_c(tell: Ask = ask) -> float | None:
    """Of the hottest GPU. Blocking."""
    text = tell(TEMPERATURES)
    return None if text is None else hottest_c(text)
