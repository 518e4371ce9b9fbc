"""Settings of a node: one typed table, four places they come from, and where each one came from.

Command line > environment (ATOLL_NAME) > config.toml in the data dir > default. What is part of the run
itself (model, rounds, codecs) is in the manifest and can't be set here. An unknown name, anywhere, is an
error that names the nearest known one: a typo must not be silently a default.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.hours import RULE as HOURS
from atoll.daemon.hours import ScheduleError, parse

ENVIRONMENT = "ATOLL_"
MIN_STATE_RATE = 64 * 1024
"""Slower than this, peers would believe that a transfer has stalled."""
DEFAULT_PORT = 31337
"""For other nodes, where none is asked for and it is free."""
MAX_GB_PER_WEEK = 1e6
MAX_INT = (1 << 63) - 1
"""TOML's numbers end here, and so does what any setting can mean."""
_SHOWN = 80
"""Characters of a value in a refusal: it may be as long as a request."""
MIN_CAP_BPS = 500_000.0
"""Rounds do not wait for a slower line (rounds/config.py)."""
MAX_CONNECTIONS = 96
"""Of one node (SPEC.md, section 7): a round on two levels in a large swarm needs that many."""
_RATES = "a rate of 500kbit or more, such as 20Mbit or 1Gbit"
MIN_MEMORY_BYTES = 128 << 20
"""With less, not even the smallest trainer begins."""
_SIZES = "a size of 128MiB or more, such as 4GiB or 800MB"
_HOST_NAME = re.compile(r"[A-Za-z0-9._:-]{1,255}")
_MULTIADDRS = "multiaddrs such as /ip4/203.0.113.7/tcp/31337"
OTHER_VARIABLES = ("HOME", "TICKET", "TICKET_FILE", "TRAINER_FD")
"""ATOLL_… variables that are not settings: the data dir, the ticket, and the trainer's socket."""


