"""Reservations: the service serves one user at a time, and others wait for their turn."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from cloven.runtime.service import Slots
from cloven.runtime.service.contract import RequestRefused
from cloven.runtime.service.slots import PATIENCE
from tests.runtime.test_service import ask, made, picture, refusal


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def bearer(token: str) -> str:
    return f"Bearer {token}"


def refused(slots: Slots, token: str | None) -> int:
    """Return the status with which a request is refused."""
    with pytest.raises(RequestRefused) as error:
        slots.admit(token)
    return error.value.status


def test_the_second_user_waits_until_the_first_gives_the_slot_back(clock: Clock) -> None:
    slots = Slots(60, clock=clock)
    first, second = slots.reserve(), slots.reserve()
    assert (first.state, first.ahead, first.seconds) == ("held", 0, 60)
    assert (second.state, second.ahead, second.seconds) == ("waiting", 1, 60)

    slots.admit(bearer(first.token))
    assert refused(slots, bearer(second.token)) == 423

    slots.release(bearer(first.token))
    slots.admit(bearer(second.token))
    assert refused(slots, bearer(first.token)) == 401
    assert slots.state(bearer(second.token)).state == "held"


def test_a_slot_ends_after_its_time_and_the_next_one_begins_then(clock: Clock) -> None:
    slots = Slots(60, clock=clock)
    first, second = slots.reserve(), slots.reserve()
    for clock.now in (20.0, 40.0, 59.9):
        slots.admit(bearer(first.token))
        slots.state(bearer(second.token))
    clock.now = 60.0
    assert refused(slots, bearer(first.token)) == 401
    assert slots.state(bearer(second.token)).seconds == 60


def test_a_user_who_does_not_ask_loses_the_place_in_the_queue(clock: Clock) -> None:
    slots = Slots(600, clock=clock)
    slots.reserve()
    silent, patient = slots.reserve(), slots.reserve()
    clock.now = PATIENCE - 1
    slots.state(bearer(patient.token))
    clock.now = PATIENCE
    assert slots.state(bearer(patient.token)).ahead == 1
    assert refused(slots, bearer(silent.token)) == 401


def test_the_queue_is_limited() -> None:
    slots = Slots(60, queue=2)
    for _ in range(3):
        slots.reserve()
    with pytest.raises(RequestRefused, match="2 users are waiting already"):
        slots.reserve()


@pytest.mark.parametrize("said", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer another", "bearer é"])
def test_other_tokens_are_refused(said: str | None) -> None:
    slots = Slots(60)
    slots.reserve()
    assert refused(slots, said) == 401


# --- over HTTP ------------------------------------------------------------------------------------------------


def classify(service: FastAPI, token: str = "") -> httpx.Response:
    headers = {"Content-Type": "image/png"} | ({"Authorization": bearer(token)} if token else {})
    return ask(service, "POST", "/classify", content=picture(), headers=headers)


def reserve(service: FastAPI) -> str:
    response = ask(service, "POST", "/slot")
    assert response.status_code == 201
    return str(response.json()["token"])


def test_only_the_user_who_holds_the_slot_is_served() -> None:
    service = made(slots=Slots(60))
    assert "reserve the service with POST /slot" in refusal(classify(service), 401)

    first, second = reserve(service), reserve(service)
    assert classify(service, first).status_code == 200
    assert "another user holds the slot" in refusal(classify(service, second), 423)

    headers = {"Authorization": bearer(first)}
    assert ask(service, "GET", "/slot", headers=headers).json()["state"] == "held"
    assert ask(service, "DELETE", "/slot", headers=headers).status_code == 204
    assert "has ended" in refusal(classify(service, first), 401)
    assert classify(service, second).status_code == 200


def test_a_service_without_slots_serves_everybody() -> None:
    service = made()
    assert ask(service, "GET", "/model").json() == {"input": [3, 8, 8], "slots": False}
    assert classify(service).json()["image"] == 7
    assert ask(service, "POST", "/slot").status_code == 404
