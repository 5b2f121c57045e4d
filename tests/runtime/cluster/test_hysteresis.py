"""The waits before a run goes back to an earlier plan."""

from __future__ import annotations

from cloven.runtime.cluster.hysteresis import Hysteresis


def returns(possible: dict[int, bool], until: int) -> list[int]:
    """Return the seconds at which a return is due, if it becomes possible or impossible at some seconds."""
    hysteresis, now, due = Hysteresis(), False, []
    for second in range(until):
        now = possible.get(second, now)
        if hysteresis.due(second, possible=now):
            due.append(second)
            now = possible.get(second, False)  # it has gone back
    return due


def test_a_return_is_due_when_it_has_been_possible_for_two_seconds() -> None:
    assert returns({10: True}, 20) == [12]
    assert returns({10: True, 11: False, 15: True}, 20) == [17]


def test_each_return_that_does_not_last_doubles_the_wait() -> None:
    assert returns({10: True, 13: True, 18: True, 27: True, 44: True}, 100) == [12, 17, 26, 43, 76]


def test_the_wait_is_at_most_a_minute_and_short_again_after_a_quiet_time() -> None:
    tries = [10, 20, 40, 70, 110, 170, 240]
    assert returns(dict.fromkeys(tries, True), 400) == [12, 24, 48, 86, 142, 230, 300]
    assert returns({10: True, 13: True, 200: True}, 300) == [12, 17, 202]
