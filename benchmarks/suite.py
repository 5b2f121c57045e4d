"""Run benchmarks, print one table, and write the results as JSON and as a page.

    python -m benchmarks [NAME ...] [--all] [--out FILE.json] [--page FILE.md]

Without names, all benchmarks of the table below run, which takes about half an hour on two free cores;
``--all`` adds those that take longer. Each runs in a process of its own, with one thread. He et al.'s recipe
requires the data sets in the folder CLOVEN_DATA. `benchmarks/compare.py` compares the files of two runs. The exit
code is 1 if a goal is missed, and 2 if a benchmark did not end.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

from benchmarks.measurement import COLUMNS, BenchmarkResults, Measurement, cells, line, now, surroundings
from benchmarks.pages import table
from cloven.documents import read_document
from cloven.errors import ClovenError
from cloven.files import write_text
from cloven.parallel import THREADS

USUAL = {
    "startup": "start-up times, compared with importing numpy",
    "division": "divided models, compared with the whole model",
    "estimates": "compiling plans, estimating their costs, and ranking many",
    "ciphers": "the ciphers of links, and Ascon compared with C",
    "links": "links, compared with gRPC, TCP, TLS and ZeroMQ",
    "pipelines": "two stages on two workers, compared with the whole model on as many cores",
    "figure5c": "an audit, compared with a plain script of Mehrafrooz et al. (2025)",
    "he2019": "the training of attacks, compared with the recipe of He et al. (2019)",
    "growth": "time by the number of cells, pairs, pixels and devices, and reports of 10,000 cells",
    "peaks": "peak memory",
}
"""The benchmarks, each a module with a function `measure`, and what they measure."""

LONG = {
    "cost": "the cost model, compared with executed plans; requires root, 40 minutes",
    "latency": "an image on one device, and divided over two, in the laboratory; requires root, 6 minutes",
    "stealing": "tiles on unequal devices: equal, by costs, stolen; in the laboratory; requires root, 15 minutes",
    "failover": "how long no image is answered when a standby takes the place of a device; 3 minutes",
    "memory": "the estimated memory of workers, compared with that of running ones; requires root",
}


def measurements(name: str) -> list[Measurement]:
    """Run a benchmark, and print each measurement as it comes."""
    found = []
    for one in import_module(f"benchmarks.{name}").measure():
        found.append(one)
        print(f"{name}: {line(one)}", file=sys.stderr, flush=True)
    return found


def run(names: Sequence[str]) -> BenchmarkResults:
    """Run benchmarks, each in a new process."""
    os.environ |= THREADS
    date, start, load = now(), time.perf_counter(), os.getloadavg()[0]
    found: list[Measurement] = []
    left_out: dict[str, str] = {}
    for name in names:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            try:
                found += process.submit(measurements, name).result()
            except Exception as error:  # one benchmark that fails does not stop the others
                left_out[name] = str(error) if isinstance(error, ClovenError) else repr(error)
                print(f"{name}: {left_out[name]}", file=sys.stderr, flush=True)
    return BenchmarkResults(
        date=date,
        seconds=round(time.perf_counter() - start, 1),
        load=round(load, 1),
        surroundings=surroundings(THREADS),
        measurements=tuple(found),
        left_out=left_out,
    )


def page(results: BenchmarkResults) -> str:
    """Return the page of some results, in Markdown."""
    around = results.surroundings
    versions = ", ".join(f"{name} {number}" for name, number in around.versions.items())
    how = (
        "Written by `make docs/benchmarks.md`, which measures all of it again. The median and the range are of "
        "the repetitions, which alternate between what is compared. Every process has one thread. `x` is a ratio."
    )
    where = (
        f"Measured on {results.date:%Y-%m-%d}: {around.processor}, {around.cores} cores, {around.system}, Python "
        f"{around.python}, {versions}. The load was {results.load:g} before, and all took "
        f"{results.seconds / 60:.0f} min."
    )
    lines = ["# Benchmarks", "", textwrap.fill(how, 116), "", textwrap.fill(where, 116)]
    benchmarks = dict.fromkeys(one.benchmark for one in results.measurements)
    for benchmark in benchmarks:
        rows = [cells(one)[1:] for one in results.measurements if one.benchmark == benchmark]
        words = (USUAL | LONG)[benchmark]
        lines += ["", f"## {benchmark}", "", words[0].upper() + words[1:] + ".", "", table(COLUMNS[1:], rows)]
    lines += [f"\n`{name}` was left out: {reason}." for name, reason in results.left_out.items()]
    return "\n".join(lines) + "\n"


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the benchmarks, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(USUAL))
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(LONG)}")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="the file for the results")
    parser.add_argument("--page", type=Path, help="the file for the table in Markdown")
    parser.add_argument("--from", dest="source", type=Path, help="write the table of this file; measure nothing")
    given = parser.parse_args(None if arguments is None else list(arguments))
    if unknown := [name for name in given.names if name not in USUAL | LONG]:
        parser.error(f"{unknown[0]} is not a benchmark; choose from {', '.join(USUAL | LONG)}")
    chosen = given.names or [*USUAL, *(LONG if given.all else ())]
    try:
        results = read_document(BenchmarkResults, given.source) if given.source else run(chosen)
        if not given.source:
            write_text(given.out, results.text())
        text = page(results)
        print(text)
        if given.page:
            write_text(given.page, text)
    except ClovenError as error:
        print(error, file=sys.stderr)
        return 2
    return 2 if results.left_out else int(not results.holds)
