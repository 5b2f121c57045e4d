"""``cloven worker``: run parts of a bundle for a coordinator."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.options import Insecure, Keys, Listen
from cloven.errors import ClovenError, tried

if TYPE_CHECKING:
    from cloven.runtime.cluster.loaded_part import LoadedBundle
    from cloven.runtime.cluster.worker_upgrades import WorkerUpgrades
    from cloven.runtime.link.identity import Identity

log = logging.getLogger("cloven")


def worker(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A device's folder in a bundle; or a whole bundle, for a worker that can take any device's place.",
            metavar="BUNDLE/DEVICE",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="The worker's name, with a whole bundle; default: that of its keys.", metavar="NAME"),
    ] = None,
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
    upgrades: Annotated[
        Path | None,
        typer.Option(
            help="Accept new bundles from `cloven upgrade`, and keep them in this folder; default: accept none.",
            metavar="FOLDER",
        ),
    ] = None,
) -> None:
    """Run a device's part of a bundle, or any part of it.

    The worker serves one coordinator at a time until SIGTERM. It logs JSON lines to standard error. With --upgrades
    it starts with the bundle of the last upgrade, if there was one.
    """
    from cloven.runtime.cluster import logs
    from cloven.runtime.cluster.upgrade_folder import UpgradeFolder
    from cloven.runtime.cluster.worker import Addresses, load, load_upgraded, serve
    from cloven.runtime.link.address import check_address
    from cloven.runtime.link.identity import read

    logs.to_stderr()
    problems: list[str] = []
    if not 0 < speed <= 1:
        problems.append(f"--speed is {speed:g}; expected a number above 0, at most 1")
    identity = tried(lambda: read(keys), problems) if keys is not None else None
    tls = None if insecure else keys
    here = tried(lambda: check_address(listen, tls, insecure), problems)
    there = metrics and tried(lambda: check_address(metrics, tls, insecure, option="--metrics"), problems)

    def loaded() -> tuple[LoadedBundle, WorkerUpgrades | None]:
        if upgrades is None:
            return load(folder, identity, speed), None
        return load_upgraded(folder, UpgradeFolder(upgrades), identity, speed, tls=tls is not None)

    bundles = tried(loaded, problems) if identity is not None or keys is None else None
    own = tried(lambda: _name(name, bundles[0], identity), problems) if bundles is not None else None
    if problems or here is None or bundles is None or own is None:
        raise ClovenError(problems)
    if speed < 1:
        log.warning(
            "emulating a slower device: after the first image, which measures it, a job takes %g times as long",
            1 / speed,
        )
    if identity is not None and (warning := identity.warning()):
        log.warning(warning)
    bundle, accepted = bundles
    asyncio.run(serve(own, bundle, identity, Addresses(here, there or None), accepted, tls=tls is not None))


def _name(given: str | None, bundle: LoadedBundle, identity: Identity | None) -> str:
    """Return the worker's name: that of its keys, of its device's folder, or the given one."""
    from cloven.runtime.link.identity import name_problem

    known = identity.name if identity is not None else next(iter(bundle.parts)) if len(bundle.parts) == 1 else None
    if known is not None and given not in (None, known):
        raise ClovenError(f"--name is {given}; expected {known}, the name of the worker's keys or folder")
    if (found := known or given) is None:
        raise ClovenError(
            "a worker of a whole bundle can be any device and needs a name: give --name or --keys, or a device's "
            f"folder, such as BUNDLE/{next(iter(bundle.parts))}"
        )
    if problem := name_problem(found):
        raise ClovenError(f"--name: {problem}")
    return found
