"""The walls of the house: rooms import downwards only, and what must be light to start stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("daemon", "web_ui", "peers", "dht", "protocol")
MAY_IMPORT = {
    "daemon": {"daemon", "web_ui", "peers", "dht", "protocol"},
    "daemon/training": {"daemon/training", "protocol"},
    "web_ui": {"web_ui"},
    "peers": {"peers", "dht", "protocol"},
    "dht": {"dht", "protocol"},
    "protocol": {"protocol"},
}
ONLY_IN = {
    # A library that decides what a room can be: only these places may import it.
    "torch": ("protocol/codecs", "daemon"),
    "hivemind": ("dht", "peers", "daemon"),
    "starlette": ("web_ui",),
    "uvicorn": ("web_ui",),
    "asyncio": ("daemon", "peers", "dht", "web_ui"),
    "socket": ("daemon", "peers", "web_ui"),
}
FORBIDDEN_IN_TRAINING = ("hivemind", "starlette", "uvicorn", "asyncio", "http", "urllib")
UNSAFE = ("pickle", "marshal", "shelve", "dill", "cloudpickle")


def sources(room: str) -> list[Path]:
    return sorted(p for p in (ROOT / room).rglob("*.py") if not p.name.endswith("_pb2.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, wherever in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            # `from atoll import peers` names the room in its second half.
            yield from (
                (f"{module}.{a.name}" if module == "atoll" else module, node.lineno) for a in node.names
            )


def room_of(module: str) -> str:
    parts = module.split(".")[1:]
    return "daemon/training" if parts[:2] == ["daemon", "training"] else parts[0] if parts else ""


def home_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return "daemon/training" if parts[:2] == ("daemon", "training") else parts[0]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_downwards_only(room: str) -> None:
    files = sources(room)
    assert files
    for path in files:
        home = home_of(path)
        allowed = MAY_IMPORT[home] | ({"daemon/training"} if home == "daemon" else set())
        for module, line in imports(path):
            if module.split(".")[0] != "atoll" or module == "atoll.__version__":
                continue
            assert room_of(module) in allowed, f"{path}:{line}: {home} imports {module}"


@pytest.mark.parametrize("room", ROOMS)
def test_libraries_stay_in_their_rooms(room: str) -> None:
    for path in sources(room):
        place = str(path.relative_to(ROOT))
        for module, line in imports(path):
            top = module.split(".")[0]
            assert top not in UNSAFE, f"{path}:{line}: {top} runs code of strangers"
            if top in ONLY_IN:
                assert place.startswith(ONLY_IN[top]), f"{path}:{line}: {top} in {place}"
            if home_of(path) == "daemon/training":
                assert top not in FORBIDDEN_IN_TRAINING, f"{path}:{line}: the trainer imports {top}"


def test_the_page_speaks_to_its_own_origin_only() -> None:
    own = [p for p in (ROOT / "web_ui" / "static").rglob("*") if p.suffix in (".html", ".js", ".css")]
    assert own
    for path in own:
        if "vendor" not in path.parts:
            text = path.read_text()
            assert "https://" not in text and "//cdn" not in text and "innerHTML" not in text, path


def test_files_are_of_a_size_to_live_in() -> None:
    for room in ROOMS:
        for path in sources(room):
            lines = len(path.read_text().splitlines())
            assert lines <= 480, f"{path} has {lines} lines: it has grown a second subject"


def imported_by(*arguments: str) -> set[str]:
    """Top-level modules that Python loads for a command."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


HEAVY = {"torch", "hivemind", "numpy", "starlette", "uvicorn", "rich", "safetensors"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "atoll", "--help"),
        ("-m", "atoll", "status", "--data-dir", "/nonexistent"),
        ("-m", "atoll", "peers", "--data-dir", "/nonexistent"),
        ("-m", "atoll", "config", "show", "--data-dir", "/nonexistent"),
        ("-c", "import atoll; atoll.__version__"),
    ],
)
def test_what_must_be_light_is_light(arguments: tuple[str, ...]) -> None:
    loaded = imported_by(*arguments)
    assert "atoll" in loaded
    assert not loaded & HEAVY
    if "--help" in arguments:
        assert "asyncio" not in loaded and "google" not in loaded
