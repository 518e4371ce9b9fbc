"""Logging of the daemon: one line for each event, for people or (JSON) for machines, and never a secret.

In JSON every line has time, level, kind and text, whatever it is: an event, a message of a library, a warning
of Python, the end of a thread, the error that ends the process.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from typing import TextIO

from atoll.protocol.text import plain

MAX_LINE = 4000


class JsonLines(logging.Formatter):
    """One JSON object a line; an event's own fields are kept."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "kind": "log",
            "text": record.getMessage(),
        }
        event = getattr(record, "event", None)
        if isinstance(event, dict):
            entry |= {k: v for k, v in event.items() if k not in ("time", "level", "text")}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class TextLines(logging.Formatter):
    """HH:MM:SS and the sentence; the level where it is more than information."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{at} {level}{plain(record.getMessage(), MAX_LINE)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at the moment: a bar in a terminal takes its place."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def set_up_logging(log_format: str, level: str) -> None:
    """Sends Atoll's log to stderr, and of other libraries only what is serious."""
    handler = _Stderr()
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    if log_format == "json":
        logging.captureWarnings(True)
        threading.excepthook = _thread_failed
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)
    own = logging.getLogger("atoll")
    own.setLevel(level.upper())
    for noisy in ("hivemind", "uvicorn", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL if noisy == "hivemind" else logging.ERROR)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    name = failed.thread.name if failed.thread else "?"
    trace = (failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback)
    logging.getLogger("atoll").error("the thread %s failed", name, exc_info=trace)


def tell_error(code: str, sentence: str) -> bool:
    """Logs the error that ends the process, where the log is JSON; False where it is not."""
    found = [h for h in logging.getLogger().handlers if isinstance(h.formatter, JsonLines)]
    if found:
        logging.getLogger("atoll").error("%s", sentence, extra={"event": {"kind": "error", "code": code}})
    return bool(found)
