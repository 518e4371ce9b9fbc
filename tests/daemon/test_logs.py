"""With --log-format json every line is JSON and has time, level, kind and text, whatever happened."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

_EVERYTHING = """
import asyncio, logging, sys, threading, warnings
from pathlib import Path
from atoll.daemon import cli, logs
from atoll.daemon.cli.running import greet
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import Events

logs.set_up_logging("json", "debug")
events = Events(Path(sys.argv[1]), lambda: 5.0)
events.emit("note", "Two\\nlines.", more={"a": [1]})
events.emit("round", "Round 1 ended.", record={"round": {"version": 1}})
greet("Open it.", True)
logging.getLogger("atoll.x").debug("a detail")
logging.getLogger("uvicorn.error").error("a library")
warnings.warn("deprecated")
def boom():
    raise ValueError("in a thread")
thread = threading.Thread(target=boom, name="worker")
thread.start()
thread.join()
async def main():
    async def fail():
        raise ValueError("nobody asked")
    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    del task
    import gc
    gc.collect()
asyncio.run(main())
def handler(arguments):
    raise AtollError(Exit.TEMPORARY, "disk_full", "No space.", "Free some.")
cli.observe = sys.modules["atoll.daemon.cli.observe"] = type(sys)("observe")
cli.observe.status = handler
sys.exit(cli.main(["status"]))
"""


def lines_of(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        assert isinstance(line["time"], float) and isinstance(line["text"], str), line
        assert line["level"] in ("debug", "info", "warning", "error", "critical") and line["kind"], line
    return found


def test_whatever_happens_every_line_is_json(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _EVERYTHING, str(tmp_path / "events.jsonl")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 75
    assert [line["kind"] for line in lines_of(done.stdout)] == ["greeting"]
    found = lines_of(done.stderr)
    by_text = {line["text"]: line for line in found}
    assert by_text["Two\nlines."]["more"] == {"a": [1]} and by_text["Two\nlines."]["kind"] == "note"
    assert by_text["Round 1 ended."]["round"] == {"version": 1}
    assert by_text["a detail"]["level"] == "debug" and by_text["a library"]["kind"] == "log"
    failed = by_text["the thread worker failed"]
    assert failed["level"] == "error" and "in a thread" in failed["exception"]
    assert any("never retrieved" in text for text in by_text)
    assert found[-1]["kind"] == "error" and found[-1]["code"] == "disk_full"
    assert found[-1]["text"] == "No space. Free some."


def test_an_event_can_not_replace_what_every_line_has() -> None:
    from atoll.daemon.logs import JsonLines

    record = logging.LogRecord("atoll", logging.INFO, "", 0, "said", (), None)
    record.event = {"kind": "note", "level": "none", "time": "never", "text": "other", "more": 1}
    line = json.loads(JsonLines().format(record))
    assert (line["level"], line["text"], line["kind"], line["more"]) == ("info", "said", "note", 1)
    assert isinstance(line["time"], float)
