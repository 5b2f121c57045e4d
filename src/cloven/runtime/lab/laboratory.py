"""A plan on one machine as if on several: a namespace a device, real links, workers in them, a tap on one link."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.partition.plan import Plan
from cloven.partition.program import Link, Program
from cloven.partition.protection import COORDINATOR
from cloven.runtime import bundle as bundles
from cloven.runtime.lab.network import Network, network
from cloven.runtime.lab.sender import CLUSTER, OUTCOME, PAIRS, PIXELS, PLAN

PORT = 7000
"""Where every worker listens, in its own namespace."""

STARTING = 60.0
"""Seconds in which a process must be ready: the first Ascon of a machine is compiled then."""

CAPTURE = "link.pcapng"


@dataclass(frozen=True, eq=False)
class Experiment:
    """What to do in a laboratory.

    Attributes:
        plan, program: the division.
        pixels: the images to send, ``(n, C, H, W)``, 0 to 255; the first ``auxiliary`` are the attacker's.
        bandwidth, delay: of every link, bits per second (None for no limit) and seconds one way.
        tap: the link to listen on, if any.
        folder: for all that is written; emptied first.
        window, deadline: as `cloven.runtime.cluster.coordinator.Manner`.
    """

    plan: Plan
    program: Program
    pixels: NDArray[np.uint8]
    auxiliary: int
    folder: Path
    bandwidth: int | None = None
    delay: float = 0.0
    tap: Link | None = None
    window: int = 8
    deadline: float = 60.0


def run(experiment: Experiment) -> dict[str, Any]:
    """Do an experiment: what was answered, the times, the network, and what the tap found beside the table.

    Raises:
        ClovenError: for what the machine lacks, a folder that cannot be used, and processes that fail.
    """
    parties = [COORDINATOR, *experiment.plan.devices]
    _prepare(experiment)
    pairs = _pairs(experiment, parties)
    with network(parties, pairs, bandwidth=experiment.bandwidth, delay=experiment.delay) as net:
        _write_cluster(experiment, net)
        with _workers(experiment, net), _tapped(experiment, net) as recorded:
            outcome = _send(experiment, net)
        described = net.described()
        addresses = {party: net.address(party) for party in parties}
    found = {**outcome, "network": described}
    if experiment.tap is not None:
        found["tap"] = {"recorded": dict(recorded), **_heard(experiment, addresses)}
    return found


# --- files ----------------------------------------------------------------------------------------------------


def _prepare(experiment: Experiment) -> None:
    """Write all that the processes read: the bundle, keys where links are protected, the plan, the images."""
    from safetensors.numpy import save_file

    from cloven.runtime.link import authority

    folder, plan = experiment.folder, experiment.plan
    if folder.exists() and any(folder.iterdir()) and not (folder / PLAN).is_file():
        raise ClovenError(f"{folder} holds other things; name a new folder with --out, or an earlier laboratory's")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / PLAN).write_text(plan.toml(), "utf-8")
    save_file({"image": np.ascontiguousarray(experiment.pixels)}, folder / PIXELS)
    bundles.write(
        experiment.program, folder / "bundle", model=plan.model.name, plan=plan.toml(), protection=plan.protection
    )
    if _has_keys(plan):
        authority.new(plan.devices, folder / "keys")


def _protections(plan: Plan) -> set[str]:
    parties = [COORDINATOR, *plan.devices]
    return {plan.protection.of(one, other) for one, other in combinations(parties, 2)}


def _has_keys(plan: Plan) -> bool:
    return _protections(plan) != {"none"}


def _has_tls(plan: Plan) -> bool:
    return "mtls" in _protections(plan)


def _pairs(experiment: Experiment, parties: Sequence[str]) -> list[Link]:
    """Who needs a link: devices that send each other anything, and the coordinator with all."""
    used = {frozenset(link) for link in experiment.program.links}
    return [(a, b) for a, b in combinations(parties, 2) if a == COORDINATOR or frozenset((a, b)) in used]


def _write_cluster(experiment: Experiment, net: Network) -> None:
    plan = experiment.plan
    keys = [f'keys = "keys/{COORDINATOR}"'] if _has_keys(plan) else []
    insecure = [] if _has_tls(plan) else ["insecure = true"]
    devices = [f'{json.dumps(name)} = "{net.address(name)}:{PORT}"' for name in plan.devices]
    (experiment.folder / CLUSTER).write_text("\n".join([*keys, *insecure, "[devices]", *devices, ""]), "utf-8")


# --- processes ------------------------------------------------------------------------------------------------


@contextmanager
def _workers(experiment: Experiment, net: Network) -> Iterator[None]:
    """A worker in every device's namespace, ready; their logs are in the folder."""
    folder, plan = experiment.folder, experiment.plan
    manifest = bundles.read_manifest(folder / "bundle")
    started = []
    for device in manifest.devices:
        keys = ["--keys", str(folder / "keys" / device.name)] if _has_keys(plan) else []
        insecure = [] if _has_tls(plan) else ["--insecure"]
        listen = ["--listen", f"{net.address(device.name)}:{PORT}"]
        command = ["worker", str(folder / "bundle" / device.folder), *listen, *keys, *insecure]
        started.append(_start(net, device.name, command, folder / f"{device.folder}.log"))
    for device, process in zip(manifest.devices, started, strict=True):
        _until_ready(process, folder / f"{device.folder}.log", '"event": "ready"', f"the worker of {device.name}")
    yield
    for process in started:
        process.send_signal(signal.SIGTERM)
    for process in started:
        process.wait(STARTING)


