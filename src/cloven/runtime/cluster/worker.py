"""The worker of a device: it loads the device's part of a bundle, and serves one coordinator at a time."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from cloven.errors import ClovenError
from cloven.files import read_bytes
from cloven.process_memory import returning_freed
from cloven.runtime.cluster.channels import options
from cloven.runtime.cluster.loaded_part import LoadedPart
from cloven.runtime.cluster.servicer import WorkerServicer
from cloven.runtime.cluster.slowdown import slowed
from cloven.runtime.link.ciphers import warm

if TYPE_CHECKING:
    from cloven.runtime.bundle.engine import Array
    from cloven.runtime.bundle.schedule import Job
    from cloven.runtime.link.identity import Identity

log = logging.getLogger("cloven.worker")


def load(folder: Path, identity: Identity | None, speed: float = 1.0) -> LoadedPart:
    """Load a device's part from its folder in a bundle: check the hashes, load the models, prepare the ciphers.

    Args:
        folder: the device's folder.
        identity: the device's keys; None if no link needs them.
        speed: emulate a device that computes this share of what the machine does; see `slowed`.

    Raises:
        ClovenError: if the folder is not a device's folder in a complete bundle, the keys are of another device, a
            link needs keys and none are given, or a package is missing.
    """
    from cloven.runtime.bundle.engine import outputs, session
    from cloven.runtime.bundle.format import MANIFEST, RunSegment
    from cloven.runtime.bundle.reader import read_device
    from cloven.runtime.bundle.schedule import schedule

    bundle, part = read_device(folder)
    segments = [step.segment for step in part.steps if isinstance(step, RunSegment)]
    with returning_freed():
        sessions = {segment: session(folder / segment) for segment in segments}
    plan = hashlib.sha256(read_bytes(bundle.folder / MANIFEST)).hexdigest()

    def engine(job: Job, inputs: dict[str, Array]) -> Mapping[str, Array]:
        return outputs(sessions[job.segment], [name for name, _ in job.outputs], inputs)

    loaded = LoadedPart(part.device, plan, bundle.manifest, schedule(part), slowed(engine, speed))
    if problems := _problems(loaded, identity):
        raise ClovenError(problems)
    return loaded


def _problems(part: LoadedPart, identity: Identity | None) -> list[str]:
    """Return why the links cannot be protected as the plan requires; compile the ciphers that need it."""
    found = []
    if identity is not None and identity.name != part.device:
        found.append(
            f"the keys are of {identity.name}; expected those of {part.device}, the device of the bundle folder"
        )
    for party in sorted(part.schedule.parties):
        link = part.link("", party, identity)
        try:
            if link.cipher is not None:
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


async def serve(part: LoadedPart, identity: Identity | None, addresses: Addresses, *, tls: bool) -> None:
    """Run a worker until SIGTERM or SIGINT; with ``tls``, serve only parties with a certificate.

    Raises:
        ClovenError: if it cannot listen on the address, or a link requires mTLS and ``tls`` is false.
    """
    links = [part.link("", party, identity) for party in sorted(part.schedule.parties)]
    names = [f"{link.dialer}-{link.other}" for link in links if link.protection == "mtls"]
    if names and not tls:
        raise ClovenError(
            f"the plan protects {', '.join(names)} with mtls, which --insecure turns off: remove --insecure"
        )
    worker = WorkerServicer(part, identity, tls=tls)
    server = grpc.aio.server(options=options(part.schedule.largest))
    server.add_generic_rpc_handlers([worker.handlers()])
    port = _bind(server, *addresses.listen, worker.tls)
    ready = {"device": part.device, "listen": _address(addresses.listen[0], port)}
    if addresses.metrics is not None:
        from cloven.runtime.cluster.metrics import serve_metrics

        metrics = await serve_metrics(worker, *addresses.metrics, worker.tls)
        ready["metrics"] = _address(addresses.metrics[0], metrics.sockets[0].getsockname()[1])
    await server.start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stopping.set)
    log.info("ready", extra={**ready, "plan": part.plan[:12], "mtls": worker.tls is not None})
    await worker.stopping.wait()
    await server.stop(grace=1)
    await asyncio.gather(*worker.leaving)
    log.info("stopped", extra={"device": part.device})


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
