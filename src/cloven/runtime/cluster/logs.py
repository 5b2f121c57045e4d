"""Structured logs: one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

MOST, MINUTE = 600, 60.0
"""The most lines of one kind in so many seconds."""

USUAL = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: time, level, event, and all that was given as extra."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {key: value for key, value in record.__dict__.items() if key not in USUAL}
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage(), **fields}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class RateLimit(logging.Filter):
    """Lets a few lines of one kind through per period: no client can fill a disk by being refused.

    The kind of a line is the place in the code that writes it. The next line of a kind of which some were left out
    has their number as ``left_out``, and with ``in_text`` also in its text.
    """

    def __init__(self, most: int = MOST, seconds: float = MINUTE, *, in_text: bool = False) -> None:
        super().__init__()
        self.most, self.seconds, self.in_text = most, seconds, in_text
        self._kinds: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is written."""
        kind = record.pathname, record.lineno
        since, lines = self._kinds.get(kind, (record.created, 0))
        if not 0 <= record.created - since < self.seconds:
            if lines > self.most:
                record.left_out = lines - self.most
                if self.in_text:
                    record.msg = f"{record.msg} (and {lines - self.most} more like this since)"
            since, lines = record.created, 0
        self._kinds[kind] = since, lines + 1
        return lines < self.most


def to_stderr() -> None:
    """Send all logs to standard error as lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(RateLimit())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # It writes a trace for every client that goes away while it is answered; we say who has gone.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
