"""A stream of frames between two parties: a handshake opens it, the frames of a session follow.

    dialer                                          other side
    hello: run, names, half of the key exchange ──▶  replies with the other half, or refuses with a reason
    proof: the session's first frame ─────────────▶  switches to the new stream
    switches to it too            ◀───────────────  proof, the first frame of the other direction

Frames (`cloven.runtime.link.session`) follow. A replayed hello therefore cannot replace a stream. When the dialer
ends the old stream, the other side no longer uses it, so no frame is lost when a key is renewed. Without a cipher
the steps are the same, but the proof shows nothing: the transport must authenticate the parties.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from cloven.errors import ClovenError
from cloven.runtime.cluster.channels import CLOSED, MessageStream
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.halfopen import HalfOpen
from cloven.runtime.cluster.protocol import VERSION, HandshakeReply, Hello, PeerMessage, read
from cloven.runtime.link import handshake
from cloven.runtime.link.ciphers import Cipher, named
from cloven.runtime.link.errors import HandshakeRepeated, LinkError
from cloven.runtime.link.handshake import FirstMessages
from cloven.runtime.link.octets import octets
from cloven.runtime.link.session import FrameLimits, Opened, Opener, Sealer, directions

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity
    from cloven.runtime.link.octets import Data

HANDSHAKE = 10.0
"""The timeout of a handshake in seconds."""

TOLD = 1.0
"""The timeout of sending a refusal in seconds."""

ASIDE = 2**16
"""Payloads above this many bytes are sealed and opened outside the event loop."""

WORN = 7 / 8
"""The fraction of a key's limits at which its successor is negotiated."""


Made = TypeVar("Made")
Ends = tuple[Sealer, Opener]


@dataclass(frozen=True)
class LinkSpec:
    """The properties of a link that both parties know in advance; ``dialer`` connects to ``other``.

    ``key`` returns the link's pre-shared key, and is called only if the link has a cipher. ``limits`` are the most
    that one frame and one key may carry.
    """

    run: str
    dialer: str
    other: str
    protection: str
    key: Callable[[], bytes]
    limits: FrameLimits

    @cached_property
    def cipher(self) -> Cipher | None:
        """Return the cipher of the frames; None if nothing or TLS protects them."""
        return None if self.protection == "mtls" else named(self.protection)


@dataclass(frozen=True)
class ReplayGuard:
    """The protection against replayed hellos: those already answered, and the newest one that has no proof yet.

    A party opens one stream after another, so a newer hello replaces an older one.
    """

    firsts: FirstMessages
    unproved: HalfOpen


def limits(largest: int) -> FrameLimits:
    """Return the limits of a link whose largest payload has ``largest`` bytes."""
    return FrameLimits(length=max(1, largest))


def link_key(identity: Identity | None, party: str, protection: str) -> bytes:
    """Return the key of our link with a party.

    Raises:
        LinkError: if there are no keys, or none for this party.
    """
    if identity is None:
        raise LinkError(f"the link with {party} is protected with {protection}, which needs keys (--keys)")
    try:
        return identity.link_key(party)
    except ClovenError as error:
        raise LinkError(error.problems) from error


class FrameStream:
    """A stream with its session: frames out, one at a time, and frames in.

    Attributes:
        clock: the seconds spent ``sealing`` and ``opening``; the owner of the stream may replace it.
        worn: set when a key is close to its limits.
        hearing: the task that receives frames.
    """

    def __init__(self, stream: MessageStream, sealer: Sealer, opener: Opener, aside: Executor) -> None:
        self.stream, self.sealer, self.opener, self.aside = stream, sealer, opener, aside
        self.lock, self.worn = asyncio.Lock(), asyncio.Event()
        self.hearing: asyncio.Task[None]
        self.clock: Counter[str] = Counter()

    async def write(self, number: int, ordinal: int, pieces: Sequence[Data], sent: Counter[str]) -> None:
        """Count, seal and send one frame; wait while the peer's flow-control window is full.

        Raises:
            PartyError: if the stream has ended.
            LinkError: if the key has reached its limits.
        """
        size = sum(octets(piece).nbytes for piece in pieces)
        async with self.lock:
            frame = await self._timed("sealing", size, partial(self.sealer.seal, number, ordinal, *pieces))
            sent.update(frames=1, bytes=size)
            await self.stream.write(frame)

    async def frames(self) -> AsyncIterator[Opened]:
        """Yield the frames that arrive, until the other side has finished.

        Raises:
            FrameRefused: for the first frame that is not the expected next one.
            PartyError: if the stream has broken.
        """
        while (message := await self.stream.read()) is not None:
            yield await self._timed("opening", len(message), partial(self.opener.open, message))

    async def _timed(self, what: str, size: int, work: Callable[[], Made]) -> Made:
        """Seal or open a frame; large ones outside the event loop."""

        def timed() -> Made:
            start = time.perf_counter()
            made = work()
            self.clock[what] += time.perf_counter() - start  # type: ignore[assignment]
            return made

        heavy = self.sealer.cipher is not None and size > ASIDE
        made = await asyncio.get_running_loop().run_in_executor(self.aside, timed) if heavy else timed()
        for end in (self.sealer, self.opener):
            if end.frames >= WORN * end.limits.frames or end.total >= WORN * end.limits.total:
                self.worn.set()
        return made


