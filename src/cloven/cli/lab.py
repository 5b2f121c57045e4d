"""``cloven lab``: a plan on this machine as if on several."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloven.cli import printing
from cloven.cli.exits import MISSED
from cloven.cli.models import plan_of
from cloven.cli.options import DATA, DAY, PICTURES, AsJson, PlanFile, useless
from cloven.cli.outcomes import ToSend, name_links, to_send, told, warn
from cloven.cli.printing import print_json
from cloven.errors import ClovenError, tried
from cloven.files import read_tensors

if TYPE_CHECKING:
    from cloven.partition.plan import Plan
    from cloven.partition.program import Link
    from cloven.runtime.cluster.coordinator import SendOptions

log = logging.getLogger("cloven")


def lab(
    context: typer.Context,
    plan_file: PlanFile,
    data: Annotated[str | None, DATA] = None,
    picture: Annotated[
        Path | None, typer.Option("--input", help=f"A picture, or a folder of them. {PICTURES}")
    ] = None,
    bandwidth: Annotated[str, typer.Option(help="Of every link, e.g. 100mbit; left out, no limit.")] = "",
    delay: Annotated[str, typer.Option(help="Of every link, one way, e.g. 2ms.")] = "0",
    tap: Annotated[str, typer.Option(help="Listen on a link from its first device, e.g. edge0-edge1.")] = "",
    auxiliary: Annotated[
        str | None, typer.Option(help="Send these first: the attacker's own images.", metavar="SPEC")
    ] = None,
    queries: Annotated[int, typer.Option(help="--auxiliary: how many of them.", min=2)] = 1000,
    limit: Annotated[int | None, typer.Option(help="At most so many images of --data or --input.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of the training.")] = 0,
    window: Annotated[int, typer.Option(help="Most images in flight.", min=1, max=256)] = 8,
    deadline: Annotated[float, typer.Option(help="Seconds after which an image fails.", min=0.1, max=DAY)] = 60.0,
    out: Annotated[Path, typer.Option(help="A folder for all that is written.")] = Path("lab"),
    as_json: AsJson = False,
) -> None:
    """Run a plan on this machine as if on several: namespaces, links, workers, and a tap (needs root, Linux)."""
    from cloven.runtime.cluster.coordinator import SendOptions

    if problems := useless(context, {"queries": ["auxiliary"]}):
        raise ClovenError(problems)
    wires = _wires(plan_file, bandwidth, delay, tap, out)
    given = to_send(plan_file, data, picture, True, seed, limit, auxiliary, queries)
    _lab(given, wires, SendOptions(window, deadline), out, as_json=as_json)


@dataclass(frozen=True)
class Wires:
    """What the links of a laboratory are like, in bits per second and seconds, and the one to listen on."""

    bandwidth: int | None
    delay: float
    tap: Link | None


def _wires(plan_file: Path, bandwidth: str, delay: str, tap: str, out: Path) -> Wires:
    """The links as a user describes them; what is wrong, here or with the machine, before a model is made.

    Raises:
        ClovenError: with all of it.
    """
    from cloven.runtime.lab import laboratory, units

    problems: list[str] = []
    plan = tried(lambda: plan_of(plan_file), problems)
    rate = tried(lambda: units.bandwidth(bandwidth), problems) if bandwidth else None
    late = tried(lambda: units.delay(delay), problems)
    link = tried(lambda: _link(tap, plan), problems) if tap and plan is not None else None
    if plan is not None:
        problems += laboratory.problems(plan, out, rate=bool(bandwidth), delay=bool(late), tap=bool(tap))
    if problems:
        raise ClovenError(problems)
    return Wires(rate, late or 0.0, link)


def _link(text: str, plan: Plan) -> Link:
    from cloven.partition.protection import pair

    try:
        return pair(text, plan.devices)
    except ValueError as error:
        raise ClovenError(f"--tap: {error}") from error


def _lab(given: ToSend, links: Wires, manner: SendOptions, out: Path, *, as_json: bool) -> None:
    """Do it all on one machine, and print what was answered and what the tap found; exit 1 if not all is well."""
    from cloven.runtime.lab import laboratory

    assert given.whole is not None
    program, _ = given.whole
    experiment = laboratory.Experiment(
        given.plan, program, given.pixels, given.queries, out, links.bandwidth, links.delay, links.tap,
        manner.window, manner.deadline,
    )  # fmt: skip
    found = laboratory.run(experiment)
    shown: dict[str, Any] = {"plan": given.plan.title(), **found.summary.model_dump()}
    shown["network"] = [link.model_dump() for link in found.network]
    if found.tap is not None:
        shown["tap"] = found.tap.model_dump()
    sent = {(source, target): count for source, target, count in found.sent}
    answers = out / "pairs" / "images.safetensors"
    outputs = read_tensors(answers, "numpy")[1]["logits"] if shown["answered"] else None
    name_links(given.plan, shown, tls=laboratory.has_tls(given.plan))
    equal = told(given, shown, outputs, None if shown["failed"] else sent) or not program.exact
    if as_json:
        print_json(shown)
    else:
        printing.cluster_run(shown)
        printing.laboratory(shown)
    doubts = found.tap.unexpected if found.tap is not None else ()
    for doubt in doubts:
        log.warning("%s", doubt)
    warn(shown["failed"])
    if shown["failed"] or not equal or doubts:
        raise typer.Exit(MISSED)
