"""What nvidia-smi answers, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.daemon import gpu

TEXT = "GPU-aa, 100\nGPU-aa, 200\nGPU-bb, 300\nGPU-bb, [N/A]\nno running processes\n, 7\nGPU-cc, ²\n"


def test_programs_by_gpu() -> None:
    assert gpu.programs(TEXT) == {"GPU-aa": {100, 200}, "GPU-bb": {300}}
    assert gpu.programs("") == {}


@pytest.mark.parametrize(
    ("ours", "count"),
    [
        ({100}, 1),
        ({100, 200, 5}, 0),
        ({300}, 0),
        ({100, 300}, 1),
        ({5}, None),  # numbers of another namespace, or it computes on none
        (set(), None),
    ],
)
def test_others_count_only_on_the_gpu_that_trains(ours: set[int], count: int | None) -> None:
    assert gpu.others(gpu.programs(TEXT), ours) == count
    assert gpu.other_programs(lambda: ours, lambda question: TEXT) == count


def test_the_hottest_gpu() -> None:
    assert gpu.hottest_c("45\n 71\n[N/A]\n") == 71.0
    assert gpu.hottest_c("[N/A]\n") is None and gpu.hottest_c("") is None


def test_a_tool_that_is_not_there_or_fails_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.temperature_c() is None and gpu.other_programs(lambda: {1}) is None
    tool = tmp_path / gpu.TOOL
    for script, found in (("echo 45; echo 61", 61.0), ("echo 45; exit 9", None), ("kill -9 $$", None)):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        assert gpu.temperature_c() == found
    tool.write_bytes(b"no program")
    assert gpu.temperature_c() is None
    monkeypatch.setattr(gpu, "DEADLINE_S", 0.05)
    tool.write_text("#!/bin/sh\nwhile :; do :; done\n")
    assert gpu.temperature_c() is None, "nobody waits for it for ever"
