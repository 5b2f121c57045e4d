"""Report the progress of long work on standard error, with an estimate of the remaining time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("cloven")

Progress = Callable[[str, int, int], None]
"""A function that takes the name of a stage, the number of finished pieces, and the number of all pieces."""


SELDOM = 600
"""The seconds after which the progress of a stage is logged again."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Report nothing."""


@contextmanager
def report_progress() -> Iterator[Progress]:
    """Show a bar for each stage if standard error is a terminal, or else log occasional lines."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    bars: dict[str, Any] = {}
    shown = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Bars(*shown, console=console) as drawn:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = drawn.add_task(stage, total=total)
            drawn.update(bars[stage], completed=done, total=total)

        yield report


def _lines() -> Progress:
    """Return a function that logs the start, the end and each tenth of a stage, with the remaining time.

    A stage that takes long is logged every `SELDOM` seconds.
    """
    starts: dict[str, tuple[float, int]] = {}
    logged: dict[str, float] = {}

    def report(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        began, first = starts.setdefault(stage, (now, done))
        tenth = done in (0, total) or (10 * done) // total != (10 * (done - 1)) // total
        if not tenth and now - logged.setdefault(stage, now) < SELDOM:
            return
        logged[stage] = now
        left = (now - began) * (total - done) / (done - first) if done > first else 0.0
        log.info("%s: %d of %d%s", stage, done, total, f", about {duration(left)} left" if left >= 1 else "")

    return report


def duration(seconds: float) -> str:
    """Return seconds in the largest unit that fits: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
