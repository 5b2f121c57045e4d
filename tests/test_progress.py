"""Progress without a terminal: occasional lines with an estimate of the remaining time."""

from __future__ import annotations

import logging

import pytest

from cloven import progress


class Clock:
    """A clock that is set by the test."""

    now = 0.0


@pytest.fixture
def clock(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock of the progress, whose lines are recorded."""
    made = Clock()
    monkeypatch.setattr("cloven.progress.time.monotonic", lambda: made.now)
    caplog.set_level(logging.INFO, "cloven")
    return made


def test_a_line_for_each_tenth_says_how_long_the_rest_takes(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with progress.report_progress() as report:
        for done in range(21):
            report("training", done, 20)
            clock.now += 60.0

    lines = [record.getMessage() for record in caplog.records]
    assert lines[:3] == [
        "training: 0 of 20",
        "training: 2 of 20, about 18 min left",
        "training: 4 of 20, about 16 min left",
    ]
    assert lines[-2:] == ["training: 18 of 20, about 2 min left", "training: 20 of 20"]
    assert len(lines) == 11


def test_a_stage_that_takes_long_is_logged_every_ten_minutes(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with progress.report_progress() as report:
        for done in range(4):
            report("attacking", done, 100)
            clock.now += 360.0

    assert [record.getMessage() for record in caplog.records] == [
        "attacking: 0 of 100",
        "attacking: 2 of 100, about 9.8 h left",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (119, "119 s"), (150, "2 min"), (7199, "120 min"), (12600, "3.5 h")]
)
def test_a_duration_has_a_unit_that_fits(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
