from __future__ import annotations

import json

import pytest

from cloven.auditing.summary import AxisScore
from cloven.reporting.levels import Leak, LeakLimit, Level, learned, level
from tests.reporting.summaries import axis_score


def leak(low: float, high: float) -> Leak:
    """A leakage of which the 95 % interval is known."""
    score = {"mean": (low + high) / 2, "low": low, "high": high}
    return Leak(AxisScore.model_validate_json(json.dumps(axis_score("decoder", score, 0.0))))


SURE = {"image": leak(0.7, 0.8), "outline": leak(0.25, 0.4), "trace": leak(0.08, 0.15), "none": leak(0.0, 0.02)}
WIDE = leak(0.0, 0.9)


@pytest.mark.parametrize(
    ("pixels", "labels", "said"),
    [
        (SURE["image"], SURE["none"], "sees the image"),
        (SURE["outline"], SURE["image"], "recognises the image and reads the class of most images"),
        (SURE["trace"], SURE["none"], "sees a trace of the image"),
        (SURE["none"], SURE["outline"], "reads the class of some images, but not the picture"),
        (SURE["none"], SURE["none"], "learns nothing beyond a guess"),
        (None, SURE["image"], "reads the class of most images"),
    ],
)
def test_narrow_intervals_are_put_into_words(pixels: Leak | None, labels: Leak, said: str) -> None:
    assert learned(pixels, labels, 0.0, labels_read=True) == said


def test_a_wide_interval_neither_claims_nor_denies() -> None:
    assert learned(WIDE, SURE["none"], 0.0, labels_read=True) == "perhaps sees the image"
    assert learned(WIDE, SURE["image"], 0.0, labels_read=True) == (
        "reads the class of most images, perhaps the image too"
    )
    assert learned(SURE["none"], WIDE, 0.0, labels_read=True) == (
        "does not see the picture, but perhaps reads the class of most images"
    )


def test_of_two_ends_on_two_steps_the_lower_is_claimed_and_the_upper_gives_the_colour() -> None:
    between = leak(0.45, 0.55)

    assert learned(between, None, 0.0, labels_read=False) == "recognises the image"
    assert between.most == Level.MOST


def test_labels_that_nobody_tried_to_read_are_not_denied() -> None:
    said = learned(SURE["none"], SURE["none"], 0.0, labels_read=False)

    assert said == "does not see the picture, and no attack tried to read the class"


def test_pixels_that_cross_as_they_are_are_seen_whatever_the_score() -> None:
    assert learned(SURE["none"], SURE["none"], 1.0, labels_read=True) == "gets the image itself"
    assert learned(SURE["none"], SURE["none"], 0.25, labels_read=True) == (
        "gets 25\N{NO-BREAK SPACE}% of the image's pixels as they are"
    )


def test_a_leakage_at_a_limit_is_on_the_step_above() -> None:
    assert [level(x) for x in (0, 0.049, 0.05, 0.2, 0.5, 1)] == [0, 0, 1, 2, 3, 3]


def test_an_upper_limit_alone_claims_nothing_and_denies_what_it_excludes() -> None:
    high, low = LeakLimit(0.6, "residual"), LeakLimit(0.01, "residual")

    assert learned(high, low, 0.0, labels_read=True) == "perhaps sees the image"
    assert learned(low, low, 0.0, labels_read=True) == "learns nothing beyond a guess"
    assert high.shown == "up to 60\N{NO-BREAK SPACE}%"
    assert LeakLimit(0.001, "residual").shown == "0\N{NO-BREAK SPACE}%"


def test_a_limit_with_a_lower_end_claims_what_that_supports() -> None:
    assert learned(LeakLimit(0.7, "residual", 0.6), None, 0.0, labels_read=True) == "sees the image"
