"""The package: a wheel has every file of the rooms and nothing else; generated code is what was generated."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from atoll.protocol import messages_pb2

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("daemon", "web_ui", "peers", "dht", "protocol")


def needs(module: str) -> None:
    """Skips where a tool is missing, unless everything is required."""
    if find_spec(module.split(".")[0]) is None or find_spec(module) is None:
        if os.environ.get("TESTS_REQUIRE_ALL") == "1":
            pytest.fail(f"{module} is not installed")
        pytest.skip(f"{module} is not installed")


def tracked(*folders: str) -> set[str]:
    """Files of the tree that belong into a package: no caches, nothing hidden."""
    files = {path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()}
    names = {path.relative_to(ROOT) for path in files}
    return {n.as_posix() for n in names if "__pycache__" not in n.parts and not n.name.startswith(".")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    needs("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    return set(names)


def test_the_wheel_has_exactly_the_files_of_the_rooms(wheel: set[str]):
    packed = {name for name in wheel if ".dist-info/" not in name}
    rooms = {f"atoll/{name}" for name in tracked(*ROOMS)}
    own = {f"atoll/{name}" for name in ("__init__.py", "__main__.py", "py.typed")}
    assert packed == rooms | own


def test_the_wheel_has_what_a_node_needs_beside_code(wheel: set[str]):
    needed = {
        "atoll/py.typed",
        "atoll/protocol/SPEC.md",
        "atoll/protocol/messages.proto",
        "atoll/daemon/training/texts/NOTICE",
        "atoll/daemon/training/texts/shakespeare.txt.gz",
        "atoll/web_ui/static/index.html",
    }
    assert needed <= wheel
    assert any(name.endswith(".dist-info/entry_points.txt") for name in wheel)


def test_the_link_farm_leads_to_the_rooms():
    farm = ROOT / "src" / "atoll"
    links = {path.name: path for path in farm.iterdir() if path.is_symlink()}
    assert set(links) == set(ROOMS)
    for name, link in links.items():
        assert link.resolve() == ROOT / name
    assert {p.name for p in farm.iterdir() if not p.is_symlink() and p.name != "__pycache__"} == {
        "__init__.py",
        "__main__.py",
        "py.typed",
    }


def test_the_generated_messages_are_those_of_the_proto_file(tmp_path: Path):
    """Whatever version of protoc is here: the descriptor in the generated code says what it was made of."""
    needs("grpc_tools.protoc")
    made = tmp_path / "descriptor"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-Iatoll/protocol=protocol",
            f"--descriptor_set_out={made}",
            "protocol/messages.proto",
        ],
        cwd=ROOT,
        check=True,
    )
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

    (expected,) = FileDescriptorSet.FromString(made.read_bytes()).file
    checked_in = FileDescriptorProto()
    messages_pb2.DESCRIPTOR.CopyToProto(checked_in)
    for descriptor in (expected, checked_in):
        for message in descriptor.message_type:
            for field in message.field:
                field.ClearField("json_name")  # protoc writes it only into files
    assert checked_in == expected


def test_field_numbers_are_used_once():
    for message in messages_pb2.DESCRIPTOR.message_types_by_name.values():
        numbers = [field.number for field in message.fields]
        assert len(numbers) == len(set(numbers)) and numbers, message.name
