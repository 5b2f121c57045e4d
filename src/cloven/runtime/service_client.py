"""A user of the HTTP service that `cloven serve` runs."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, FiniteFloat, model_validator

from cloven.documents import parse_document
from cloven.errors import ClovenError, one_line, require
from cloven.partition.protection import COORDINATOR

try:
    import httpx
except ImportError as error:
    raise require("attack", error) from error

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

log = logging.getLogger("cloven")

REPLY = 16 * 2**20
"""The maximum bytes of a reply."""
BUSY = (423, 429, 503, 504)
"""The statuses after which an image is sent again."""
PAUSE = 0.5
"""Seconds between attempts, and between questions whether it is this user's turn."""

Reply = TypeVar("Reply", bound=BaseModel)


class ServiceDescription(BaseModel):
    """The served model: the shape of its images, and whether a user must reserve the service."""

    input: tuple[int, int, int]
    slots: bool


class SlotState(BaseModel):
    """The state of a reservation."""

    token: str = Field(pattern=r"^[A-Za-z0-9_.~+/=-]+$", max_length=256)  # it becomes a header
    state: Literal["held", "waiting"]
    ahead: int
    seconds: float


class Answer(BaseModel):
    """The answer for an image: its number on the links, its class, and the output of the CNN."""

    image: int = Field(ge=0, lt=2**63)
    class_: int = Field(alias="class", ge=0)
    logits: list[FiniteFloat] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        largest = self.logits.index(max(self.logits))
        if self.class_ != largest:
            raise ValueError(
                f"class is {one_line(str(self.class_))}; expected {largest}, whose output is the largest"
            )
        return self


@dataclass(frozen=True)
class Service:
    """The address of a service, and how to wait for it.

    Attributes:
        url: its URL, such as ``http://127.0.0.1:8000``.
        identity: the keys for mTLS; None for a service without.
        answer: the seconds to try to have an image classified.
        turn: the seconds to wait for a reserved slot.
    """

    url: str
    identity: Identity | None = None
    answer: float = 60.0
    turn: float = 1800.0


class ServiceClient:
    """A user of a service; `reserved` reserves it, if it serves one user at a time.

    Use it as a context manager, which closes the connections.

    Raises:
        ClovenError: if the URL or the keys cannot be used.
    """

    def __init__(self, service: Service) -> None:
        self.service, self._token = service, ""
        if not service.url.lower().startswith(("http://", "https://")):
            raise ClovenError(f"the service is {service.url!r}; expected a URL such as http://127.0.0.1:8000")
        if service.url.lower().startswith("https://") and service.identity is None:
            raise ClovenError(f"{service.url} requires the folder of a party's keys; give it with --keys")
        if service.url.lower().startswith("http://") and service.identity is not None:
            raise ClovenError(f"--keys requires a service with TLS, got {service.url}; expected https://...")
        verify: ssl.SSLContext | bool = service.identity.client_context() if service.identity is not None else False
        try:
            self._http = httpx.Client(base_url=service.url, timeout=service.answer, verify=verify, trust_env=False)
        except (httpx.InvalidURL, ValueError) as error:
            raise ClovenError(f"the service is {service.url!r}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._http.close()

    @cached_property
    def model(self) -> ServiceDescription:
        """Return the served model.

        Raises:
            ClovenError: if the peer does not answer, or is not a cloven service.
        """
        status, content = self._send("GET", "/model")
        if status != 200:
            raise ClovenError(f"{self.service.url} is not a cloven service: GET /model was answered with {status}")
        return self._parsed(ServiceDescription, content)

    def reserved(self) -> AbstractContextManager[None]:
        """Return a context in which this user holds the slot, if the service has slots.

        Raises:
            ClovenError: if the queue is full, or if it was not this user's turn in time.
        """
        return self._reserved() if self.model.slots else nullcontext()

    def classify(self, image: NDArray[np.float32]) -> Answer:
        """Return the answer for an image ``(C, H, W)`` in [0, 1].

        Raises:
            ClovenError: if it is not answered in time, or refused.
        """
        until, content = time.monotonic() + self.service.answer, image.astype("<f4").tobytes()
        renewed = False
        while True:
            status, reply = self._send("POST", "/classify?scores=all", content, self._token)
            if status == 200:
                return self._parsed(Answer, reply)
            if status == 401 and self._token and not renewed:  # the reservation has ended
                self._reserve()
                renewed = True
            elif status not in BUSY or time.monotonic() > until:
                self._refused(status, reply)
            else:
                time.sleep(PAUSE)

    @contextmanager
    def _reserved(self) -> Iterator[None]:
        self._reserve()
        try:
            yield
        finally:
            with suppress(ClovenError):  # the slot ends in any case
                self._send("DELETE", "/slot", token=self._token)
            self._token = ""

    def _reserve(self) -> None:
        """Reserve the service, and wait until the slot is held."""
        until = time.monotonic() + self.service.turn
        status, content = self._send("POST", "/slot")
        if status != 201:
            self._refused(status, content)
        slot = self._parsed(SlotState, content)
        if slot.state == "waiting":
            log.info("%s is reserved by others; waiting for at most %g s", self.service.url, self.service.turn)
        while slot.state == "waiting":
            if time.monotonic() > until:
                self._send("DELETE", "/slot", token=slot.token)
                raise ClovenError(
                    f"{self.service.url} is reserved by others: {slot.ahead} are before this user after "
                    f"{self.service.turn:g} s; try again later"
                )
            time.sleep(PAUSE)
            status, content = self._send("GET", "/slot", token=slot.token)
            if status != 200:
                self._refused(status, content)
            slot = self._parsed(SlotState, content)
        self._token = slot.token

    def _send(self, method: str, path: str, content: bytes = b"", token: str = "") -> tuple[int, bytes]:
        """Return the status and the body of a response."""
        headers = {"Content-Type": "application/octet-stream"} if content else {}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        named = {"sni_hostname": COORDINATOR} if self.service.identity is not None else {}
        until = time.monotonic() + self.service.answer
        try:
            with self._http.stream(method, path, content=content, headers=headers, extensions=named) as response:
                body = b""
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > REPLY:
                        raise ClovenError(f"{self.service.url} sent a reply of more than {REPLY:,} bytes")
                    if time.monotonic() > until:
                        raise ClovenError(
                            f"{self.service.url} did not complete its reply within {self.service.answer:g} s"
                        )
                return response.status_code, body
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            told = one_line(str(error)) or type(error).__name__
            raise ClovenError(f"{self.service.url} does not answer: {told}; is `cloven serve` running?") from error

    def _parsed(self, kind: type[Reply], content: bytes) -> Reply:
        return parse_document(kind, content, f"the reply of {self.service.url}")

    def _refused(self, status: int, content: bytes) -> NoReturn:
        try:
            told = self._parsed(_Refusal, content).error
        except ClovenError:
            told = "the reply is not that of a cloven service"
        raise ClovenError(f"{self.service.url} refused the request ({status}): {one_line(told)}")


class _Refusal(BaseModel):
    error: str
