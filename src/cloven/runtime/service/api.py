"""The web application of the service: its routes, and the responses to requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from time import perf_counter
from typing import Any, Literal, TypeVar

import numpy as np
import prometheus_client as prometheus
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from numpy.typing import NDArray
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cloven.runtime.cluster.errors import FrameFailed, ImageRefused
from cloven.runtime.service.connections import ClientLimits
from cloven.runtime.service.contract import (
    Classified,
    ClassScore,
    Decode,
    ErrorBody,
    Measure,
    ModelInfo,
    ModelOutput,
    RequestRefused,
    ServedModel,
)
from cloven.runtime.service.request_image import FIELD, FORM, NUMBERS, ImageReader, attended
from cloven.runtime.service.slots import Slot, Slots
from cloven.runtime.service.web_page import page

LIMIT, WAITING, DEADLINE = 8 * 2**20, ClientLimits.connections, 30.0
"""The default limits: bytes of a request, requests at a time, and seconds for each."""
BEST = 5
"""The number of classes that a response lists."""
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
EXTRA = {401: {"WWW-Authenticate": "Bearer"}, 423: {"Retry-After": "1"}, 429: {"Retry-After": "1"}}
"""Headers of refusals, by status."""
GONE = 499
"""The status that is counted if the client disconnects before its response, as in nginx; it is never sent."""
REFUSALS = {
    401: "With slots: the token is missing, or the reservation has ended",
    408: "The picture was not received and read by the deadline",
    413: "The request is too large",
    415: "The body is not a picture, or cannot be read",
    422: "The numbers are not an image, the form has no file, or a parameter is unknown",
    423: "With slots: another user holds the slot",
    429: "Too many requests at a time, or too many users in the queue for a slot; try again",
    502: "The CNN's output is not finite",
    503: "A device or a link has failed",
    504: "The divided model did not answer by the deadline",
}

log = logging.getLogger("cloven.service")

Got = TypeVar("Got")


@dataclass(frozen=True, eq=False)
class Meters:
    """The metrics for Prometheus, in a separate registry."""

    registry: prometheus.CollectorRegistry
    requests: prometheus.Counter
    seconds: prometheus.Histogram
    in_flight: prometheus.Gauge


@dataclass(frozen=True, eq=False)
class Endpoint:
    """The state of the service: the model, the reader of images, the classes' names, limits, metrics and slots."""

    model: ServedModel
    reader: ImageReader
    names: Sequence[str] | None
    deadline: float
    room: asyncio.Semaphore
    meters: Meters
    slots: Slots | None


def app(
    model: ServedModel,
    *,
    read: Decode,
    size: Measure = len,
    names: Sequence[str] | None = None,
    limit: int = LIMIT,
    waiting: int = WAITING,
    deadline: float = DEADLINE,
    title: str = "A divided CNN",
    slots: Slots | None = None,
) -> FastAPI:
    """Return the web application.

    Args:
        model: the model that classifies.
        read: decodes a picture's file into pixels; called in a separate thread, one picture at a time.
        size: returns the number of pixels in a file's header; smaller pictures are decoded first.
        names: the name of each class; None if they have no names.
        limit: the maximum bytes of a request.
        waiting: the maximum number of requests at a time; others are refused with 429.
        deadline: the seconds for a request.
        title: the name of the model on the page.
        slots: the reservations; None if the service serves everybody.
    """
    reader = ImageReader(model.shape, limit, read, size)
    endpoint = Endpoint(model, reader, names, deadline, asyncio.Semaphore(waiting), _meters(), slots)
    service = FastAPI(
        title=f"cloven: {title}", version=version("cloven"), docs_url=None, redoc_url=None, redirect_slashes=False
    )

    @service.post(
        "/classify",
        summary="Classify a picture",
        openapi_extra={"requestBody": _accepted(limit)},
        response_model=Classified,
        responses={status: {"model": ErrorBody, "description": text} for status, text in REFUSALS.items()},
    )
    async def classify(request: Request, scores: Literal["all"] | None = None) -> Response:
        return await _classified(endpoint, request, everything=scores == "all")

    @service.get("/model", summary="The shape of the model's images", response_model=ModelInfo)
    async def info() -> Response:
        return _json(200, ModelInfo(input=model.shape, slots=slots is not None))

    if slots is not None:
        _add_slots(service, slots)

    @service.get(
        "/health", summary="The state of the devices", responses={503: {"description": "Not all devices are ready"}}
    )
    async def health() -> Response:
        found = model.health()
        return _json(200 if found.ready else 503, found)

    @service.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def metrics() -> Response:
        text = prometheus.generate_latest(endpoint.meters.registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST, headers=HEADERS)

    @service.get("/", include_in_schema=False)
    async def start() -> Response:
        text, policy = page(title, names, model.shape, model.health().devices)
        return HTMLResponse(text, headers=HEADERS | {"Content-Security-Policy": policy})

    service.exception_handler(RequestRefused)(_refused)
    service.exception_handler(HTTPException)(_elsewhere)
    service.exception_handler(RequestValidationError)(_invalid)
    return service


