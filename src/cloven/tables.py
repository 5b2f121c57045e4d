"""Format small tables as plain text and HTML, for objects in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

ROWS = 12
"""The number of rows that are shown at most; a line below them has the number of the others."""

Value = str | int | float | None
"""An entry of a table; None is a missing value."""


def text_table(title: str, columns: Sequence[str] = (), rows: Sequence[Sequence[Value]] = ()) -> str:
    """Return a title with a table of aligned columns below it; numbers have thousands separators."""
    lines = [list(columns), *_cells(rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [not any(isinstance(value, str) for value in column) for column in zip(*rows, strict=True)]
    made = [title]
    for line in lines:
        entries = zip(line, widths, numeric, strict=True)
        cells = [cell.rjust(width) if right else cell.ljust(width) for cell, width, right in entries]
        made.append("  ".join(cells).rstrip())
    return "\n".join([*made, *_more(rows)])


def html_table(title: str, columns: Sequence[str] = (), rows: Sequence[Sequence[Value]] = ()) -> str:
    """Return a title and a table as HTML."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in _cells(rows)]
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>" if rows else ""
    return "".join([f"<p>{escape(title)}</p>", table, *(f"<p>{escape(line)}</p>" for line in _more(rows))])


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 link``, ``2 links``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _cells(rows: Sequence[Sequence[Value]]) -> list[list[str]]:
    return [[_cell(value) for value in row] for row in rows[:ROWS]]


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _more(rows: Sequence[Sequence[Value]]) -> list[str]:
    return [f"... and {counted(len(rows) - ROWS, 'more row')}"] if len(rows) > ROWS else []
