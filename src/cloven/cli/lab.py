"""``cloven lab``: run a plan on this machine as if on several."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.assignment import (
    AssignmentResult,
    ImageOptions,
    assignment,
    log_check,
    log_failures,
    print_result,
    protection_of,
)
from cloven.cli.exits import MISSED
from cloven.cli.models import ModelOptions, PlanOptions, plan_of
from cloven.cli.options import (
    DATA,
    LINKS,
    LISTENER,
    WORKERS,
    AsJson,
    Classes,
    Deadline,
    InputSize,
    Limit,
    Mean,
    ModelOption,
    OwnCount,
    OwnImages,
    Picture,
    PlanFile,
    Seed,
    Std,
    Weights,
    Window,
    by_device,
    unmet,
)
from cloven.cli.printing import print_json, print_text, table
from cloven.errors import ClovenError, tried
from cloven.files import read_tensors

if TYPE_CHECKING:
    from cloven.partition.plan import Plan
    from cloven.partition.program import Link
    from cloven.runtime.lab.outcome import LabResult

log = logging.getLogger("cloven")


@dataclass(frozen=True)
class LabOptions:
    """The links of a laboratory, in bits per second and seconds, the one to listen on, and the devices' speeds."""

    bandwidth: int | None
    delay: float
    tap: Link | None
    speeds: Mapping[str, float]


def lab(
    context: typer.Context,
    plan_file: PlanFile,
    data: Annotated[str | None, DATA] = None,
    picture: Picture = None,
    limit: Limit = None,
    auxiliary: OwnImages = None,
    queries: OwnCount = 1000,
    bandwidth: Annotated[
        str,
        typer.Option(
            help="Bandwidth of every link, e.g. 100mbit; default: as fast as this machine.",
            metavar="RATE",
            rich_help_panel=LINKS,
        ),
    ] = "",
    delay: Annotated[
        str,
        typer.Option(help="Delay of every link in one direction, e.g. 2ms.", metavar="TIME", rich_help_panel=LINKS),
    ] = "0",
    speed: Annotated[
        str,
        typer.Option(
            help="Speeds of devices, e.g. edge0=0.5,edge1=0.25: each computation takes its time divided by the "
            "factor; messages and ciphers are not slowed.",
            metavar="A=FACTOR",
            rich_help_panel=WORKERS,
        ),
    ] = "",
    tap: Annotated[
        str,
        typer.Option(
            help="Listen on a link, at its first device, e.g. edge0-edge1.", metavar="A-B", rich_help_panel=LISTENER
        ),
    ] = "",
    window: Window = 8,
    deadline: Deadline = 60.0,
    model: ModelOption = "",
    input_size: InputSize = "",
    classes: Classes = None,
    weights: Weights = None,
    mean: Mean = "",
    std: Std = "",
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for all results.", metavar="FOLDER")] = Path("lab"),
    as_json: AsJson = False,
) -> None:
    """Run a plan on this machine as if on several.

    Each device is a worker in its own network namespace, with the given speed, behind links with the given
    bandwidth and delay; a tap can record one of them. Requires Linux, root and iproute2.
    """
    from cloven.runtime.evaluation import evaluated
    from cloven.runtime.lab import laboratory

    if problems := unmet(context, {"queries": ["auxiliary"]}):
        raise ClovenError(problems)
    source = PlanOptions(plan_file, ModelOptions(model, input_size, classes, weights, mean, std))
    options = _lab_options(source, bandwidth, delay, tap, speed, out)
    given = assignment(source, ImageOptions(data, picture, limit, auxiliary, queries, seed), verify=True)
    assert given.whole is not None
    program, _ = given.whole
    experiment = laboratory.Experiment(
        given.plan,
        program,
        given.sent.pixels,
        given.sent.queries,
        out,
        bandwidth=options.bandwidth,
        delay=options.delay,
        tap=options.tap,
        speeds=options.speeds,
        window=window,
        deadline=deadline,
    )
    outcome = laboratory.run(experiment)
    summary = outcome.summary
    failed = {failure.image for failure in summary.failed}
    answered = [place for place in range(summary.images) if place not in failed]
    outputs = read_tensors(out / "pairs" / "images.safetensors", "numpy")[1]["logits"] if answered else None
    link_bytes = None if failed else {(source, target): count for source, target, count in outcome.sent}
    found = evaluated(given.sent, outputs, answered, whole=given.whole, link_bytes=link_bytes)
    result = AssignmentResult(given, summary, found, laboratory.has_tls(given.plan))
    equal = log_check(found.check) or not program.exact
    if as_json:
        tapped = {"tap": outcome.tap.model_dump()} if outcome.tap is not None else {}
        emulated, network = ([row.model_dump() for row in rows] for rows in (outcome.emulated, outcome.network))
        print_json(result.json() | {"emulated": emulated, "network": network, **tapped})
    else:
        print_result(result)
        print_laboratory(outcome)
    doubts = outcome.tap.unexpected if outcome.tap is not None else ()
    for doubt in doubts:
        log.warning("%s", doubt)
    log_failures(result)
    if failed or not equal or doubts:
        raise typer.Exit(MISSED)


