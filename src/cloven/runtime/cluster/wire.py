"""One stream between two parties: who they are, a session's keys, and then frames.

The dialer says which run it belongs to, who it is and whom it means, and begins the key exchange where the link
has a cipher; the other side answers, or refuses with a reason. Then come frames (`cloven.runtime.link.session`).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from cloven.errors import ClovenError
from cloven.runtime.cluster.channels import CLOSED, Stream
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.link import handshake
from cloven.runtime.link.ciphers import Cipher, named
from cloven.runtime.link.errors import LinkError
from cloven.runtime.link.octets import octets
from cloven.runtime.link.session import Limits, Opened, Opener, Sealer, directions

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity
    from cloven.runtime.link.octets import Data

VERSION = 1
"""Of the messages between parties; a party talks only to its own."""

ASIDE = 2**16
"""Payloads above this many bytes are sealed and opened outside the event loop."""

WORN = 7 / 8
"""How much of what a key may carry is used up when its successor is made."""


Made = TypeVar("Made")


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
    """Open a session on a stream that we dialled.

    Raises:
        PartyError: where the other side refuses, with its reason; ``again`` where it may not do so later.
        LinkError: where its answer is not that of who holds the link's key.
    """
    hello: dict[str, Any] = {"cloven": VERSION, "run": line.run, "from": line.dialer, "to": line.other}
    hello["protection"] = line.protection
    if (cipher := line.cipher) is None:
        session = secrets.token_bytes(handshake.SESSION)
        await stream.write(_text(hello | {"session": session.hex()}))
        _answer(line.other, await stream.read())
        return Connection(
            stream, Sealer(session, None, limits=line.limits), Opener(session, None, limits=line.limits), aside
        )
    state, first = handshake.initiator_start(line.key(), _prologue(line))
    await stream.write(_text(hello | {"noise": first.hex()}))
    answer = _answer(line.other, await stream.read())
    keys = handshake.initiator_finish(state, _octets(answer.get("noise")))
    return Connection(stream, *directions(keys, cipher, line.limits), aside)


async def welcome(stream: Stream, hello: Mapping[str, Any], line: Line, aside: Executor) -> Connection:
    """Open a session with a dialer whose hello names this line.

    Raises:
        LinkError: where it holds another key, or means another protection; it has been told.
        PartyError: where it has gone.
    """
    try:
        ends, answer = _reply(hello, line)
    except LinkError as error:
        await refuse(stream, str(error))
        raise
    await stream.write(_text({"cloven": VERSION, **answer}))
    return Connection(stream, *ends, aside)


def _reply(hello: Mapping[str, Any], line: Line) -> tuple[tuple[Sealer, Opener], dict[str, Any]]:
    """Both directions of the session that a hello asks for, and the answer to it."""
    if hello.get("protection") != line.protection:
        raise LinkError(
            f"{line.dialer} protects the link with {hello.get('protection')!r}, {line.other} with "
            f"{line.protection!r}: give both the bundle of one plan"
        )
    if line.cipher is None:
        session = _octets(hello.get("session"))
        return (Sealer(session, None, limits=line.limits), Opener(session, None, limits=line.limits)), {}
    keys, second = handshake.responder_reply(line.key(), _prologue(line), _octets(hello.get("noise")))
    return directions(keys, line.cipher, line.limits), {"noise": second.hex()}


async def refuse(stream: Stream, reason: str, *, again: bool = False) -> None:
    """Tell a dialer why not; ``again`` where it may try once more."""
    await stream.write(_text({"cloven": VERSION, "refused": reason, "again": again}))


async def hello(stream: Stream) -> dict[str, Any]:
    """The first message of a dialer.

    Raises:
        LinkError: for what is no hello.
    """
    return spoken(await stream.read(), "the dialer")


def _prologue(line: Line) -> bytes:
    return handshake.prologue(f"{line.protection} run {line.run}", line.dialer, line.other)


def _answer(party: str, message: Any) -> dict[str, Any]:
    if message is None:
        raise PartyError(party, CLOSED, again=True)
    answer = spoken(message, party)
    if "refused" in answer:
        raise PartyError(party, str(answer["refused"]), again=bool(answer.get("again")))
    return answer


def document(message: bytes | None, party: str) -> dict[str, Any]:
    """What a message says that is a JSON object.

    Raises:
        LinkError: for any other.
    """
    try:
        found = json.loads(message or b"")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise LinkError(f"{party} does not speak cloven's protocol")
    return found


def spoken(message: bytes | None, party: str) -> dict[str, Any]:
    """What a message says that is of our version of the protocol.

    Raises:
        LinkError: for any other.
    """
    found = document(message, party)
    if found.get("cloven") != VERSION:
        raise LinkError(
            f"{party} speaks version {found.get('cloven')!r} of the protocol, this cloven {VERSION}: install the "
            "same version on both"
        )
    return found


def _octets(text: Any) -> bytes:
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError):
        raise LinkError("a hello or its answer lacks its key exchange") from None


def _text(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()
