"""``cloven estimate``: estimate the costs of a plan on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.models import ModelOptions, PlanOptions, planned
from cloven.cli.options import AsJson, Classes, InputSize, Mean, ModelOption, PlanFile, Std, Weights, Window
from cloven.cli.printing import print_json, print_text, table
from cloven.errors import ClovenError, tried

if TYPE_CHECKING:
    from cloven.cost.estimate import Cost


def estimate(
    plan_file: PlanFile,
    cluster: Annotated[Path, typer.Option(help="Devices and links (TOML), with their profiles.", metavar="FILE")],
    window: Window = 8,
    model: ModelOption = "",
    input_size: InputSize = "",
    classes: Classes = None,
    weights: Weights = None,
    mean: Mean = "",
    std: Std = "",
    as_json: AsJson = False,
) -> None:
    """Estimate the costs of a plan on a cluster: latency, throughput, busy time, energy, memory and traffic.

    Nothing is executed: the devices and links are simulated with the costs in their profiles. Costs that no profile
    contains are unknown.
    """
    from cloven.cost.cluster import Cluster
    from cloven.cost.estimate import estimate as simulated
    from cloven.partition import plan as plans

    problems: list[str] = []
    found = tried(lambda: Cluster.load(cluster), problems)
    source = PlanOptions(plan_file, ModelOptions(model, input_size, classes, weights, mean, std))
    made = tried(lambda: planned(source), problems)
    if problems or found is None or made is None:
        raise ClovenError(problems)
    plan, graph = made
    cost = simulated(plans.compile(graph, plan), found, window=window)
    if as_json:
        print_json(cost.model_dump(mode="json"))
    else:
        _print(plan.title(), cost)


def _print(title: str, cost: Cost) -> None:
    if cost.assumptions:
        print_text("This estimate uses numbers that were not measured; they are listed below.")
    rows = [
        ["latency", _time(cost.latency)],
        [f"throughput, {cost.window} in flight", _amount(cost.throughput, "images/s")],
        ["energy of an image", _amount(cost.energy, "J")],
        ["traffic of an image", f"{cost.traffic:,} bytes"],
    ]
    table(title, ["", ""], rows)
    table(
        "Devices, for one image",
        ["device", "busy", "energy", "memory", "available", "trusted"],
        [
            [
                device.device,
                _time(device.busy),
                _amount(device.energy, "J"),
                _bytes(device.memory),
                _bytes(device.available),
                "yes" if device.trusted else "no",
            ]
            for device in cost.devices
        ],
    )
    table(
        "Links, for one image",
        ["link", "messages", "bytes", "busy", "protection", "exposed"],
        [
            [
                f"{link.source} > {link.target}",
                link.messages,
                link.bytes,
                _time(link.busy),
                link.protection,
                "yes" if link.exposed else "no",
            ]
            for link in cost.links
        ],
    )
    if cost.critical:
        steps = [[step.name, _time(step.start), _time(step.seconds)] for step in cost.critical]
        table("Critical path of one image", ["step", "starts at", "takes"], steps)
    for heading, lines in (("unknown", cost.unknown), ("not measured", cost.assumptions)):
        for line in lines:
            print_text(f"{heading}: {line}")


def _time(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{1000 * seconds:,.3f} ms"


def _amount(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{value:,.4g} {unit}"


def _bytes(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,} bytes"
