"""One process that listens, answers, and on SIGTERM or SIGINT finishes what it has begun."""

from __future__ import annotations

import asyncio
import logging
import math
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from cloven.errors import ClovenError
from cloven.runtime.cluster.logs import RateLimit
from cloven.runtime.service.connections import (
    ClientLimits,
    ConnectionTable,
    Entrance,
    HttpConnection,
    OpenConnection,
)

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

USUAL = ClientLimits()
LIMITED = ("uvicorn.error", "asyncio", "cloven.service")
"""The loggers that clients can make speak: one line of a kind a minute."""


class _Server(uvicorn.Server):
    """A server with limits on its connections, which returns when it was told to stop.

    uvicorn's own raises the signal once more, but the caller has connections to close in the same event loop.
    """

    def __init__(self, config: uvicorn.Config, limits: ClientLimits, context: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._limits, self._context = limits, context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; see `Entrance` for what uvicorn's way lacks."""

        def made(places: ConnectionTable, place: OpenConnection, limits: ClientLimits) -> HttpConnection:
            return HttpConnection(
                places, place, limits, config=self.config, server_state=self.server_state, app_state={}
            )

        self.servers = [Entrance(each, made, self._limits, self._context) for each in sockets or ()]  # type: ignore[misc]
        self.started = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
        for each in before:
            loop.add_signal_handler(each, self.handle_exit, each, None)
        try:
            yield
        finally:
            for each, handler in before.items():
                loop.remove_signal_handler(each)
                signal.signal(each, handler)


async def serve(
    service: FastAPI,
    host: str,
    port: int,
    identity: Identity | None = None,
    *,
    started: Callable[[str], None] = lambda _: None,
    limits: ClientLimits = USUAL,
) -> None:
    """Answer requests until SIGTERM or SIGINT; those that have begun by then are answered.

    Args:
        service: what answers, made by `app`.
        host: the address to listen on; see `check_address`, which is not called here.
        port: 0 for any free one.
        identity: for mTLS: only clients with a certificate of the same authority are answered.
        started: called with the service's URL when it listens.
        limits: what clients may take; requests that have begun get ``limits.request`` seconds at the end, and a
            second SIGINT ends them at once.

    Raises:
        ClovenError: if it cannot listen there, the certificates cannot be used, or this process may not open
            as many files as there may be connections.
    """
    _check_files(limits)
    config = uvicorn.Config(
        service,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(limits.request),
    )
    config.load()
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every form that is none
    context = identity.server_context() if identity else None
    listener = _listening(host, port)
    try:
        place = f"[{host}]" if ":" in host else host
        started(f"{'https' if identity else 'http'}://{place}:{listener.getsockname()[1]}")
        with _limited_logs():
            await _Server(config, limits, context).serve([listener])
    finally:
        listener.close()


def _check_files(limits: ClientLimits) -> None:
    """Refuse more connections than half of the files that this process may open: the rest is for the workers."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and limits.connections > files // 2:
        raise ClovenError(
            f"connections is {limits.connections}, but this process may open only {files} files; give at most "
            f"{files // 2}, or raise the limit (ulimit -n)"
        )


@contextmanager
def _limited_logs() -> Iterator[None]:
    limit, loggers = RateLimit(1, in_text=True), [logging.getLogger(name) for name in LIMITED]
    for logger in loggers:
        logger.addFilter(limit)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(limit)


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ClovenError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; give another address of this "
            "machine, or another port (0 is any free one)"
        ) from error
