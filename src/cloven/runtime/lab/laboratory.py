"""Run a plan on one machine as if on several: a namespace and a worker per device, real links, a tap on one."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.documents import parse_document, read_document
from cloven.errors import ClovenError
from cloven.partition.plan import Plan
from cloven.partition.program import Link, Program
from cloven.partition.protection import COORDINATOR
from cloven.runtime.bundle.reader import read_manifest
from cloven.runtime.bundle.writer import write as write_bundle
from cloven.runtime.lab import host, lab_folder
from cloven.runtime.lab.emulation import Emulation
from cloven.runtime.lab.lab_folder import BUNDLE, CAPTURE, CLUSTER, KEYS, LOGS, OUTCOME, PIXELS, PLAN
from cloven.runtime.lab.memory import MemoryGroup, memory_control, memory_groups
from cloven.runtime.lab.network import Network, network
from cloven.runtime.lab.outcome import EmulatedDevice, LabOutcome, LabResult
from cloven.runtime.lab.sender import SEND, WARM_UP
from cloven.runtime.link import authority
from cloven.runtime.link.ciphers import CIPHERS, warm
from cloven.runtime.tap.live import RecordingSummary

PORT = 7000
"""The port of every worker, in its own namespace."""

SERVICE = 8000
"""The port of the service, in the coordinator's namespace."""

READY = "ready: "
"""The beginning of the line in which a service logs its URL."""

STARTING, STOPPING = 60.0, 10.0
"""Timeouts for the start and the end of a process, in seconds."""


@dataclass(frozen=True, eq=False)
class Experiment(Emulation):
    """An experiment of a laboratory, with what it emulates.

    Attributes:
        plan, program: the division.
        pixels: the images to send, ``(n, C, H, W)``, 0 to 255; the first ``auxiliary`` are the attacker's.
        folder: the folder for all files; an earlier laboratory is replaced.
        tap: the link to listen on, if any.
        window, deadline, batch: as in `cloven.runtime.cluster.coordinator.SendOptions`.
    """

    plan: Plan
    program: Program
    pixels: NDArray[np.uint8]
    auxiliary: int
    folder: Path
    tap: Link | None = None
    window: int = 8
    deadline: float = 60.0
    batch: int = 1


def run(experiment: Experiment) -> LabResult:
    """Run an experiment; return the outcome of sending, the network, and the evidence of the tap.

    Raises:
        ClovenError: if the machine does not meet a requirement, the folder cannot be used, the tapped link carries
            nothing, or a process fails.
    """
    with system(experiment) as net, _tapped(experiment, net) as tap:
        outcome = send(experiment, net)
        links = net.links()
        addresses = {party: net.address(party) for party in net.parties}
    found = None
    if experiment.tap is not None:
        from cloven.runtime.lab import evidence  # requires an extra

        found = evidence.examine(
            experiment.folder,
            experiment.program,
            experiment.tap,
            addresses=addresses,
            images=outcome.summary.images,
            recorded=tap[0],
            protection=experiment.plan.protection.of(*experiment.tap),
            tls=has_tls(experiment.plan),
        )
    emulated = [
        EmulatedDevice(device=name, speed=experiment.speed(name), memory=experiment.memory.get(name))
        for name in experiment.plan.devices
    ]
    return LabResult(
        summary=outcome.summary,
        sent=outcome.sent,
        emulated=tuple(emulated),
        network=links,
        tap=found,
    )


def serve(experiment: Experiment, started: Callable[[str, str], object]) -> None:
    """Serve the divided model over HTTP in the coordinator's namespace until it is interrupted; record the tap.

    Args:
        experiment: the experiment, whose images are not sent.
        started: called with the URL and the command that runs another command in that namespace.

    Raises:
        ClovenError: as in `run`.
    """
    with system(experiment) as net, _tapped(experiment, net):
        folder, log = experiment.folder, experiment.folder / LOGS / "service.log"
        options = ["--listen", f"127.0.0.1:{SERVICE}", "--slots"]
        limits = ["--window", str(experiment.window), "--deadline", str(experiment.deadline)]
        sending = [*limits, "--batch", str(experiment.batch), "--standby", ""]
        command = ["serve", str(folder / PLAN), "--cluster", str(folder / CLUSTER), *options, *sending]
        process = _start(net, COORDINATOR, command, log)
        _until_ready({"the service": (process, log)}, READY)
        url = next(line.partition(READY)[2] for line in _text(log).splitlines() if line.startswith(READY))
        started(url, shlex.join(net.command(COORDINATOR, [])))
        with suppress(KeyboardInterrupt):
            process.wait()
            raise ClovenError(_last_words("the service", "ended", log))
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOPPING)


