"""Write the tables and numbers in the pages about the papers from stored results.

A block between ``<!-- FILE: TABLE -->`` and ``<!-- end -->``, each on a line of its own, is filled from
``FILE.json`` in the folder with the page's name; TABLE is the name of one of the page's tables.

A number in a sentence is written in the same way, within one line, which it must not begin: ``<!-- FILE: NUMBER
WORDS -->0.18<!-- end -->``. NUMBER is the name of one of the page's numbers, and WORDS are its arguments, in quotes
if they contain spaces::

    MobileNet's Layer 33 scores <!-- 5a: agreement cifar10 vertical "Layer 33" -->0.18<!-- end --> here.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from cloven.auditing.finding import ScoreRange
from cloven.documents import Document, read_document

BLOCK = re.compile(r"(<!-- ([\w-]+): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
NUMBER = re.compile(r"(<!-- ([\w-]+): ([^\n>]+) -->)[^\n<]*(<!-- end -->)")
NOT_PROSE = (
    BLOCK,
    re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE),
    re.compile(r"^#.*$", re.MULTILINE),
    NUMBER,
)
Kind = TypeVar("Kind", bound=Document)


@dataclass(frozen=True)
class Written(Generic[Kind]):
    """A table or a number that a function makes of a document, and of the words after its name."""

    kind: type[Kind]
    make: Callable[..., str]


@dataclass(frozen=True)
class Page:
    """A page, and the functions that make its tables and numbers from files of results."""

    path: Path
    tables: Mapping[str, Written[Any]]
    numbers: Mapping[str, Written[Any]] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        """Return the folder of the page's results."""
        return self.path.with_suffix("")

    @property
    def text(self) -> str:
        """Return the current text of the page."""
        return self.path.read_text("utf-8")

    def filled(self, results: Path, text: str | None = None) -> str:
        """Return a text, by default the page's, with every table and number rewritten from a folder of results."""

        @cache
        def read(written: Written[Any], name: str) -> Any:
            return read_document(written.kind, results / f"{name}.json")

        def made(written: Written[Any], name: str, *words: str) -> str:
            return written.make(read(written, name), *words)

        def block(match: re.Match[str]) -> str:
            return f"{match[1]}{made(self.tables[match[3]], match[2])}\n{match[4]}"

        def number(match: re.Match[str]) -> str:
            what, *words = shlex.split(match[3])
            return f"{match[1]}{made(self.numbers[what], match[2], *words)}{match[4]}"

        return NUMBER.sub(number, BLOCK.sub(block, self.text if text is None else text))


def prose(text: str) -> str:
    """Return a page's sentences: without code, tables, headings, the targets of links, and numbers from results."""
    for pattern in NOT_PROSE:
        text = pattern.sub("", text)
    lines = (line for line in text.splitlines() if not line.startswith("|"))
    return re.sub(r"`[^`]*`|\]\([^)]*\)", "", "\n".join(lines))


def of(kind: type[Kind], make: Callable[..., str]) -> Written[Kind]:
    """Return a table or a number that ``make`` makes of a document of this kind."""
    return Written(kind, make)


def page(name: str, tables: Mapping[str, Written[Any]], numbers: Mapping[str, Written[Any]] | None = None) -> Page:
    """Return the page of a paper."""
    return Page(Path(__file__).parent.parent / "docs" / "papers" / f"{name}.md", tables, numbers or {})


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
