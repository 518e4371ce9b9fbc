"""The walls of the house: who may import whom, and what a light command must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("daemon", "web_ui", "peers", "dht", "protocol")
MAY_IMPORT = {
    "daemon": {"web_ui", "peers", "dht", "protocol"},
    "daemon/training": {"protocol"},
    "web_ui": set(),
    "peers": {"dht", "protocol"},
    "dht": {"protocol"},
    "protocol": set(),
}
"""Each room may import itself and these; the longest path counts."""

NETWORKED = {"asyncio", "hivemind", "uvloop", "starlette", "uvicorn", "httpx", "http", "urllib", "aiohttp"}
MUST_NOT_IMPORT = {
    "daemon/training": NETWORKED,
    "protocol": NETWORKED | {"socket", "subprocess", "threading", "time", "random"},
    "protocol/round": {"numpy", "torch", "os", "pathlib"},
    "web_ui": {"hivemind", "torch", "numpy", "google"},
    "dht": {"torch", "numpy"},
    "peers": {"torch", "numpy"},
}
HEAVY = {"torch", "hivemind", "numpy", "google.protobuf", "starlette", "uvicorn", "rich", "cryptography"}


def sources() -> list[Path]:
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return [path for path in files if not path.name.endswith("_pb2.py")]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything a file imports, at any depth; relative imports made absolute."""
    package = ["atoll", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            # `from atoll import protocol` and `from atoll.protocol import round` name modules, too.
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def rules(table: dict[str, set[str]], path: Path) -> list[tuple[str, set[str]]]:
    """Entries of a table for the folders that hold `path`, the outermost first."""
    folders = [
        parent.relative_to(ROOT).as_posix() for parent in reversed(path.parents) if ROOT in parent.parents
    ]
    return [(folder, table[folder]) for folder in folders if folder in table]


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_run_downwards_only(path: Path):
    room = path.relative_to(ROOT).parts[0]
    home, allowed = rules(MAY_IMPORT, path)[-1]
    forbidden = set().union(*(names for _, names in rules(MUST_NOT_IMPORT, path)))
    within = f"atoll.{home.replace('/', '.')}"
    for line, name in imports(path):
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        top = name.split(".")[0]
        assert top not in forbidden, where
        assert top not in ROOMS, f"{where}: there is one import name, atoll.{top}"
        if top != "atoll":
            continue
        parts = name.split(".")
        if len(parts) > 1 and parts[1] in ROOMS and not f"{name}.".startswith(f"{within}."):
            inside = parts[1] == room and home == room
            assert inside or parts[1] in allowed, where


def test_torch_is_in_the_codecs_and_nowhere_else_below_the_daemon():
    for path in sources():
        folder = path.relative_to(ROOT).as_posix()
        if folder.startswith(("daemon/", "protocol/codecs/")):
            continue
        for line, name in imports(path):
            assert name.split(".")[0] != "torch", f"{folder}:{line}"


def test_the_walls_would_notice():
    """The checker itself: absolute, relative and nested imports are all seen."""
    module = ROOT / "dht" / "sample.py"
    tree = "from ..peers import links\nimport atoll.daemon\ndef f():\n    from atoll import web_ui\n"
    names = {name for _, name in _imports_of(tree, module)}
    assert {"atoll.peers", "atoll.peers.links", "atoll.daemon", "atoll.web_ui"} <= names


def _imports_of(text: str, path: Path) -> list[tuple[int, str]]:
    class Fake(type(path)):  # type: ignore[misc]
        def read_text(self, *_: object, **__: object) -> str:
            return text

    return list(imports(Fake(path)))


def loaded_by(code: str) -> set[str]:
    """Modules that a fresh interpreter has imported after running `code`."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    lines = [line.rsplit("|", 1) for line in run.stderr.splitlines() if line.startswith("import time:")]
    assert lines, run.stderr
    return {line[-1].strip() for line in lines}


def test_help_loads_nothing_heavy():
    """`atoll --help` within 0.2 s: by what it loads, since a clock in a test lies."""
    loaded = loaded_by(
        "import sys; sys.argv = ['atoll', '--help']; from atoll.daemon.cli import main; main()"
    )
    assert "atoll.daemon.cli" in loaded
    tops = {name.split(".")[0] for name in loaded} | loaded
    assert not tops & HEAVY
    bare = loaded_by("import argparse, importlib.resources")
    assert len(loaded - bare) < 60, sorted(loaded - bare)


def test_importing_atoll_is_light():
    loaded = loaded_by("import atoll")
    assert {name for name in loaded if name.startswith("atoll")} == {"atoll"}
    assert not ({name.split(".")[0] for name in loaded} | loaded) & HEAVY


def test_a_node_has_its_page_up_before_torch_is_loaded():
    """`atoll join` answers within 3 s: PyTorch alone takes most of that on a busy machine."""
    loaded = loaded_by(
        "from atoll.dht.without_torch import lighten_hivemind; lighten_hivemind(); import atoll.daemon.node"
    )
    assert "atoll.daemon.front" in loaded and "torch" not in loaded


def test_the_public_api_is_what_it_says():
    import atoll

    assert sorted(atoll.__all__) == dir(atoll)
    for name in atoll.__all__:
        assert getattr(atoll, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = atoll.nonsense


def test_every_module_begins_with_what_it_is_for():
    for path in sources():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring or not path.read_text().strip(), path
