"""``cloven plan``: divide a model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from cloven.cli import models
from cloven.cli.models import ModelOptions
from cloven.cli.options import (
    LINKS,
    STRATEGY,
    AsJson,
    Classes,
    InputSize,
    Mean,
    ModelName,
    Std,
    Weights,
    names_in,
    numbers,
    sizes,
)
from cloven.cli.printing import by, print_json, print_text, table
from cloven.errors import ClovenError, tried
from cloven.partition.protection import COORDINATOR

if TYPE_CHECKING:
    from cloven.cost.cluster import Cluster
    from cloven.cost.shares import Minimised
    from cloven.partition.description import PlanDescription

log = logging.getLogger("cloven")

AUTO = "auto"

UNKNOWN = {"name": "?", "input": [1, 1, 1], "classes": 2}
"""Stands for a model that cannot be made, so that the rest of the plan can be checked."""


def plan(
    model: ModelName,
    strategy: Annotated[
        str,
        typer.Option(help="vertical, horizontal, data or enclave.", metavar="NAME", rich_help_panel=STRATEGY),
    ],
    devices: Annotated[
        int | None, typer.Option(help="Number of devices.", min=1, metavar="N", rich_help_panel=STRATEGY)
    ] = None,
    cuts: Annotated[
        str,
        typer.Option(
            help="vertical: layers to cut after, e.g. conv2,pool2 or 2,3,5.",
            metavar="LAYER,...",
            rich_help_panel=STRATEGY,
        ),
    ] = "",
    axis: Annotated[
        str,
        typer.Option(
            help="horizontal: out_channels, in_channels, fused (out, then in), rows or columns.",
            metavar="NAME",
            rich_help_panel=STRATEGY,
        ),
    ] = "out_channels",
    shares: Annotated[
        str,
        typer.Option(
            help="horizontal or data: proportions of the devices, e.g. 2,1,1; or auto, by the costs in --cluster.",
            metavar="N,...",
            rich_help_panel=STRATEGY,
        ),
    ] = "",
    cluster: Annotated[
        Path | None,
        typer.Option(
            help="With --shares auto: devices and links (TOML), with their profiles.",
            metavar="FILE",
            rich_help_panel=STRATEGY,
        ),
    ] = None,
    minimise: Annotated[
        str,
        typer.Option(
            help="With --shares auto: latency of an image, or throughput for the most images per second.",
            metavar="COST",
            rich_help_panel=STRATEGY,
        ),
    ] = "latency",
    exchange: Annotated[
        str,
        typer.Option(
            help="horizontal: send a layer's output (layer), or the result of channel-local ops on it (local).",
            metavar="NAME",
            rich_help_panel=STRATEGY,
        ),
    ] = "local",
    sums: Annotated[
        str,
        typer.Option(
            help="horizontal: add up partial sums on the first device (hub), or a share on each (scatter).",
            metavar="NAME",
            rich_help_panel=STRATEGY,
        ),
    ] = "hub",
    grid: Annotated[
        str, typer.Option(help="data: the grid of tiles.", metavar="ROWSxCOLUMNS", rich_help_panel=STRATEGY)
    ] = "",
    halo: Annotated[
        str,
        typer.Option(
            help="data: exact, or none (zeros around each tile).", metavar="NAME", rich_help_panel=STRATEGY
        ),
    ] = "exact",
    standby: Annotated[
        str,
        typer.Option(
            help="Further devices that may take the place of a lost one, e.g. edge3,edge4.",
            metavar="NAME,...",
            rich_help_panel=STRATEGY,
        ),
    ] = "",
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Layer after which the strategy begins; the layers before run on the first device.",
            metavar="LAYER",
            rich_help_panel=STRATEGY,
        ),
    ] = "",
    until: Annotated[
        str,
        typer.Option(
            help="Last layer that is divided (default: the last, or for tiles the one with the best balance). "
            "enclave: the layers after it run in the enclave again.",
            metavar="LAYER",
            rich_help_panel=STRATEGY,
        ),
    ] = "",
    then: Annotated[
        str,
        typer.Option(
            help="Strategy after --until or after the last cut: vertical or horizontal.",
            metavar="NAME",
            rich_help_panel=STRATEGY,
        ),
    ] = "",
    inside: Annotated[
        str,
        typer.Option(
            help="vertical: divide one part, numbered from 1, horizontally among several devices.",
            metavar="PART:DEVICES",
            rich_help_panel=STRATEGY,
        ),
    ] = "",
    routing: Annotated[
        str,
        typer.Option(
            help="direct, or star (everything goes through the first device).",
            metavar="NAME",
            rich_help_panel=LINKS,
        ),
    ] = "direct",
    reuse: Annotated[
        bool,
        typer.Option(help="star: a device keeps its own share, or receives it again.", rich_help_panel=LINKS),
    ] = True,
    protect: Annotated[
        list[str] | None,
        typer.Option(
            help="Protection of all links, or of one: none, ascon-128, aes-256-gcm, mtls, ...",
            metavar="[A-B=]NAME",
            rich_help_panel=LINKS,
        ),
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(
            help="Transform before sending, on all links or on one: float16, int8, topk:0.1, noise:0.5, "
            "dropout:0.3 or none. image=uint8 sends 8-bit images as their pixels.",
            metavar="[A-B=]NAME",
            rich_help_panel=LINKS,
        ),
    ] = None,
    input_size: InputSize = "",
    classes: Classes = None,
    weights: Weights = None,
    mean: Mean = "",
    std: Std = "",
    bandwidth: Annotated[
        str,
        typer.Option(
            help="Bandwidth of every link, e.g. 100mbit; shows the time of each link in seconds.",
            metavar="RATE",
            rich_help_panel=LINKS,
        ),
    ] = "",
    transfers: Annotated[bool, typer.Option("--transfers", help="List every share that crosses a link.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the plan (TOML) here.", metavar="FILE")] = None,
    as_json: AsJson = False,
) -> None:
    """Divide a model, and show what crosses each link.

    With --out, the plan is written to a file for the other commands.
    """
    from cloven.cost.shares import best_shares
    from cloven.files import write_text
    from cloven.papers.points import resolve
    from cloven.partition import plan as plans
    from cloven.partition.description import described
    from cloven.partition.plan import check_document, problems
    from cloven.partition.plan_options import Options, document, protected, transformed
    from cloven.runtime.lab import units

    found: list[str] = []
    costs = _costs(shares, cluster, minimise, found)
    if costs is not None and devices is None and not grid:
        devices = sum(name != COORDINATOR for name in costs.cluster.devices)
    rate = tried(lambda: units.bandwidth(bandwidth), found) if bandwidth else None

    def layer(name: str) -> str:
        return tried(lambda: resolve(model, name), found) or "" if name else ""

    options = Options(
        strategy=strategy,
        devices=devices,
        cuts=tuple(path for name in names_in(cuts) if (path := layer(name))),
        axis=axis,
        exchange=exchange,
        sums=sums,
        shares=None
        if shares in ("", AUTO)
        else tried(lambda: list(numbers(shares, "--shares", "2,1,1, or auto")), found),
        grid=tried(lambda: sizes(grid, 2, "--grid", "2x2"), found) if grid else None,
        halo=halo,
        start=layer(start),
        until=layer(until),
        then=then,
        inside=inside,
    )
    named = ModelOptions(model, input_size, classes, weights, mean, std)
    resolved = tried(lambda: models.resolved(named), found)
    entries, misplaced = document(options)
    file = {} if weights is None else {"weights": str(weights)}
    made, wrong = check_document(
        {
            "model": resolved[0].model_dump(mode="json", exclude_none=True) if resolved else {**UNKNOWN, **file},
            "routing": routing,
            "reuse": reuse,
            "standby": names_in(standby),
            **protected(protect or []),
            **transformed(transform or []),
            **entries,
        }
    )
    found += misplaced + wrong
    found += problems(resolved[1], made) if resolved and made is not None else []
    if found or resolved is None or made is None:
        raise ClovenError(found)
    if costs is not None:
        made = best_shares(resolved[1], made, costs.cluster, costs.minimised)
    description = described(made, plans.compile(resolved[1], made), rate)
    if out is not None:
        write_text(out, made.toml())
    if as_json:
        print_json(description.model_dump(mode="json"))
    else:
        print_plan(description, transfers=transfers)
    if out is not None:
        log.info("plan written to %s", out)


@dataclass(frozen=True)
class ShareCosts:
    """The costs by which shares are chosen: the costs of a cluster, and the one that is minimised."""

    cluster: Cluster
    minimised: Minimised


def _costs(shares: str, file: Path | None, minimised: str, problems: list[str]) -> ShareCosts | None:
    """Return the costs by which shares are chosen, None if shares are given; add the problems of the options."""
    from cloven.cost.cluster import Cluster
    from cloven.cost.shares import Minimised

    if shares != AUTO:
        if file is not None or minimised != "latency":
            problems.append("--cluster and --minimise require --shares auto")
        return None
    if minimised not in get_args(Minimised):
        problems.append(f"--minimise is {minimised!r}; expected one of {', '.join(get_args(Minimised))}")
    if file is None:
        problems.append("--shares auto requires --cluster FILE, which names the devices and their profiles")
        return None
    found = tried(lambda: Cluster.load(file), problems)
    return None if found is None else ShareCosts(found, minimised)  # type: ignore[arg-type]


def print_plan(plan: PlanDescription, *, transfers: bool) -> None:
    """Print what crosses each link, and what each device computes and holds."""
    timed = any(link.seconds is not None for link in plan.links)
    changed = any(link.transforms for link in plan.links)
    rows = []
    for link in plan.links:
        transform = [", ".join(link.transforms) or "none"] if changed else []
        seconds = [f"{link.seconds:.4f}"] if link.seconds is not None else []
        rows.append([" > ".join(link.link), link.shares, link.bytes, *seconds, *transform, link.protection])
    columns = ["link", "shares", "bytes", *(["seconds"] if timed else []), *(["transform"] if changed else [])]
    table(f"{plan.plan}\nlinks, for one image", [*columns, "protection"], rows)
    if transfers:
        _print_transfers(plan)
    devices = []
    for device in plan.devices:
        sizes = [device.macs, device.recomputed_macs, device.weight_bytes, device.memory_bytes]
        devices.append([device.device, *sizes, f"{device.raw_image:.1%}"])
    columns = ["device", "MACs", "computed again", "weights, bytes", "values, bytes", "raw image"]
    table("devices, for one image", columns, devices)
    # Measured: 97 MB resident for each worker of LeNet-5 that has answered images, without link ciphers.
    print_text(
        "A device's memory is its weights and values; a worker process takes about 100 MB more, for Python and "
        "onnxruntime."
    )
    if plan.standby:
        print_text(
            f"{', '.join(plan.standby)}: on standby for any device, also for the one that receives the image. A "
            "standby may receive all that the devices receive, so it must be trusted as much as any of them."
        )
    if not plan.exact:
        reasons = "; ".join(plan.inexact)
        print_text(f"The result is NOT the model's ({reasons}); `cloven run --verify` measures by how much.")


def _print_transfers(plan: PlanDescription) -> None:
    changed = any(transfer.transform != "none" for transfer in plan.transfers)
    rows = []
    for one in plan.transfers:
        transform = [one.transform] if changed else []
        rows.append([one.step, one.source, one.target, one.value, one.share, by(one.shape), *transform, one.bytes])
    columns = ["step", "from", "to", "value", "share", "shape", *(["transform"] if changed else []), "bytes"]
    table("transfers between devices, for one image", columns, rows)
