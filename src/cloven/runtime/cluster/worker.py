"""The worker: it loads its part of a bundle, or all parts, and serves one coordinator at a time."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from cloven.errors import ClovenError
from cloven.files import read_bytes
from cloven.process_memory import returning_freed
from cloven.runtime.cluster.channels import options
from cloven.runtime.cluster.loaded_part import LoadedBundle, LoadedPart
from cloven.runtime.cluster.loaded_tasks import LoadedTasks
from cloven.runtime.cluster.servicer import WorkerServicer
from cloven.runtime.cluster.slowdown import slowed
from cloven.runtime.cluster.upgrade_folder import ACTIVE, UpgradeFolder
from cloven.runtime.cluster.worker_upgrades import LARGEST_MESSAGE, WorkerUpgrades
from cloven.runtime.link.ciphers import warm

if TYPE_CHECKING:
    from cloven.runtime.bundle.engine import Array
    from cloven.runtime.bundle.reader import Bundle
    from cloven.runtime.bundle.schedule import Job
    from cloven.runtime.link.identity import Identity

log = logging.getLogger("cloven.worker")


def load(folder: Path, identity: Identity | None, speed: float = 1.0) -> LoadedBundle:
    """Load parts of a bundle: check the hashes, load the models, prepare the ciphers.

    Args:
        folder: a device's folder in the bundle, to load its part; or the bundle's folder, to load all parts.
        identity: the worker's keys; None if no link needs them.
        speed: emulate a device that computes this share of what the machine does; see `slowed`.

    Raises:
        ClovenError: if the folder is not a complete bundle or a device's folder in one, the keys are of another
            device than the folder, a link needs keys and none are given, or a package is missing.
    """
    from cloven.runtime.bundle.format import MANIFEST
    from cloven.runtime.bundle.reader import read, read_device

    problems = []
    if (folder / MANIFEST).is_file():
        bundle = read(folder)
    else:
        bundle, own = read_device(folder)
        if identity is not None and identity.name != own.device:
            problems.append(
                f"the keys are of {identity.name}; expected those of {own.device}, the device of the bundle folder"
            )
    plan = hashlib.sha256(read_bytes(bundle.folder / MANIFEST)).hexdigest()
    parts = {device: _loaded(bundle, device, plan, speed) for device in bundle.parts}
    for part in parts.values():
        problems += [found for found in _problems(part, identity, len(parts) == 1) if found not in problems]
    if problems:
        raise ClovenError(problems)
    whole = len(parts) == len(bundle.manifest.devices)
    return LoadedBundle(plan, bundle.manifest, parts, _tasks(bundle, parts) if whole else None)


def _tasks(bundle: Bundle, parts: Mapping[str, LoadedPart]) -> LoadedTasks | None:
    """Return the tasks of a whole bundle; if it has none that any worker can compute, log why."""
    from cloven.runtime.bundle.task_graph import task_graph

    try:
        return LoadedTasks(task_graph(bundle.parts), parts)
    except ClovenError as error:
        log.warning("this bundle cannot be used with --steal: %s", error)
        return None


def _loaded(bundle: Bundle, device: str, plan: str, speed: float) -> LoadedPart:
    """Return the part of a device with its models, ready to compute."""
    from cloven.runtime.bundle.engine import outputs, session
    from cloven.runtime.bundle.format import RunSegment
    from cloven.runtime.bundle.schedule import schedule

    part, folder = bundle.parts[device], bundle.place(device)
    segments = [step.segment for step in part.steps if isinstance(step, RunSegment)]
    with returning_freed():
        sessions = {segment: session(folder / segment) for segment in segments}

    def engine(job: Job, inputs: dict[str, Array]) -> Mapping[str, Array]:
        return outputs(sessions[job.segment], [name for name, _ in job.outputs], inputs)

    return LoadedPart(device, plan, bundle.manifest, schedule(part), slowed(engine, speed))


def _problems(part: LoadedPart, identity: Identity | None, alone: bool) -> list[str]:
    """Return why the links cannot be protected as the plan requires; compile the ciphers that need it.

    A worker that has several parts looks for its keys when it joins a run, which names the other workers.
    """
    found = []
    for link in part.links("", identity).values():
        try:
            if link.cipher is not None:
                if identity is None or alone:
                    link.key()
                warm(link.cipher)
            elif link.protection == "mtls" and identity is None:
                found.append(f"the link {link.dialer}-{link.other} is protected with mtls, which requires --keys")
        except ClovenError as error:
            found += [problem for problem in error.problems if problem not in found]
    return found


@dataclass(frozen=True)
class Addresses:
    """The address on which a worker listens, and that of its metrics, if any."""

    listen: tuple[str, int]
    metrics: tuple[str, int] | None = None


def mtls_problems(bundle: LoadedBundle, identity: Identity | None, *, tls: bool) -> list[str]:
    """Return why the links of a bundle that are protected with mTLS are not, if ``tls`` is false."""
    links = [link for part in bundle.parts.values() for link in part.links("", identity).values()]
    names = dict.fromkeys(f"{link.dialer}-{link.other}" for link in links if link.protection == "mtls")
    if not names or tls:
        return []
    return [f"the plan protects {', '.join(names)} with mtls, which --insecure turns off: remove --insecure"]


def load_upgraded(
    given: Sequence[Path], folder: UpgradeFolder, identity: Identity | None, speed: float, *, tls: bool
) -> tuple[LoadedBundle, WorkerUpgrades]:
    """Load the bundle of the last upgrade, or the first of these if there was none; return it and the upgrades.

    Args:
        given: the folders with which the worker is started, as `load` takes them.
        folder: the folder of upgrades.
        identity: the worker's keys, if any.
        speed: as `load`.
        tls: whether the worker uses mutual TLS.

    Raises:
        ClovenError: as `load`, also if the current bundle is missing or damaged.
    """
    from cloven.runtime.bundle.format import MANIFEST
    from cloven.runtime.bundle.reader import read_device, read_manifest

    def home(path: Path) -> Path:
        return path if (path / MANIFEST).is_file() else Path(os.path.realpath(path)).parent

    device = None if (given[0] / MANIFEST).is_file() else read_device(given[0])[1].device
    ours = {hashlib.sha256(read_bytes(home(path) / MANIFEST)).hexdigest(): path for path in given}
    own = next(iter(ours))

    def place(plan: str) -> Path:
        received = folder.place(plan)
        if not received.exists():
            return ours.get(plan, received)
        if device is None:
            return received
        folders = [found.folder for found in read_manifest(received).devices if found.name == device]
        return received / (folders[0] if folders else device)

    def received(path: Path) -> LoadedBundle:
        found = load(place(path.name), identity, speed)
        problems = mtls_problems(found, identity, tls=tls)
        if found.largest > LARGEST_MESSAGE:
            problems.append(
                f"the largest message of the bundle has {found.largest} bytes; a running worker accepts at most "
                f"{LARGEST_MESSAGE}: restart it with this bundle"
            )
        if problems:
            raise ClovenError(problems)
        return found

    active = folder.active
    current = active.current if active is not None else own
    before = active.previous if active is not None else None
    try:
        bundle = load(place(current), identity, speed)
    except ClovenError as error:
        if current == own:
            raise
        raise ClovenError(
            [*error.problems, f"to start with {given[0]} instead, remove {folder.path / ACTIVE}"]
        ) from error
    previous = None
    if before is not None:
        try:
            previous = load(place(before), identity, speed)
        except ClovenError as error:
            log.warning("the previous bundle cannot be used: %s", error)
    if current != own:
        log.info("using the bundle of the last upgrade", extra={"plan": current[:12], "given": own[:12]})
    folder.remove_except([plan for plan in (current, before) if plan is not None])
    return bundle, WorkerUpgrades(folder, device, received, previous)


async def serve(
    name: str,
    bundles: Sequence[LoadedBundle],
    identity: Identity | None,
    addresses: Addresses,
    upgrades: WorkerUpgrades | None = None,
    *,
    tls: bool,
) -> None:
    """Run a worker until SIGTERM or SIGINT; with ``tls``, serve only parties with a certificate.

    Args:
        name: the worker's own name.
        bundles: the parts that it has loaded; the first bundle is the current one.
        identity: its keys, if any.
        addresses: where it listens.
        upgrades: its upgrades, if it accepts any.
        tls: whether it uses mutual TLS.

    Raises:
        ClovenError: if it cannot listen on the address, or a link requires mTLS and ``tls`` is false.
    """
    problems = [problem for bundle in bundles for problem in mtls_problems(bundle, identity, tls=tls)]
    if problems:
        raise ClovenError(list(dict.fromkeys(problems)))
    worker = WorkerServicer(name, bundles, identity, upgrades, tls=tls)
    largest = max(bundle.largest for bundle in bundles)
    server = grpc.aio.server(options=options(max(largest, LARGEST_MESSAGE if upgrades else 0)))
    server.add_generic_rpc_handlers([worker.handlers()])
    port = _bind(server, *addresses.listen, worker.tls)
    ready = {"device": name, "listen": _address(addresses.listen[0], port)}
    if addresses.metrics is not None:
        from cloven.runtime.cluster.metrics import serve_metrics

        metrics = await serve_metrics(worker, *addresses.metrics, worker.tls)
        ready["metrics"] = _address(addresses.metrics[0], metrics.sockets[0].getsockname()[1])
    await server.start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stopping.set)
    log.info("ready", extra={**ready, "plan": bundles[0].plan[:12], "mtls": worker.tls is not None})
    await worker.stopping.wait()
    await server.stop(grace=1)
    await asyncio.gather(*worker.leaving)
    log.info("stopped", extra={"device": name})


def _bind(server: grpc.aio.Server, host: str, port: int, identity: Identity | None) -> int:
    address = _address(host, port)
    try:
        if identity is not None:
            return server.add_secure_port(address, identity.server_credentials())
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise ClovenError(
            f"cannot listen on {address}: check that this machine has the address and the port is free ({error})"
        ) from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