@contextmanager
def system(experiment: Experiment) -> Iterator[Network]:
    """Yield the network with a running worker in every device's namespace; remove everything afterwards.

    Raises:
        ClovenError: as in `run`.
    """
    parties = [COORDINATOR, *experiment.plan.devices]
    _check(experiment)
    links = {pair: experiment.quality(*pair) for pair in _pairs(experiment, parties)}
    with lab_folder.held(experiment.folder):
        _prepare(experiment)
        with memory_groups(experiment.memory) as groups, network(parties, links) as net:
            _write_cluster(experiment, net)
            with _workers(experiment, net, groups):
                if any(speed < 1 for speed in experiment.speeds.values()):
                    _coordinate(experiment, net, WARM_UP, window=1)
                yield net


# --- requirements ---------------------------------------------------------------------------------------------


def problems(plan: Plan, folder: Path, emulation: Emulation, *, tap: bool) -> list[str]:
    """Return the unmet requirements of a plan, the folder, what is emulated, and a tap if there is one."""
    links = emulation.qualities(plan.devices).values()
    rate, relay = any(link.bandwidth is not None for link in links), any(link.delay or link.loss for link in links)
    ciphers = sorted(_protections(plan) & CIPHERS.keys())
    # Ascon is compiled here once, rather than in all workers at the same time.
    needs: list[Callable[[], object]] = [partial(warm, CIPHERS[name]) for name in ciphers]
    needs.append(partial(host.check, rate, relay))
    needs += [_tap_there] if tap else []
    needs += [memory_control] if emulation.memory else []
    found: list[str] = []
    for need in needs:
        try:
            need()
        except ClovenError as error:
            found += [problem for problem in error.problems if problem not in found]
    found += plan.transform.unsendable(plan.devices) + lab_folder.problems(folder)
    return [*found, *emulation.problems(plan.devices)]


def _tap_there() -> None:
    import cloven.runtime.tap.frames  # noqa: F401 - raises an error that names the missing extra


def _check(experiment: Experiment) -> None:
    found = problems(experiment.plan, experiment.folder, experiment, tap=experiment.tap is not None)
    if experiment.tap is not None and experiment.tap not in experiment.program.links:
        source, target = experiment.tap
        links = ", ".join("-".join(link) for link in experiment.program.links) or "none"
        found.append(f"{source} sends nothing to {target} in this plan; the links that carry data: {links}")
    if found:
        raise ClovenError(found)


# --- files ----------------------------------------------------------------------------------------------------


def _prepare(experiment: Experiment) -> None:
    """Write the files that the processes read: the bundle, keys if links are protected, the plan, the images."""
    folder, plan = experiment.folder, experiment.plan
    try:
        lab_folder.emptied(folder)
        _write(experiment)
    except OSError as error:
        raise ClovenError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    write_bundle(
        experiment.program,
        folder / BUNDLE,
        model=plan.named_model.name,
        plan=plan.toml(),
        protection=plan.protection,
    )
    if _has_keys(plan):
        authority.new(plan.devices, folder / KEYS)


def _write(experiment: Experiment) -> None:
    from safetensors.numpy import save

    folder = experiment.folder
    (folder / PIXELS).write_bytes(save({"image": np.ascontiguousarray(experiment.pixels)}))
    (folder / PLAN).write_text(experiment.plan.toml(), "utf-8")
    (folder / LOGS).mkdir()


def _protections(plan: Plan) -> set[str]:
    parties = [COORDINATOR, *plan.devices]
    return {plan.protection.of(one, other) for one, other in combinations(parties, 2)}


def _has_keys(plan: Plan) -> bool:
    return _protections(plan) != {"none"}


def has_tls(plan: Plan) -> bool:
    """Return whether the laboratory's workers use TLS: if one link requires it, all use it."""
    return "mtls" in _protections(plan)


def _pairs(experiment: Experiment, parties: Sequence[str]) -> list[Link]:
    """Return the pairs that need a link: devices that exchange data, and the coordinator with every device."""
    used = {frozenset(link) for link in experiment.program.links}
    return [(a, b) for a, b in combinations(parties, 2) if a == COORDINATOR or frozenset((a, b)) in used]


def _write_cluster(experiment: Experiment, net: Network) -> None:
    plan = experiment.plan
    keys = [f'keys = "{KEYS}/{COORDINATOR}"'] if _has_keys(plan) else []
    insecure = [] if has_tls(plan) else ["insecure = true"]
    devices = [f'{json.dumps(name)} = "{net.address(name)}:{PORT}"' for name in plan.devices]
    (experiment.folder / CLUSTER).write_text("\n".join([*keys, *insecure, "[devices]", *devices, ""]), "utf-8")


# --- processes ------------------------------------------------------------------------------------------------


