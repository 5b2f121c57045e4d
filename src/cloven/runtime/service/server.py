"""One process that listens, answers, and on SIGTERM or SIGINT finishes what it has begun."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from cloven.errors import ClovenError
from cloven.runtime.service.api import DEADLINE

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

GRACE = int(DEADLINE) + 5
"""Seconds that begun requests get at the end: longer than a request may take."""


class _Server(uvicorn.Server):
    """A server that returns when it was told to stop, instead of raising the signal once more.

    Its caller has connections of his own to close, in the same event loop.
    """

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
    grace: int = GRACE,
) -> None:
    """Answer requests until SIGTERM or SIGINT; those that have begun by then are answered.

    Args:
        service: what answers, made by `app`.
        host: where to listen; see `check_address`, which is not called here.
        port: 0 for any free one.
        identity: for mTLS: only clients with a certificate of the same authority are answered.
        started: called with the service's URL when it listens.
        grace: seconds for requests that have begun; a second SIGINT ends them at once.

    Raises:
        ClovenError: where it cannot listen there, or the certificates cannot be used.
    """
    config = uvicorn.Config(
        service,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=grace,
        ssl_context_factory=(lambda *_: identity.server_context()) if identity else None,
    )
    config.load()
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every form that is none
    listener = _listening(host, port)
    try:
        place = f"[{host}]" if ":" in host else host
        started(f"{'https' if identity else 'http'}://{place}:{listener.getsockname()[1]}")
        await _Server(config).serve([listener])
    finally:
        listener.close()


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ClovenError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; give another address of this "
            "machine, or another port (0 is any free one)"
        ) from error
