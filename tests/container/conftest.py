"""One engine and one image for all tests of the image; a machine that can't run one skips them."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .engine import BASE_IMAGE, PIP_IMAGE, Engine

IMAGE = "atoll:test"
ROOT = Path(__file__).parents[2]


def until(done: Callable[[], bool], what: str, timeout_s: float = 180.0) -> None:
    """Asks again and again; fails when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain: {what}")
        time.sleep(0.5)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    missing = Engine.missing()
    if missing is not None:
        if os.environ.get("TESTS_REQUIRE_ALL") == "1":
            pytest.fail(f"{missing}, and TESTS_REQUIRE_ALL=1")
        pytest.skip(missing)
    engine = Engine()
    try:
        until(engine.answers, "the engine starts", 60)
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The project's image."""
    engine.make_base()
    images = ["--build-arg", f"BASE_IMAGE={BASE_IMAGE}", "--build-arg", f"BUILD_IMAGE={PIP_IMAGE}"]
    options = ["--network=host", *images, "--tag", IMAGE]
    engine.docker("build", *options, "--file", str(ROOT / "docker/Dockerfile"), str(ROOT), timeout_s=1500)
    return IMAGE
