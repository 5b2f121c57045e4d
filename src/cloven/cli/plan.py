"""``cloven plan``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from cloven.cli import models, printing
from cloven.cli.options import AsJson, Classes, InputSize, ModelName, Weights, named, numbers
from cloven.cli.printing import print_json
from cloven.errors import ClovenError, tried

log = logging.getLogger("cloven")


def plan(
    model: ModelName,
    strategy: Annotated[str, typer.Option(help="vertical, horizontal, data or enclave.")],
    devices: Annotated[int | None, typer.Option(help="How many devices.", min=1)] = None,
    cuts: Annotated[str, typer.Option(help="vertical: layers to cut after, e.g. conv2,pool2 or 2,3,5.")] = "",
    axis: Annotated[
        str, typer.Option(help="horizontal: out_channels, in_channels, fused (out then in), rows or columns.")
    ] = "out_channels",
    shares: Annotated[str, typer.Option(help="horizontal: the devices' proportions, e.g. 2,1,1.")] = "",
    exchange: Annotated[
        str, typer.Option(help="horizontal: after channel-local ops (local), or the layer.")
    ] = "local",
    sums: Annotated[str, typer.Option(help="horizontal: partial sums add up at the hub, or scatter.")] = "hub",
    grid: Annotated[str, typer.Option(help="data: ROWSxCOLUMNS of tiles.")] = "",
    halo: Annotated[str, typer.Option(help="data: exact, or none (zero beyond a tile's own share).")] = "exact",
    start: Annotated[
        str, typer.Option("--from", help="The layer after which to begin; what is before runs on the first device.")
    ] = "",
    until: Annotated[
        str,
        typer.Option(
            help="The last layer divided so; left out, the end, or for tiles as deep as it pays. "
            "enclave: what follows it runs inside again."
        ),
    ] = "",
    then: Annotated[str, typer.Option(help="After --until or the last cut: vertical or horizontal.")] = "",
    inside: Annotated[
        str, typer.Option(help="vertical: PART:DEVICES shares one part (from 1) out horizontally.")
    ] = "",
    routing: Annotated[str, typer.Option(help="direct, or star through the first device.")] = "direct",
    reuse: Annotated[
        bool, typer.Option(help="star: a device keeps its own share, or is sent it back with the rest.")
    ] = True,
    protect: Annotated[
        list[str] | None,
        typer.Option(help="NAME for all links, A-B=NAME for one: none, ascon-128, aes-256-gcm, mtls, ..."),
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(help="Before sending; as --protect: float16, int8, topk:0.1, noise:0.5, dropout:0.3 or none."),
    ] = None,
    input_size: InputSize = None,
    classes: Classes = None,
    weights: Weights = None,
    out: Annotated[Path | None, typer.Option(help="Write the plan (TOML) here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Divide a model: print what crosses each link, and write the plan to a file."""
    from cloven.files import write_text
    from cloven.partition import plan as plans
    from cloven.partition.options import Options, document, protected, transformed
    from cloven.partition.plan import check_document, described, problems

    found: list[str] = []
    layers = _resolved(model, named(cuts), found)
    start, until = (" ".join(_resolved(model, named(name), found)) for name in (start, until))
    options = Options(
        strategy=strategy, devices=devices, cuts=tuple(layers), axis=axis, exchange=exchange, sums=sums,
        shares=tried(lambda: _proportions(shares), found) if shares else None, halo=halo, start=start,
        grid=tried(lambda: numbers(grid, 2, "--grid", "2x2"), found) if grid else None, until=until, then=then,
        inside=inside,
    )  # fmt: skip
    spec = models.model_table(model, input_size, classes, weights)
    entries, misplaced = document(options)
    made, wrong = check_document(
        {
            "model": spec, "routing": routing, "reuse": reuse, **protected(protect or []),
            **transformed(transform or []), **entries,
        }
    )  # fmt: skip
    found += misplaced + wrong
    graph = tried(lambda: models.graph_of(spec), found)
    found += problems(graph, made) if graph is not None and made is not None else []
    if found or graph is None or made is None:
        raise ClovenError(found)
    shown = described(made, plans.compile(graph, made))
    if out is not None:
        write_text(out, made.toml())
    if as_json:
        print_json(shown)
    else:
        printing.transfers(shown)
    if out is not None:
        log.info("plan written to %s", out)


def _resolved(model: str, names: tuple[str, ...], problems: list[str]) -> list[str]:
    """Layers by their paths, where a name may be a paper's number; what a name cannot mean is added to problems."""
    from cloven.papers.points import resolve

    found = []
    for name in names:
        try:
            found.append(resolve(model, name))
        except ClovenError as error:
            problems += error.problems
    return found


def _proportions(text: str) -> list[float]:
    try:
        return [float(part) for part in named(text)]
    except ValueError as error:
        raise ClovenError(f"--shares is {text!r}; expected numbers such as 2,1,1") from error
