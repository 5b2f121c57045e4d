"""Write the tables in the pages about the papers from stored results.

A block between ``<!-- FILE: TABLE -->`` and ``<!-- end -->`` is filled from ``FILE.json`` in the folder with the
page's name; TABLE is the name of one of the page's tables.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cloven.auditing.finding import ScoreRange
from cloven.documents import Document, read_document

BLOCK = re.compile(r"(<!-- ([\w-]+): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Kind = TypeVar("Kind", bound=Document)


@dataclass(frozen=True)
class Page:
    """A page, and the functions that make its tables from files of results."""

    path: Path
    tables: Mapping[str, Callable[[Path], str]]

    @property
    def results(self) -> Path:
        """Return the folder of the page's results."""
        return self.path.with_suffix("")

    @property
    def text(self) -> str:
        """Return the current text of the page."""
        return self.path.read_text("utf-8")

    def filled(self, results: Path) -> str:
        """Return the page with every block rewritten from a folder of results."""

        def block(match: re.Match[str]) -> str:
            return f"{match[1]}{self.tables[match[3]](results / f'{match[2]}.json')}\n{match[4]}"

        return BLOCK.sub(block, self.text)


def of(kind: type[Kind], make: Callable[[Kind], str]) -> Callable[[Path], str]:
    """Return a function from the path of a document to the table that ``make`` makes of it."""
    return lambda path: make(read_document(kind, path))


def page(name: str, tables: Mapping[str, Callable[[Path], str]]) -> Page:
    """Return the page of a paper."""
    return Page(Path(__file__).parent.parent / "docs" / "papers" / f"{name}.md", tables)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(score: ScoreRange) -> str:
    """Return a mean with its interval."""
    return f"{score.mean:.2f} [{score.low:.2f}, {score.high:.2f}]"


def write(one: Page) -> int:
    """Write a page, or compare it with the results if --check is given; return 1 if they differ, else 0."""
    before, after = one.text, one.filled(one.results)
    if "--check" in sys.argv[1:]:
        return int(before != after)
    one.path.write_text(after, "utf-8")
    return 0