def _add_slots(service: FastAPI, slots: Slots) -> None:
    """Add the routes for reservations."""
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": REFUSALS[status]} for status in (401, 429)
    }

    @service.post("/slot", summary="Reserve the service", status_code=201, response_model=Slot, responses=refusals)
    async def reserve() -> Response:
        return _json(201, slots.reserve())

    @service.get("/slot", summary="The state of a reservation", response_model=Slot, responses=refusals)
    async def state(request: Request) -> Response:
        return _json(200, slots.state(request.headers.get("authorization")))

    @service.delete("/slot", summary="End a reservation", status_code=204, responses=refusals)
    async def release(request: Request) -> Response:
        slots.release(request.headers.get("authorization"))
        return Response(status_code=204, headers=HEADERS)


async def _classified(endpoint: Endpoint, request: Request, *, everything: bool) -> Response:
    """Return the response to a request, also if it fails, and count it."""
    started = perf_counter()
    content: BaseModel
    try:
        if endpoint.slots is not None:
            endpoint.slots.admit(request.headers.get("authorization"))
        status, content = 200, await _admitted(endpoint, request, everything=everything)
    except RequestRefused as refused:
        status, content = refused.status, refused.body
    except ClientDisconnect:
        status, content = GONE, ErrorBody(error="the client disconnected")
    except Exception:
        log.exception("a request could not be answered")  # the error may contain paths: for the log only
        status, content = 500, ErrorBody(error="internal error; the log of the service has the details")
    endpoint.meters.requests.labels(status).inc()
    endpoint.meters.seconds.observe(perf_counter() - started)
    return _json(status, content, EXTRA.get(status))


async def _admitted(endpoint: Endpoint, request: Request, *, everything: bool) -> Classified:
    """Return the response document; refuse the request if too many are in progress, or at the deadline."""
    if endpoint.room.locked():
        raise RequestRefused(429, "too many requests at a time; try again in a second")
    until = asyncio.get_running_loop().time() + endpoint.deadline
    async with endpoint.room:
        with endpoint.meters.in_flight.track_inprogress():
            image = await _by(until, endpoint.reader.read(request), 408, "the picture was not received and read")
            asked = attended(request, _submitted(endpoint.model, image))
            answer = await _by(until, asked, 504, "the divided model did not answer")
    if not np.isfinite(answer.output).all():
        raise RequestRefused(502, "the output of the CNN is not finite; check its weights and the devices")
    return _told(answer, endpoint.names, image.shape, everything=everything)


async def _by(until: float, work: Awaitable[Got], status: int, late: str) -> Got:
    """Return the result of work; refuse the request if it is not done by ``until`` on the event loop's clock."""
    try:
        async with asyncio.timeout_at(until):
            return await work
    except TimeoutError as error:
        raise RequestRefused(status, f"{late} by the deadline; try again later") from error


async def _submitted(model: ServedModel, image: NDArray[np.float32]) -> ModelOutput:
    try:
        return await model.submit(image)
    except ImageRefused as error:
        raise RequestRefused(422, error.reason) from error
    except FrameFailed as error:
        body = ErrorBody(
            error=f"not classified: {error}", device=error.device, link=error.link, reason=error.reason
        )
        raise RequestRefused(503, body) from error


def _told(
    answer: ModelOutput, names: Sequence[str] | None, shape: tuple[int, ...], *, everything: bool
) -> Classified:
    """Return the response document of an output; of equally probable classes, the lower number comes first."""
    logits = answer.output.astype(np.float64)
    weights = np.exp(logits - logits.max())
    probabilities = weights / weights.sum()
    best = [
        ClassScore(class_=i, name=names[i] if names else None, probability=probabilities[i])
        for i in np.argsort(-logits, kind="stable")[:BEST].tolist()
    ]
    return Classified(
        **dict(best[0]),
        image=answer.number,
        best=best,
        logits=logits.tolist() if everything else None,
        seconds=answer.seconds,
        input=list(shape),
    )


async def _refused(_: Request, error: Exception) -> Response:
    """Answer refused requests about reservations."""
    assert isinstance(error, RequestRefused)
    return _json(error.status, error.body, EXTRA.get(error.status))


async def _elsewhere(_: Request, error: Exception) -> Response:
    """Answer requests with unknown paths or methods."""
    assert isinstance(error, HTTPException)
    body = ErrorBody(error=f"{error.detail}; /openapi.json lists the routes")
    return _json(error.status_code, body, error.headers)


async def _invalid(_: Request, error: Exception) -> Response:
    """Answer requests with unknown parameters."""
    assert isinstance(error, RequestValidationError)
    return _json(422, ErrorBody(error="; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())))


def _json(status: int, content: BaseModel, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(
        content.model_dump(by_alias=True, exclude_unset=True), status, HEADERS | dict(headers or {})
    )


def _meters() -> Meters:
    registry = prometheus.CollectorRegistry()
    return Meters(
        registry,
        prometheus.Counter("cloven_requests", "Requests to classify", ["status"], registry=registry),
        prometheus.Histogram(
            "cloven_request_seconds", "Seconds from the head of a request to its response", registry=registry
        ),
        prometheus.Gauge("cloven_requests_in_flight", "Requests in progress", registry=registry),
    )


def _accepted(limit: int) -> dict[str, Any]:
    """Return the description of the accepted request bodies for ``/openapi.json``."""
    raw = {"schema": {"type": "string", "format": "binary"}}
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: raw["schema"]}}
    return {
        "required": True,
        "description": f"A picture, or pixels as little-endian float32 numbers from 0 to 1; at most {limit} bytes",
        "content": {"image/*": raw, FORM: {"schema": form}, NUMBERS: raw},
    }
