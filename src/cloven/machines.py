"""The commands of each machine for itself: keys, worker, serve, tap. Parsing and printing, nothing else."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cloven import console
from cloven.errors import ClovenError, tried
from cloven.files import read_text

if TYPE_CHECKING:
    from cloven.partition.plan import Plan
    from cloven.runtime.link.authority import Copy

log = logging.getLogger("cloven")

Made = TypeVar("Made")

DAY = 86_400.0
"""Seconds that anything may be waited for."""


def named(text: str) -> tuple[str, ...]:
    """``a,b`` as names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def given(context: typer.Context) -> set[str]:
    """The options that a person gave, by their names."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def useless(context: typer.Context, needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Of options that were given but say nothing without others, which ``needs`` names: a sentence each."""
    said = given(context)
    lacking = {name: [f"--{other}" for other in needs[name] if other not in said] for name in needs if name in said}
    return [f"--{name} says nothing without {' and '.join(others)}" for name, others in lacking.items() if others]


Keys = Annotated[Path | None, typer.Option(help="This party's folder of keys: mTLS, and keys of protected links.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="No mTLS; needed to listen without it where other machines reach us.")
]
KeysFolder = Annotated[Path, typer.Argument(help="The folder that `cloven keys new` made.", metavar="KEYS")]
Days = Annotated[int, typer.Option(help="For how many days the certificates are valid.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to a program's."""
    app.command()(worker)
    app.command()(serve)
    app.command()(tap)
    keys = typer.Typer(help="Certificates and link keys for devices.", no_args_is_help=True)
    keys.command("new")(keys_new)
    keys.command("add")(keys_add)
    keys.command("renew")(keys_renew)
    app.add_typer(keys, name="keys")


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- keys -----------------------------------------------------------------------------------------------------


def keys_new(
    devices: Annotated[str, typer.Option(help="Names of the devices, e.g. edge0,edge1,edge2.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    days: Days = 365,
) -> None:
    """Make a small authority, and for each device (and the coordinator) a certificate and link keys."""
    from cloven.runtime.link import authority

    _copies(authority.new(named(devices), out, days))


def keys_add(
    folder: KeysFolder,
    devices: Annotated[str, typer.Option(help="Names of the new devices.")],
    days: Days = 365,
) -> None:
    """Make folders for more devices, and link keys with them for the others."""
    from cloven.runtime.link import authority

    _copies(authority.add(folder, named(devices), days))


def keys_renew(
    folder: KeysFolder,
    devices: Annotated[str, typer.Option(help="Whose certificates; left out, all.")] = "",
    days: Days = 365,
) -> None:
    """Make new certificates; private keys and link keys stay."""
    from cloven.runtime.link import authority

    _copies(authority.renew(folder, named(devices) or None, days))


def _copies(copies: Sequence[Copy]) -> None:
    for copy in copies:
        log.info("copy %s to the host of %s", copy.path, copy.party)


# --- worker ---------------------------------------------------------------------------------------------------


def worker(
    folder: Annotated[Path, typer.Argument(help="A device's folder in a bundle.", metavar="BUNDLE/DEVICE")],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 is any free one.")] = "127.0.0.1:7001",
    keys: Keys = None,
    insecure: Insecure = False,
    metrics: Annotated[str | None, typer.Option(help="HOST:PORT for Prometheus; left out, none.")] = None,
) -> None:
    """Load a device's part of a bundle and work for a coordinator, until SIGTERM. Logs are lines of JSON."""
    from cloven.runtime.cluster import logs
    from cloven.runtime.cluster.worker import Addresses, load, serve
    from cloven.runtime.link.address import check_address
    from cloven.runtime.link.identity import read

    problems: list[str] = []
    identity = tried(lambda: read(keys), problems) if keys is not None else None
    shown = None if insecure else keys
    here = tried(lambda: check_address(listen, shown, insecure), problems)
    there = metrics and tried(lambda: check_address(metrics, shown, insecure, option="--metrics"), problems)
    held = tried(lambda: load(folder, identity), problems) if identity is not None or keys is None else None
    if problems or here is None or held is None:
        raise ClovenError(problems)
    logs.to_stderr()
    if identity is not None and (warning := identity.warning()):
        log.warning(warning)
    asyncio.run(serve(held, identity, Addresses(here, there or None), tls=shown is not None))


# --- the service ----------------------------------------------------------------------------------------------


def serve(
    plan_file: Annotated[Path, typer.Argument(help="A plan written by `cloven plan`.", metavar="PLAN")],
    cluster: Annotated[Path, typer.Option(help="Where the workers are (TOML).")],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 is any free one.")] = "127.0.0.1:8000",
    keys: Keys = None,
    insecure: Insecure = False,
    names: Annotated[Path | None, typer.Option(help="The classes' names, one a line.")] = None,
    window: Annotated[int, typer.Option(help="Most images in flight.", min=1, max=256)] = 8,
    deadline: Annotated[float, typer.Option(help="Seconds after which an image fails.", min=0.1, max=DAY)] = 30.0,
    limit: Annotated[int, typer.Option(help="Bytes of the largest request.", min=1024)] = 8 * 2**20,
    pixels: Annotated[int, typer.Option(help="Pixels of the largest picture.", min=4)] = 2**24,
    connections: Annotated[int, typer.Option(help="Most open connections.", min=1)] = 96,
    per_address: Annotated[int, typer.Option(help="Most open connections of one address.", min=1)] = 48,
    head: Annotated[float, typer.Option(help="Seconds for a request's head to arrive.", min=0.1, max=DAY)] = 10.0,
) -> None:
    """Classify pictures over HTTP on the workers of a plan: POST /classify, /health, /metrics, and a page at /.

    A request must arrive and be answered within --deadline. When all connections are taken, the oldest one whose
    request is not complete is closed for a new one. Behind a proxy, all clients have one address: raise
    --per-address to --connections.
    """
    from cloven.runtime import service
    from cloven.runtime.cluster.coordinator import Manner
    from cloven.runtime.cluster.sending import coordinator
    from cloven.runtime.link.address import check_address
    from cloven.runtime.link.identity import read
    from cloven.zoo.folders import decode_picture, picture_size

    plan, shown = plan_of(plan_file), None if insecure else keys
    problems: list[str] = []
    identity = tried(lambda: read(shown), problems) if shown is not None else None
    here = tried(lambda: check_address(listen, shown, insecure), problems)
    labels = tried(lambda: _labels(names, plan.model.classes), problems) if names is not None else None
    workers = tried(lambda: coordinator(plan, cluster, Manner(window, deadline)), problems)
    if problems or here is None or workers is None:
        raise ClovenError(problems)

    limits = service.Limits(connections, per_address, head, deadline + 5)

    async def both() -> None:
        async with workers as model:
            app = service.app(
                model, read=partial(decode_picture, most=pixels), size=partial(picture_size, most=pixels),
                names=labels, limit=limit, deadline=deadline, waiting=connections, title=plan.model.name,
            )  # fmt: skip
            started = lambda url: log.info("ready: %s", url)  # noqa: E731
            await service.serve(app, *here, identity, started=started, limits=limits)

    asyncio.run(both())


def plan_of(plan_file: Path) -> Plan:
    """A plan from a file; what only its model could show is not checked."""
    from cloven.partition.plan import parse, read

    return parse(read(plan_file), str(plan_file))


def _labels(path: Path, classes: int) -> list[str]:
    found = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if len(found) != classes:
        raise ClovenError(f"{path} has {len(found)} names; the plan's model has {classes} classes: one a line")
    return found


# --- the listener ---------------------------------------------------------------------------------------------


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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
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
    from dataclasses import asdict

    from cloven.runtime.tap.live import record, until_signal

    with until_signal() as stop:
        ready = lambda: log.info("listening on %s; Ctrl-C ends it", interface)  # noqa: E731
        found = record(interface, out, port=port, seconds=seconds or math.inf, stop=stop, ready=ready)
    if found.dropped:
        log.warning("%d packets were dropped: this machine was too slow for them", found.dropped)
    if as_json:
        console.print_json(asdict(found))
    else:
        log.info("%d packets, %d bytes in %s", found.packets, found.bytes, out)


def _look(path: Path, out: Path | None, source: str | None, target: str | None, *, as_json: bool) -> None:
    from cloven.runtime.tap import flows, pairs

    survey = flows.survey(path)
    for warning in survey.warnings:
        log.warning(warning)
    if as_json:
        console.print_json(survey.json())
    else:
        console.table(str(path), flows.COLUMNS, [flow.row() for flow in survey.flows])
    if out is not None:
        captured = pairs.extract(survey, pairs.choose(survey, source, target))
        written = pairs.write(captured, out)
        log.info("%s: %d images' messages in %s", captured.link, len(captured.inputs), written)
