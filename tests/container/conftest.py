"""One engine and its images for all tests; a machine that can't run one skips them."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .containers import until
from .engine import BASE_IMAGE, PIP_IMAGE, Engine, mounts_below

IMAGE, BOOTSTRAP_IMAGE = "atoll:test", "atoll-bootstrap:test"
NETWORK = "atoll-test"
SUBNET = "172.29.250.0/24"  # a private range, and not one that engines take by themselves
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A running engine; when it has ended, nothing of it is left."""
    missing = Engine.missing()
    if missing is not None:
        if os.environ.get("TESTS_REQUIRE_ALL") == "1":
            pytest.fail(f"{missing}, and TESTS_REQUIRE_ALL=1")
        pytest.skip(missing)
    before = interfaces()
    engine = Engine()
    try:
        until(engine.answers, "the engine starts", 60)
        yield engine
    finally:
        engine.close()
    assert mounts_below(engine.folder) == [] and not engine.folder.exists()
    assert {name for name in interfaces() - before if name.startswith(("br-", "docker"))} == set()


def interfaces() -> set[str]:
    """Names of this machine's network interfaces."""
    return {path.name for path in Path("/sys/class/net").iterdir()}


def build(engine: Engine, file: str, tag: str, *options: str) -> None:
    """Builds one of the project's Dockerfiles."""
    images = ["--build-arg", f"BASE_IMAGE={BASE_IMAGE}", "--build-arg", f"BUILD_IMAGE={PIP_IMAGE}"]
    where = ["--network=host", "--file", str(ROOT / "docker" / file), "--tag", tag, str(ROOT)]
    engine.docker("build", *images, *options, *where, timeout_s=1500)


@pytest.fixture(scope="session")
def images(engine: Engine) -> tuple[str, str]:
    """The project's images, built at the same time."""
    engine.make_base()
    with ThreadPoolExecutor(2) as pool:
        builds = [
            pool.submit(build, engine, "Dockerfile", IMAGE),
            pool.submit(build, engine, "Dockerfile.bootstrap", BOOTSTRAP_IMAGE),
        ]
        for one in builds:
            one.result()
    print(engine.docker("images"))
    return IMAGE, BOOTSTRAP_IMAGE


@pytest.fixture(scope="session")
def image(images: tuple[str, str]) -> str:
    """A node's image."""
    return images[0]


@pytest.fixture(scope="session")
def bootstrap_image(images: tuple[str, str]) -> str:
    """The image of a node that only helps others to find each other."""
    return images[1]


@pytest.fixture
def network(engine: Engine) -> Iterator[str]:
    """A network with nothing behind it, and none of its containers left afterwards."""
    engine.docker("network", "create", "--internal", "--subnet", SUBNET, NETWORK)
    yield NETWORK
    engine.clear()
