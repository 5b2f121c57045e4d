"""Structured logs: one JSON object a line, so that machines can read them too."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from datetime import UTC, datetime

MOST, MINUTE = 600, 60.0
"""How many lines of one event are written in so many seconds."""

USUAL = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class Lines(logging.Formatter):
    """Time, level, event, and whatever was given as extra."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {key: value for key, value in record.__dict__.items() if key not in USUAL}
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage(), **fields}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Sparing(logging.Filter):
    """Lets `MOST` lines of each event a minute through, so that nobody fills a disk by being refused."""

    def __init__(self) -> None:
        super().__init__()
        self.since, self.lines = 0.0, Counter[str]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is written; the last one of a minute says that more are left out."""
        if record.created - self.since >= MINUTE:
            self.since, self.lines = record.created, Counter()
        event = record.getMessage()
        self.lines[event] += 1
        if self.lines[event] == MOST:
            record.more = f"left out for {MINUTE:g} s"
        return self.lines[event] <= MOST


def to_stderr() -> None:
    """Send all logs to standard error as lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    handler.addFilter(Sparing())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # It writes a trace for every client that goes away while it is answered; we say who has gone.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
