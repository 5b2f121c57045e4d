"""Structured logs: one JSON object per line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

MOST, MINUTE = 600, 60.0
"""The maximum number of lines of one kind, and the period in seconds."""

USUAL = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: time, level, event, and the fields of ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON line of a record."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {key: value for key, value in record.__dict__.items() if key not in USUAL}
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage(), **fields}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class RateLimit(logging.Filter):
    """Limits the lines of one kind per period, so that no client can fill the disk with refused requests.

    The kind of a line is the place in the code that writes it. The first line of a kind after a period in which
    lines were dropped has their number as ``left_out``, and with ``in_text`` also in its text.
    """

    def __init__(self, most: int = MOST, seconds: float = MINUTE, *, in_text: bool = False) -> None:
        super().__init__()
        self.most, self.seconds, self.in_text = most, seconds, in_text
        self._kinds: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is within the limit."""
        kind = record.pathname, record.lineno
        since, lines = self._kinds.get(kind, (record.created, 0))
        if not 0 <= record.created - since < self.seconds:
            if lines > self.most:
                record.left_out = lines - self.most
                if self.in_text:
                    record.msg = f"{record.msg} ({lines - self.most} similar lines were left out)"
            since, lines = record.created, 0
        self._kinds[kind] = since, lines + 1
        return lines < self.most


def to_stderr() -> None:
    """Write all logs to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(RateLimit())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # gRPC logs a traceback whenever a client disconnects during an answer; we log the disconnection ourselves.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
