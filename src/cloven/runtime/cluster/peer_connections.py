"""The connection to one other party: a queue of frames, and a stream that is opened again whenever it is lost."""

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
"""The capacity of the queue of messages to one party; senders wait when it is full."""

SOONEST, LATEST = 0.05, 1.0
"""The shortest and longest pause between two attempts to connect, in seconds."""

LEAVING = 10.0
"""Seconds that a replaced stream has to deliver its last frames, even between busy machines."""

WRITTEN = 0.5
"""Seconds that a message has to be written when its run ends."""


class PeerConnection:
    """The link with one other party.

    Emits `FrameReceived` and `LinkChanged`.

    Attributes:
        up: whether a stream carries frames now.
        reason: why there is no stream.
        final: whether connecting again is known to be useless.
        losses: the number of streams that were lost without a successor.
        refused: the number of refused frames, by reason.
        sent, received: the number of frames and of payload bytes.
        clock: the seconds spent on sealing and opening frames.
    """

    def __init__(
        self, link: LinkSpec, name: str, emit: Emit, is_stale: Callable[[int], bool], aside: Executor
    ) -> None:
        """Start the task that sends queued frames.

        Args:
            link: the two ends of the link, and its protection.
            name: the other party.
            emit: called with each event.
            is_stale: returns whether an image is no longer awaited; its frames are not sent.
            aside: the executor that seals and opens large frames.
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

    @property
    def sending(self) -> bool:
        """True while a message is queued or being sent."""
        return not self.queue.empty() or (self.stream is not None and self.stream.lock.locked())

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
        # A handler that ends during a write never closes its stream.
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
        """Wait until a stream has ended, or its key is nearly used up."""
        worn = asyncio.create_task(stream.worn.wait())
        try:
            await asyncio.wait({hearing, worn}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            worn.cancel()

    async def accept(self, accepted: MessageStream, hello: Hello, firsts: FirstMessages) -> None:
        """Use a stream that the other side has opened, once it has proved its key, for as long as the stream lasts.

        Raises:
            LinkError: if the dialer holds another key, or sends no proof in time.
            PartyError: if the dialer has closed the stream.
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
                async with asyncio.timeout(LEAVING), stream.lock:  # let a write finish
                    pass
        finally:
            hearing.cancel()

    def carry(self, stream: FrameStream) -> asyncio.Task[None]:
        """Send over a new stream from now on; return the task that receives its frames, until the stream ends."""
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
        """Finish a stream that has a successor; its last frames still arrive."""
        with suppress(TimeoutError, PartyError):
            async with asyncio.timeout(LEAVING):
                async with stream.lock:
                    await stream.stream.finish()
                await asyncio.wait({stream.hearing})
        stream.hearing.cancel()

    def give_up(self) -> None:
        """End the current stream, because the coordinator has lost the party."""
        if self.stream is not None:
            self.stream.hearing.cancel()

    def _lose(self, stream: FrameStream, reason: ClovenError) -> None:
        """Drop a stream and the queued frames, unless the stream has a successor."""
        if self.stream is not stream:
            return
        self.stream = None
        self.losses += 1
        self.available.clear()
        while not self.queue.empty():
            self.queue.get_nowait()
        self._down(reason)

    def _down(self, error: ClovenError) -> None:
        """Record why there is no stream; a failed attempt is ignored while there is one."""
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
        """Send a frame, or drop it with its stream; return False if it must wait for a new key."""
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
