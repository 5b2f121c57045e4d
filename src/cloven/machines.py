"""The commands of several machines: keys, worker, runs on workers, ... Parsing and printing, nothing else."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven import console
from cloven.errors import ClovenError

if TYPE_CHECKING:
    from cloven.graph.graph import Graph
    from cloven.partition.plan import Plan
    from cloven.partition.program import Program
    from cloven.runtime.cluster.coordinator import Manner
    from cloven.runtime.cluster.sending import Outcome
    from cloven.runtime.link.authority import Copy
    from cloven.zoo.images import Images

log = logging.getLogger("cloven")

MISSED = 1

Keys = Annotated[Path | None, typer.Option(help="This party's folder of keys: mTLS, and keys of protected links.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="No mTLS; needed to listen without it where other machines reach us.")
]
KeysFolder = Annotated[Path, typer.Argument(help="The folder that `cloven keys new` made.", metavar="KEYS")]
Days = Annotated[int, typer.Option(help="For how many days the certificates are valid.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to a program's."""
    app.command()(worker)
    keys = typer.Typer(help="Certificates and link keys for devices.", no_args_is_help=True)
    keys.command("new")(keys_new)
    keys.command("add")(keys_add)
    keys.command("renew")(keys_renew)
    app.add_typer(keys, name="keys")


# --- keys -----------------------------------------------------------------------------------------------------


def keys_new(
    devices: Annotated[str, typer.Option(help="Names of the devices, e.g. edge0,edge1,edge2.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    days: Days = 365,
) -> None:
    """Make a small authority, and for each device (and the coordinator) a certificate and link keys."""
    from cloven.runtime.link import authority

    _copies(authority.new(_names(devices), out, days))


def keys_add(
    folder: KeysFolder,
    devices: Annotated[str, typer.Option(help="Names of the new devices.")],
    days: Days = 365,
) -> None:
    """Make folders for more devices, and link keys with them for the others."""
    from cloven.runtime.link import authority

    _copies(authority.add(folder, _names(devices), days))


def keys_renew(
    folder: KeysFolder,
    devices: Annotated[str, typer.Option(help="Whose certificates; left out, all.")] = "",
    days: Days = 365,
) -> None:
    """Make new certificates; private keys and link keys stay."""
    from cloven.runtime.link import authority

    _copies(authority.renew(folder, _names(devices) or None, days))


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _copies(copies: tuple[Copy, ...]) -> None:
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

    identity = read(keys) if keys is not None else None
    shown = None if insecure else identity
    where = Addresses(
        check_address(listen, shown, insecure),
        None if metrics is None else check_address(metrics, shown, insecure, option="--metrics"),
    )
    logs.to_stderr()
    if identity is not None and (warning := identity.warning()):
        log.warning(warning)
    asyncio.run(serve(load(folder, identity), identity, where, tls=shown is not None))


# --- runs on workers ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Given:
    """A plan, images to send, and where a check is wanted the plan's program and the whole model."""

    plan: Plan
    images: Images
    whole: tuple[Program, Graph] | None

    def first(self, count: int) -> Given:
        """The first images only."""
        return replace(self, images=self.images.take(range(min(count, len(self.images)))))


@dataclass(frozen=True)
class Kept:
    """What to keep of a run for an audit: the folder, and the attacker's own images, which are sent first."""

    folder: Path | None
    auxiliary: str | None
    queries: int


def plan_of(plan_file: Path) -> Plan:
    """A plan from a file; what only its model could show is not checked."""
    from cloven.partition.plan import parse, read

    return parse(read(plan_file), str(plan_file))


def run(given: Given, cluster: Path, manner: Manner, kept: Kept, *, as_json: bool) -> None:
    """Send images through workers and print what came of them; exit 1 if not all is well."""
    import numpy as np

    from cloven.runtime.cluster.sending import send, write_sent

    own = _auxiliary(given.plan, kept)
    pixels = given.images.pixels if own is None else np.concatenate([own.pixels, given.images.pixels])
    queries = 0 if own is None else len(own)
    with console.progress() as progress:
        outcome = send(given.plan, cluster, pixels, manner, progress)
    shown = {"plan": given.plan.title(), **outcome.row(), **_classes(given, outcome, queries)}
    equal, why = _checked(given, outcome, pixels, shown)
    if kept.folder is not None and outcome.answered:
        log.info("what was sent and answered: %s", write_sent(kept.folder, outcome, pixels, queries))
    if as_json:
        console.print_json(shown)
    else:
        console.cluster_run(shown)
    for sentence in [*outcome.why(), *why]:
        log.warning(sentence)
    if outcome.failures or not equal:
        raise typer.Exit(MISSED)


def _auxiliary(plan: Plan, kept: Kept) -> Images | None:
    if kept.auxiliary is None:
        return None
    if kept.folder is None:
        raise ClovenError("--auxiliary is for an audit of the link: name a folder with --sent")
    from cloven.zoo.datasets import load

    return load(kept.auxiliary, shape=plan.model.input, limit=kept.queries)


def _classes(given: Given, outcome: Outcome, queries: int) -> dict[str, object]:
    """The class of each image that was answered, and the accuracy where the right ones are known."""
    if not outcome.answered:
        return {"classes": []}
    found = dict(zip(outcome.answered, outcome.outputs.argmax(1).tolist(), strict=True))
    mine = {i: found[i + queries] for i in range(len(given.images)) if i + queries in found}
    classes = [{"image": given.images.sources[i], "class": label} for i, label in mine.items()]
    labels = given.images.labels
    if labels is None or not mine:
        return {"classes": classes}
    return {"classes": classes, "accuracy": sum(labels[i] == label for i, label in mine.items()) / len(mine)}


def _checked(given: Given, outcome: Outcome, pixels: object, shown: dict[str, object]) -> tuple[bool, list[str]]:
    """Whether the answers are the whole model's; what was measured is added to what is shown."""
    if given.whole is None or not outcome.answered:
        return True, []
    import numpy as np
    import torch

    from cloven.runtime.check import TOLERANCE_ONNX, judge

    program, graph = given.whole
    images = torch.from_numpy(np.asarray(pixels)[outcome.answered].astype(np.float32) / np.float32(255))
    between = sum(n for link, n in outcome.sent().items() if set(link) <= set(given.plan.devices))
    counted = between if not outcome.failures else len(images) * sum(t.bytes for t in program.transfers)
    made = torch.from_numpy(outcome.outputs)
    result = judge(program, graph, images, made, sent=counted, tolerance=TOLERANCE_ONNX)
    shown["check"] = result.row()
    if result.equal:
        log.info("equal to the whole model on %d images", result.images)
        return True, []
    return False, [f"NOT equal to the whole model: {result.why()}"]
