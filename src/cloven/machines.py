"""The commands of several machines: keys, worker, runs on workers, ... Parsing and printing, nothing else."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloven import console
from cloven.errors import ClovenError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

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
    app.command()(serve)
    app.command()(tap)
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


# --- the service ----------------------------------------------------------------------------------------------


def serve(
    plan_file: Annotated[Path, typer.Argument(help="A plan written by `cloven plan`.", metavar="PLAN")],
    cluster: Annotated[Path, typer.Option(help="Where the workers are (TOML).")],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 is any free one.")] = "127.0.0.1:8000",
    keys: Keys = None,
    insecure: Insecure = False,
    names: Annotated[Path | None, typer.Option(help="The classes' names, one a line.")] = None,
    window: Annotated[int, typer.Option(help="Most images in flight.", min=1, max=256)] = 8,
    deadline: Annotated[float, typer.Option(help="Seconds after which an image fails.", min=0.1)] = 30.0,
    limit: Annotated[int, typer.Option(help="Bytes of the largest request.", min=1024)] = 8 * 2**20,
) -> None:
    """Classify pictures over HTTP on the workers of a plan: POST /classify, /health, /metrics, and a page at /."""
    from cloven.runtime import service
    from cloven.runtime.cluster.coordinator import Manner
    from cloven.runtime.cluster.sending import coordinator
    from cloven.runtime.link.address import check_address
    from cloven.runtime.link.identity import read
    from cloven.zoo.folders import decode_picture

    plan = plan_of(plan_file)
    identity = read(keys) if keys is not None and not insecure else None
    host, port = check_address(listen, identity, insecure)
    labels = None if names is None else _labels(names, plan.model.classes)

    async def both() -> None:
        async with coordinator(plan, cluster, Manner(window, deadline)) as model:
            app = service.app(
                model, read=decode_picture, names=labels, limit=limit, deadline=deadline, title=plan.model.name
            )
            started = lambda url: log.info("ready: %s", url)  # noqa: E731
            await service.serve(app, host, port, identity, started=started, grace=int(deadline) + 5)

    asyncio.run(both())


def _labels(path: Path, classes: int) -> list[str]:
    try:
        found = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ClovenError(f"cannot read the names {path}: {error}") from error
    if len(found) != classes:
        raise ClovenError(f"{path} has {len(found)} names; the plan's model has {classes} classes: one a line")
    return found


# --- the listener ---------------------------------------------------------------------------------------------


def tap(
    out: Annotated[Path | None, typer.Option(help="With --interface a .pcapng file, with --read a folder.")] = None,
    interface: Annotated[str | None, typer.Option(help="Record this network interface (needs root).")] = None,
    read: Annotated[Path | None, typer.Option(help="Find our frames in this capture (pcap or pcapng).")] = None,
    port: Annotated[int | None, typer.Option(help="--interface: only TCP from and to this port.")] = None,
    seconds: Annotated[float | None, typer.Option(help="--interface: stop after so long.", min=0.1)] = None,
    source: Annotated[str | None, typer.Option(help="--read: the sender, IP or IP:PORT.")] = None,
    target: Annotated[str | None, typer.Option(help="--read: the receiver, IP or IP:PORT.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Listen on a link like S1's attacker, who knows nothing but bytes: record packets, or find tensors in them."""
    if (interface is None) == (read is None):
        raise ClovenError("give either --interface NAME to record, or --read FILE to look into a recording")
    if interface is not None:
        if out is None:
            raise ClovenError("--interface needs --out FILE.pcapng to record to")
        _record(interface, out, port, seconds, as_json=as_json)
    elif read is not None:
        _look(read, out, source, target, as_json=as_json)


