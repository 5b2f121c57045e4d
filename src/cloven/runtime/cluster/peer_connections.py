"""The links of one party: to each other party a queue, and a stream that is dialled again whenever it is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import grpc.aio

from cloven.errors import ClovenError
from cloven.runtime.cluster import frame_stream
from cloven.runtime.cluster.channels import CLOSED, LINK, MessageStream, channel
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.events import Emit, FrameReceived, LinkChanged
from cloven.runtime.cluster.frame_stream import FrameStream, LinkSpec
from cloven.runtime.cluster.halfopen import HalfOpen
from cloven.runtime.cluster.protocol import Hello
from cloven.runtime.link.errors import FrameRefused, HandshakeRepeated, LinkError, SessionExhausted
from cloven.runtime.link.handshake import FirstMessages

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity
    from cloven.runtime.link.octets import Data

QUEUE = 8
"""The most messages that wait to be sent to one party; senders of more wait."""

SOONEST, LATEST = 0.05, 1.0
"""Seconds between two attempts to dial."""

LEAVING = 10.0
"""Seconds that a stream has for what is under way once it has a successor, also between busy machines."""

WRITTEN = 0.5
"""Seconds that a message has that is being written when its run ends."""


class PeerConnection:
    """The link with one other party.

    Emits `FrameReceived` and `LinkChanged`.

    Attributes:
        up: whether a stream carries frames now.
        reason: why not.
        final: whether dialling again is of no use, by all that is known.
        losses: how often a stream was lost that had no successor.
        refused: the number of refused frames, by reason.
        sent, received: the number of frames and of payload bytes.
        clock: the seconds spent on sealing and opening frames.
    """

    def __init__(
        self, link: LinkSpec, name: str, emit: Emit, is_stale: Callable[[int], bool], aside: Executor
    ) -> None:
        """Begin to send what `send` is given.

        Args:
            link: its two ends, and how it is protected.
            name: the other party.
            emit: takes the events.
            is_stale: whether nobody waits for an image any more; its frames are not sent.
            aside: seals and opens large frames.
        """
        self.link, self.name, self.aside = link, name, aside
        self._emit, self._is_stale = emit, is_stale
        self.up, self.reason, self.final = False, "not connected yet", False
        self.losses = 0
        self.refused: Counter[str] = Counter()
        self.sent, self.received, self.clock = Counter[str](), Counter[str](), Counter[str]()
        self.queue: asyncio.Queue[tuple[int, int, Sequence[Data]]] = asyncio.Queue(QUEUE)
        self.available = asyncio.Event()
        self.stream: FrameStream | None = None
        self.unproved = HalfOpen(1, frame_stream.HANDSHAKE)
        self.closed = False
        self.tasks: set[asyncio.Task[None]] = set()
        self._begin(self._send_all())

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def send(self, number: int, ordinal: int, pieces: Sequence[Data]) -> None:
        """Put a frame in the queue; wait while that is full."""
        await self.queue.put((number, ordinal, pieces))

    async def close(self) -> None:
        """End all tasks of this link."""
        self.closed = True
        tasks = list(self.tasks)
        # A handler that ends while it is writing never tells the other side that it has ended.
        with suppress(TimeoutError):
            async with asyncio.timeout(WRITTEN), self.stream.lock if self.stream else nullcontext():
                pass
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- streams ----------------------------------------------------------------------------------------------

    def dial(self, address: str, identity: Identity | None) -> None:
        """Keep a stream to the party open from now on."""
        self._begin(self._dial(address, identity))

    async def _dial(self, address: str, identity: Identity | None) -> None:
        pause = SOONEST
        async with channel(self.name, address, identity, self.link.limits.length) as to:
            while True:
                call: grpc.aio.StreamStreamCall[bytes, bytes] = to.stream_stream(LINK)()
                dialled = MessageStream(self.name, call, address)
                try:
                    stream = await frame_stream.greet(dialled, self.link, self.aside)
                except ClovenError as error:
                    dialled.cancel()
                    self._down(error)
                    pause = min(2 * pause, LATEST)
                else:
                    await self._lasts(self.carry(stream), stream)
                    pause = SOONEST
                await asyncio.sleep(pause)

    async def _lasts(self, hearing: asyncio.Task[None], stream: FrameStream) -> None:
        """Wait until a stream has ended, or needs a successor."""
        worn = asyncio.create_task(stream.worn.wait())
        try:
            await asyncio.wait({hearing, worn}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            worn.cancel()

    async def accept(self, accepted: MessageStream, hello: Hello, firsts: FirstMessages) -> None:
        """Carry a stream that the other side has dialled, once it has proved itself, for as long as it lasts.

        Raises:
            LinkError: if the dialer holds another key, or proves nothing in time.
            PartyError: if it has gone.
        """
        try:
            guard = frame_stream.ReplayGuard(firsts, self.unproved)
            stream = await frame_stream.welcome(accepted, hello, self.link, self.aside, guard)
        except LinkError as error:
            self.refused["repeated handshake" if isinstance(error, HandshakeRepeated) else "handshake"] += 1
            raise
        if self.closed:
            return
        async with stream.lock:  # before any frame
            hearing = self.carry(stream)
            try:
                await frame_stream.prove(stream)
            except BaseException:
                hearing.cancel()
                raise
        try:
            await asyncio.wait({hearing})
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAVING), stream.lock:  # what is being written is written
                    pass
        finally:
            hearing.cancel()

    def carry(self, stream: FrameStream) -> asyncio.Task[None]:
        """Send by a new stream from now on; return the task that takes its frames in, for as long as it lasts."""
        before, self.stream = self.stream, stream
        stream.clock = self.clock
        hearing = stream.hearing = self._begin(self._hear(stream))
        self.up, self.reason, self.final = True, "", False
        self.available.set()
        self._emit(LinkChanged(self.name, True, ""))
        if before is not None:
            self._begin(self._retire(before))
        return hearing

    async def _hear(self, stream: FrameStream) -> None:
        reason: ClovenError = PartyError(self.name, CLOSED, again=True)
        try:
            async for opened in stream.frames():
                self.received.update(frames=1, bytes=opened.payload.nbytes)
                self._emit(FrameReceived(self.name, opened))
        except FrameRefused as error:
            self.refused[error.reason] += 1
            reason = error
        except PartyError as error:
            reason = error
        finally:
            stream.stream.cancel()
            self._lose(stream, reason)

    async def _retire(self, stream: FrameStream) -> None:
        """Finish a stream that has a successor; what is under way on it still arrives."""
        with suppress(TimeoutError, PartyError):
            async with asyncio.timeout(LEAVING):
                async with stream.lock:
                    await stream.stream.finish()
                await asyncio.wait({stream.hearing})
        stream.hearing.cancel()

    def give_up(self) -> None:
        """End the current stream: others know that the party has been lost."""
        if self.stream is not None:
            self.stream.hearing.cancel()

    def _lose(self, stream: FrameStream, reason: ClovenError) -> None:
        """Give a stream up, unless it has a successor; the frames that wait to be sent are lost with it."""
        if self.stream is not stream:
            return
        self.stream = None
        self.losses += 1
        self.available.clear()
        while not self.queue.empty():
            self.queue.get_nowait()
        self._down(reason)

    def _down(self, error: ClovenError) -> None:
        """Note why there is no stream; a failed attempt means nothing while there is one."""
        if self.stream is not None:
            return
        reason = error.reason if isinstance(error, PartyError) else str(error)
        final = not error.again if isinstance(error, PartyError) else not isinstance(error, FrameRefused)
        changed = (self.up, self.reason, self.final) != (False, reason, final)
        self.up, self.reason, self.final = False, reason, final
        if changed and not self.closed:
            self._emit(LinkChanged(self.name, False, reason))

    async def _send_all(self) -> None:
        while True:
            frame = await self.queue.get()
            while not await self._is_sent(*frame):
                continue

    async def _is_sent(self, number: int, ordinal: int, pieces: Sequence[Data]) -> bool:
        """Send a frame, or lose it with its stream; return False if the key is used up, and its successor due."""
        await self.available.wait()
        stream = self.stream
        if stream is None or self._is_stale(number):
            return True
        try:
            await stream.write(number, ordinal, pieces, self.sent)
        except SessionExhausted:
            if self.stream is stream:
                self.available.clear()
            return False
        except (PartyError, LinkError) as error:
            self._lose(stream, error)
        return True
