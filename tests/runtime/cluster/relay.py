"""A man in the middle of gRPC connections, which takes a worker's address in the cluster file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

Change = Callable[[int, bytes], list[bytes]]
"""What to pass on in place of the n-th message (the hello is the 0th)."""


class Relay:
    """Forwards calls to ``target``, and changes the dialer's messages on links with ``change``."""

    def __init__(self, target: str, change: Change) -> None:
        self.target, self.change = target, change
        self.server = grpc.aio.server()
        relay = self

        class Handlers(grpc.GenericRpcHandler):
            def service(self, call: grpc.HandlerCallDetails) -> Any:
                async def answer(_: Any, context: Any) -> None:
                    await relay.passed(str(call.method), context)

                return grpc.stream_stream_rpc_method_handler(answer)

        self.server.add_generic_rpc_handlers([Handlers()])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    async def __aenter__(self) -> Relay:
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop(0)

    async def passed(self, method: str, context: Any) -> None:
        async with grpc.aio.insecure_channel(self.target) as to:
            call: Any = to.stream_stream(method)()
            tasks = {
                asyncio.create_task(self._forth(context, call)),
                asyncio.create_task(self._back(call, context)),
            }
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _forth(self, source: Any, target: Any) -> None:
        number = 0
        with suppress(grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
            while (message := await source.read()) is not grpc.aio.EOF:
                for one in self.change(number, message):
                    await target.write(one)
                number += 1

    async def _back(self, source: Any, target: Any) -> None:
        with suppress(grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
            while (message := await source.read()) is not grpc.aio.EOF:
                await target.write(message)
