"""Verdicts on what this machine has for a swarm: device, memory, disk, clock, port, upload speed. Pure.

Facts in, verdicts out, in the form of verdicts.py (which has those on the way to others). `blocked` is what a
node can't train with; `degraded` what it trains with, but worse than it could; `unknown` what nobody has
measured: nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atoll.daemon.alerts import MAX_SKEW_S
from atoll.daemon.config import MIN_CAP_BPS
from atoll.daemon.status import duration, size
from atoll.daemon.verdicts import verdict

TIGHT = 0.8
"""More than this part of the memory that is free is a tight fit."""
DISK_SPARE = 1.2
LONG_UPLOAD_S = 60.0
"""An update that takes longer holds rounds up."""
DAEMON_BYTES = 320_000_000
"""Daemon and libp2p beside the trainer, before any parameters; measured as resident memory."""


NO_DEVICE = "device_unusable"
"""The trainer's code for a device that this machine does not have (training/errors.py)."""


@dataclass(frozen=True)
class MicroStep:
    """What one micro-step told. `failed`: a code, and `text` why; else what it needed."""

    device: str = ""
    peak_bytes: int = 0
    step_s: float = 0.0
    micro_batch: int = 0
    wanted: int = 0
    failed: str = ""
    text: str = ""


def device(step: MicroStep, wanted: str) -> dict[str, Any]:
    """`wanted`: the setting."""
    if step.failed == NO_DEVICE:
        return verdict("device", "blocked", _sentence(step.text), "Set `--device auto` or cpu.")
    if step.failed:
        return verdict("device", "unknown", f"{wanted}: no step could be taken, see memory")
    return verdict(
        "device", "ok", f"{step.device}: one step of {step.micro_batch} sequences in {step.step_s:.2g} s"
    )


def memory(step: MicroStep, values: int, available_bytes: int | None) -> dict[str, Any]:
    """`values`: of the parameter vector; `available_bytes`: free for a new process, None where not told."""
    fix = "Close other programs, or take part in a swarm with a smaller model."
    if step.failed == NO_DEVICE:
        return verdict("memory", "unknown", "no step could be taken, see device")
    if step.failed:
        return verdict("memory", "blocked", _sentence(step.text), fix)
    # Beside the trainer's: committed parameters, momentum, snapshot and a payload, in the daemon.
    on_cpu = step.peak_bytes if step.device.startswith("cpu") else 0
    needed = on_cpu + DAEMON_BYTES + 16 * values
    text = f"one step took {size(step.peak_bytes)} on {step.device}, the whole node about {size(needed)}"
    if available_bytes is not None:
        text = f"{text}; {size(available_bytes)} are free"
        if needed > available_bytes:
            return verdict("memory", "blocked", text, fix)
    if step.micro_batch < step.wanted:
        less = f"{step.micro_batch} of {step.wanted} sequences fit at a time"
        return verdict("memory", "degraded", f"{text}; {less}", "It works, more slowly; more memory helps.")
    if available_bytes is not None and needed > TIGHT * available_bytes:
        return verdict("memory", "degraded", text, "It fits tightly: close other programs.")
    return verdict("memory", "ok", text)


def memory_in_use(used_bytes: int | None, available_bytes: int | None) -> dict[str, Any]:
    """Of a node that trains: its trainer has taken real steps."""
    used = size(used_bytes) if used_bytes else "an unknown amount"
    free = f"; {size(available_bytes)} are free beside it" if available_bytes is not None else ""
    return verdict("memory", "ok", f"it trains: daemon and trainer have {used} together{free}")


def disk(free_bytes: int | None, needed_bytes: int) -> dict[str, Any]:
    """`needed_bytes`: that the swarm's state and text still take."""
    if free_bytes is None:
        return verdict("disk", "unknown", "the disk does not tell what is free")
    text = f"{size(free_bytes)} are free, {size(needed_bytes)} may still be needed"
    fix = "Free some disk space, choose another --data-dir, or bound the text with --data-cap."
    if free_bytes < needed_bytes:
        return verdict("disk", "blocked", text, fix)
    if free_bytes < DISK_SPARE * needed_bytes:
        return verdict("disk", "degraded", text, fix)
    return verdict("disk", "ok", text)


def clock(skew_s: float | None, now_s: float, last_s: float) -> dict[str, Any]:
    """`skew_s`: how far ahead the others' clocks are, None while nobody told; `last_s`: Unix seconds of the
    newest thing that was written down here."""
    fix = "Set it, best by NTP: records in the DHT, tickets and certificates expire by the clock."
    if last_s - now_s >= MAX_SKEW_S:
        text = f"this clock is {duration(last_s - now_s)} before what was last written down here"
        return verdict("clock", "degraded", text, fix)
    if skew_s is None:
        return verdict("clock", "unknown", "no other node has told its time")
    text = f"{duration(abs(skew_s))} {'behind' if skew_s > 0 else 'ahead of'} the median of the others"
    if abs(skew_s) >= MAX_SKEW_S:
        return verdict("clock", "degraded", text, fix)
    return verdict(
        "clock", "ok", f"within {MAX_SKEW_S:.0f} s of the others" if abs(skew_s) >= 1 else "as the others'"
    )


def port(number: int, taken: str, asked_for: bool) -> dict[str, Any]:
    """`taken`: why the port can't be used, empty where it can; `asked_for`: no other one would do."""
    if not taken:
        return verdict("port", "ok", f"TCP port {number} can be used")
    fix = f"Free port {number}, or give another --port (0: any)."
    if asked_for:
        return verdict("port", "blocked", taken, fix)
    return verdict("port", "degraded", f"{taken}; the node would take any other one", fix)


def upload(bps: int, update_bytes: int) -> dict[str, Any]:
    """`bps`: what the line was seen to carry, 0 where nothing was measured; `update_bytes`: of one round."""
    check = "upload speed"
    if not bps:
        return verdict(check, "unknown", "no round has measured it yet")
    takes = 8 * update_bytes / bps
    text = f"{bps / 1e6:.3g} Mbit/s: an update of {size(update_bytes)} takes {duration(takes)}"
    if bps < MIN_CAP_BPS:
        return verdict(
            check, "degraded", text, "Rounds do not wait for less than 0.5 Mbit/s: use a faster line."
        )
    if takes > LONG_UPLOAD_S:
        fix = "Use a faster line or raise --up; `atoll simulate swarm` says what the model needs."
        return verdict(check, "degraded", text, fix)
    return verdict(check, "ok", text)


def _sentence(text: str) -> str:
    return text.strip().rstrip(".") or "it failed without a word"