def _record(interface: str, out: Path, port: int | None, seconds: float | None, *, as_json: bool) -> None:
    from dataclasses import asdict
    from math import inf

    from cloven.runtime.tap.live import record, until_signal

    with until_signal() as stop:
        ready = lambda: log.info("listening on %s; Ctrl-C ends it", interface)  # noqa: E731
        found = record(interface, out, port=port, seconds=seconds or inf, stop=stop, ready=ready)
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
    equal = not outcome.answered or _checked(
        given, outcome.outputs, pixels[outcome.answered], None if outcome.failures else outcome.sent(), shown
    )
    if kept.folder is not None and outcome.answered:
        log.info("what was sent and answered: %s", write_sent(kept.folder, outcome, pixels, queries))
    if as_json:
        console.print_json(shown)
    else:
        console.cluster_run(shown)
    for sentence in outcome.why():
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


def _checked(
    given: Given,
    outputs: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    sent: Mapping[tuple[str, str], int] | None,
    shown: dict[str, object],
) -> bool:
    """Whether outputs for pixels are the whole model's; what was measured is added to what is shown.

    ``sent`` are the bytes that each link carried; None where images failed on the way, so that they say nothing.
    """
    if given.whole is None or not len(outputs):
        return True
    import torch

    from cloven.runtime.check import TOLERANCE_ONNX, judge
    from cloven.runtime.cluster.sending import unit

    program, graph = given.whole
    between = [n for link, n in (sent or {}).items() if set(link) <= set(given.plan.devices)]
    counted = sum(between) if sent is not None else len(pixels) * sum(t.bytes for t in program.transfers)
    images = torch.from_numpy(unit(pixels))
    result = judge(program, graph, images, torch.from_numpy(outputs), sent=counted, tolerance=TOLERANCE_ONNX)
    shown["check"] = result.row()
    if result.equal:
        log.info("equal to the whole model on %d images", result.images)
    else:
        log.warning("NOT equal to the whole model: %s", result.why())
    return result.equal


# --- the laboratory -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wires:
    """What the links of a laboratory are like, as words, and the one to listen on."""

    bandwidth: str
    delay: str
    tap: str


def lab(given: Given, wires: Wires, kept: Kept, manner: Manner, *, as_json: bool) -> None:
    """Do it all on one machine, and print what was answered and what the tap found; exit 1 if not all is well."""
    import numpy as np
    from safetensors.numpy import load_file

    from cloven.runtime.lab import laboratory

    assert given.whole is not None
    assert kept.folder is not None
    bandwidth, delay, tapped = _wires(wires, given.plan.devices)
    own = _auxiliary(given.plan, kept)
    pixels = given.images.pixels if own is None else np.concatenate([own.pixels, given.images.pixels])
    experiment = laboratory.Experiment(
        given.plan, given.whole[0], pixels, 0 if own is None else len(own), kept.folder, bandwidth, delay, tapped,
        manner.window, manner.deadline,
    )  # fmt: skip
    shown: dict[str, Any] = {"plan": given.plan.title(), **laboratory.run(experiment)}
    sent = {(source, target): count for source, target, count in shown.pop("sent")}
    failed = shown["failed"]
    images = load_file(kept.folder / "pairs" / "images.safetensors") if shown["answered"] else None
    equal = images is None or _checked(given, images["logits"], images["image"], None if failed else sent, shown)
    if as_json:
        console.print_json(shown)
    else:
        console.cluster_run(shown)
        console.laboratory(shown)
    for failure in failed[:5]:
        log.warning("image %d: %s", failure["image"], failure["reason"])
    if failed or not equal or not laboratory.as_expected(shown):
        raise typer.Exit(MISSED)


def _wires(wires: Wires, devices: Sequence[str]) -> tuple[int | None, float, tuple[str, str] | None]:
    from cloven.partition.protection import pair
    from cloven.runtime.lab import units

    problems: list[str] = []
    bandwidth = delay = tapped = None
    try:
        tapped = pair(wires.tap, devices) if wires.tap else None
    except ValueError as error:
        problems.append(f"--tap: {error}")
    try:
        bandwidth = units.bandwidth(wires.bandwidth) if wires.bandwidth else None
    except ClovenError as error:
        problems += error.problems
    try:
        delay = units.delay(wires.delay)
    except ClovenError as error:
        problems += error.problems
    if problems:
        raise ClovenError(problems)
    return bandwidth, delay or 0.0, tapped
