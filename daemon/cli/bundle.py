"""`atoll support-bundle`: one zip of what helps to understand a node, with secrets and addresses removed.

Only facts that are named here go in; files of the data dir are never copied whole. Each text then goes
through `Scrubber`, which takes out what could identify a line or open a door, wherever it stands: IP
addresses, names of hosts, multiaddrs, tickets, keys of login links, this node's token, and where its files
lie.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any

from atoll.daemon.cli.api import client_of
from atoll.daemon.config import Settings, data_dir_of, load
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import read_log
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.client import ApiRefused, ApiUnreachable

LOG_TAIL = 4 << 20
MAX_TEXT = 8 << 20
"""Characters of one file in the bundle."""
LIBRARIES = ("atoll", "torch", "hivemind", "numpy", "protobuf", "uvloop", "starlette", "uvicorn")
_GROUP = "[0-9a-fA-F]{1,4}"
_GROUPS = f"{_GROUP}(?::{_GROUP})*"
_ADDRESSES = (
    # Multiaddrs first: what is in them are addresses and names of hosts, whatever these look like.
    (re.compile(r"/(ip4|ip6|dns|dns4|dns6|dnsaddr)/[^/\s\"',]+"), r"/\1/REMOVED"),
    (re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]|\.\d)"), "IP-REMOVED"),
    (re.compile(rf"(?<![\w:]){_GROUP}(?::{_GROUP}){{7}}(?:%\w+)?(?![\w:])"), "IP-REMOVED"),
    (re.compile(rf"(?<![\w:])(?:{_GROUPS}::(?:{_GROUPS})?|::{_GROUPS})(?:%\w+)?(?![\w:])"), "IP-REMOVED"),
    (re.compile(r"(https?://)[^/\s\"',]+"), r"\1HOST-REMOVED"),
    (re.compile(r"\batoll1[1-9A-HJ-NP-Za-km-z]{20,}"), "TICKET-REMOVED"),
    (re.compile(r"([?&](?:key|token)=)[^\s&\"']+"), r"\1REMOVED"),
    (re.compile(r"(?i)(bearer\s+)\S+"), r"\1REMOVED"),
)


class Scrubber:
    """Removes from texts what `_ADDRESSES` names, and these `secrets`, by what stands for them."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        # The longest first: one may be a part of another.
        self._secrets = sorted(((s, name) for s, name in secrets.items() if s), key=lambda x: -len(x[0]))

    def clean(self, text: str) -> str:
        for secret, name in self._secrets:
            text = text.replace(secret, name)
        for pattern, instead in _ADDRESSES:
            text = pattern.sub(instead, text)
        return text


def support_bundle(arguments: argparse.Namespace) -> int:
    """`atoll support-bundle`"""
    folder = DataDir(data_dir_of(arguments.data_dir))
    if not folder.root.is_dir():
        raise folder.no_swarm()
    out = Path(arguments.out or time.strftime("atoll-support-%Y%m%d-%H%M%S.zip"))
    content = contents(folder)
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in content.items():
            bundle.writestr(name, text)
    files.write_bytes(out, buffer.getvalue(), 0o600)
    if arguments.json:
        print(json.dumps({"file": str(out), "contents": list(content)}))
        return int(Exit.OK)
    print(f"{out} has {', '.join(content)}.")
    print("Keys, tokens, tickets and addresses are removed. Look through it before you send it.")
    return int(Exit.OK)


def contents(folder: DataDir) -> dict[str, str]:
    """Texts of the bundle by name, scrubbed. What can't be had says why."""
    parts: dict[str, Callable[[DataDir], Any]] = {
        "versions.json": _versions,
        "settings.json": _settings,
        "manifest.json": _manifest,
        "state.json": _state,
        "metrics.txt": _metrics,
        "account.json": lambda folder: files.read_json(folder.account),
        "traffic.json": lambda folder: files.read_json(folder.traffic),
        "files.json": _files,
        "events.jsonl": lambda folder: "\n".join(map(json.dumps, read_log(folder.events, LOG_TAIL))),
    }
    scrubber = Scrubber(_secrets(folder))
    found = {}
    for name, part in parts.items():
        try:
            value = part(folder)
        except (AtollError, ApiRefused, ApiUnreachable, OSError, ValueError) as error:
            value = {"not_had": str(error)}
        text = value if isinstance(value, str) else json.dumps(value, indent=1, default=str)
        found[name] = scrubber.clean(text[-MAX_TEXT:])
    return found


def _secrets(folder: DataDir) -> dict[str, str]:
    """What must not be in the bundle, and what stands for it: this node's token, and where its files lie."""
    found = {str(folder.root.resolve()): "DATA-DIR", str(folder.root): "DATA-DIR", str(Path.home()): "~"}
    with contextlib.suppress(OSError):  # it never ran here
        found[folder.token_file.read_text().strip()] = "TOKEN-REMOVED"
    found.pop("/", None)  # a home or data dir at the root is in every path
    host = platform.node()
    return {**found, host: "HOST-REMOVED"} if len(host) > 3 else found


def _versions(folder: DataDir) -> dict[str, Any]:
    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    return {
        "libraries": {name: version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": os.cpu_count(),
        "made_unix_s": int(time.time()),
        "daemon_runs": folder.is_locked(),
    }


def _settings(folder: DataDir) -> dict[str, Any]:
    loaded = load(folder.config, os.environ, {})
    return {
        field.name: {"value": getattr(loaded.settings, field.name), "origin": loaded.origins[field.name]}
        for field in fields(Settings)
    }


def _manifest(folder: DataDir) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    from atoll.daemon.amending import load as load_amendments

    amendments = load_amendments(folder, folder.load_manifest())
    facts = MessageToDict(amendments.newest.body, preserving_proto_field_name=True)
    facts["amendments"] = [
        {
            "sequence": one.sequence,
            "from_round": one.from_round,
            "fields": [name for name, _, _ in one.changes],
        }
        for one in amendments
    ]
    for name in ("bootstrap", "genesis_parameters", "schema_digest"):
        facts.pop(name, None)
    data = facts.get("data", {})
    data["shards"] = len(data.get("shards", ()))
    return facts


def _state(folder: DataDir) -> Any:
    client = client_of(folder)
    return client.picture() if client is not None else {"not_had": "no daemon is running"}


def _metrics(folder: DataDir) -> str:
    client = client_of(folder)
    return client.metrics() if client is not None else "no daemon is running\n"


def _files(folder: DataDir) -> list[dict[str, Any]]:
    """Names, sizes and times of what is in the data dir, two levels deep."""
    found = []
    for path in sorted([*folder.root.glob("*"), *folder.root.glob("*/*")])[:2000]:
        try:
            about = path.lstat()
        except OSError:
            continue
        name = str(path.relative_to(folder.root))
        found.append({"name": name, "size_bytes": about.st_size, "changed_unix_s": int(about.st_mtime)})
    return found
