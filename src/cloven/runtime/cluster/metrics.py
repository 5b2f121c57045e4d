"""What a worker counts, as Prometheus reads it: read off the worker whenever somebody asks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from cloven.errors import ClovenError
from cloven.runtime.cluster.worker import Worker
from cloven.runtime.link.certificates import AUTHORITY, CERTIFICATE, PRIVATE

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

PATIENCE = 10.0
"""Seconds for the worker to say its counts."""


class Counts(Collector):
    """The counters of a worker, which lives in an event loop; Prometheus is answered by another thread."""

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self.worker, self.loop = worker, loop

    def collect(self) -> list[Metric]:
        """All metrics, as they are now."""

        async def now() -> list[Metric]:
            return list(self._metrics())

        return asyncio.run_coroutine_threadsafe(now(), self.loop).result(PATIENCE)

    def _metrics(self) -> Iterator[Metric]:
        worker, joined = self.worker, self.worker.joined
        held = {"device": worker.held.device, "plan": worker.held.plan, "model": worker.held.manifest.model}
        yield InfoMetricFamily("cloven_worker", "What the worker holds", value=held)
        yield GaugeMetricFamily("cloven_joined", "Whether a coordinator uses the worker", value=joined is not None)
        yield GaugeMetricFamily("cloven_in_flight", "Images in flight", value=len(joined.works) if joined else 0)
        up = GaugeMetricFamily("cloven_link_up", "Whether the link with a party is up", labels=["party"])
        for party in sorted(worker.held.schedule.parties):
            up.add_metric([party], bool(joined and joined.peers[party].up))
        yield up
        yield CounterMetricFamily("cloven_runs", "Runs that the worker took part in", value=worker.runs)
        counts = worker.counts()
        yield _counters("cloven_images", "Images by outcome", ("outcome",), counts, "image")
        yield _counters("cloven_compute_seconds", "Seconds of computing", (), counts, "seconds")
        links = ("party", "direction")
        yield _counters("cloven_frames", "Frames that crossed a link", links, counts, "frames")
        yield _counters("cloven_payload_bytes", "Bytes of tensors that crossed a link", links, counts, "bytes")
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


def serve_metrics(worker: Worker, host: str, port: int, identity: Identity | None) -> int:
    """Answer Prometheus on an address, over mutual TLS where the worker itself does; returns the port.

    Raises:
        ClovenError: where it cannot listen there.
    """
    registry = CollectorRegistry()
    registry.register(Counts(worker, asyncio.get_running_loop()))
    folder = identity.folder if identity is not None else None
    try:
        server, _ = start_http_server(
            port, host, registry,
            certfile=str(folder / CERTIFICATE) if folder else None,
            keyfile=str(folder / PRIVATE) if folder else None,
            client_cafile=str(folder / AUTHORITY) if folder else None,
            client_auth_required=folder is not None,
        )  # fmt: skip
    except OSError as error:
        raise ClovenError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from error
    return int(server.server_port)
