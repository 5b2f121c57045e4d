"""Run studies with each executor: equal findings, lost nodes, speed, and the time to see what is left to do.

    python -m benchmarks.studies lost [--cells N] [--seconds S]
    python -m benchmarks.studies speed [--audits N] [--epochs N] [--without-ray]
    python -m benchmarks.studies left

``lost`` runs a study on a Ray cluster of three node processes on this machine, kills two of them in the middle and
starts others, and compares each finding with that of ``--jobs 1``; one attack fails on purpose for some seeds.
``speed`` runs a study with ``--jobs 1``, with ``--jobs 2`` and on a Ray cluster of two cores, all with one thread
for each process, and prints how long the commands take. ``left`` runs a study with 10,000 finished cells again, and
writes its findings as Parquet. The exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.ray_nodes import RayNodes, ray_nodes
from cloven.attacks.knowledge import Knowledge, Reconstructor, needed

AT_LEAST = {"jobs": 1.7, "ray": 0.9}
"""The goals: the speed of two processes to that of one, and that of Ray to that of two processes."""

SECONDS = 2.0
"""The most seconds that it takes to see what is left of 10,000 cells."""

EXPORTING = 10.0
"""The most seconds in which the findings of 10,000 cells are written as Parquet."""

UNEQUAL = {"training", "wall_seconds", "digest", "tensors"}
"""The entries of a cell's document that contain times."""

STUDY = """
[[models]]
name = "lenet5"
layers = ["conv1", "conv2"]

[axes]
queries = [{queries}]
strategies = ["vertical"]
attacks = [{attacks}]
seeds = {seeds}

[audit]
victims = 20
judge = "none"
view = "paper"
{settings}
"""


@dataclass(frozen=True)
class Waiting:
    """Answers with the mean of the auxiliary images and some noise, after waiting; fails for one seed in forty."""

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> Reconstructor:  # noqa: ARG002
        """See `cloven.attacks.attack.Attack`."""
        if generator.initial_seed() % 40 == 7:
            raise RuntimeError("this cell fails on purpose")
        images = needed(knowledge.auxiliary, "Waiting", "auxiliary images")
        mean = images[torch.arange(len(images))].mean(0)
        noise = torch.rand(mean.shape, generator=generator)
        time.sleep(float(os.environ.get("CLOVEN_WAIT", "0")))

        def reconstruct(seen: Sequence[Tensor]) -> Tensor:
            return (0.9 * mean + 0.1 * noise).expand(len(seen[0]), *mean.shape)

        return reconstruct


def study(folder: Path, *options: str, environment: Mapping[str, str] = os.environ) -> subprocess.Popen[bytes]:
    """Start ``cloven study run study.toml`` in a folder, whose messages go to a file."""
    command = [sys.executable, "-m", "cloven.cli", "study", "run", "study.toml", *options]
    with (folder / "messages").open("ab") as file:
        return subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=file, stderr=file)


def cells(folder: Path, out: str) -> dict[str, Path]:
    """Return the files of the finished cells of a study, by audit and key."""
    found = (folder / out).glob("audits/*/cells/*.json")
    return {f"{path.parts[-3]}/{path.stem}": path for path in found if not path.name.startswith(".")}


