"""``cloven tap``: record a link, or find tensors in a recording."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.options import AsJson, Numbers, unmet
from cloven.cli.printing import print_json, table
from cloven.errors import ClovenError, tried

if TYPE_CHECKING:
    from cloven.runtime.message_shapes import MessageShapes
    from cloven.runtime.tap.extraction import NumberType

log = logging.getLogger("cloven")

RECORD, FIND = "Record", "Find tensors"
REQUIRED = {
    "port": ["interface"],
    "seconds": ["interface"],
    "source": ["read", "out"],
    "target": ["read", "out"],
    "numbers": ["read", "out"],
    "shape": ["read", "out"],
}
"""The options that an option requires."""


def tap(
    context: typer.Context,
    interface: Annotated[
        str | None,
        typer.Option(help="Record this network interface; requires root.", metavar="NAME", rich_help_panel=RECORD),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Record only TCP from and to this port.", min=1, max=65535, metavar="N", rich_help_panel=RECORD
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Stop after this time.", min=0.1, metavar="SECONDS", rich_help_panel=RECORD),
    ] = None,
    read: Annotated[
        Path | None,
        typer.Option(
            help="Find frames of cloven in this recording (pcap or pcapng, may be gzipped).",
            metavar="FILE",
            rich_help_panel=FIND,
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Address of the sender.", metavar="IP[:PORT]", rich_help_panel=FIND)
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Address of the receiver.", metavar="IP[:PORT]", rich_help_panel=FIND)
    ] = None,
    numbers: Numbers = "float32",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="With --numbers int8: the shapes in a message with several, e.g. 0=6x14x14+84.",
            metavar="HOW",
            rich_help_panel=FIND,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="With --interface: a .pcapng file; with --read: a folder for pairs.", metavar="PATH"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Record the packets of a link, or find tensors in them.

    The tap has the knowledge of the attacker in Mehrafrooz et al. (2025): the bytes, but not the plan.
    """
    from cloven.runtime.message_shapes import message_shapes

    if (interface is None) == (read is None):
        raise ClovenError("give either --interface NAME to record, or --read FILE to analyse a recording")
    problems = unmet(context, REQUIRED)
    shapes = tried(partial(message_shapes, tuple(shape or ())), problems)
    if interface is not None and out is None:
        problems.append("--interface requires --out FILE.pcapng")
    if problems:
        raise ClovenError(problems)
    if interface is not None and out is not None:
        _record(interface, out, port, seconds, as_json=as_json)
    elif read is not None:
        _find(read, out, (source, target), (numbers, shapes), as_json=as_json)


def _record(interface: str, out: Path, port: int | None, seconds: float | None, *, as_json: bool) -> None:
    from cloven.runtime.tap.live import record, until_signal

    def ready() -> None:
        log.info("listening on %s; press Ctrl-C to stop", interface)

    with until_signal() as stop:
        found = record(interface, out, port=port, seconds=seconds or math.inf, stop=stop, ready=ready)
    if found.dropped:
        log.warning("%d packets were dropped because this machine was too slow", found.dropped)
    if as_json:
        print_json(found.model_dump())
    else:
        log.info("%d packets, %d bytes in %s", found.packets, found.bytes, out)


def _find(
    path: Path,
    out: Path | None,
    ends: tuple[str | None, str | None],
    kind: tuple[NumberType, MessageShapes | None],
    *,
    as_json: bool,
) -> None:
    from cloven.runtime.tap import extraction, flows

    survey = flows.survey(path)
    for warning in survey.warnings:
        log.warning(warning)
    if as_json:
        print_json(survey.report().model_dump(mode="json"))
    else:
        table(str(path), flows.COLUMNS, [flow.row() for flow in survey.flows])
    if out is not None:
        captured = extraction.extract(survey, extraction.choose(survey, *ends), *kind)
        written = extraction.write(captured, out)
        log.info("%s: wrote the messages of %d images to %s", captured.link, len(captured.inputs), written)