async def greet(stream: MessageStream, link: LinkSpec, aside: Executor) -> FrameStream:
    """Open a session on a stream that we opened; afterwards both sides have proved that they hold the key.

    Raises:
        PartyError: if the other side refuses, with its reason; ``again`` is set if it may accept later.
        LinkError: if its reply was not made with the link's key.
    """
    try:
        async with asyncio.timeout(HANDSHAKE):
            opened = FrameStream(stream, *await _agreed(stream, link), aside)
            await prove(opened)
            _check_proof(opened, _reply(link.other, await stream.read()))
    except TimeoutError:
        raise PartyError(link.other, "gave no answer in time", again=True) from None
    return opened


async def _agreed(stream: MessageStream, link: LinkSpec) -> Ends:
    """Send a hello, and return both directions of the session."""
    hello = partial(
        Hello, cloven=VERSION, run=link.run, dialer=link.dialer, other=link.other, protection=link.protection
    )
    if link.cipher is None:
        session = secrets.token_bytes(handshake.SESSION)
        await _write(stream, hello(session=session))
        _reply(link.other, await stream.read())
        return _plain(session, link.limits)
    state, first = handshake.initiator_start(link.key(), _prologue(link))
    await _write(stream, hello(noise=first))
    keys = handshake.initiator_finish(state, _reply(link.other, await stream.read()).noise)
    return directions(keys, link.cipher, link.limits)


async def welcome(
    stream: MessageStream, hello: Hello, link: LinkSpec, aside: Executor, guard: ReplayGuard
) -> FrameStream:
    """Open a session with the dialer of a hello, once it has proved that the hello is not a replay.

    The caller sends our own proof when the stream is in use.

    Raises:
        LinkError: if the dialer uses another key or protection, repeats a hello, or sends no proof in time; the
            refusal has been sent to it.
        PartyError: if the dialer has closed the stream.
    """
    try:
        ends, reply = _accepted(hello, link, guard.firsts)
        async with guard.unproved.place():
            await _write_whole(stream, reply)
            opened = FrameStream(stream, *ends, aside)
            _check_proof(opened, _reply(link.dialer, await stream.read()))
    except TimeoutError:
        raise LinkError(f"handshake refused: {link.dialer} sent no proof of its key in time") from None
    except LinkError as error:
        await refuse(stream, str(error), again=isinstance(error, HandshakeRepeated))
        raise
    return opened


def _accepted(hello: Hello, link: LinkSpec, firsts: FirstMessages) -> tuple[Ends, HandshakeReply]:
    """Return both directions of the session that a hello requests, and the reply to it."""
    if hello.protection != link.protection:
        raise LinkError(
            f"{link.dialer} protects the link with {hello.protection!r}, {link.other} with "
            f"{link.protection!r}: give both the bundle of one plan"
        )
    if link.cipher is None:
        return _plain(hello.session, link.limits), HandshakeReply(cloven=VERSION)
    firsts.check(hello.noise)
    keys, second = handshake.responder_reply(link.key(), _prologue(link), hello.noise)
    firsts.add(hello.noise)
    return directions(keys, link.cipher, link.limits), HandshakeReply(cloven=VERSION, noise=second)


async def prove(opened: FrameStream) -> None:
    """Send the first frame of our direction: an empty one, inside a handshake message."""
    await _write(opened.stream, HandshakeReply(cloven=VERSION, proof=opened.sealer.seal(0, 0)))


def _check_proof(opened: FrameStream, reply: HandshakeReply) -> None:
    if opened.opener.open(reply.proof).payload.nbytes:
        raise LinkError("handshake refused: its proof is not an empty frame")


async def refuse(stream: MessageStream, reason: str, *, again: bool = False) -> None:
    """Send a refusal if the dialer still reads; ``again`` tells it that it may try once more."""
    with suppress(TimeoutError):
        async with asyncio.timeout(TOLD):
            await _write(stream, HandshakeReply(cloven=VERSION, refused=reason, again=again))


def _plain(session: bytes, limits: FrameLimits) -> Ends:
    return Sealer(session, None, limits=limits), Opener(session, None, limits=limits)


def _prologue(link: LinkSpec) -> bytes:
    return handshake.prologue(f"{link.protection} run {link.run}", link.dialer, link.other)


def _reply(party: str, message: bytes | None) -> HandshakeReply:
    if message is None:
        raise PartyError(party, CLOSED, again=True)
    reply = read(HandshakeReply, message, party)
    if reply.refused is not None:
        raise PartyError(party, reply.refused, again=reply.again)
    return reply


async def _write(stream: MessageStream, message: PeerMessage) -> None:
    await stream.write(message.encode())


async def _write_whole(stream: MessageStream, message: PeerMessage) -> None:
    """Write a message, and finish when cancelled: a handler that ends during a write never closes its stream."""
    writing = asyncio.ensure_future(_write(stream, message))
    try:
        await asyncio.shield(writing)
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(TOLD):
                await asyncio.gather(writing, return_exceptions=True)
