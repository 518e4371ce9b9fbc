"""Logging of the daemon: one line for each event, for people or (JSON) for machines, and never a secret."""

from __future__ import annotations

import json
import logging
import sys
import time

from atoll.protocol.text import plain

MAX_LINE = 4000


class JsonLines(logging.Formatter):
    """One JSON object a line; an event's own fields are kept."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "text": record.getMessage(),
        }
        event = getattr(record, "event", None)
        if isinstance(event, dict):
            entry |= {k: v for k, v in event.items() if k not in ("time", "text")}
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


def set_up_logging(log_format: str, level: str) -> None:
    """Sends Atoll's log to stderr, and of other libraries only what is serious."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)
    own = logging.getLogger("atoll")
    own.setLevel(level.upper())
    for noisy in ("hivemind", "uvicorn", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL if noisy == "hivemind" else logging.ERROR)
