"""How far long work has come, on standard error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("cloven")


@contextmanager
def report_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage on standard error where somebody looks, else a line now and then."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bars: dict[str, Any] = {}
    shown = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*shown, console=console) as drawn:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = drawn.add_task(stage, total=total)
            drawn.update(bars[stage], completed=done, total=total)

        yield report


def _line(stage: str, done: int, total: int) -> None:
    """One line for the start, the end and each tenth."""
    if done in (0, total) or (10 * done) // total != (10 * (done - 1)) // total:
        log.info("%s: %d of %d", stage, done, total)