def setting(default: Any, doc: str) -> Any:
    """A field with its documentation, which `atoll config show` prints."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Settings:
    """Every setting of a node, with its default."""

    host: str = setting("0.0.0.0", "address on which other nodes reach this one")
    port: int = setting(
        0, "TCP port for other nodes; 0: 31337 if it is free, else any, and the same next time"
    )
    announce: tuple[str, ...] = setting((), "multiaddrs to announce instead of those found")
    bootstrap: tuple[str, ...] = setting((), "more multiaddrs to find the swarm by")
    api_host: str = setting("127.0.0.1", "address of page and API")
    api_port: int = setting(0, "port of page and API; 0: 8787 if it is free, else any")
    api_names: tuple[str, ...] = setting(
        (), "names under which page and API also answer, beside those of loopback"
    )
    public_host: str = setting("0.0.0.0", "address of the public page, where there is one")
    public_port: int = setting(
        0, "port of a page for everybody, without controls and addresses; 0: there is none"
    )
    label: str = setting("", "a name of your own for this node, seen by the swarm")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    threads: int = setting(0, "CPU threads for training; 0: one for each core")
    memory: str = setting(
        "", "most memory for the trainer on the processor (Linux), such as 4GiB; empty: no cap"
    )
    compile: bool = setting(
        False, "compile the built-in model (torch.compile): minutes at the start, faster steps"
    )
    shard: str = setting("auto", "which part of the text to train on: auto, or INDEX/COUNT")
    rounds: int = setting(0, "pause when this version is reached; 0: never")
    data: str = setting("", "where shards of the text, or the text itself, are on this machine")
    data_cap: int = setting(0, "bytes on disk for shards of the text; 0: no cap")
    state_rate: int = setting(0, "bytes per second for state and text, to peers and from them; 0: no cap")
    up: str = setting("", "most that this node sends, such as 20Mbit (bits per second); empty: no cap")
    down: str = setting("", "most that it receives, such as 50Mbit; empty: no cap")
    gb_per_week: float = setting(
        0.0, "GB sent and received in seven days, after which this node pauses; 0: no cap"
    )
    connections: int = setting(
        MAX_CONNECTIONS, f"most links to other nodes, 1 to {MAX_CONNECTIONS}; with fewer, large rounds suffer"
    )
    train_hours: str = setting("", f"when to train: {HOURS}; empty: always")
    network_hours: str = setting("", "when to use the network, in the same way; empty: always")
    pause_on_battery: bool = setting(False, "pause while this machine runs on battery")
    pause_on_load: int = setting(
        0, "pause when other programs use more of the processor than so many percent; 0: never"
    )
    pause_on_gpu: bool = setting(
        False, "pause while another program computes on the GPU that trains (asks nvidia-smi)"
    )
    privacy_clip: float = setting(
        0.0, "most length of a contribution (Euclidean norm); 0: no bound. See `atoll audit leak`"
    )
    privacy_noise: float = setting(
        0.0,
        "noise on contributions, standard deviation in units of privacy_clip; 0: none; needs atoll[privacy]",
    )
    privacy_delta: float = setting(1e-6, "δ for which the accountant counts ε")
    log_format: str = setting("text", "text or json")
    log_level: str = setting("info", "debug, info, warning or error")
    tensorboard: str = setting("", "folder for TensorBoard's event files; needs atoll[tensorboard]")
    wandb: str = setting("", "folder for offline runs of Weights & Biases; needs atoll[wandb]")
    lane: bool = setting(True, "direct TLS connections for the bulk of a round, beside libp2p")
    lane_port: int = setting(0, "TCP port for them; 0: any")
    pack: bool = setting(True, "pack what goes over slow lines (zstd), which saves 7 to 25 % of it")
    punch: bool = setting(True, "QUIC on the same port (UDP), by which routers are passed by hole punching")
    mdns: bool = setting(
        False, "find the swarm's nodes in this network, and be found there (multicast DNS); needs atoll[mdns]"
    )
    nat_port_map: bool = setting(False, "ask the router to forward the port (UPnP)")


@dataclass(frozen=True)
class Config:
    """Settings with the origin of each: "command line", "environment", "config.toml" or "default"."""

    settings: Settings
    origins: Mapping[str, str]


LIVE = (
    "up",
    "down",
    "threads",
    "memory",
    "device",
    "connections",
    "gb_per_week",
    "state_rate",
    "data_cap",
    "train_hours",
    "network_hours",
    "pause_on_battery",
    "pause_on_load",
    "pause_on_gpu",
)
"""Settings that can be changed while the node runs; `device` takes effect at the next start."""


def _usage(message: str, fix: str = "") -> AtollError:
    return AtollError(Exit.USAGE, "config_invalid", message, fix)


def load(config_file: Path, environ: Mapping[str, str], arguments: Mapping[str, Any]) -> Config:
    """Settings from all places. `arguments`: those given on the command line. Raises AtollError."""
    known = {f.name: f for f in fields(Settings)}
    values: dict[str, Any] = {}
    origins = dict.fromkeys(known, "default")
    for origin, given in (
        ("config.toml", _from_file(config_file)),
        ("environment", _from_environment(environ)),
        ("command line", {k: v for k, v in arguments.items() if v is not None}),
    ):
        for name, value in given.items():
            if name not in known:
                raise _usage(f"Unknown setting {name!r} ({origin}).", nearest(name, list(known)))
            values[name] = _typed(name, value, known[name].type, origin)
            origins[name] = origin
    settings = Settings(**values)
    _check(settings)
    return Config(settings, origins)


def changed(settings: Settings, given: Mapping[str, Any]) -> Settings:
    """`settings` with others in place of some, by the same rules. Raises AtollError."""
    known = {f.name: f for f in fields(Settings)}
    values = {}
    for name, value in given.items():
        if name not in known:
            raise _usage(f"Unknown setting {name!r}.", nearest(name, list(known)))
        values[name] = _typed(name, value, known[name].type, "given")
    made = replace(settings, **values)
    _check(made)
    return made


def nearest(name: str, known: list[str]) -> str:
    """What a setting that does not exist was probably meant to be."""
    close = difflib.get_close_matches(name, known, 1)
    return f"Did you mean {close[0]!r}?" if close else f"Known settings: {', '.join(sorted(known))}."


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # no text, no TOML, or a number of thousands of digits
        raise _usage(f"{path} can't be read: {error}.", "Correct it, or move it away.") from error


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    given = {k.removeprefix(ENVIRONMENT): v for k, v in environ.items() if k.startswith(ENVIRONMENT)}
    return {name.lower(): value for name, value in given.items() if name not in OTHER_VARIABLES}


def _typed(name: str, value: Any, kind: Any, origin: str) -> Any:
    """`value` as the field's type; strings from the environment are converted."""
    try:
        match kind:
            case "int" if not isinstance(value, bool) and not (isinstance(value, float) and value % 1):
                number = int(value)
                if abs(number) > MAX_INT:
                    raise _usage(f"Setting {name} ({origin}) is a number beyond all bounds.")
                return number
            case "float" if not isinstance(value, bool):
                return float(value)
            case "bool":
                words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
                return value if isinstance(value, bool) else words[str(value).lower()]
            case "str" if isinstance(value, str):
                return value
            case "tuple[str, ...]":
                items = value.split(",") if isinstance(value, str) else list(value)
                return tuple(str(item).strip() for item in items if str(item).strip())
    except (ValueError, KeyError, TypeError, OverflowError):
        pass
    raise _usage(f"Setting {name} ({origin}) is {_shown(value)}; it must be {_KINDS[kind]}.")


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "tuple[str, ...]": "a list",
}


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        return "a number beyond all bounds"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _check(s: Settings) -> None:
    rules = [
        (0 <= s.port < 65536, "port", "0 to 65535"),
        (0 <= s.lane_port < 65536, "lane_port", "0 to 65535"),
        (0 <= s.api_port < 65536, "api_port", "0 to 65535"),
        (0 <= s.public_port < 65536, "public_port", "0 to 65535"),
        (all(map(_HOST_NAME.fullmatch, s.api_names)), "api_names", "names, without port"),
        (s.rounds >= 0, "rounds", "0 or more"),
        (0 <= s.threads <= 1024, "threads", "0 to 1024"),
        (
            s.state_rate == 0 or s.state_rate >= MIN_STATE_RATE,
            "state_rate",
            f"0, or {MIN_STATE_RATE} or more",
        ),
        (_may_cap(s.up), "up", _RATES),
        (_may_cap(s.down), "down", _RATES),
        (_may_hold(s.memory), "memory", _SIZES),
        (s.data_cap >= 0, "data_cap", "0 or more"),
        (1 <= s.connections <= MAX_CONNECTIONS, "connections", f"1 to {MAX_CONNECTIONS}"),
        (_in_range(s.gb_per_week), "gb_per_week", "0, or up to a million"),
        (not _no_hours(s.train_hours), "train_hours", f"{HOURS} ({_no_hours(s.train_hours)})"),
        (not _no_hours(s.network_hours), "network_hours", f"{HOURS} ({_no_hours(s.network_hours)})"),
        (0 <= s.pause_on_load <= 100, "pause_on_load", "0 to 100"),
        (_is_least(s.privacy_clip, 0.0), "privacy_clip", "0 or more"),
        (_is_least(s.privacy_noise, 0.0), "privacy_noise", "0 or more"),
        (not s.privacy_noise or s.privacy_clip > 0, "privacy_noise", "0 where there is no privacy_clip"),
        (0 < s.privacy_delta < 1, "privacy_delta", "between 0 and 1"),
        (len(s.label.encode()) <= 64, "label", "at most 64 bytes"),
        (s.log_format in ("text", "json"), "log_format", "text or json"),
        (s.log_level in ("debug", "info", "warning", "error"), "log_level", "debug, info, warning or error"),
        (s.shard == "auto" or shard_of(s.shard) is not None, "shard", "auto, or INDEX/COUNT such as 0/3"),
        (_device_is_named(s.device), "device", "auto, cpu, cuda or cuda:N"),
        (all(map(is_multiaddr, s.announce)), "announce", _MULTIADDRS),
        (all(map(is_multiaddr, s.bootstrap)), "bootstrap", _MULTIADDRS),
    ]
    for good, name, rule in rules:
        if not good:
            value = getattr(s, name)
            shown = ", ".join(value) if isinstance(value, tuple) else value
            raise _usage(f"Setting {name} is {_shown(shown)}; it must be {rule}.")


