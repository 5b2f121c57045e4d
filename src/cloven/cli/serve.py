"""``cloven serve``."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cloven.cli.models import plan_of
from cloven.cli.options import DAY, Insecure, Keys
from cloven.errors import ClovenError, tried
from cloven.files import read_text

log = logging.getLogger("cloven")


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
    from cloven.runtime.cluster.coordinator import SendOptions
    from cloven.runtime.cluster.sending import coordinator
    from cloven.runtime.link.address import check_address
    from cloven.runtime.link.identity import read
    from cloven.zoo.folders import decode_picture, picture_size

    plan, shown = plan_of(plan_file), None if insecure else keys
    problems: list[str] = []
    identity = tried(lambda: read(shown), problems) if shown is not None else None
    here = tried(lambda: check_address(listen, shown, insecure), problems)
    labels = tried(lambda: _labels(names, plan.model.classes), problems) if names is not None else None
    workers = tried(lambda: coordinator(plan, cluster, SendOptions(window, deadline)), problems)
    if problems or here is None or workers is None:
        raise ClovenError(problems)

    limits = service.ClientLimits(connections, per_address, head, deadline + 5)

    async def both() -> None:
        async with workers as model:
            app = service.app(
                model, read=partial(decode_picture, most=pixels), size=partial(picture_size, most=pixels),
                names=labels, limit=limit, deadline=deadline, waiting=connections, title=plan.model.name,
            )  # fmt: skip
            started = lambda url: log.info("ready: %s", url)  # noqa: E731
            await service.serve(app, *here, identity, started=started, limits=limits)

    asyncio.run(both())


def _labels(path: Path, classes: int) -> list[str]:
    found = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if len(found) != classes:
        raise ClovenError(f"{path} has {len(found)} names; the plan's model has {classes} classes: one a line")
    return found