@contextmanager
def _workers(experiment: Experiment, net: Network, groups: Mapping[str, MemoryGroup]) -> Iterator[None]:
    """Start a worker in every device's namespace and wait until all are ready; their logs are in the folder."""
    folder, plan = experiment.folder, experiment.plan
    started = {}
    for device in read_manifest(folder / BUNDLE).devices:
        keys = ["--keys", str(folder / KEYS / device.name)] if _has_keys(plan) else []
        insecure = [] if has_tls(plan) else ["--insecure"]
        listen = ["--listen", f"{net.address(device.name)}:{PORT}"]
        speed = ["--speed", repr(experiment.speed(device.name))]
        command = ["worker", str(folder / BUNDLE / device.folder), *listen, *keys, *insecure, *speed]
        log = folder / LOGS / f"{device.folder}.log"
        process = _start(net, device.name, command, log, group=groups.get(device.name))
        started[f"the worker of {device.name}"] = process, log
    _until_ready(started, '"event": "ready"')
    yield
    for process, _ in started.values():
        process.terminate()
    until = time.monotonic() + STOPPING
    for process, _ in started.values():
        with suppress(subprocess.TimeoutExpired):  # it is killed with the network
            process.wait(max(0.0, until - time.monotonic()))


@contextmanager
def _tapped(experiment: Experiment, net: Network) -> Iterator[list[RecordingSummary]]:
    """Record the tapped link at its source's end; at the end, append the counts to the yielded list."""
    recorded: list[RecordingSummary] = []
    if experiment.tap is None:
        yield recorded
        return
    source, target = experiment.tap
    log, out = experiment.folder / LOGS / "tap.log", experiment.folder / CAPTURE
    command = ["tap", "--interface", net.interface(source, target), "--out", str(out), "--json"]
    process, who = _start(net, source, command, log, stdout=subprocess.PIPE), f"the tap on {source}-{target}"
    _until_ready({who: (process, log)}, "listening")
    yield recorded
    process.terminate()
    try:
        said, _ = process.communicate(timeout=STARTING)
        recorded.append(parse_document(RecordingSummary, said, who))
    except (subprocess.TimeoutExpired, ValueError):
        raise ClovenError(_last_words(who, "did not stop cleanly", log)) from None


def _start(
    net: Network,
    party: str,
    command: Sequence[str],
    log: Path,
    *,
    stdout: int = subprocess.DEVNULL,
    group: MemoryGroup | None = None,
) -> subprocess.Popen[Any]:
    # -P: do not import modules from the working folder.
    program = [sys.executable, "-P", "-m", "cloven.cli", *command]
    with log.open("wb") as file:
        argv = program if group is None else group.command(program)
        return net.popen(party, argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=file)


def _until_ready(started: Mapping[str, tuple[subprocess.Popen[Any], Path]], sign: str) -> None:
    """Wait until the logs of all processes contain ``sign``.

    Raises:
        ClovenError: if any process fails to start; it quotes the logs of all that failed.
    """
    until, waiting = time.monotonic() + STARTING, dict(started)
    while waiting and time.monotonic() < until and all(process.poll() is None for process, _ in waiting.values()):
        time.sleep(0.02)
        waiting = {who: (p, log) for who, (p, log) in waiting.items() if sign not in _text(log)}
    time.sleep(0.2 if waiting else 0)  # others often fail for the same reason
    failed = {who: log for who, (p, log) in waiting.items() if p.poll() is not None or time.monotonic() > until}
    if failed:
        problems: list[str] = []
        for who, log in failed.items():
            problems += _last_words(who, "did not start", log)
        raise ClovenError(problems)


def _last_words(who: str, what: str, log: Path) -> list[str]:
    lines = _text(log).strip().splitlines()
    said = [line for line in lines if line.startswith("cloven: ")] or lines[-1:] or ["(nothing)"]
    return [f"{who} {what}; its log ends with: {line.removeprefix('cloven: ')}" for line in said]


def _text(log: Path) -> str:
    return log.read_text("utf-8", "replace")


def send(experiment: Experiment, net: Network) -> LabOutcome:
    """Send the images from the coordinator's namespace, with its messages on our terminal; return the outcome."""
    _coordinate(experiment, net, SEND, experiment.window)
    return read_document(LabOutcome, experiment.folder / OUTCOME)


def _coordinate(experiment: Experiment, net: Network, task: str, window: int) -> None:
    """Run a task of `cloven.runtime.lab.sender` in the coordinator's namespace."""
    numbers = (window, experiment.deadline, experiment.batch, experiment.auxiliary)
    words = [str(experiment.folder), task, *map(str, numbers)]
    program = [sys.executable, "-P", "-m", "cloven.runtime.lab.sender", *words]
    process = net.popen(COORDINATOR, program, stdin=subprocess.DEVNULL)
    try:
        ended = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)  # lets it restore the terminal
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOPPING)
        raise
    if ended != 0:
        raise ClovenError(f"the images were not sent; the workers' logs are in {experiment.folder / LOGS}")