def _device_is_named(text: str) -> bool:
    """Whether it is a name; only the trainer knows whether this machine has such a device."""
    return text in ("auto", "cpu") or re.fullmatch(r"cuda(:\d{1,3})?", text) is not None


def rate_of(text: str) -> float | None:
    """Bits per second of 20Mbit, 2.5 Mbit/s or 800kbit; 0.0 for an empty text or 0, None for others."""
    if text.strip() in ("", "0"):
        return 0.0
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?) ?([kmg])(?:bit|bps)(?:/s)?", text.strip(), re.IGNORECASE)
    return float(found[1]) * {"k": 1e3, "m": 1e6, "g": 1e9}[found[2].lower()] if found else None


def size_of(text: str) -> int | None:
    """Bytes of 4GiB, 1.5 GB or 800MB; 0 for an empty text or 0, None for others."""
    if text.strip() in ("", "0"):
        return 0
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?) ?([mgt])(i?)b", text.strip(), re.IGNORECASE)
    if not found:
        return None
    power = {"m": 2, "g": 3, "t": 4}[found[2].lower()]
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def _in_range(gigabytes: float) -> bool:
    return math.isfinite(gigabytes) and 0 <= gigabytes <= MAX_GB_PER_WEEK


def _is_least(value: float, least: float) -> bool:
    return math.isfinite(value) and value >= least


