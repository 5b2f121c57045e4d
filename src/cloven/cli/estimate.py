"""``cloven estimate``: estimate the costs of a plan on a cluster, and compare them with a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.models import ModelOptions, PlanOptions, plan_of, planned
from cloven.cli.options import (
    WORKERS,
    AsJson,
    Classes,
    Deadline,
    InputSize,
    Mean,
    ModelOption,
    PlanFile,
    Std,
    Weights,
    Window,
    unmet,
)
from cloven.cli.printing import print_json, print_text, table
from cloven.errors import ClovenError, tried
from cloven.progress import report_progress

if TYPE_CHECKING:
    from cloven.cost.estimate import Cost
    from cloven.partition.plan import Plan
    from cloven.runtime.cost_comparison import ComparedCost, CostComparison


def estimate(
    context: typer.Context,
    plan_file: PlanFile,
    cluster: Annotated[Path, typer.Option(help="Devices and links (TOML), with their profiles.", metavar="FILE")],
    window: Window = 8,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Also run the plan on the workers in the cluster file, and compare. The options below require it.",
            rich_help_panel=WORKERS,
        ),
    ] = False,
    images: Annotated[
        int, typer.Option(help="Number of random images to send.", min=5, metavar="N", rich_help_panel=WORKERS)
    ] = 30,
    deadline: Deadline = 30.0,
    model: ModelOption = "",
    input_size: InputSize = "",
    classes: Classes = None,
    weights: Weights = None,
    mean: Mean = "",
    std: Std = "",
    as_json: AsJson = False,
) -> None:
    """Estimate the costs of a plan on a cluster: latency, throughput, busy time, energy, memory and traffic.

    Nothing is executed without --measure: the devices and links are simulated with the costs in their profiles.
    Costs that no profile contains are unknown.
    """
    from cloven.cost.cluster import Cluster
    from cloven.cost.estimate import estimate as simulated
    from cloven.partition import plan as plans

    problems = unmet(context, {"images": ["measure"], "deadline": ["measure"]})
    source = PlanOptions(plan_file, ModelOptions(model, input_size, classes, weights, mean, std))
    found = tried(lambda: Cluster.load(cluster, plan_of(source).devices if measure else ()), problems)
    made = tried(lambda: planned(source), problems)
    if problems or found is None or made is None:
        raise ClovenError(list(dict.fromkeys(problems)))
    plan, graph = made
    cost = simulated(plans.compile(graph, plan), found, window=window)
    comparison = _measured(cost, plan, cluster, images, deadline) if measure else None
    if as_json:
        print_json((comparison or cost).model_dump(mode="json"))
        return
    _print(plan.title(), cost)
    if comparison is not None:
        _print_comparison(comparison)


def _measured(cost: Cost, plan: Plan, cluster_file: Path, images: int, deadline: float) -> CostComparison:
    from cloven.runtime.cluster.send_options import SendOptions
    from cloven.runtime.cluster.sending import coordinator
    from cloven.runtime.cost_comparison import compared

    alone, streaming = (
        coordinator(plan, cluster_file, SendOptions(window=window, deadline=deadline))
        for window in (1, cost.window)
    )
    with report_progress() as progress:
        return compared(cost, alone, streaming, images, progress)


def _print(title: str, cost: Cost) -> None:
    if cost.assumptions:
        print_text("This estimate uses numbers that were not measured; they are listed below.")
    rows = [
        ["latency", _time(cost.latency)],
        [f"throughput, {cost.window} in flight", _rate(cost.throughput)],
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


def _print_comparison(found: CostComparison) -> None:
    rows = [
        _compared("latency", found.latency, _time),
        _compared(f"throughput, {found.estimated.window} in flight", found.throughput, _rate),
        _compared("traffic of an image", found.traffic, _bytes),
    ]
    for device in found.devices:
        rows.append(_compared(f"{device.device}: busy", device.busy, _time))
        rows.append(_compared(f"{device.device}: memory", device.memory, _bytes))
    columns = ["", "estimated", "measured", "10 to 90 %", "measured / estimated"]
    table("Estimated and measured", columns, rows)
    print_text(
        f"Measured with {found.images} images one at a time (latency), and {found.streamed} with "
        f"{found.estimated.window} in flight. Busy: processor time of the worker. Memory: the most that it used."
    )


def _compared(name: str, cost: ComparedCost, text: Callable[[float | None], str]) -> list[str]:
    several = cost.low is not None and cost.high is not None
    interval = f"{text(cost.low)} to {text(cost.high)}" if several else ""
    ratio = "unknown" if cost.ratio is None else f"{cost.ratio:.2f}"
    return [name, text(cost.estimated), text(cost.measured), interval, ratio]


def _time(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{1000 * seconds:,.3f} ms"


def _amount(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{value:,.4g} {unit}"


def _rate(value: float | None) -> str:
    return _amount(value, "images/s")


def _bytes(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f} bytes"
