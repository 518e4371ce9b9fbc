"""Exporters: what is written can be read back, a slow or broken sink holds nobody up and is told once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from atoll.daemon import extras
from atoll.daemon.config import Settings
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.exporters import exporter as exporters
from atoll.daemon.exporters import exports
from atoll.daemon.exporters.exporter import MAX_WAITING, Exporter
from atoll.daemon.exporters.exports import Exports, open_exports
from atoll.daemon.exporters.samples import Sample, of_moment, of_round, of_validation

REPORT: dict[str, Any] = {
    "version": 7,
    "time": 1_760_000_000.5,
    "outcome": "certified",
    "planned": ["a", "b", "c"],
    "contributed": ["a", "b"],
    "phases": {"reduce_s": 0.25},
    "tokens": 4096,
    "duration_s": 1.5,
    "bytes_sent": 10,
    "bytes_received": 20,
    "loss": 3.25,
    "loss_min": None,
    "loss_max": float("nan"),
    "cosine": 0.5,
    "outer_lr": 0.7,
    "groups": 1,
}


def test_a_round_becomes_numbers_of_its_version() -> None:
    sample = of_round(REPORT)
    assert (sample.version, sample.time_s) == (7, 1_760_000_000.5)
    assert sample.values["round/loss"] == 3.25 and sample.values["round/contributed"] == 2
    assert sample.values["round/phase_reduce_s"] == 0.25 and sample.values["round/committed"] == 1
    assert not {"round/loss_min", "round/loss_max"} & set(sample.values), "what is no number is left out"
    assert of_moment(5.0, {"peers": 3, "loss": float("inf")}) == Sample(5.0, None, {"node/peers": 3.0})


# ---- the queue and the thread


class Sink:
    """Keeps what it gets. `gate`: it writes only while that is set. `broken`: it refuses."""

    def __init__(self) -> None:
        self.got: list[Sample] = []
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False
        self.opened = self.closed = 0

    def make(self) -> Sink:
        self.opened += 1
        return self

    def write(self, sample: Sample) -> None:
        self.gate.wait(30)
        if self.broken:
            raise ValueError("no space left")
        self.got.append(sample)

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed += 1


def number(of: int) -> Sample:
    return Sample(float(of), of, {"x": float(of)})


async def test_what_was_offered_is_written_before_the_end() -> None:
    sink, told = Sink(), list[str]()
    exporter = Exporter("It", sink.make, told.append)
    for each in range(5):
        exporter.offer(number(each))
    await exporter.close()
    await exporter.close()
    assert [s.version for s in sink.got] == [0, 1, 2, 3, 4] and sink.closed == 1 and told == []


async def test_a_slow_sink_holds_nobody_up_and_loses_the_oldest() -> None:
    sink = Sink()
    sink.gate.clear()
    exporter = Exporter("It", sink.make, lambda text: None)
    for each in range(3 * MAX_WAITING):
        exporter.offer(number(each))
    assert len(exporter._waiting) <= MAX_WAITING
    sink.gate.set()
    await exporter.close()
    assert sink.got[-1].version == 3 * MAX_WAITING - 1 and len(sink.got) <= 2 * MAX_WAITING


async def test_a_sink_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporters, "CLOSE_S", 0.01)
    sink, told = Sink(), list[str]()
    sink.gate.clear()
    exporter = Exporter("It", sink.make, told.append)
    exporter.offer(number(1))
    await exporter.close()
    assert "did not take its last figures" in told[0]
    sink.gate.set()


async def test_a_broken_sink_is_told_once_and_tried_again() -> None:
    sink, now = Sink(), 0.0
    told: asyncio.Queue[str] = asyncio.Queue()
    exporter = Exporter("It", sink.make, told.put_nowait, clock=lambda: now)
    sink.broken = True
    exporter.offer(number(1))
    assert "It can't be written (ValueError: no space left)" in await told.get()
    exporter.offer(number(2))  # too early to try again
    now, sink.broken = exporters.RETRY_S, False
    exporter.offer(number(3))
    assert "It is written again" in await told.get()
    await exporter.close()
    assert told.empty() and sink.got[-1] == number(3) and sink.opened == 2


async def test_a_library_that_can_not_be_loaded_is_an_event() -> None:
    def make() -> Sink:
        raise ImportError("half installed")

    told: asyncio.Queue[str] = asyncio.Queue()
    exporter = Exporter("It", make, told.put_nowait)
    exporter.offer(number(1))
    assert "half installed" in await told.get()
    await exporter.close()


async def test_without_any_nothing_happens(tmp_path: Path) -> None:
    await _tell_all(open_exports(Settings(), "coral-heron", 0.0, pytest.fail))


async def _tell_all(found: Exports) -> None:
    found.moment(1_760_000_010.0, {"peers": 3.0})
    found.round(REPORT)
    found.measured(1_760_000_011.0, 7, 3.5)
    found.measured(1_760_000_012.0, 7, 3.5)
    await found.close()


def test_a_validation_is_told_once() -> None:
    offered: list[Sample] = []
    found = Exports([type("Fake", (), {"offer": lambda self, sample: offered.append(sample)})()])
    for version, at in ((7, 1.0), (7, 2.0), (8, 3.0)):
        found.measured(at, version, 3.5)
    assert offered == [of_validation(1.0, 7, 3.5), of_validation(3.0, 8, 3.5)]


# ---- what is not installed


@pytest.mark.parametrize("package", exports.PACKAGES)
def test_a_missing_package_is_said_with_its_fix(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    extras.check(Settings())
    with pytest.raises(AtollError, match=f"needs the package {package}") as caught:
        extras.check(Settings(**{package: "somewhere"}))
    assert caught.value.exit_status is Exit.USAGE
    assert f"pip install 'atoll[{package}]'" in caught.value.fix


def test_what_finds_nodes_in_ones_network_has_an_extra_of_another_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AtollError, match="mdns needs the package zeroconf") as caught:
        extras.check(Settings(mdns=True))
    assert "pip install 'atoll[mdns]'" in caught.value.fix and "setting off" in caught.value.fix


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_exporter").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not extras._installed("some_exporter") and extras._installed("json")


# ---- with the real packages


async def test_tensorboard_reads_it_back(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    await _tell_all(
        open_exports(Settings(tensorboard=str(tmp_path)), "coral-heron", 1_760_000_000.0, pytest.fail)
    )
    read = accumulators.EventAccumulator(str(tmp_path / "coral-heron")).Reload()
    (loss,) = read.Scalars("round/loss")
    assert (loss.step, loss.value, loss.wall_time) == (7, 3.25, 1_760_000_000.5)
    assert [(e.step, e.value) for e in read.Scalars("round/val_loss")] == [(7, 3.5)]
    assert [(e.step, e.value) for e in read.Scalars("node/peers")] == [(10, 3.0)]


async def test_a_folder_that_can_not_be_made_is_an_event(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    told: list[str] = []
    await _tell_all(
        open_exports(Settings(tensorboard=str(tmp_path / "file")), "coral-heron", 0.0, told.append)
    )
    assert len(told) == 1 and "TensorBoard's folder can't be written" in told[0]


_OFFLINE = """
import asyncio, json, socket, sys
from pathlib import Path
from atoll.daemon import extras
from atoll.daemon.config import Settings
from atoll.daemon.exporters import exporter
from atoll.daemon.exporters.exports import open_exports