def _no_hours(text: str) -> str:
    """Why a text names no hours; empty where it does."""
    try:
        parse(text)
    except ScheduleError as error:
        return str(error)
    return ""


def _may_cap(text: str) -> bool:
    rate = rate_of(text)
    return rate is not None and (rate == 0 or rate >= MIN_CAP_BPS)


def _may_hold(text: str) -> bool:
    size = size_of(text)
    return size is not None and (size == 0 or MIN_MEMORY_BYTES <= size <= MAX_INT)


def shard_of(text: str) -> tuple[int, int] | None:
    """(index, count) of INDEX/COUNT, None for anything else."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count) <= 1 << 20):
        return None
    return int(index), int(count)


def is_multiaddr(text: str) -> bool:
    """Whether `text` looks like an address that can be dialled: /ip4/…/tcp/…/p2p/…"""
    parts = text.split("/")
    return len(parts) >= 5 and parts[0] == "" and parts[1] in ("ip4", "ip6", "dns", "dns4", "dns6", "dnsaddr")


def data_dir_of(argument: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """--data-dir, else ATOLL_HOME, else the XDG data folder."""
    if argument:
        return Path(argument).expanduser()
    if home := environ.get("ATOLL_HOME"):
        return Path(home).expanduser()
    base = environ.get("XDG_DATA_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".local" / "share"
    return Path(base) / "atoll"


def where(root: Path) -> str:
    """What a command that is shown needs, so that it means this data dir: nothing, or " --data-dir DIR"."""
    return "" if root.absolute() == data_dir_of(None).absolute() else f" --data-dir {shlex.quote(str(root))}"
