from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloven.auditing.finding import ScoreRange
from cloven.reporting import words


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0 B"),
        (784, "784 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1600, "1.6 kB"),
        (9950, "10 kB"),
        (12_345, "12 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (1_605_632, "1.6 MB"),
        (64.2e9, "64 GB"),
    ],
)
def test_bytes_have_two_digits_and_a_unit(value: float, written: str) -> None:
    assert words.size(value).replace(words.SPACE, " ") == written


@pytest.mark.parametrize(
    ("write", "value", "written"),
    [
        (words.seconds, 0.00987, "9.87 ms"),
        (words.seconds, 0.9996, "1 s"),
        (words.seconds, 0.0000005, "0.5 µs"),
        (words.seconds, 1234.5, "1,230 s"),
        (words.joules, 0.42, "420 mJ"),
        (words.octets, 80_284_456, "80.3 MB"),
        (words.octets, 0, "0 B"),
        (words.rate, 402.2, "402 images/s"),
        (words.rate, 0.05, "0.05 images/s"),
        (words.rate, None, "n/a"),
    ],
)
def test_costs_have_three_digits_and_a_unit(
    write: Callable[[float | None], str], value: float | None, written: str
) -> None:
    assert write(value).replace(words.SPACE, " ") == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.98, "98.0 %"), (0.1167, "11.7 %"), (1, "100 %"), (0, "0 %"), (0.99996, "99.996 %"), (0.0002, "0.02 %")],
)
def test_only_an_exact_share_is_written_as_all_or_nothing(value: float, written: str) -> None:
    assert words.percent(value).replace(words.SPACE, " ") == written


@pytest.mark.parametrize(
    ("value", "digits", "written"),
    [(0.62, 2, "0.62"), (-0.05, 2, "−0.05"), (-0.004, 2, "0.00"), (0.0, 3, "0.000"), (0.6249, 3, "0.625")],
)
def test_a_number_that_rounds_to_zero_has_no_sign(value: float, digits: int, written: str) -> None:
    assert words.number(value, digits) == written


@pytest.mark.parametrize(("value", "written"), [(0.1, "+0.10"), (-0.1, "−0.10"), (0.001, "0.00"), (None, "n/a")])
def test_a_difference_carries_its_sign(value: float | None, written: str) -> None:
    assert words.signed(value) == written


def test_an_interval_stands_behind_its_mean() -> None:
    assert words.interval(ScoreRange(mean=0.62, low=0.58, high=0.66)) == "0.62 [0.58, 0.66]"


@pytest.mark.parametrize(
    ("value", "written"),
    [(2.1, "2.1 s"), (71.2, "71 s"), (119.6, "2 min 0 s"), (303, "5 min 3 s"), (7800, "2 h 10 min")],
)
def test_durations_use_the_unit_a_person_would(value: float, written: str) -> None:
    assert words.duration(value).replace(words.SPACE, " ") == written


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
def test_what_is_missing_is_never_written_as_zero(missing: float | None) -> None:
    for write in (words.number, words.signed, words.percent, words.count, words.size, words.duration, words.tiny):
        assert write(missing) == "n/a"


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0, "0"), (1.2e-6, "1.2 × 10⁻⁶"), (3.4, "3.4"), (0.0123, "0.012"), (-152.0, "−150"), (2e12, "2.0 × 10¹²")],
)
def test_a_largest_difference_shows_its_power_of_ten(value: float, written: str) -> None:
    assert words.tiny(value).replace(words.SPACE, " ") == written


def test_names_are_one_line_without_marks_that_reorder_text() -> None:
    assert words.clean("a\n b\x00\u202ec\u2066d") == "a b c d"
    assert words.clean("abcdef", 4) == "abc…"


def test_a_lone_surrogate_does_not_reach_the_page() -> None:
    assert words.clean("a\ud800b").encode() == b"a b"


def test_layers_sort_by_number() -> None:
    assert sorted(["Layer 10", "Layer 2", "Input", "Layer"], key=words.natural) == [
        "Input",
        "Layer",
        "Layer 2",
        "Layer 10",
    ]


def test_words_for_amounts() -> None:
    assert words.plural(1, "share") == "1 share"
    assert words.plural(4000, "class", "classes") == "4,000 classes"
    assert words.shape([1, 28, 28]).replace(words.SPACE, " ") == "1 × 28 × 28"
    assert words.spread([]) == "n/a"
    assert words.spread([5, 5]) == "5"
    assert words.spread([3, 1, 2]) == "1 to 3"


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 4))
def test_any_number_reads_back_as_itself(value: float, digits: int) -> None:
    written = words.number(value, digits).replace(words.MINUS, "-")
    assert float(written) == pytest.approx(value, abs=0.5 * 10**-digits, rel=1e-9)


@given(st.text(), st.text())
def test_any_two_names_can_be_sorted(one: str, other: str) -> None:
    assert (words.natural(one) < words.natural(other)) == (words.natural(other) > words.natural(one))
