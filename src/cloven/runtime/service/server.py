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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from cloven.errors import ClovenError
from cloven.runtime.service.connections import Connection, Entrance, Limits, Place, Places

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

USUAL = Limits()
SPARED, EVERY = ("uvicorn.error", "asyncio", "cloven.service"), 60.0
"""The loggers that clients can make speak, and how many seconds lie between two of their lines of one kind."""


class _Server(uvicorn.Server):
    """A server with limits on its connections, which returns when it was told to stop.

    uvicorn's own raises the signal once more, but the caller has connections to close in the same event loop.
    """

    def __init__(self, config: uvicorn.Config, limits: Limits, context: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._limits, self._context = limits, context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; see `Entrance` for what uvicorn's way lacks."""

        def made(places: Places, place: Place, limits: Limits) -> Connection:
            return Connection(
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
    limits: Limits = USUAL,
) -> None:
    """Answer requests until SIGTERM or SIGINT; those that have begun by then are answered.

    Args:
        service: what answers, made by `app`.
        host: where to listen; see `check_address`, which is not called here.
        port: 0 for any free one.
        identity: for mTLS: only clients with a certificate of the same authority are answered.
        started: called with the service's URL when it listens.
        limits: what clients may take; requests that have begun get ``limits.request`` seconds at the end, and a
            second SIGINT ends them at once.

    Raises:
        ClovenError: where it cannot listen there, the certificates cannot be used, or this process may not open
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
        with _sparing():
            await _Server(config, limits, context).serve([listener])
    finally:
        listener.close()


def _check_files(limits: Limits) -> None:
    """Refuse more connections than half of the files that this process may open: the rest is for the workers."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and limits.connections > files // 2:
        raise ClovenError(
            f"connections is {limits.connections}, but this process may open only {files} files; give at most "
            f"{files // 2}, or raise the limit (ulimit -n)"
        )


class _Sparing(logging.Filter):
    """Lets one line of a kind through in a while: clients must not be able to fill a disk with a log."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record; a line's kind is the place in the code that logs it."""
        kind, now = (record.pathname, record.lineno), time.monotonic()
        until, held = self._said.get(kind, (0.0, 0))
        if now < until:
            self._said[kind] = until, held + 1
            return False
        self._said[kind] = now + EVERY, 0
        if held:
            record.msg = f"{record.msg} (and {held} more like this since)"
        return True


@contextmanager
def _sparing() -> Iterator[None]:
    sparing, loggers = _Sparing(), [logging.getLogger(name) for name in SPARED]
    for logger in loggers:
        logger.addFilter(sparing)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(sparing)


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ClovenError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; give another address of this "
            "machine, or another port (0 is any free one)"
        ) from error
