"""The metrics of a worker for Prometheus, read from its counters at each request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from cloven.errors import ClovenError
from cloven.runtime.cluster.servicer import WorkerServicer

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

PATIENCE = 10.0
"""The timeout of a request in seconds."""


class WorkerMetrics(Collector):
    """The counters of a worker."""

    def __init__(self, worker: WorkerServicer) -> None:
        self.worker = worker

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics with their current values."""
        worker, part = self.worker, self.worker.part()
        sessions = worker.sessions.values()
        about = {"device": part.device, "plan": part.plan, "model": part.manifest.model}
        yield InfoMetricFamily("cloven_worker", "The part that the worker has loaded", value=about)
        yield GaugeMetricFamily("cloven_joined", "Whether a coordinator uses the worker", value=bool(sessions))
        yield GaugeMetricFamily("cloven_in_flight", "Images in flight", value=sum(len(s.tasks) for s in sessions))
        up = GaugeMetricFamily("cloven_link_up", "Whether the link with a party is up", labels=["party"])
        links = [(party, link) for session in sessions for party, link in session.connections.items()]
        for party in sorted(part.schedule.parties | {party for party, _ in links}):
            up.add_metric([party], any(link.up for name, link in links if name == party))
        yield up
        yield CounterMetricFamily("cloven_runs", "Runs that the worker took part in", value=worker.runs)
        counts = worker.counts()
        yield _counters("cloven_images", "Images by outcome", ("outcome",), counts, "image")
        yield _counters("cloven_compute_seconds", "Seconds of computing", (), counts, "seconds")
        yield _counters("cloven_link_losses", "Number of times that a link was lost", ("party",), counts, "losses")
        ways = ("party", "direction")
        yield _counters("cloven_frames", "Frames that crossed a link", ways, counts, "frames")
        yield _counters("cloven_payload_bytes", "Bytes of tensors that crossed a link", ways, counts, "bytes")
        refusals = ("party", "reason")
        yield _counters("cloven_refused", "Frames and handshakes that were refused", refusals, counts, "refused")


def _counters(
    name: str, text: str, labels: tuple[str, ...], counts: Counter[tuple[str, ...]], kind: str
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for (what, *values), number in sorted(counts.items()):
        if what == kind:
            family.add_metric(values, number)
    return family


async def serve_metrics(worker: WorkerServicer, host: str, port: int, identity: Identity | None) -> asyncio.Server:
    """Serve the metrics on an address, over mutual TLS if there is an identity.

    The server runs in the worker's event loop, so the counters do not change during a request. A client that sends
    nothing, or fails the TLS handshake, does not block others.

    Raises:
        ClovenError: if it cannot listen on the address.
    """
    registry = CollectorRegistry()
    registry.register(WorkerMetrics(worker))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(PATIENCE):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(request, registry))
                await writer.drain()
        writer.close()

    context = identity.server_context() if identity is not None else None
    try:
        return await asyncio.start_server(answer, host, port, ssl=context)
    except OSError as error:
        raise ClovenError(f"cannot serve metrics on {host}:{port}: {error.strerror or error}") from error


def _response(request: bytes, registry: CollectorRegistry) -> bytes:
    """Return the HTTP response to a request."""
    wanted = request.split(b"\r\n", 1)[0].split(b" ")[:2] == [b"GET", b"/metrics"]
    body = generate_latest(registry) if wanted else b"GET /metrics\n"
    head = f"HTTP/1.1 {'200 OK' if wanted else '404 Not Found'}\r\nContent-Type: {CONTENT_TYPE_PLAIN_0_0_4}\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
