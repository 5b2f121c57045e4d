"""Run Fig. 2 of Mehrafrooz et al. (2025): MobileNet v1 over three devices, with and without Ascon.

    python -m benchmarks.s1_figure2 [--bandwidth 100mbit] [--images 40] [--rounds 3] [--json FILE]

The model is cut after layers 5 and 20 and has random weights. Three workers of one thread each run in network
namespaces (which requires root) and process one image at a time. The protections alternate; the medians over the
rounds are printed. The times are those of this machine. The paper's own times (Fig. 3: 0.122 s and 4.432 s for the
first device on a Cortex-A7) are not measured on boards but computed by a model (Sect. 2).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

import numpy as np
import torch

from cloven.papers.points import resolve
from cloven.partition import plan as plans
from cloven.runtime.capture import capture
from cloven.runtime.lab import laboratory, units
from cloven.zoo.named import make

MODEL, SHAPE, CUTS = "mobilenet_v1", (3, 224, 224), ("s1:5", "s1:20")
PROTECTIONS = ("none", "ascon-128", "ascon-aead128")


def document(protection: str) -> dict[str, Any]:
    """Return the plan of the figure."""
    cuts = [resolve(MODEL, name) for name in CUTS]
    return {
        "model": {"name": MODEL, "input": list(SHAPE), "classes": 1000},
        "strategy": {"kind": "vertical", "cuts": cuts},
        "devices": ["ED1", "ED2", "ED3"],
        "protection": {"default": protection},
    }


def measured(protection: str, images: int, bandwidth: int | None, folder: Path) -> dict[str, dict[str, float]]:
    """Return the milliseconds of each device for one image, by step."""
    plan, problems = plans.check_document(document(protection))
    assert plan is not None, problems
    torch.manual_seed(0)
    graph = capture(make(MODEL, shape=SHAPE, classes=1000, weights=None), torch.zeros(1, *SHAPE))
    pixels = np.random.default_rng(0).integers(0, 256, (images, *SHAPE), dtype=np.uint8)
    program = plans.compile(graph, plan)
    experiment = laboratory.Experiment(plan, program, pixels, 0, folder, bandwidth=bandwidth, window=1)
    found = laboratory.run(experiment).summary
    assert found.answered == images, found.failed
    rows = {
        device.device: {
            "open": device.opening_ms,
            "compute": device.compute_ms,
            "seal": device.sealing_ms,
        }
        for device in found.devices
    }
    links = {" > ".join(link.link): link.ms for link in found.links}
    return rows | {"link": links, "whole": {"latency": found.latency.median_ms}}


def main() -> None:
    """Run all protections and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bandwidth", default="100mbit")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    bandwidth = units.bandwidth(given.bandwidth) if given.bandwidth else None
    runs: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in PROTECTIONS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            for name in PROTECTIONS:
                runs[name].append(measured(name, given.images, bandwidth, Path(folder) / "lab"))
    medians = {
        name: {
            who: {what: statistics.median(run[who][what] for run in found) for what in found[0][who]}
            for who in found[0]
        }
        for name, found in runs.items()
    }
    print(
        f"{MODEL}, cut after {', '.join(CUTS)}; {given.bandwidth}; ms per image, medians of {given.rounds} rounds"
    )
    print(f"| device | step | {' | '.join(PROTECTIONS)} |")
    print(f"|---|---|{'---|' * len(PROTECTIONS)}")
    for who, steps in medians["none"].items():
        for what in steps:
            print(f"| {who} | {what} | {' | '.join(f'{medians[name][who][what]:.2f}' for name in PROTECTIONS)} |")
    for device in ("ED1", "ED2", "ED3"):
        whole = {name: sum(medians[name][device].values()) for name in PROTECTIONS}
        plain = whole["none"]
        ratios = ", ".join(f"{name} {whole[name] / plain:.2f}" for name in PROTECTIONS[1:])
        print(f"{device}: time with / without encryption: {ratios}")
    if given.json:
        given.json.write_text(
            json.dumps({"bandwidth": given.bandwidth, "medians": medians, "rounds": runs}, indent=1)
        )


if __name__ == "__main__":
    main()
