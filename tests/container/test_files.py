"""The files in docker/: linted, valid, and in agreement with each other. None of this needs an engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from .tools import compose, hadolint, schema_checker

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile*"))
COMPOSE_FILES = sorted(DOCKER.glob("compose*.yaml"))
NODES = ("organiser", "node-1", "node-2")
ENDS_IN_ORDER_S = 20


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def services(file: Path, *options: str, **variables: str) -> dict[str, Any]:
    """The services of a Compose file as Compose understands them."""
    done = run(compose(), "--file", str(file), *options, "config", "--format=json", **variables)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a variable without a default"
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def lint(file: Path) -> subprocess.CompletedProcess[str]:
    return run(hadolint(), "--no-color", "--config", str(DOCKER / "hadolint.yaml"), str(file))


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_hadolint_has_nothing_to_say(file: Path) -> None:
    done = lint(file)
    assert done.returncode == 0, done.stdout


def test_hadolint_would_say_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN cd /tmp && ls\n")
    done = lint(bad)
    assert done.returncode == 1 and "DL3006" in done.stdout and "DL3003" in done.stdout


@pytest.mark.parametrize("file", COMPOSE_FILES, ids=lambda file: file.name)
def test_compose_files_are_valid(file: Path, tmp_path: Path) -> None:
    checker = [*schema_checker(), "--builtin-schema", "vendor.compose-spec"]
    done = run(*checker, str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    bad = tmp_path / file.name
    bad.write_text(file.read_text().replace("read_only: true", "read_only: [1]"))
    assert run(*checker, str(bad)).returncode == 1


def test_compose_understands_them() -> None:
    assert set(services(DOCKER / "compose.yaml")) == {*NODES, "invite"}
    all_of_it = services(DOCKER / "compose.yaml", "--profile=monitoring")
    assert set(all_of_it) == {*NODES, "invite", "prometheus", "grafana"}
    (node,) = services(DOCKER / "compose.node.yaml", ATOLL_TICKET="atoll1x").values()
    assert node["environment"]["ATOLL_TICKET"] == "atoll1x"


def test_a_gpu_is_one_line_away(tmp_path: Path) -> None:
    file = tmp_path / "compose.node.yaml"
    file.write_text((DOCKER / file.name).read_text().replace("# gpus: all", "gpus: all"))
    (node,) = services(file).values()
    assert node["gpus"] == [{"count": -1}]


@pytest.mark.parametrize("file", COMPOSE_FILES, ids=lambda file: file.name)
def test_every_service_is_fenced_in(file: Path) -> None:
    for name, service in services(file, "--profile=monitoring").items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "on-failure:5", name
        assert service.get("privileged", False) is False, name
        if name != "grafana":
            assert service["read_only"] is True, name
        for port in service.get("ports", []):
            assert port["target"] == 31337 or port["host_ip"] == "127.0.0.1", name
        if "atoll" in service["image"]:
            assert int(service["stop_grace_period"].removesuffix("s")) > ENDS_IN_ORDER_S, name


def test_an_address_for_others_is_added_to_the_organisers_name() -> None:
    public = "/ip4/192.0.2.10/tcp/31337"
    file = DOCKER / "compose.yaml"
    alone = services(file)["organiser"]["environment"]["ATOLL_ANNOUNCE"]
    both = services(file, ATOLL_PUBLIC=public)["organiser"]["environment"]["ATOLL_ANNOUNCE"]
    assert alone == "/dns4/organiser/tcp/31337" and both == f"{alone},{public}"


def test_prometheus_asks_every_node_by_its_name_and_token() -> None:
    known = services(DOCKER / "compose.yaml", "--profile=monitoring")
    config = yaml.safe_load((DOCKER / "monitoring/prometheus.yml").read_text())
    for job, node in zip(config["scrape_configs"], NODES, strict=True):
        assert job["static_configs"] == [{"targets": [f"{node}:8787"]}]
        assert job["authorization"] == {"credentials_file": f"/shared/{node}.token"}
        assert known[node]["environment"]["ATOLL_API_NAMES"] == node
        assert "watch" in known[node]["networks"]
    assert set(known["prometheus"]["networks"]) == {"watch"}


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    known = services(DOCKER / "compose.yaml", "--profile=monitoring")
    mounts = {mount["target"]: mount.get("source", "") for mount in known["grafana"]["volumes"]}
    folder = DOCKER / "monitoring/grafana"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in known
    (provider,) = yaml.safe_load((folder / "dashboards/atoll.yaml").read_text())["providers"]
    board = Path(provider["options"]["path"]) / "grafana.json"
    assert mounts[str(board)] == str(ROOT / "docs/grafana.json")
    home = known["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == str(board)
    for kind in ("datasources", "dashboards"):
        assert mounts[f"/etc/grafana/provisioning/{kind}"] == str(folder / kind)


def test_the_label_of_an_image_names_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for file in DOCKERFILES:
        assert re.findall(r"^ARG VERSION=(.*)$", file.read_text(), re.M) == [version], file.name


def test_what_is_left_out_of_the_image_is_what_is_installed_otherwise() -> None:
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    unused = [line for line in (DOCKER / "unused.txt").read_text().splitlines() if not line.startswith("#")]
    assert unused and set(unused) - {"setuptools"} <= pinned, "setuptools is never pinned"
