"""Run the service: listen, answer requests, and on SIGTERM or SIGINT finish those that have begun."""

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
"""The loggers that clients can trigger, limited to one line of a kind per minute."""


class _Server(uvicorn.Server):
    """A server with limits on its connections, which returns after a signal to stop.

    uvicorn's own server raises the signal again, but the caller must still close connections in the event loop.
    """

    def __init__(self, config: uvicorn.Config, limits: ClientLimits, context: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._limits, self._context = limits, context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen with `Entrance`, whose docstring says why uvicorn's method is not used."""

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
    """Answer requests until SIGTERM or SIGINT, then finish those that have begun.

    Args:
        service: the web application, returned by `app`.
        host: the address to listen on; the caller must have checked it with `check_address`.
        port: the port; 0 for any free one.
        identity: the keys for mTLS: only clients with a certificate of the same authority are served.
        started: called with the service's URL when it listens.
        limits: the limits for clients; requests that have begun get ``limits.request`` seconds at the end, and a
            second SIGINT aborts them.

    Raises:
        ClovenError: if it cannot listen on the address, the certificates cannot be used, or this process may not
            open enough files for the connections.
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
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it logs a warning for every malformed form
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
    """Refuse a limit above half of the files that this process may open; it needs the rest for the workers."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and limits.connections > files // 2:
        raise ClovenError(
            f"connections must be at most {files // 2}, half of the files that this process may open, got "
            f"{limits.connections}: reduce it, or raise the limit (ulimit -n)"
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