def _lab_options(source: PlanOptions, bandwidth: str, delay: str, tap: str, speed: str, out: Path) -> LabOptions:
    """Return the links and devices that a user describes; a model is built only if they are valid.

    Raises:
        ClovenError: lists every problem of the options, the plan, the folder and this machine.
    """
    from cloven.runtime.lab import laboratory, units

    problems: list[str] = []
    plan = tried(lambda: plan_of(source), problems)
    rate = tried(lambda: units.bandwidth(bandwidth), problems) if bandwidth else None
    late = tried(lambda: units.delay(delay), problems)
    link = tried(lambda: _link(tap, plan), problems) if tap and plan is not None else None
    speeds = by_device(speed, "--speed", float, "a device and a number, such as edge0=0.5", problems)
    if plan is not None:
        problems += laboratory.problems(
            plan, out, rate=bool(bandwidth), delay=bool(late), tap=bool(tap), speeds=speeds
        )
    if problems:
        raise ClovenError(problems)
    return LabOptions(rate, late or 0.0, link, speeds)


def _link(text: str, plan: Plan) -> Link:
    from cloven.partition.protection import pair

    try:
        return pair(text, plan.devices)
    except ValueError as error:
        raise ClovenError(f"--tap: {error}") from error


def print_laboratory(outcome: LabResult) -> None:
    """Print the devices and the network of a laboratory, and the evidence of the tap on one link."""
    if any(device.speed < 1 for device in outcome.emulated):
        devices = [[device.device, f"{device.speed:g}"] for device in outcome.emulated]
        table("emulated devices", ["device", "speed"], devices)
    network = []
    for link in outcome.network:
        bandwidth = link.bandwidth_bits or "unlimited"
        network.append([" - ".join(link.link), bandwidth, link.delay_ms, link.carrier])
    table("network", ["link", "bits per second", "delay, ms", "carrier"], network)
    tap = outcome.tap
    if tap is None:
        return
    links = [[" > ".join(r.link), r.kind, r.inputs, r.payload, r.table, r.bytes] for r in tap.links]
    title = f"the tap: {tap.recorded.packets:,} packets; protection: {protection_of(tap.protection, tls=tap.tls)}"
    table(title, ["link", "frames", "images", "payload", "transfer table", "TCP bytes"], links)
    if tap.differing is not None:
        print_text(f"{tap.differing:,} captured numbers differ from what the engine sends in one process.")
    if tap.pairs:
        typer.echo("The captured images and tensors are pairs for an attack; to run one:")
        typer.echo(f"    cloven audit MODEL --data SPEC --pairs {tap.pairs}")
    elif tap.tls:
        print_text("All frames are encrypted by TLS: messages cannot be separated, so there are no pairs.")
