"""The wheel holds the tree, no more and no less; generated code is what its source says."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).parents[1]
ROOMS = ("daemon", "protocol", "peers", "dht", "web_ui")


def tracked(*places: str) -> set[str]:
    """Files of the tree that are not caches."""
    found = set()
    for place in places:
        paths = [ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*")
        found |= {str(p.relative_to(ROOT)) for p in paths if p.is_file() and "__pycache__" not in p.parts}
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (path,) = folder.glob("atoll-*.whl")
    return set(zipfile.ZipFile(path).namelist())


def test_the_wheel_holds_every_file_of_the_rooms(wheel: set[str]) -> None:
    expected = {f"atoll/{name}" for name in tracked(*ROOMS)}
    expected |= {"atoll/__init__.py", "atoll/__main__.py", "atoll/py.typed"}
    assert {name for name in wheel if ".dist-info/" not in name} == expected
    for needed in ("atoll/web_ui/static/index.html", "atoll/protocol/messages_pb2.py"):
        assert needed in wheel
    assert any(name.endswith("shakespeare.txt.gz") for name in wheel)
    assert any(name.endswith("NOTICE") for name in wheel)


def test_editable_and_wheel_import_the_same_names() -> None:
    links = {p.name: p.readlink() for p in (ROOT / "src" / "atoll").iterdir() if p.is_symlink()}
    assert links == {room: Path("../..") / room for room in ROOMS}


def test_the_generated_messages_are_those_of_the_proto_file(tmp_path: Path) -> None:
    from atoll.protocol import messages_pb2

    out = tmp_path / "messages.descriptor"
    from grpc_tools import protoc  # hivemind brings it along

    arguments = ["protoc", f"-Iatoll/protocol={ROOT / 'protocol'}", f"--descriptor_set_out={out}"]
    assert protoc.main([*arguments, "atoll/protocol/messages.proto"]) == 0
    (fresh,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    kept = descriptor_pb2.FileDescriptorProto()
    messages_pb2.DESCRIPTOR.CopyToProto(kept)
    for message in _all_messages(fresh):
        for field in message.field:
            field.ClearField("json_name")
    for message in _all_messages(kept):
        for field in message.field:
            field.ClearField("json_name")
    assert fresh == kept


def _all_messages(file: descriptor_pb2.FileDescriptorProto) -> list[descriptor_pb2.DescriptorProto]:
    found = list(file.message_type)
    for message in found:
        found.extend(message.nested_type)
    return found
