"""A user of the service: the answers for images in order, reservations, and what is said if it does not answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse

from cloven.errors import ClovenError
from cloven.runtime import service_client
from cloven.runtime.link import authority, identity
from cloven.runtime.service import Slots
from cloven.runtime.service_client import Service, ServiceClient
from tests.runtime.test_service import CLASSES, SHAPE, WEIGHTS, Model, listening, made

__all__ = ["listening"]

Listening = Callable[..., str]
IMAGES = np.random.default_rng(5).random((9, *SHAPE), np.float32)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_client, "PAUSE", 0.02)


@pytest.fixture
def user(listening: Listening) -> Iterator[ServiceClient]:
    with ServiceClient(Service(listening(made(slots=Slots(60))))) as found:
        yield found


def test_the_answers_are_those_of_the_model_in_order(listening: Listening) -> None:
    with ServiceClient(Service(listening(made()))) as user:
        served = user.model
        with user.reserved():  # which this service does not require
            answers = [user.classify(image) for image in IMAGES]

    assert (served.input, served.slots) == (SHAPE, False)
    expected = np.stack([WEIGHTS @ image.reshape(-1) for image in IMAGES])
    assert np.array_equal(np.array([answer.logits for answer in answers], np.float32), expected)
    assert [answer.class_ for answer in answers] == expected.argmax(1).tolist()
    assert {answer.image for answer in answers} == {7}


def test_a_user_waits_for_the_slot_and_gives_it_back(user: ServiceClient) -> None:
    with ServiceClient(user.service) as other, other.reserved():
        waits = "is reserved by others: 1 are before this user after"
        with ServiceClient(replace(user.service, turn=0.1)) as impatient, pytest.raises(ClovenError, match=waits):
            impatient.reserved().__enter__()
        assert other.classify(IMAGES[0]).image == 7
    with user.reserved():
        assert user.classify(IMAGES[0]).image == 7


def test_a_slot_that_ends_meanwhile_is_reserved_again(user: ServiceClient) -> None:
    with user.reserved():
        with httpx.Client(base_url=user.service.url) as http:
            http.delete("/slot", headers={"Authorization": f"Bearer {user._token}"})
        assert user.classify(IMAGES[0]).image == 7


def test_an_image_without_a_slot_is_refused(user: ServiceClient) -> None:
    with pytest.raises(ClovenError, match=r"refused the request \(401\): the service is reserved for one user"):
        user.classify(IMAGES[0])


def test_an_image_that_a_busy_service_refuses_is_sent_again_for_a_while(listening: Listening) -> None:
    busy = Service(listening(made(Model(delay=0.05), waiting=1)), answer=30)
    with ServiceClient(busy) as one, ServiceClient(busy) as other, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(user.classify, image) for user in (one, other) for image in IMAGES[:3]]
        assert {answer.result().image for answer in answers} == {7}
    late = r"\(504\): the divided model did not answer by the deadline"
    with (
        user_of(listening(made(Model(delay=9), deadline=0.1)), answer=0.3) as user,
        pytest.raises(ClovenError, match=late),
    ):
        user.classify(IMAGES[0])


def user_of(url: str, answer: float = 60.0) -> ServiceClient:
    return ServiceClient(Service(url, answer=answer))


def test_keys(listening: Listening, tmp_path: Path) -> None:
    authority.new(["edge0"], tmp_path / "keys")
    own = identity.read(tmp_path / "keys" / "edge0")
    url = listening(made(), identity=identity.read(tmp_path / "keys" / "coordinator"))
    with ServiceClient(Service(url, own)) as user:
        assert user.model.input == SHAPE
    with pytest.raises(ClovenError, match="--keys requires a service with TLS, got http://"):
        ServiceClient(Service(url.replace("https", "http"), own))
    authority.new(["edge0"], tmp_path / "others")
    other = identity.read(tmp_path / "others" / "edge0")
    with ServiceClient(Service(url, other)) as stranger, pytest.raises(ClovenError, match="does not answer"):
        _ = stranger.model


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("127.0.0.1:8000", "expected a URL such as http://127.0.0.1:8000"),
        ("https://127.0.0.1:8000", "requires the folder of a party's keys; give it with --keys"),
        ("http://[::", "the service is 'http://\\[::'"),
    ],
)
def test_urls_that_cannot_be_used(url: str, told: str) -> None:
    with pytest.raises(ClovenError, match=told):
        user_of(url)


def test_a_service_that_is_not_there() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    nobody = r"does not answer: .*; is `cloven serve` running\?"
    with user_of(f"http://127.0.0.1:{port}") as user, pytest.raises(ClovenError, match=nobody):
        _ = user.model


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (Response(b"<html>", 200), "is not valid JSON"),
        (JSONResponse({"input": [1, 2], "slots": False}), "input"),
        (JSONResponse({"input": SHAPE}), "slots: Field required"),
        (Response(status_code=404), "is not a cloven service: GET /model was answered with 404"),
        (Response(b" " * (service_client.REPLY + 1)), "sent a reply of more than 16,777,216 bytes"),
    ],
)
def test_a_peer_that_is_another_server(listening: Listening, response: Response, told: str) -> None:
    other = FastAPI()
    other.get("/model")(lambda: response)
    with user_of(listening(other)) as user, pytest.raises(ClovenError, match=told):
        _ = user.model


def test_an_answer_with_a_class_that_is_none(listening: Listening) -> None:
    other = FastAPI()
    other.post("/classify")(lambda: {"image": 1, "class": -1, "logits": [0.0] * CLASSES})
    with user_of(listening(other)) as user, pytest.raises(ClovenError, match="class: Input should be greater"):
        user.classify(IMAGES[0])


def held(token: str = "t", classify: Callable[[], object] | None = None) -> FastAPI:
    """Return a service that gives everyone a slot."""
    other = FastAPI()
    other.get("/model")(lambda: {"input": SHAPE, "slots": True})
    slot = {"token": token, "state": "held", "ahead": 0, "seconds": 60}
    other.post("/slot")(lambda: JSONResponse(slot, 201))
    if classify is not None:
        other.post("/classify")(classify)
    return other


@pytest.mark.parametrize("token", ["a\r\nX-Other: 1", "\N{EURO SIGN}", "", "a" * 257])
def test_a_token_that_is_no_header_is_refused(listening: Listening, token: str) -> None:
    with (
        user_of(listening(held(token))) as user,
        pytest.raises(ClovenError, match=r"the reply of .*: token: String"),
    ):
        user.reserved().__enter__()


def test_a_slot_that_always_ends_is_reserved_again_once(listening: Listening) -> None:
    asked = []

    def ended() -> Response:
        asked.append(1)
        return JSONResponse({"error": "this reservation has ended"}, 401)

    ends = r"refused the request \(401\): this reservation has ended"
    with user_of(listening(held(classify=ended))) as user, pytest.raises(ClovenError, match=ends), user.reserved():
        user.classify(IMAGES[0])
    assert len(asked) == 2


def test_a_slot_that_cannot_be_given_back_hides_no_other_error(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(user: ServiceClient) -> NoReturn:
        with user.reserved():
            monkeypatch.setattr(service_client, "REPLY", 0)  # no reply is accepted any more
            raise KeyboardInterrupt

    with user_of(listening(held())) as user, pytest.raises(KeyboardInterrupt):
        interrupted(user)


def test_a_reply_that_does_not_end(listening: Listening) -> None:
    def drops() -> Iterator[bytes]:
        while True:
            time.sleep(0.02)
            yield b" "

    other = FastAPI()
    other.get("/model")(lambda: StreamingResponse(drops()))
    late = "did not complete its reply within 0.2 s"
    with user_of(listening(other), answer=0.2) as user, pytest.raises(ClovenError, match=late):
        _ = user.model


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"class": 0}, "class is 0; expected 1, whose output is the largest"),
        ({"class": 10**30}, "class"),
        ({"image": 2**63}, "image: Input should be less than"),
        ({"image": -1}, "image: Input should be greater than"),
    ],
)
def test_an_answer_that_contradicts_itself(listening: Listening, answer: dict[str, int], told: str) -> None:
    other = held(classify=lambda: {"image": 1, "class": 1, "logits": [0.0, 1.0], **answer})
    with user_of(listening(other)) as user, pytest.raises(ClovenError, match=told):
        user.classify(IMAGES[0])


def test_a_user_who_waits_is_told(user: ServiceClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cloven")
    with ServiceClient(user.service) as other, ServiceClient(replace(user.service, turn=0.1)) as impatient:
        with other.reserved(), pytest.raises(ClovenError, match="is reserved by others"):
            impatient.reserved().__enter__()
        assert [record.getMessage() for record in caplog.records if record.name == "cloven"] == [
            f"{user.service.url} is reserved by others; waiting for at most 0.1 s"
        ]
