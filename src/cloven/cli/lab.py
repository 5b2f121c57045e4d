"""``cloven lab``: run a plan on this machine as if on several."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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
    SIZES,
    WORKERS,
    AsJson,
    Batch,
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
    flag,
    given,
    quantity,
    unmet,
)
from cloven.cli.printing import print_json, print_text, table
from cloven.errors import ClovenError, tried
from cloven.files import read_tensors

if TYPE_CHECKING:
    from cloven.partition.plan import Plan
    from cloven.partition.program import Link
    from cloven.runtime.lab.emulation import Emulation
    from cloven.runtime.lab.outcome import LabResult

log = logging.getLogger("cloven")


@dataclass(frozen=True)
class LabOptions:
    """The options for what a laboratory emulates, as texts."""

    bandwidth: str
    delay: str
    loss: str
    cluster: str
    speed: str
    memory: str


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
    loss: Annotated[
        str,
        typer.Option(
            help="Packets that every link loses in each direction, e.g. 1%.", metavar="SHARE", rich_help_panel=LINKS
        ),
    ] = "0",
    cluster: Annotated[
        str,
        typer.Option(
            help="Bandwidth, delay and loss of each link by its profile in a cluster file (TOML). Not emulated: "
            "the time of each message, and shared media.",
            metavar="FILE",
            rich_help_panel=LINKS,
        ),
    ] = "",
    speed: Annotated[
        str,
        typer.Option(
            help="Speeds of devices, e.g. edge0=0.5,edge1=0.25: each computation takes its time divided by the "
            "factor; messages and ciphers are not slowed.",
            metavar="A=FACTOR",
            rich_help_panel=WORKERS,
        ),
    ] = "",
    memory: Annotated[
        str,
        typer.Option(
            "--memory-limit",
            help="Memory limits of devices' worker processes, e.g. edge0=200MB; up to 100 MB are Python and "
            "onnxruntime. Requires control groups.",
            metavar="A=SIZE",
            rich_help_panel=WORKERS,
        ),
    ] = "",
    tap: Annotated[
        str,
        typer.Option(
            help="Listen on a link, at its first device, e.g. edge0-edge1.", metavar="A-B", rich_help_panel=LISTENER
        ),
    ] = "",
    serve: Annotated[
        bool,
        typer.Option(
            "--serve",
            help="Send no images, but serve the plan over HTTP to one user at a time until Ctrl-C, for "
            "`cloven attack`.",
            rich_help_panel=WORKERS,
        ),
    ] = False,
    window: Window = 8,
    batch: Batch = 1,
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

    Each device is a worker in its own network namespace, with the given speed and memory, behind links with the
    given bandwidth, delay and loss; a tap can record one of them. Requires Linux, root and iproute2.
    """
    from cloven.partition.transform import NONE
    from cloven.runtime.evaluation import evaluated
    from cloven.runtime.lab import laboratory
    from cloven.runtime.lab.lab_folder import CAPTURE

    problems = unmet(context, {"queries": ["auxiliary"]})
    if serve and (sent := given(context) & {"auxiliary", "queries", "as_json"}):
        problems += [f"{flag(name)} cannot be used with --serve, which sends no images" for name in sorted(sent)]
    if cluster and (both := given(context) & {"bandwidth", "delay", "loss"}):
        problems += [f"--{name} cannot be given with --cluster, whose profiles contain it" for name in sorted(both)]
    if problems:
        raise ClovenError(problems)
    source = PlanOptions(plan_file, ModelOptions(model, input_size, classes, weights, mean, std))
    emulated, link = _emulated(source, LabOptions(bandwidth, delay, loss, cluster, speed, memory), tap, out)
    sending = assignment(source, ImageOptions(data, picture, limit, auxiliary, queries, seed), verify=True)
    assert sending.whole is not None
    program, _ = sending.whole
    experiment = laboratory.Experiment(
        sending.plan,
        program,
        sending.sent.pixels,
        sending.sent.queries,
        out,
        link,
        window,
        deadline,
        batch,
        **vars(emulated),
    )
    if standby := sending.plan.standby:
        log.warning("the laboratory starts no standbys; left out: %s", ", ".join(standby))
    if serve:
        crosses = sending.plan.transform.of(*link) if link is not None else NONE
        numbers = [] if crosses.exact else ["--numbers", crosses.name]
        recorded = ["--pcap", str(out / CAPTURE), *numbers] if tap else []
        laboratory.serve(experiment, partial(_served, recorded=recorded))
        return
    outcome = laboratory.run(experiment)
    summary = outcome.summary
    failed = {failure.image for failure in summary.failed}
    answered = [place for place in range(summary.images) if place not in failed]
    outputs = read_tensors(out / "pairs" / "images.safetensors", "numpy")[1]["logits"] if answered else None
    link_bytes = None if failed else {(source, target): count for source, target, count in outcome.sent}
    found = evaluated(sending.sent, outputs, answered, whole=sending.whole, link_bytes=link_bytes)
    result = AssignmentResult(sending, summary, found, laboratory.has_tls(sending.plan))
    equal = log_check(found.check) or not program.exact
    if as_json:
        tapped = {"tap": outcome.tap.model_dump()} if outcome.tap is not None else {}
        devices, network = ([row.model_dump() for row in rows] for rows in (outcome.emulated, outcome.network))
        print_json(result.json() | {"emulated": devices, "network": network, **tapped})
    else:
        print_result(result)
        print_laboratory(outcome)
    for sentence in emulated.left_out([row.link for row in outcome.network]):
        log.warning("%s", sentence)
    doubts = outcome.tap.unexpected if outcome.tap is not None else ()
    for doubt in doubts:
        log.warning("%s", doubt)
    log_failures(result)
    if failed or not equal or doubts:
        raise typer.Exit(MISSED)


