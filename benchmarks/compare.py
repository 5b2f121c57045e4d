"""Compare the results of two runs of the benchmarks, and name what moved by more than the spread.

    python -m benchmarks.compare BEFORE.json AFTER.json

A value has moved if the ranges of its repetitions do not overlap. With three repetitions each, one in ten does so
by chance; with five, one in a hundred. The exit code is 1 if something got worse.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.measurement import BenchmarkResults, Measurement, number, spread
from cloven.auditing.store import differing
from cloven.documents import read_document
from cloven.errors import ClovenError

Moved = Literal["better", "worse"]


@dataclass(frozen=True)
class Change:
    """A value that moved."""

    before: Measurement
    after: Measurement
    moved: Moved

    def line(self) -> str:
        """Return the change as a line of text."""
        one, other = self.before, self.after
        share = f" ({other.value / one.value - 1:+.0%})" if one.value else ""
        values = f"{number(one.value)} -> {number(other.value)} {other.unit}{share}"
        ranges = f"{spread(one)}, then {spread(other)}"
        return f"{self.moved}: {other.benchmark}: {other.case}: {values}; {ranges}"


@dataclass(frozen=True)
class Comparison:
    """The changes between two runs, and the cases that only one of them has."""

    changes: tuple[Change, ...]
    compared: int
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    @property
    def worse(self) -> bool:
        """True if something got worse."""
        return any(change.moved == "worse" for change in self.changes)


def compare(before: BenchmarkResults, after: BenchmarkResults) -> Comparison:
    """Return what moved between two runs.

    A case whose unit or direction changed counts as another case.
    """
    first, second = (named(results.measurements) for results in (before, after))
    both = [(one, second[name]) for name, one in first.items() if name in second]
    changes = [Change(one, other, moved) for one, other in both if (moved := direction(one, other))]
    return Comparison(
        tuple(changes),
        len(both),
        tuple(name for name in first if name not in second),
        tuple(name for name in second if name not in first),
    )


def named(measurements: Iterable[Measurement]) -> dict[str, Measurement]:
    """Return measurements by benchmark, case, unit and direction."""
    return {f"{one.benchmark}: {one.case} ({one.unit}, {one.better} is better)": one for one in measurements}


def direction(one: Measurement, other: Measurement) -> Moved | None:
    """Return in which direction a value moved; None if the ranges overlap."""
    if one.low <= other.high and other.low <= one.high:
        return None
    fell = other.high < one.low
    return "better" if fell == (one.better == "lower") else "worse"


def lines(before: BenchmarkResults, after: BenchmarkResults, found: Comparison) -> Iterator[str]:
    """Yield a comparison as text: first other machines and versions, then what got worse, better, or is missing."""
    here, there = (results.surroundings.model_dump(mode="json") for results in (before, after))
    for name, one, other in differing(here, there):
        yield f"{name} differs: {one}, then {other}"
    for change in sorted(found.changes, key=lambda change: change.moved, reverse=True):
        yield change.line()
    for words, names in (("before", found.only_before), ("after", found.only_after)):
        yield from (f"only {words}: {name}" for name in names)
    yield f"{len(found.changes)} of {found.compared} values moved by more than the spread"


def main(arguments: Iterable[str] | None = None) -> int:
    """Print what moved, and return 1 if something got worse, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    given = parser.parse_args(None if arguments is None else list(arguments))
    try:
        before, after = (read_document(BenchmarkResults, path) for path in (given.before, given.after))
    except ClovenError as error:
        print(error, file=sys.stderr)
        return 2
    found = compare(before, after)
    print("\n".join(lines(before, after, found)))
    return int(found.worse)


if __name__ == "__main__":
    sys.exit(main())
