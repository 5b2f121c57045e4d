"""Printing for all commands: JSON, tables and wrapped text on standard output."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import TYPE_CHECKING, Any

import typer

from cloven.cli.exits import STOPPED
from cloven.errors import printable
from cloven.progress import report_progress

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cloven.auditing.finding import ScoreRange
    from cloven.auditing.summary import AxisScore

Rows = Sequence[Sequence[object]]

WIDE = 180
"""The width of tables in a file or a pipe, wide enough to avoid folded cells."""

NARROW = 100
"""The width of text in a file or a pipe."""

log = logging.getLogger("cloven")


def print_json(value: Any) -> None:
    """Print JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_text(text: str) -> None:
    """Print a paragraph on standard output, wrapped to the terminal's width."""
    width = get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else NARROW
    typer.echo(fill(printable(text), width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def table(title: str, columns: Sequence[str], rows: Rows, *, width: int = WIDE) -> None:
    """Print a table on standard output as wide as the terminal, or ``width``; align numbers to the right."""
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    made = Table(title=escape(title), title_justify="left", header_style="bold", box=SIMPLE, pad_edge=False)
    for i, column in enumerate(columns):
        right = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        made.add_column(escape(column), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(printable(f"{cell:,}" if isinstance(cell, int) else str(cell))) for cell in row))
    show(made, width=width)


def show(made: RenderableType, *, width: int = NARROW) -> None:
    """Print what rich draws on standard output, as wide as the terminal or ``width``."""
    from rich.console import Console

    console = Console()
    console = console if console.is_terminal else Console(width=width)
    with console.capture() as drawn:
        console.print(made)
    plain = drawn.get().replace("\N{NO-BREAK SPACE}", " ")
    typer.echo(plain, nl=False)  # rich would exit the program itself if the output is closed


def by(shape: Sequence[int]) -> str:
    """Return a shape as text, such as ``16x5x5``."""
    return "x".join(map(str, shape))


def interval(score: AxisScore | ScoreRange) -> str:
    """Return a mean with its 95 % interval as text."""
    return f"{score.mean:.2f} [{score.low:.2f}, {score.high:.2f}]"


@contextmanager
def resumable(folder: Path) -> Iterator[Callable[[str, int, int], None]]:
    """Report the progress of resumable work; on Ctrl-C, log the folder of finished work and exit with code 130."""
    with report_progress() as report:
        try:
            yield report
        except KeyboardInterrupt:
            log.warning("interrupted; finished work is kept in %s: run the same command again to continue", folder)
            raise typer.Exit(STOPPED) from None
