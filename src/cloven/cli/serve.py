"""``cloven serve``: classify pictures over HTTP."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cloven.cli.models import ModelOptions, PlanOptions, fallbacks_of, plan_of
from cloven.cli.options import (
    DAY,
    WORKERS,
    Batch,
    Classes,
    Deadline,
    Fallback,
    InputSize,
    Insecure,
    Keys,
    Listen,
    Mean,
    ModelOption,
    PlanFile,
    Standby,
    Std,
    Weights,
    Window,
    names_in,
    unmet,
)
from cloven.errors import ClovenError, tried
from cloven.files import read_text

log = logging.getLogger("cloven")

CLIENTS, RESERVATIONS = "Clients", "Reservations"
REQUIRED = {"slot_seconds": ["slots"]}
"""The option that an option requires."""


def serve(
    context: typer.Context,
    plan_file: PlanFile,
    cluster: Annotated[
        Path, typer.Option(help="TOML file that lists the workers.", metavar="FILE", rich_help_panel=WORKERS)
    ],
    window: Window = 8,
    batch: Batch = 1,
    deadline: Deadline = 30.0,
    standby: Standby = None,
    fallback: Fallback = None,
    follow_upgrades: Annotated[
        bool,
        typer.Option(
            "--follow-upgrades",
            help="Change to another plan when `cloven upgrade` has given it to the workers; no image is lost.",
            rich_help_panel=WORKERS,
        ),
    ] = False,
    listen: Listen = "127.0.0.1:8000",
    keys: Keys = None,
    insecure: Insecure = False,
    model: ModelOption = "",
    input_size: InputSize = "",
    classes: Classes = None,
    weights: Weights = None,
    mean: Mean = "",
    std: Std = "",
    class_names: Annotated[
        Path | None, typer.Option(help="File with the names of the classes, one per line.", metavar="FILE")
    ] = None,
    max_request: Annotated[
        int, typer.Option(help="Maximum size of a request.", min=1024, metavar="BYTES", rich_help_panel=CLIENTS)
    ] = 8 * 2**20,
    max_pixels: Annotated[
        int, typer.Option(help="Maximum size of a picture.", min=4, metavar="PIXELS", rich_help_panel=CLIENTS)
    ] = 2**24,
    connections: Annotated[
        int, typer.Option(help="Maximum number of open connections.", min=1, metavar="N", rich_help_panel=CLIENTS)
    ] = 96,
    per_address: Annotated[
        int,
        typer.Option(
            help="Maximum number of open connections per address.", min=1, metavar="N", rich_help_panel=CLIENTS
        ),
    ] = 48,
    head: Annotated[
        float,
        typer.Option(
            help="Time for the head of a request to arrive.",
            min=0.1,
            max=DAY,
            metavar="SECONDS",
            rich_help_panel=CLIENTS,
        ),
    ] = 10.0,
    slots: Annotated[
        bool,
        typer.Option(
            "--slots",
            help="Serve one user at a time, who must reserve the service (POST /slot).",
            rich_help_panel=RESERVATIONS,
        ),
    ] = False,
    slot_seconds: Annotated[
        float,
        typer.Option(
            help="With --slots: duration of a reservation.",
            min=1,
            max=DAY,
            metavar="SECONDS",
            rich_help_panel=RESERVATIONS,
        ),
    ] = 600.0,
) -> None:
    """Classify pictures over HTTP on the workers of a plan.

    It serves POST /classify, /health, /metrics, and a page at /. A request must arrive and be answered within
    --deadline. When all connections are in use, a new one replaces the oldest one whose request is incomplete.
    Behind a proxy, all clients have the same address: set --per-address to the value of --connections.
    With --slots, others wait in a queue until the user who holds the slot gives it back, or until it ends.
    """
    if missing := unmet(context, REQUIRED):
        raise ClovenError(missing)
    from cloven.runtime import service
    from cloven.runtime.cluster.send_options import SendOptions
    from cloven.runtime.cluster.sending import coordinator
    from cloven.runtime.link.address import check_address
    from cloven.runtime.link.identity import read
    from cloven.zoo.folders import decode_picture, picture_size

    chosen = None if standby is None else names_in(standby)
    source = PlanOptions(plan_file, ModelOptions(model, input_size, classes, weights, mean, std))
    plan = plan_of(source)
    tls = None if insecure else keys
    problems: list[str] = []
    fallbacks = tried(lambda: fallbacks_of(source, fallback), problems) or ()
    identity = tried(lambda: read(tls), problems) if tls is not None else None
    here = tried(lambda: check_address(listen, tls, insecure), problems)
    names = tried(lambda: _class_names(class_names, plan.named_model.classes), problems) if class_names else None
    options = SendOptions(
        window, deadline, standby=chosen, fallbacks=fallbacks, follow=follow_upgrades, batch=batch
    )
    workers = tried(lambda: coordinator(plan, cluster, options), problems)
    if problems or here is None or workers is None:
        raise ClovenError(problems)

    limits = service.ClientLimits(connections, per_address, head, deadline + 5)

    async def both() -> None:
        async with workers as running:
            app = service.app(
                running,
                read=partial(decode_picture, most=max_pixels),
                size=partial(picture_size, most=max_pixels),
                names=names,
                limit=max_request,
                deadline=deadline,
                waiting=connections,
                title=plan.named_model.name,
                slots=service.Slots(slot_seconds) if slots else None,
            )
            started = partial(log.info, "ready: %s")
            await service.serve(app, *here, identity, started=started, limits=limits)

    asyncio.run(both())


def _class_names(path: Path, classes: int) -> list[str]:
    found = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if len(found) != classes:
        raise ClovenError(
            f"{path} has {len(found)} names; expected {classes}, one line for each class of the model"
        )
    return found
