"""Encoding readings as levels: exact inside the training range, and back from images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloven.errors import ClovenError
from cloven.zoo.telemetry_encoder import Encoder, Layout, fitted_encoder, fitted_scale, laid_out
from cloven.zoo.ton_iot import SensorColumn

PROPERTY = settings(deadline=None, derandomize=True, max_examples=100)
STATE = SensorColumn("state", ("off", "idle", "on"))


@st.composite
def numbers(draw: st.DrawFn) -> tuple[list[float], list[float], int]:
    """A training part, other numbers in its range, and the digits after the point of all of them."""
    decimals = draw(st.integers(0, 9))
    whole = st.integers(-65_536 * 10**decimals, 65_536 * 10**decimals)
    training = draw(st.lists(whole, min_size=1, max_size=400)) * draw(st.integers(1, 3))
    others = draw(st.lists(st.integers(min(training), max(training)), max_size=50))
    return [n / 10**decimals for n in training], [n / 10**decimals for n in (*training, *others)], decimals


@PROPERTY
@given(numbers())
def test_numbers_in_the_training_range_are_decoded_exactly(some: tuple[list[float], list[float], int]) -> None:
    training, inside, decimals = some
    scale = fitted_scale(np.array(training), decimals)

    levels = scale.levels(np.array(inside))
    assert scale.numbers(levels).tolist() == inside
    assert 0 <= levels.min() <= levels.max() <= 1
    assert np.all(np.diff(levels[np.argsort(inside, kind="stable")]) >= 0)


@PROPERTY
@given(numbers(), st.lists(st.integers(0, 2), min_size=3, max_size=60))
def test_readings_are_decoded_exactly(some: tuple[list[float], list[float], int], states: list[int]) -> None:
    training, inside, decimals = some
    count = min(len(inside), len(states))
    readings = np.stack([np.array(inside[:count]), np.array(states[:count], np.float64)], axis=-1)
    before = np.stack([np.array(training), np.zeros(len(training))], axis=-1)
    encoder = fitted_encoder((SensorColumn("number"), STATE), (decimals, 0), before)

    assert encoder.features == ("number", "state=off", "state=idle", "state=on")
    assert np.array_equal(encoder.decode(encoder.encode(readings)), readings)
    assert encoder.outside(readings) == (0, 0)


def test_numbers_outside_the_range_are_counted_and_get_its_ends() -> None:
    encoder = fitted_encoder(
        (SensorColumn("number"), STATE), (0, 0), np.array([[float(i), 0.0] for i in range(11)])
    )
    readings = np.array([[-5.0, 0.0], [0.0, 1.0], [10.0, 2.0], [11.0, 0.0], [99.0, 0.0]])

    assert encoder.outside(readings) == (3, 0)
    assert encoder.decode(encoder.encode(readings))[:, 0].tolist() == [0.0, 0.0, 10.0, 10.0, 10.0]


def test_a_level_is_a_quantile() -> None:
    values = np.random.default_rng(0).exponential(7, 5000).round(6)
    scale = fitted_scale(values, 6)

    quantiles = np.quantile(values, [0, 0.2, 0.4, 1])
    assert scale.numbers(np.array([0, 51, 102, 255]) / 255) == pytest.approx(quantiles, abs=1e-6)
    assert scale.levels(quantiles) == pytest.approx([0, 0.2, 0.4, 1], abs=1e-6)


def test_a_number_that_is_several_quantiles_is_in_their_middle() -> None:
    scale = fitted_scale(np.array([1.0] * 50 + [2.0] * 100 + [3.0] * 50), 0)
    low, middle, high = scale.levels(np.array([1.0, 2.0, 3.0]))

    assert (low, middle, high) == pytest.approx((0.125, 0.5, 0.875), abs=0.01)
    assert scale.numbers(middle + np.array([-0.2, 0.2])).tolist() == [
        2.0,
        2.0,
    ]  # robust against errors of the level


def test_of_uncertain_categories_the_most_likely_is_decoded() -> None:
    encoder = Encoder((STATE,), (None,))

    assert encoder.decode(np.array([[0.1, 0.4, 0.3], [0.2, 0.1, 0.6]])).tolist() == [[1.0], [2.0]]


@PROPERTY
@given(st.integers(2, 20), st.integers(1, 20), st.integers(0, 30), st.integers(0, 30), st.sampled_from((1, 3)))
def test_a_grid_is_read_back_from_its_image(rows: int, columns: int, down: int, right: int, channels: int) -> None:
    layout = laid_out(rows, columns, (channels, rows + down, columns + right))
    grid = np.random.default_rng(rows).integers(0, 256, (rows, columns), np.uint8)
    image = layout.enlarged(grid)

    assert image.shape == layout.shape
    assert np.array_equal(layout.reduced(image[None].astype(np.float64))[0], grid)
    high, wide = layout.cell
    assert not image[:, high * rows :].any()
    assert not image[:, :, wide * columns :].any()
    assert (image == image[:1]).all()


def test_an_image_smaller_than_the_grid_is_refused() -> None:
    assert laid_out(4, 8, (1, 4, 8)) == Layout(4, 8, (1, 4, 8))
    with pytest.raises(
        ClovenError, match="got 16 x 4 pixels; expected at least 16 x 5 for windows of 16 rows by 5"
    ):
        laid_out(16, 5, (3, 16, 4))
