"""The images by themselves: what they are, help, and the demo without a network."""

import json

import pytest

from .containers import HARDENED
from .engine import Engine, EngineError

pytestmark = pytest.mark.container

BOOTSTRAP_BYTES = 250e6


def test_says_how_to_use_it(engine: Engine, image: str, bootstrap_image: str) -> None:
    assert "usage: atoll" in engine.docker("run", "--rm", "--network=none", image)
    assert "--yes" in engine.docker("run", "--rm", "--network=none", image, "join", "--help")
    helped = engine.docker("run", "--rm", "--network=none", bootstrap_image, "--help")
    assert "usage: atoll bootstrap" in helped


def test_runs_as_nobody_special_below_an_init(engine: Engine, images: tuple[str, str]) -> None:
    for image, ports in zip(images, ({"31337/tcp", "8787/tcp"}, {"31337/tcp"}), strict=True):
        config = json.loads(engine.docker("inspect", "--format", "{{json .Config}}", image))
        assert config["User"] == "10001:10001"
        assert config["Entrypoint"][:3] == ["tini", "--", "atoll"]
        assert config["Healthcheck"]["Test"][0] == "CMD"
        assert set(config["ExposedPorts"]) == ports
        assert set(config["Volumes"]) == {"/data"}
        labels = {f"org.opencontainers.image.{name}" for name in ("title", "version", "revision", "source")}
        assert labels <= config["Labels"].keys()
        assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_a_helper_needs_no_torch_and_little_room(engine: Engine, bootstrap_image: str) -> None:
    assert int(engine.docker("inspect", "--format", "{{.Size}}", bootstrap_image)) < BOOTSTRAP_BYTES
    script = (
        "from importlib.util import find_spec; print([n for n in ('torch', 'numpy', 'pip') if find_spec(n)])"
    )
    options = ("--rm", "--network=none", "--entrypoint=python")
    assert engine.docker("run", *options, bootstrap_image, "-c", script).strip() == "[]"


def test_shows_the_demo_without_a_network(engine: Engine, image: str) -> None:
    demo = ("demo", "--peers=2", "--rounds=1", "--no-browser", "--json")
    said = engine.docker("run", "--rm", "--network=none", *HARDENED, image, *demo, timeout_s=240)
    summary = json.loads(said.splitlines()[-1])
    assert summary["versions"] == [1, 1]
    assert len(set(summary["digests"])) == 1
    assert summary["val_loss"][-1] < summary["val_loss_before"]


def test_a_ticket_that_is_none_is_not_worth_a_restart(engine: Engine, image: str) -> None:
    with pytest.raises(EngineError, match="The ticket can't be used"):
        engine.docker("run", "--name=hopeless", "--network=none", image, "join", "atoll1nonsense", "--yes")
    assert engine.docker("inspect", "--format", "{{.State.ExitCode}}", "hopeless").strip() == "2"
    engine.docker("rm", "--volumes", "hopeless")