exporter.CLOSE_S = 60.0  # a busy machine
asked = []
def refuse(self, address):
    asked.append(str(address))
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
        raise OSError("the network is not for this")
    return connect(self, address)
connect, socket.socket.connect = socket.socket.connect, refuse
told = []

async def main():
    found = open_exports(Settings(wandb=sys.argv[1]), "coral-heron", 0.0, told.append)
    found.moment(1760000010.0, {"peers": 3.0})
    found.round(json.loads(sys.argv[2]))
    found.measured(1760000011.0, 7, 3.5)
    await found.close()

asyncio.run(main())
from wandb.proto import wandb_internal_pb2 as pb
(file,) = Path(sys.argv[1]).glob("wandb/offline-run-*/*.wandb")
data, rows, at = file.read_bytes(), [], 7
while at < len(data):  # LevelDB's log: checksum, length, kind; all records are short enough to be whole
    length = int.from_bytes(data[at + 4:at + 6], "little")
    assert data[at + 6] == 1
    record = pb.Record.FromString(data[at + 7:at + 7 + length])
    at += 7 + length
    if record.WhichOneof("record_type") == "history":
        rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
children = Path("/proc/self/task").glob("*/children")
left = "".join(each.read_text() for each in children)
print(json.dumps({"rows": rows, "told": told, "asked": asked, "children": left}))
"""


def test_wandb_writes_an_offline_run_and_leaves_nobody_behind(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    report = json.dumps({**REPORT, "loss_max": None})
    done = subprocess.run(
        [sys.executable, "-c", _OFFLINE, str(tmp_path), report],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["told"] == [] and found["children"].strip() == ""
    assert all(address.startswith("('127.0.0.1'") or address.startswith("/") for address in found["asked"])
    assert found["rows"][0]["node/peers"] == 3 and found["rows"][0]["unix_s"] == 1760000010
    assert found["rows"][1]["round/loss"] == 3.25 and found["rows"][1]["version"] == 7
    assert found["rows"][2]["round/val_loss"] == 3.5 and found["rows"][2]["version"] == 7