@contextmanager
def _tapped(experiment: Experiment, net: Network) -> Iterator[dict[str, Any]]:
    """Record the tapped link, at its source's end; afterwards what yields says how much."""
    recorded: dict[str, Any] = {}
    if experiment.tap is None:
        yield recorded
        return
    source, target = experiment.tap
    log, out = experiment.folder / "tap.log", experiment.folder / CAPTURE
    command = ["tap", "--interface", net.interface(source, target), "--out", str(out), "--json"]
    process = _start(net, source, command, log, stdout=subprocess.PIPE)
    _until_ready(process, log, "listening", f"the tap on {source}-{target}")
    yield recorded
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=STARTING)
    recorded |= json.loads(said)


def _start(
    net: Network, party: str, command: Sequence[str], log: Path, stdout: int = subprocess.DEVNULL
) -> subprocess.Popen[Any]:
    with log.open("wb") as file:
        program = [sys.executable, "-m", "cloven.cli", *command]
        return net.popen(party, program, stdout=stdout, stderr=file)


def _until_ready(process: subprocess.Popen[Any], log: Path, sign: str, who: str) -> None:
    until = time.monotonic() + STARTING
    while sign not in log.read_text("utf-8", "replace"):
        if process.poll() is not None or time.monotonic() > until:
            said = log.read_text("utf-8", "replace").strip().splitlines() or ["nothing"]
            raise ClovenError(f"{who} did not start; it said: {said[-1]}")
        time.sleep(0.02)


def _send(experiment: Experiment, net: Network) -> dict[str, Any]:
    """Send the images from the coordinator's namespace; its messages are ours."""
    numbers = [str(experiment.window), str(experiment.deadline), str(experiment.auxiliary)]
    program = [sys.executable, "-m", "cloven.runtime.lab.sender", str(experiment.folder), *numbers]
    if net.popen(COORDINATOR, program).wait() != 0:
        raise ClovenError(f"the images were not sent; the workers' logs are in {experiment.folder}")
    found: dict[str, Any] = json.loads((experiment.folder / OUTCOME).read_text("utf-8"))
    return found


# --- what the tap heard ---------------------------------------------------------------------------------------


def _heard(experiment: Experiment, addresses: dict[str, str]) -> dict[str, Any]:
    """What is in the capture: each direction of the link beside the transfer table; pairs are written."""
    from cloven.runtime.lab.evidence import differing
    from cloven.runtime.tap import flows, pairs

    assert experiment.tap is not None
    survey = flows.survey(experiment.folder / CAPTURE)
    names = {address: party for party, address in addresses.items()}
    rows = [
        {
            "link": [names[end.rpartition(":")[0]] for end in (flow.source, flow.target)],
            "kind": flow.kind,
            "inputs": flow.inputs,
            "payload": flow.payload,
            "table": flow.inputs * experiment.program.sent(_link(flow, names)),
            "bytes": flow.bytes,
        }
        for flow in survey.flows
    ]
    found: dict[str, Any] = {"links": rows, "warnings": survey.warnings}
    source, target = (addresses[party] for party in experiment.tap)
    if not any(flow.frames for flow in survey.flows):
        return found | {"pairs": None}
    captured = pairs.extract(survey, pairs.choose(survey, source, target))
    path = pairs.write(captured, experiment.folder / PAIRS)
    if not captured.protected:
        found["differing"] = differing(experiment.folder / "bundle", captured, experiment.tap, experiment.pixels)
    return found | {"pairs": str(path.parent), "images": len(captured.inputs)}


def _link(flow: Any, names: dict[str, str]) -> Link:
    source, target = (names[end.rpartition(":")[0]] for end in (flow.source, flow.target))
    return source, target


def as_expected(found: Mapping[str, Any]) -> bool:
    """Whether the tap found the bytes of the transfer table, and on a plain link the engine's own numbers."""
    tap = found.get("tap")
    if tap is None:
        return True
    counted = all(row["payload"] == row["table"] for row in tap["links"])
    return counted and not tap.get("differing") and not tap["warnings"]
