"""``cloven worker``: run one device's part of a bundle for a coordinator."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer

from cloven.cli.options import Insecure, Keys, Listen
from cloven.errors import ClovenError, tried

log = logging.getLogger("cloven")


def worker(
    folder: Annotated[Path, typer.Argument(help="A device's folder in a bundle.", metavar="BUNDLE/DEVICE")],
    listen: Listen = "127.0.0.1:7001",
    keys: Keys = None,
    insecure: Insecure = False,
    metrics: Annotated[
        str | None, typer.Option(help="Address for Prometheus metrics; default: none.", metavar="HOST:PORT")
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            help="Emulate a slower device: each computation takes its time divided by this factor (0 to 1). Not "
            "slowed: messages, ciphers, and the first images, which measure the time.",
            metavar="FACTOR",
        ),
    ] = 1.0,
) -> None:
    """Run a device's part of a bundle.

    The worker serves one coordinator at a time until SIGTERM. It logs JSON lines to standard error.
    """
    from cloven.runtime.cluster import logs
    from cloven.runtime.cluster.worker import Addresses, load, serve
    from cloven.runtime.link.address import check_address
    from cloven.runtime.link.identity import read

    problems: list[str] = []
    if not 0 < speed <= 1:
        problems.append(f"--speed is {speed:g}; expected a number above 0, at most 1")
    identity = tried(lambda: read(keys), problems) if keys is not None else None
    tls = None if insecure else keys
    here = tried(lambda: check_address(listen, tls, insecure), problems)
    there = metrics and tried(lambda: check_address(metrics, tls, insecure, option="--metrics"), problems)
    part = tried(lambda: load(folder, identity, speed), problems) if identity is not None or keys is None else None
    if problems or here is None or part is None:
        raise ClovenError(problems)
    logs.to_stderr()
    if speed < 1:
        log.warning(
            "emulating a slower device: after the first image, which measures it, a job takes %g times as long",
            1 / speed,
        )
    if identity is not None and (warning := identity.warning()):
        log.warning(warning)
    asyncio.run(serve(part, identity, Addresses(here, there or None), tls=tls is not None))
