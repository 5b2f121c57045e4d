"""Write the tables of docs/speed.md from the results beside the page; its text is written by hand.

    python -m benchmarks.speed_page [--check]

The results are those of ``python -m benchmarks NAME --out docs/speed/NAME.json``. With --check nothing is written,
and the exit code is 1 if the page differs from the results.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks import latency, pipelines
from benchmarks.measurement import BenchmarkResults, Measurement
from benchmarks.pages import Page, of, table, write


def latencies(results: BenchmarkResults) -> str:
    """Return the latency of each model on one device, and the ratio and the parts of each division."""
    found = by_case(results)
    ways = ("rows", "two tiles", "two tiles of each block")
    columns = ("model", "one device, ms", *(f"{way}, ratio" for way in ways), "rows: computing + rest, ms")
    rows = []
    for model in models(latency.MODELS):
        one, over = found[f"{model}, {latency.ONE}"], [found.get(f"{model}, {way} / {latency.ONE}") for way in ways]
        parts = (found[f"{model}, rows: {part}"] for part in ("the slower device computes", "the rest"))
        rows.append([model, value(one), *(ranged(each) for each in over), " + ".join(map(value, parts))])
    return below(results, table(columns, rows))


def throughputs(results: BenchmarkResults) -> str:
    """Return the images per second of each model on one device, and the ratios of two stages."""
    found = by_case(results)
    pairs = [(way, base) for base in (pipelines.ONE, pipelines.WHOLE) for way in (pipelines.TWO, pipelines.BATCHES)]
    columns = ("model", "one device, images/s", *(f"{way} / {base}" for way, base in pairs))
    rows = []
    for model in models(pipelines.MODELS):
        over = (found[f"{model}, {way} / {base}, images/s"] for way, base in pairs)
        rows.append([model, value(found[f"{model}, {pipelines.ONE}"]), *(ranged(each) for each in over)])
    return below(results, table(columns, rows))


def gaps(results: BenchmarkResults) -> str:
    """Return the seconds without an answer after each kind of loss."""
    rows = [[one.case, f"{ranged(one)} {one.unit}"] for one in results.measurements if one.unit == "s"]
    return below(results, table(("loss", "without an answer"), rows))


def by_case(results: BenchmarkResults) -> dict[str, Measurement]:
    """Return the measurements by their cases."""
    return {one.case: one for one in results.measurements}


def models(names: Iterable[str]) -> list[str]:
    """Return the names of models as in the cases of measurements."""
    return [name.rpartition(":")[2] for name in names]


def value(one: Measurement) -> str:
    """Return the median."""
    return f"{one.value:.3g}"


def ranged(one: Measurement | None) -> str:
    """Return the median with the range of the repetitions."""
    return "" if one is None else f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})"


def below(results: BenchmarkResults, text: str) -> str:
    """Return a table with a sentence about its measurement."""
    around = results.surroundings
    sentence = (
        f"Medians and ranges of the rounds, on {results.date:%Y-%m-%d}: {around.processor}, {around.cores} cores, "
        f"onnxruntime {around.versions['onnxruntime']}."
    )
    return f"{text}\n\n{textwrap.fill(sentence, 116)}"


TABLES: Sequence[Callable[[BenchmarkResults], str]] = (latencies, throughputs, gaps)
PAGE = Page(
    Path(__file__).parent.parent / "docs" / "speed.md",
    {make.__name__: of(BenchmarkResults, make) for make in TABLES},
)

if __name__ == "__main__":
    sys.exit(write(PAGE))
