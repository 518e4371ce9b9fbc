"""The page's modules hold to the API's types: TypeScript's checker reads them, nothing is built."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from atoll.web_ui.typescript import TARGET, declarations

ROOT = Path(__file__).parents[2]
TSC = Path(os.environ.get("TSC", ROOT / ".venv" / "node" / "node_modules" / ".bin" / "tsc"))


def test_the_declarations_are_those_of_the_interface() -> None:
    assert TARGET.read_text() == declarations(), "run `python -m atoll.web_ui.typescript`"


def test_the_modules_are_sound() -> None:
    if not TSC.exists() or shutil.which("node") is None:
        if os.environ.get("TESTS_REQUIRE_ALL") == "1":
            pytest.fail(f"no TypeScript at {TSC}, and TESTS_REQUIRE_ALL=1")
        pytest.skip("no TypeScript here: `make typescript` gets it by npm")
    done = subprocess.run(
        [TSC, "-p", ROOT / "web_ui" / "tsconfig.json"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout


def test_a_wrong_name_is_found(tmp_path: Path) -> None:
    """The checker does read the modules, strictly."""
    if not TSC.exists():
        pytest.skip("no TypeScript here")
    shutil.copytree(ROOT / "web_ui" / "static", tmp_path / "static")
    for name in ("api.d.ts", "tsconfig.json"):
        shutil.copy(ROOT / "web_ui" / name, tmp_path / name)
    module = tmp_path / "static" / "js" / "tiles.js"
    module.write_text(module.read_text().replace("state.val_loss_before", "state.val_loss_befor"))
    done = subprocess.run(
        [TSC, "-p", tmp_path / "tsconfig.json"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode != 0 and "val_loss_befor" in done.stdout
