"""One stream between two parties: who they are, a session's keys, and then frames.

The dialer says which run it belongs to, who it is and whom it means, and begins the key exchange where the link
has a cipher; the other side answers, or refuses with a reason. Then come frames (`cloven.runtime.link.session`).
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import grpc.aio

from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.link import handshake
from cloven.runtime.link.ciphers import Cipher, named
from cloven.runtime.link.errors import LinkError
from cloven.runtime.link.octets import octets
from cloven.runtime.link.session import Limits, Opened, Opener, Sealer, directions

if TYPE_CHECKING:
    from cloven.runtime.link.octets import Data

VERSION = 1
"""Of the messages between parties; a party talks only to its own."""

EOF: Any = grpc.aio.EOF
"""What a stream's `read` gives at its end."""

ASIDE = 2**16
"""Payloads above this many bytes are sealed and opened outside the event loop."""

WORN = 7 / 8
"""How much of what a key may carry is used up when its successor is made."""


class Stream(Protocol):
    """What both ends of a gRPC stream can do."""

    async def read(self) -> Any:
        """The next message, or grpc's end of file."""
        ...

    async def write(self, message: Any) -> None:
        """Send a message; waits while the other side takes no more."""
        ...


@dataclass(frozen=True)
class Line:
    """What two parties agreed on before they meet: the names are in the order of dialling.

    ``key`` gives the link's pre-shared key, and is asked only where the link has a cipher. ``largest`` is the
    largest payload that either sends.
    """

    run: str
    dialer: str
    other: str
    protection: str
    key: Callable[[], bytes]
    largest: int

    @property
    def cipher(self) -> Cipher | None:
        """The cipher of the frames; None where nothing or TLS protects them."""
        return None if self.protection == "mtls" else named(self.protection)

    @property
    def limits(self) -> Limits:
        """What one frame and one key may carry."""
        return Limits(length=max(1, self.largest))


class Connection:
    """A stream with its session: frames out, one at a time, and frames in."""

    def __init__(self, stream: Stream, sealer: Sealer, opener: Opener, aside: Executor) -> None:
        self.stream, self.sealer, self.opener, self.aside = stream, sealer, opener, aside
        self.lock = asyncio.Lock()

    async def write(self, number: int, ordinal: int, pieces: Sequence[Data]) -> int:
        """Seal and send one message; waits while the other side takes no more. Returns its payload's bytes."""
        size = sum(octets(piece).nbytes for piece in pieces)
        async with self.lock:
            if self.sealer.cipher is not None and size > ASIDE:
                loop = asyncio.get_running_loop()
                frame = await loop.run_in_executor(self.aside, self.sealer.seal, number, ordinal, *pieces)
            else:
                frame = self.sealer.seal(number, ordinal, *pieces)
            await self.stream.write(frame)
        return size

    async def frames(self) -> AsyncIterator[Opened]:
        """What comes, until the other side has finished.

        Raises:
            FrameRefused: for the first frame that is not the right next one.
        """
        while (message := await self.stream.read()) is not EOF:
            if self.opener.cipher is not None and len(message) > ASIDE:
                loop = asyncio.get_running_loop()
                yield await loop.run_in_executor(self.aside, self.opener.open, message)
            else:
                yield self.opener.open(message)

    @property
    def worn(self) -> bool:
        """Whether a key has carried nearly as much as it may."""
        return any(
            end.frames >= WORN * end.limits.frames or end.total >= WORN * end.limits.total
            for end in (self.sealer, self.opener)
        )


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


async def welcome(stream: Stream, hello: dict[str, Any], line: Line, aside: Executor) -> Connection:
    """Open a session with a dialer whose hello names this line.

    Raises:
        LinkError: where it holds another key, or means another protection; it has been told.
    """
    try:
        if hello.get("protection") != line.protection:
            raise LinkError(
                f"{line.dialer} protects the link with {hello.get('protection')!r}, {line.other} with "
                f"{line.protection!r}: give both the bundle of one plan"
            )
        if (cipher := line.cipher) is None:
            session = _octets(hello.get("session"))
            ends = Sealer(session, None, limits=line.limits), Opener(session, None, limits=line.limits)
            answer: dict[str, Any] = {"cloven": VERSION}
        else:
            keys, second = handshake.responder_reply(line.key(), _prologue(line), _octets(hello.get("noise")))
            ends = directions(keys, cipher, line.limits)
            answer = {"cloven": VERSION, "noise": second.hex()}
    except LinkError as error:
        await refuse(stream, str(error))
        raise
    await stream.write(_text(answer))
    return Connection(stream, *ends, aside)


async def refuse(stream: Stream, reason: str, *, again: bool = False) -> None:
    """Tell a dialer why not; ``again`` where it may try once more."""
    await stream.write(_text({"cloven": VERSION, "refused": reason, "again": again}))


async def hello(stream: Stream) -> dict[str, Any]:
    """The first message of a dialer.

    Raises:
        LinkError: for what is no hello.
    """
    return _document(await stream.read(), "the dialer")


def _prologue(line: Line) -> bytes:
    return handshake.prologue(f"{line.protection} run {line.run}", line.dialer, line.other)


def _answer(party: str, message: Any) -> dict[str, Any]:
    if message is EOF:
        raise PartyError(party, "closed the connection without an answer")
    answer = _document(message, party)
    if "refused" in answer:
        raise PartyError(party, str(answer["refused"]), again=bool(answer.get("again")))
    return answer


def _document(message: Any, party: str) -> dict[str, Any]:
    try:
        document = json.loads(message)
        if not isinstance(document, dict):
            raise ValueError
    except (ValueError, TypeError):
        raise LinkError(f"{party} does not speak cloven's protocol") from None
    if document.get("cloven") != VERSION:
        raise LinkError(
            f"{party} speaks version {document.get('cloven')!r} of the protocol, this cloven {VERSION}: install "
            "the same version on both"
        )
    return document


def _octets(text: Any) -> bytes:
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError):
        raise LinkError("a hello or its answer lacks its key exchange") from None


def _text(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()