def _served(url: str, inside: str, recorded: Sequence[str]) -> None:
    log.info("ready: %s, in the coordinator's network; a command there begins with: %s", url, inside)
    if recorded:
        log.info("to attack: %s cloven attack --service %s %s", inside, url, shlex.join(recorded))
    log.info("press Ctrl-C to stop")


def _emulated(source: PlanOptions, options: LabOptions, tap: str, out: Path) -> tuple[Emulation, Link | None]:
    """Return what a user wants to emulate, and the link to listen on; a model is built only if they are valid.

    Raises:
        ClovenError: lists every problem of the options, the plan, the folder and this machine.
    """
    from cloven.cost.cluster import Cluster
    from cloven.runtime.lab import laboratory, units
    from cloven.runtime.lab.emulation import Emulation

    problems: list[str] = []
    plan = tried(lambda: plan_of(source), problems)
    emulated = Emulation(
        bandwidth=tried(lambda: units.bandwidth(options.bandwidth), problems) if options.bandwidth else None,
        delay=tried(lambda: units.delay(options.delay), problems) or 0.0,
        loss=tried(lambda: units.loss(options.loss), problems) or 0.0,
        cluster=tried(lambda: Cluster.named(options.cluster), problems) if options.cluster else None,
        speeds=by_device(options.speed, "--speed", float, "a device and a number, such as edge0=0.5", problems),
        memory=by_device(
            options.memory, "--memory-limit", _bytes, "a device and a size, such as edge0=200MB", problems
        ),
    )
    link = tried(lambda: _link(tap, plan), problems) if tap and plan is not None else None
    if plan is not None:
        problems += laboratory.problems(plan, out, emulated, tap=bool(tap))
    if problems:
        raise ClovenError(problems)
    return emulated, link


def _bytes(text: str) -> int:
    return round(quantity(text, "--memory-limit", SIZES))


def _link(text: str, plan: Plan) -> Link:
    from cloven.partition.protection import pair

    try:
        return pair(text, plan.devices)
    except ValueError as error:
        raise ClovenError(f"--tap: {error}") from error


def print_laboratory(outcome: LabResult) -> None:
    """Print the devices and the network of a laboratory, and the evidence of the tap on one link."""
    if any(device.speed < 1 or device.memory is not None for device in outcome.emulated):
        devices = [[row.device, f"{row.speed:g}", row.memory or "unlimited"] for row in outcome.emulated]
        table("emulated devices", ["device", "speed", "memory, bytes"], devices)
    network = []
    for link in outcome.network:
        bandwidth = link.bandwidth_bits or "unlimited"
        network.append([" - ".join(link.link), bandwidth, link.delay_ms, f"{link.loss:.3g}", link.carrier])
    table("network", ["link", "bits per second", "delay, ms", "loss", "carrier"], network)
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
