"""``cloven worker``: run parts of a bundle for a coordinator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
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
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="A device's folder in a bundle; or a whole bundle, for a worker that can take any device's place. "
            "Further ones are of plans for `cloven run --fallback`.",
            metavar="BUNDLE/DEVICE...",
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
    it starts with the bundle of the last upgrade, if there was one, instead of the first bundle here.
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
            return load(folders[0], identity, speed), None
        return load_upgraded(folders, UpgradeFolder(upgrades), identity, speed, tls=tls is not None)

    accepted, bundles, own = None, [], None
    if identity is not None or keys is None:
        first = tried(loaded, problems)
        others = [tried(partial(load, folder, identity, speed), problems) for folder in folders[1:]]
        if first is not None and None not in others:
            current, accepted = first
            again = (current.plan,) if accepted is not None else ()  # it may have been upgraded to one of them
            bundles = [current, *(bundle for bundle in others if bundle and bundle.plan not in again)]
            own = tried(lambda: _name(name, bundles, identity), problems)
    if problems or here is None or own is None:
        raise ClovenError(problems)
    if speed < 1:
        log.warning(
            "emulating a slower device: after the first image, which measures it, a job takes %g times as long",
            1 / speed,
        )
    if identity is not None and (warning := identity.warning()):
        log.warning(warning)
    asyncio.run(serve(own, bundles, identity, Addresses(here, there or None), accepted, tls=tls is not None))


def _name(given: str | None, bundles: Sequence[LoadedBundle], identity: Identity | None) -> str:
    """Return the worker's name: that of its keys, of its devices' folders, or the given one.

    Raises:
        ClovenError: if it has none, or several; or if a bundle is given twice, or there are too many.
    """
    from cloven.runtime.cluster.protocol import MOST_BUNDLES
    from cloven.runtime.link.identity import name_problem

    hashes = {bundle.plan for bundle in bundles}
    if len(hashes) < len(bundles):
        raise ClovenError("a bundle is given twice; give each bundle once")
    if len(bundles) > MOST_BUNDLES:
        raise ClovenError(f"got {len(bundles)} bundles; expected at most {MOST_BUNDLES}")
    folders = dict.fromkeys(next(iter(bundle.parts)) for bundle in bundles if len(bundle.parts) == 1)
    if identity is None and len(folders) > 1:
        raise ClovenError(f"the folders are of {', '.join(folders)}; expected those of one device in each bundle")
    known = identity.name if identity is not None else next(iter(folders), None)
    if known is not None and given not in (None, known):
        raise ClovenError(f"--name is {given}; expected {known}, the name of the worker's keys or folder")
    if (found := known or given) is None:
        raise ClovenError(
            "a worker of a whole bundle can be any device and needs a name: give --name or --keys, or a device's "
            f"folder, such as BUNDLE/{next(iter(bundles[0].parts))}"
        )
    if problem := name_problem(found):
        raise ClovenError(f"--name: {problem}")
    return found
