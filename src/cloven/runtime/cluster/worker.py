"""A device's worker: loads its part of a bundle, listens, and works for one coordinator at a time."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio

from cloven.errors import ClovenError
from cloven.files import read_bytes
from cloven.runtime.cluster.answering import Worker
from cloven.runtime.cluster.channels import options
from cloven.runtime.cluster.held import Held
from cloven.runtime.link.ciphers import warm

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

log = logging.getLogger("cloven.worker")


def load(folder: Path, identity: Identity | None) -> Held:
    """A device's part, from its folder in a bundle: hashes checked, models loaded, ciphers ready.

    Raises:
        ClovenError: for a folder that is no device's of a whole bundle, keys of another device, links that need
            keys where none are given, and missing packages.
    """
    from cloven.runtime.bundle.engine import outputs, session
    from cloven.runtime.bundle.format import MANIFEST, RunSegment
    from cloven.runtime.bundle.reader import read, read_manifest
    from cloven.runtime.bundle.schedule import schedule

    here = Path(os.path.realpath(folder))
    top = here.parent
    manifest = read_manifest(top)
    device = next((d.name for d in manifest.devices if d.folder == here.name), None)
    if device is None:
        known = ", ".join(str(folder.parent / d.folder) for d in manifest.devices)
        raise ClovenError(f"{folder} is not a device's folder of the bundle; expected one of {known}")
    part = read(top, device).parts[device]
    sessions = {step.segment: session(folder / step.segment) for step in part.steps if isinstance(step, RunSegment)}
    plan = hashlib.sha256(read_bytes(top / MANIFEST)).hexdigest()
    held = Held(
        device, plan, manifest, schedule(part),
        lambda job, inputs: outputs(sessions[job.segment], [name for name, _ in job.outputs], inputs),
    )  # fmt: skip
    problems = list(_problems(held, identity))
    if problems:
        raise ClovenError(problems)
    return held


def _problems(held: Held, identity: Identity | None) -> list[str]:
    """What keeps the links from being protected as the plan says; ciphers that compile do it here."""
    found = []
    if identity is not None and identity.name != held.device:
        found.append(f"the keys are {identity.name}'s; the bundle's folder is {held.device}'s")
    for party in sorted(held.schedule.parties):
        line = held.line("", party, identity)
        try:
            if line.cipher is not None:
                line.key()
                warm(line.cipher)
            elif line.protection == "mtls" and identity is None:
                found.append(f"{line.dialer}-{line.other} is protected with mtls, which needs --keys")
        except ClovenError as error:
            found += [problem for problem in error.problems if problem not in found]
    return found


@dataclass(frozen=True)
class Addresses:
    """Where a worker listens, and where it shows its metrics, if anywhere."""

    listen: tuple[str, int]
    metrics: tuple[str, int] | None = None


async def serve(held: Held, identity: Identity | None, addresses: Addresses, *, tls: bool) -> None:
    """Run a worker until SIGTERM or SIGINT; with ``tls`` only parties with a certificate get an answer.

    Raises:
        ClovenError: where it cannot listen there, or a link needs mTLS that is turned off.
    """
    if not tls:
        _must_not_need_tls(held, identity)
    worker = Worker(held, identity, tls=tls)
    server = grpc.aio.server(options=options(held.schedule.largest))
    server.add_generic_rpc_handlers([worker.handlers()])
    port = _bind(server, *addresses.listen, worker.tls)
    ready: dict[str, Any] = {"device": held.device, "listen": _address(addresses.listen[0], port)}
    if addresses.metrics is not None:
        from cloven.runtime.cluster.metrics import serve_metrics

        metrics = await serve_metrics(worker, *addresses.metrics, worker.tls)
        ready["metrics"] = _address(addresses.metrics[0], metrics.sockets[0].getsockname()[1])
    await server.start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stopping.set)
    log.info("ready", extra={**ready, "plan": held.plan[:12], "mtls": worker.tls is not None})
    await worker.stopping.wait()
    await server.stop(grace=1)
    await asyncio.gather(*worker.leaving)
    log.info("stopped", extra={"device": held.device})


def _must_not_need_tls(held: Held, identity: Identity | None) -> None:
    lines = [held.line("", party, identity) for party in sorted(held.schedule.parties)]
    names = [f"{line.dialer}-{line.other}" for line in lines if line.protection == "mtls"]
    if names:
        raise ClovenError(
            f"the plan protects {', '.join(names)} with mtls, which --insecure turns off: leave that option out"
        )


def _bind(server: grpc.aio.Server, host: str, port: int, identity: Identity | None) -> int:
    address = _address(host, port)
    try:
        if identity is not None:
            return server.add_secure_port(address, identity.server_credentials())
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise ClovenError(f"cannot listen on {address}: is it this machine's, and free? ({error})") from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
