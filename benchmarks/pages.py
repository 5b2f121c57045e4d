"""The pages about the papers: blocks of tables in them are written from the results beside them.

A block between ``<!-- FILE: WHAT -->`` and ``<!-- end -->`` is filled from ``FILE.json``, in the folder that has
the page's name; WHAT is one of the page's tables.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"(<!-- ([\w-]+): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Page:
    """A page, and what makes its tables of documents."""

    path: Path
    tables: Mapping[str, Callable[[Document], str]]

    @property
    def results(self) -> Path:
        """The folder of its results."""
        return self.path.with_suffix("")

    @property
    def text(self) -> str:
        """The page as it is."""
        return self.path.read_text("utf-8")

    def filled(self, results: Path) -> str:
        """The page with every block written anew from a folder of results."""

        def block(match: re.Match[str]) -> str:
            document = json.loads((results / f"{match[2]}.json").read_text("utf-8"))
            return f"{match[1]}{self.tables[match[3]](document)}\n{match[4]}"

        return BLOCK.sub(block, self.text)


def page(name: str, tables: Mapping[str, Callable[[Document], str]]) -> Page:
    """The page of a paper."""
    return Page(Path(__file__).parent.parent / "docs" / "papers" / f"{name}.md", tables)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(score: Mapping[str, float]) -> str:
    """A mean with its interval."""
    return f"{score['mean']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def write(one: Page) -> int:
    """Write a page, or with --check see whether it is what the results say: exit code 1 if not."""
    before, after = one.text, one.filled(one.results)
    if "--check" in sys.argv[1:]:
        return int(before != after)
    one.path.write_text(after, "utf-8")
    return 0
