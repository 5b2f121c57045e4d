"""``cloven tap``: what a listener on a link records, and what it finds in a recording."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Annotated

import typer

from cloven.cli import printing
from cloven.cli.options import AsJson, useless
from cloven.cli.printing import print_json
from cloven.errors import ClovenError

log = logging.getLogger("cloven")


def tap(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="With --interface a .pcapng file, with --read a folder.")] = None,
    interface: Annotated[str | None, typer.Option(help="Record this network interface (needs root).")] = None,
    read: Annotated[
        Path | None, typer.Option(help="Find our frames in this capture (pcap or pcapng, also gzipped).")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="--interface: only TCP from and to this port.", min=1, max=65535)
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="--interface: stop after so long.", min=0.1)] = None,
    source: Annotated[str | None, typer.Option(help="--read: the sender, IP or IP:PORT.")] = None,
    target: Annotated[str | None, typer.Option(help="--read: the receiver, IP or IP:PORT.")] = None,
    as_json: AsJson = False,
) -> None:
    """Listen on a link like S1's attacker, who knows nothing but bytes: record packets, or find tensors in them."""
    if (interface is None) == (read is None):
        raise ClovenError("give either --interface NAME to record, or --read FILE to look into a recording")
    problems = useless(context, NEEDED)
    if interface is not None and out is None:
        problems.append("--interface needs --out FILE.pcapng to record to")
    if problems:
        raise ClovenError(problems)
    if interface is not None and out is not None:
        _record(interface, out, port, seconds, as_json=as_json)
    elif read is not None:
        _look(read, out, source, target, as_json=as_json)


NEEDED = {"port": ["interface"], "seconds": ["interface"], "source": ["read", "out"], "target": ["read", "out"]}
"""What options of `cloven tap` say nothing without."""


def _record(interface: str, out: Path, port: int | None, seconds: float | None, *, as_json: bool) -> None:
    from cloven.runtime.tap.live import record, until_signal

    with until_signal() as stop:
        ready = lambda: log.info("listening on %s; Ctrl-C ends it", interface)  # noqa: E731
        found = record(interface, out, port=port, seconds=seconds or math.inf, stop=stop, ready=ready)
    if found.dropped:
        log.warning("%d packets were dropped: this machine was too slow for them", found.dropped)
    if as_json:
        print_json(found.model_dump())
    else:
        log.info("%d packets, %d bytes in %s", found.packets, found.bytes, out)


def _look(path: Path, out: Path | None, source: str | None, target: str | None, *, as_json: bool) -> None:
    from cloven.runtime.tap import extraction, flows

    survey = flows.survey(path)
    for warning in survey.warnings:
        log.warning(warning)
    if as_json:
        print_json(survey.report().model_dump(mode="json"))
    else:
        printing.table(str(path), flows.COLUMNS, [flow.row() for flow in survey.flows])
    if out is not None:
        captured = extraction.extract(survey, extraction.choose(survey, source, target))
        written = extraction.write(captured, out)
        log.info("%s: %d images' messages in %s", captured.link, len(captured.inputs), written)
