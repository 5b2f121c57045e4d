"""Read the image in the body of a request: a picture's file, a form with one, or raw numbers."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from cloven.errors import ClovenError
from cloven.runtime.service.contract import Decode, Measure, RequestRefused, Shape
from cloven.runtime.service.priority_worker import PriorityWorker
from cloven.runtime.unit_images import unit

Made = TypeVar("Made")

FORM, NUMBERS = "multipart/form-data", "application/octet-stream"
FIELD = "file"
FIELDS = 8
"""The maximum number of fields in a form."""


@dataclass(frozen=True, eq=False)
class ImageReader:
    """Reads the images in the bodies of requests.

    One thread reads the sizes of pictures, another one their pixels: so a small picture waits for one large picture
    and not for two.

    Attributes:
        shape: the shape of the images.
        limit: the maximum bytes of a request.
        decode: decodes a picture's file into pixels.
        measure: returns the number of pixels in the header of a picture's file: the smallest is decoded first.
    """

    shape: Shape
    limit: int
    decode: Decode
    measure: Measure
    measuring: PriorityWorker = field(default_factory=PriorityWorker)
    decoding: PriorityWorker = field(default_factory=PriorityWorker)

    async def read(self, request: Request) -> NDArray[np.float32]:
        """Return the image ``(C, H, W)`` in [0, 1] of a request.

        Raises:
            RequestRefused: for another type of content (415), too many bytes (413), an unreadable picture (415), or
                numbers that are not an image (422).
            ClientDisconnect: if the client has disconnected.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == NUMBERS:
            return numbers(await _body(request, self.limit), self.shape)
        if kind == FORM:
            content = await _uploaded(request, self.limit)
        elif not kind or kind.startswith("image/"):
            content = await _body(request, self.limit)
        else:
            raise RequestRefused(
                415,
                f"got content type {kind[:80]!r}; send a picture's file as image/jpeg, image/png or similar, "
                f"a form ({FORM}) with the field {FIELD!r}, or {_wanted(self.shape)} as {NUMBERS}",
            )
        try:
            size = await attended(request, self.measuring.run(len(content), lambda: self.measure(content)))
            pixels = await attended(request, self.decoding.run(size, lambda: self.decode(content, self.shape)))
        except ClovenError as error:
            raise RequestRefused(415, str(error)) from error
        return unit(pixels)


async def attended(request: Request, work: Awaitable[Made]) -> Made:
    """Return the result of work for a received request; cancel the work when the client disconnects.

    Raises:
        ClientDisconnect: if the client has disconnected.
    """
    gone, made = asyncio.ensure_future(_gone(request)), asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, made}, return_when=asyncio.FIRST_COMPLETED)
        if not made.done():
            raise ClientDisconnect
        return made.result()
    finally:
        gone.cancel()
        made.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def numbers(content: bytes, shape: Shape) -> NDArray[np.float32]:
    """Return the image in a body of raw numbers.

    Raises:
        RequestRefused: for another number of bytes, or numbers that are not finite or not in [0, 1].
    """
    if len(content) != 4 * math.prod(shape):
        raise RequestRefused(422, f"got {len(content)} bytes; expected {4 * math.prod(shape)}: {_wanted(shape)}")
    found = np.frombuffer(content, "<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(found).all():
        raise RequestRefused(422, f"some numbers are not finite; expected {_wanted(shape)}")
    if found.min() < 0 or found.max() > 1:
        raise RequestRefused(
            422, f"got numbers from {found.min():g} to {found.max():g}; expected {_wanted(shape)} (pixels / 255)"
        )
    return found


def _wanted(shape: Shape) -> str:
    return f"float32 numbers from 0 to 1, little-endian, of shape {shape}"


async def _chunks(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the body as it arrives; refuse it if it, or its announced length, is too long."""
    total = int(request.headers.get("content-length", "0")[:20])
    if total <= limit:
        total = 0
        async for chunk in request.stream():
            total += len(chunk)
            if total > limit:
                break
            yield chunk
    if total > limit:
        raise RequestRefused(
            413, f"the request is too large; expected at most {limit:,} bytes: send a smaller picture"
        )


async def _body(request: Request, limit: int) -> bytes:
    return b"".join([chunk async for chunk in _chunks(request, limit)])


class _InMemory(MultiPartParser):
    """A parser of forms that never writes a picture to disk."""

    spool_max_size = sys.maxsize


async def _uploaded(request: Request, limit: int) -> bytes:
    """Return the file in the field of a form."""
    parser = _InMemory(request.headers, _chunks(request, limit), max_files=1, max_fields=FIELDS)
    try:
        form = await parser.parse()
    except (MultiPartException, UnicodeError) as error:  # UnicodeError: an unknown charset
        told = error.message if isinstance(error, MultiPartException) else "its charset is unknown"
        raise RequestRefused(422, f"the form cannot be read: {told}") from error
    found = form.get(FIELD)
    content = await found.read() if isinstance(found, UploadFile) else None
    await form.close()
    if content is None:
        raise RequestRefused(422, f"the form has no file in a field {FIELD!r}; send the picture there")
    return content
