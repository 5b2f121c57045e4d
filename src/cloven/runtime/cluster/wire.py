"""One stream between two parties: who they are, a session's keys, and then frames.

    dialer                                          other side
    which run, who, whom; begins a key exchange ──▶  answers, or refuses with a reason
    proof: the session's first frame ─────────────▶  carries the new stream, and gives up the one before
    carries it too                ◀───────────────  proof, the first frame of the other direction

Then come frames (`cloven.runtime.link.session`). So a recorded first message replaces nothing, and when the dialer
ends an older stream, the other side has left it already: nothing is lost when a key is renewed. Without a cipher
the steps are the same; then the proof proves nothing, and the transport must.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from cloven.errors import ClovenError
from cloven.runtime.cluster.channels import CLOSED, Stream
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.halfopen import HalfOpen
from cloven.runtime.cluster.messages import VERSION, Answer, Hello, read
from cloven.runtime.link import handshake
from cloven.runtime.link.ciphers import Cipher, named
from cloven.runtime.link.errors import HandshakeRepeated, LinkError
from cloven.runtime.link.handshake import FirstMessages
from cloven.runtime.link.octets import octets
from cloven.runtime.link.session import Limits, Opened, Opener, Sealer, directions

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity
    from cloven.runtime.link.octets import Data

HANDSHAKE = 10.0
"""Seconds in which a handshake must be done."""

TOLD = 1.0
"""Seconds that a refusal may take to be sent."""

ASIDE = 2**16
"""Payloads above this many bytes are sealed and opened outside the event loop."""

WORN = 7 / 8
"""How much of what a key may carry is used up when its successor is made."""


Made = TypeVar("Made")
Ends = tuple[Sealer, Opener]


@dataclass(frozen=True)
class Line:
    """What two parties agreed on before they meet: the names are in the order of dialling.

    ``key`` gives the link's pre-shared key, and is asked only where the link has a cipher. ``limits`` are what one
    frame and one key may carry.
    """

    run: str
    dialer: str
    other: str
    protection: str
    key: Callable[[], bytes]
    limits: Limits

    @cached_property
    def cipher(self) -> Cipher | None:
        """The cipher of the frames; None where nothing or TLS protects them."""
        return None if self.protection == "mtls" else named(self.protection)


@dataclass(frozen=True)
class Guard:
    """What keeps recorded hellos from doing harm: those that were answered, and the newest without a proof yet.

    A party dials one stream after another, so a newer hello takes the place of an older one.
    """

    firsts: FirstMessages
    unproved: HalfOpen


def limits(largest: int) -> Limits:
    """The limits of a link whose largest payload has so many bytes."""
    return Limits(length=max(1, largest))


def link_key(identity: Identity | None, party: str, protection: str) -> bytes:
    """The key of our link with a party.

    Raises:
        LinkError: where there is none.
    """
    if identity is None:
        raise LinkError(f"the link with {party} is protected with {protection}, which needs keys (--keys)")
    try:
        return identity.link_key(party)
    except ClovenError as error:
        raise LinkError(error.problems) from error


class Connection:
    """A stream with its session: frames out, one at a time, and frames in.

    ``clock`` counts the seconds spent ``sealing`` and ``opening``; whoever carries the stream may give its own.
    ``worn`` is set once a key has carried nearly as much as it may; ``hearing`` is the task that takes frames in.
    """

    def __init__(self, stream: Stream, sealer: Sealer, opener: Opener, aside: Executor) -> None:
        self.stream, self.sealer, self.opener, self.aside = stream, sealer, opener, aside
        self.lock, self.worn = asyncio.Lock(), asyncio.Event()
        self.hearing: asyncio.Task[None]
        self.clock: Counter[str] = Counter()

    async def write(self, number: int, ordinal: int, pieces: Sequence[Data], sent: Counter[str]) -> None:
        """Seal and send one message; waits while the other side takes no more. It is counted before it is sent.

        Raises:
            PartyError: where the stream has ended.
            LinkError: where the key has carried as much as it may.
        """
        size = sum(octets(piece).nbytes for piece in pieces)
        async with self.lock:
            frame = await self._do("sealing", size, self.sealer.seal, number, ordinal, *pieces)
            sent.update(frames=1, bytes=size)
            await self.stream.write(frame)

    async def frames(self) -> AsyncIterator[Opened]:
        """What comes, until the other side has finished.

        Raises:
            FrameRefused: for the first frame that is not the right next one.
            PartyError: where the stream has broken.
        """
        while (message := await self.stream.read()) is not None:
            yield await self._do("opening", len(message), self.opener.open, message)

    async def _do(self, what: str, size: int, work: Callable[..., Made], *given: Any) -> Made:
        """Seal or open; outside the event loop where a cipher has much to do."""

        def timed() -> Made:
            start = time.perf_counter()
            made = work(*given)
            self.clock[what] += time.perf_counter() - start  # type: ignore[assignment]
            return made

        heavy = self.sealer.cipher is not None and size > ASIDE
        made = await asyncio.get_running_loop().run_in_executor(self.aside, timed) if heavy else timed()
        for end in (self.sealer, self.opener):
            if end.frames >= WORN * end.limits.frames or end.total >= WORN * end.limits.total:
                self.worn.set()
        return made


async def greet(stream: Stream, line: Line, aside: Executor) -> Connection:
    """Open a session on a stream that we dialled; the other side has proved itself, and knows that we have.

    Raises:
        PartyError: where the other side refuses, with its reason; ``again`` where it may not do so later.
        LinkError: where its answer is not that of who holds the link's key.
    """
    try:
        async with asyncio.timeout(HANDSHAKE):
            ends = await _agreed(stream, line)
            connection = Connection(stream, *ends, aside)
            await prove(connection)
            _check_proof(connection, _answer(line.other, await stream.read()))
    except TimeoutError:
        raise PartyError(line.other, "gave no answer in time", again=True) from None
    return connection


async def _agreed(stream: Stream, line: Line) -> Ends:
    """Both directions of a session that we have asked for."""
    hello = {"run": line.run, "from": line.dialer, "to": line.other, "protection": line.protection}
    if line.cipher is None:
        session = secrets.token_bytes(handshake.SESSION)
        await _say(stream, hello | {"session": session.hex()})
        _answer(line.other, await stream.read())
        return _plain(session, line.limits)
    state, first = handshake.initiator_start(line.key(), _prologue(line))
    await _say(stream, hello | {"noise": first.hex()})
    keys = handshake.initiator_finish(state, _answer(line.other, await stream.read()).noise)
    return directions(keys, line.cipher, line.limits)


async def welcome(stream: Stream, hello: Hello, line: Line, aside: Executor, guard: Guard) -> Connection:
    """Open a session with a dialer whose hello names this line, and who has proved that it is no recording.

    Our own proof is due once the connection is in use.

    Raises:
        LinkError: where it holds another key, means another protection, repeats a hello, or proves nothing in time;
            it has been told.
        PartyError: where it has gone.
    """
    try:
        ends, answer = _reply(hello, line, guard.firsts)
        async with guard.unproved.place():
            await _say_all(stream, answer)
            connection = Connection(stream, *ends, aside)
            _check_proof(connection, _answer(line.dialer, await stream.read()))
    except TimeoutError:
        raise LinkError(f"handshake refused: {line.dialer} gave no proof of its key in time") from None
    except LinkError as error:
        await refuse(stream, str(error), again=isinstance(error, HandshakeRepeated))
        raise
    return connection


async def prove(connection: Connection) -> None:
    """Send the session's first frame of our direction: an empty one, in a message that is no frame of an image."""
    await _say(connection.stream, {"proof": connection.sealer.seal(0, 0).hex()})