def numbers(path: Path) -> dict[str, Any]:
    """Return everything in a cell's document but times."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name not in UNEQUAL}


def failed(folder: Path, out: str) -> set[str]:
    """Return the keys of the cells that failed."""
    plans = (folder / out).glob("audits/*/planned.json")
    cells = (pair for plan in plans for pair in json.loads(plan.read_text())["cells"].items())
    return {key for key, cell in cells if cell["failed"]}


def lost(folder: Path, count: int, seconds: float) -> bool:
    """Kill two of three nodes in the middle of a study, and compare its findings with those of one process."""
    attack = '"benchmarks.studies:Waiting"'
    text = STUDY.format(queries="60, 80", attacks=attack, seeds=count // 4, settings="")
    (folder / "study.toml").write_text(text)
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    plain = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    study(folder, "--jobs", "1", "--out", "inline", environment=plain).wait()
    started: dict[str, int] = {}
    with ray_nodes(plain | {"CLOVEN_WAIT": str(seconds)}, 3) as nodes:
        begun = time.perf_counter()
        driver = study(folder, "--on", "ray", "--out", "cluster", environment=nodes.environment)
        for share in (0.25, 0.5):
            replace_node(nodes, driver, folder, int(share * count))
        driver.wait()
        took = time.perf_counter() - begun
        started = {name: path.stat().st_mtime_ns for name, path in cells(folder, "cluster").items()}
        study(folder, "--on", "ray", "--out", "cluster", environment=nodes.environment).wait()
    after = cells(folder, "cluster")
    again = sum(started.get(name) != path.stat().st_mtime_ns for name, path in after.items())
    alone = cells(folder, "inline")
    differ = [name for name in alone if name not in after or numbers(alone[name]) != numbers(after[name])]
    lacking = failed(folder, "inline")
    print(f"{count} cells on 3 nodes, 2 of them killed and replaced: {took:.0f} s")
    print(f"finished: {len(after)}, inline {len(alone)}; different findings: {len(differ)}")
    print(f"failed on purpose: {len(lacking)}, the same on the cluster: {lacking == failed(folder, 'cluster')}")
    print(f"computed again by the next run: {again}")
    whole = len(alone) + len(lacking) == count and len(after) == len(alone)
    return whole and not differ and not again and bool(lacking) and lacking == failed(folder, "cluster")


def replace_node(nodes: RayNodes, driver: subprocess.Popen[bytes], folder: Path, after: int) -> None:
    """Kill a node once a number of cells has finished, and start another."""
    while len(cells(folder, "cluster")) < after:
        if driver.poll() is not None:
            raise SystemExit(f"the study ended too early: {(folder / 'messages').read_text()}")
        time.sleep(0.1)
    nodes.kill(0)
    nodes.add()


def speed(folder: Path, audits: int, epochs: int, *, ray: bool) -> bool:
    """Compare the times of a study with one process, with two, and on a Ray cluster of two cores."""
    queries = ", ".join(str(400 + 10 * i) for i in range(audits))
    text = STUDY.format(queries=queries, attacks='"decoder"', seeds=10, settings=f"epochs = {epochs}")
    (folder / "study.toml").write_text(text)
    plain = {**os.environ, "OMP_NUM_THREADS": "1"}
    study(
        folder, "--jobs", "1", "--shard", f"1/{audits}", "--out", "first", environment=plain
    ).wait()  # trains LeNet-5
    took: dict[str, float] = {}
    found: dict[str, dict[str, Path]] = {}
    ways = {"1 process": ("--jobs", "1"), "2 processes": ("--jobs", "2")} | (
        {"Ray": ("--on", "ray")} if ray else {}
    )
    for name, options in ways.items():
        begun = time.perf_counter()
        study(folder, *options, "--out", name, environment=plain).wait()
        took[name], found[name] = time.perf_counter() - begun, cells(folder, name)
        mean = sum(json.loads(path.read_text())["wall_seconds"] for path in found[name].values()) / len(found[name])
        print(f"{name}: {took[name]:.1f} s for {len(found[name])} cells of {mean:.2f} s")
    first, *others = found.values()
    equal = all(
        {n: numbers(p) for n, p in one.items()} == {n: numbers(p) for n, p in first.items()} for one in others
    )
    ratio = {"jobs": took["1 process"] / took["2 processes"]}
    ratio |= {"ray": took["2 processes"] / took["Ray"]} if ray else {}
    print(
        f"findings equal: {equal}; {', '.join(f'{n} {r:.2f} (at least {AT_LEAST[n]})' for n, r in ratio.items())}"
    )
    return equal and all(value >= AT_LEAST[name] for name, value in ratio.items())


def left(folder: Path) -> bool:
    """Run a study again of which 10,000 cells have finished, all but those of one audit."""
    from cloven.auditing.study_file import planned_audits, read_study
    from cloven.auditing.study_run import left_of

    queries = ", ".join(str(60 + i) for i in range(101))
    text = STUDY.format(queries=queries, attacks='"nearest"', seeds=50, settings="")
    (folder / "study.toml").write_text(text)
    study(folder, "--jobs", "1", "--shard", "1/101", "--out", "run").wait()
    begun = time.perf_counter()
    audits = planned_audits(read_study(folder / "study.toml"))
    first, *others = (folder / "run" / "audits" / audit.name for audit in audits)
    for other in others[:-1]:
        shutil.copytree(first, other)
    begun = time.perf_counter()
    (last,) = left_of(planned_audits(read_study(folder / "study.toml")), folder / "run")
    seconds = time.perf_counter() - begun
    done = len(cells(folder, "run"))
    begun = time.perf_counter()
    study(folder, "--jobs", "1", "--shard", "1/101", "--out", "run").wait()
    command = time.perf_counter() - begun
    exported = [exporting(folder) for _ in range(3)]
    print(f"{done:,} cells have finished; left: {last.name}")
    print(
        f"seen in {seconds:.3f} s (at most {SECONDS:g}); the whole command, when nothing is left: {command:.1f} s"
    )
    print(f"cloven results --parquet: {', '.join(f'{s:.1f}' for s in exported)} s (at most {EXPORTING:g})")
    fast = seconds < SECONDS and median(exported) < EXPORTING
    return done == 10_000 and fast and last.name == audits[-1].name


def exporting(folder: Path) -> float:
    """Return the seconds in which the command writes all findings of a study as Parquet."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "cloven.cli", "results", "run", "--parquet", "run.parquet"]
    subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("lost", "speed", "left"))
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--audits", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--without-ray", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.what == "lost":
            return int(not lost(folder, given.cells, given.seconds))
        if given.what == "speed":
            return int(not speed(folder, given.audits, given.epochs, ray=not given.without_ray))
        return int(not left(folder))


if __name__ == "__main__":
    sys.exit(main())
