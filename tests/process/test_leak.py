"""`atoll audit leak` on a data dir that has just been made."""

from __future__ import annotations

import json
from pathlib import Path

from .harness import atoll, must


def test_what_an_update_tells_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "n0"
    must("init", "lab", "--data-dir", str(folder), "--inner-steps", "3", "--batch", "2")
    (folder / "config.toml").write_text("privacy_clip = 1.0\nprivacy_noise = 0.5\n")
    look = ("audit", "leak", "--data-dir", str(folder), "--bytes", "8", "--effort", "3")
    found = json.loads(must(*look, "--json"))
    ways = ["exact", "encoded (int8)", "clipped to 1, noise 0.5"]
    assert list(found["rows"]) == [*ways, "one example, one step"] and list(found["matching"]) == ways
    example = found["rows"]["one example, one step"]
    assert example["found"] == example["held"] > 2
    assert found["rows"]["exact"]["found"] > 2 * found["rows"]["exact"]["by_chance"]
    assert found["rank"] == 8 and all(len(m["guess"]) == 9 for m in found["matching"].values())
    said = must(*look)
    assert "3 inner steps of 2 sequences" in said and "clipped to 1, noise 0.5" in said
    gone = atoll(*look, "--text", str(tmp_path / "nothing"))
    assert gone.returncode == 2 and "can't be read" in gone.stderr
    short = tmp_path / "short.txt"
    short.write_text("too short")
    refused = atoll(*look, "--text", str(short))
    assert refused.returncode == 2 and "--text FILE" in refused.stderr