def _check_proof(connection: Connection, answer: Answer) -> None:
    if connection.opener.open(answer.proof).payload.nbytes:
        raise LinkError("handshake refused: its proof is not an empty frame")


def _reply(hello: Hello, line: Line, firsts: FirstMessages) -> tuple[Ends, dict[str, Any]]:
    """Both directions of the session that a hello asks for, and the answer to it."""
    if hello.protection != line.protection:
        raise LinkError(
            f"{line.dialer} protects the link with {hello.protection!r}, {line.other} with "
            f"{line.protection!r}: give both the bundle of one plan"
        )
    if line.cipher is None:
        return _plain(hello.session, line.limits), {}
    firsts.check(hello.noise)
    keys, second = handshake.responder_reply(line.key(), _prologue(line), hello.noise)
    firsts.add(hello.noise)
    return directions(keys, line.cipher, line.limits), {"noise": second.hex()}


def _plain(session: bytes, limits: Limits) -> Ends:
    return Sealer(session, None, limits=limits), Opener(session, None, limits=limits)


async def refuse(stream: Stream, reason: str, *, again: bool = False) -> None:
    """Tell a dialer why not, unless it does not listen; ``again`` where it may try once more."""
    with suppress(TimeoutError):
        async with asyncio.timeout(TOLD):
            await _say(stream, {"refused": reason, "again": again})


def _prologue(line: Line) -> bytes:
    return handshake.prologue(f"{line.protection} run {line.run}", line.dialer, line.other)


def _answer(party: str, message: bytes | None) -> Answer:
    if message is None:
        raise PartyError(party, CLOSED, again=True)
    answer = read(Answer, message, party)
    if answer.refused is not None:
        raise PartyError(party, answer.refused, again=answer.again)
    return answer


async def _say_all(stream: Stream, document: dict[str, Any]) -> None:
    """As `_say`; finish first when cancelled: a handler that ends while it writes never says that it has ended."""
    writing = asyncio.ensure_future(_say(stream, document))
    try:
        await asyncio.shield(writing)
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(TOLD):
                await asyncio.gather(writing, return_exceptions=True)


async def _say(stream: Stream, document: dict[str, Any]) -> None:
    await stream.write(json.dumps({"cloven": VERSION, **document}).encode())
