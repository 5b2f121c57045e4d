"""Box arithmetic, compared with arrays of flags."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloven.graph.box import Box, bands, count, covers, hull, intersect, shares, slices, subtract, without

SIDE = 6
intervals = st.tuples(st.integers(0, SIDE - 1), st.integers(1, SIDE)).map(
    lambda pair: (min(pair[0], pair[1] - 1), max(pair[0] + 1, pair[1]))
)
boxes = st.tuples(intervals, intervals)


def flags(*covered: Box) -> NDArray[np.int64]:
    canvas = np.zeros((1, SIDE, SIDE), np.int64)
    for box in covered:
        canvas[slices(box)] += 1
    return canvas


@given(boxes, boxes)
def test_subtract_gives_disjoint_boxes_of_just_the_difference(a: Box, b: Box) -> None:
    assert (flags(*subtract(a, b)) == ((flags(a) == 1) & (flags(b) == 0))).all()


@given(boxes, boxes)
def test_intersect_is_what_both_hold(a: Box, b: Box) -> None:
    inner = intersect(a, b)
    both = (flags(a) & flags(b)).astype(bool)

    assert (inner is None) == (not both.any())
    assert inner is None or (flags(inner).astype(bool) == both).all()


@given(st.lists(boxes, max_size=4), st.lists(boxes, max_size=4))
def test_without_and_covers_agree_with_flags(wanted: list[Box], held: list[Box]) -> None:
    left = (flags(*wanted) > 0) & (flags(*held) == 0)

    assert ((flags(*without(wanted, held)) > 0) == left).all()
    assert all(covers(held, box) == (flags(*held)[slices(box)] > 0).all() for box in wanted)


@given(st.lists(boxes, min_size=1, max_size=4))
def test_hull_is_the_smallest_box_around_all(several: list[Box]) -> None:
    around = hull(several)
    rows, columns = np.nonzero(flags(*several)[0])

    assert around == ((rows.min(), rows.max() + 1), (columns.min(), columns.max() + 1))


@given(st.integers(1, 200), st.integers(1, 9))
def test_shares_cover_everything_once_and_the_last_takes_the_remainder(n: int, parts: int) -> None:
    dealt = shares(n, parts)

    assert [i for lo, hi in dealt for i in range(lo, hi)] == list(range(n))
    if n >= parts:
        assert {hi - lo for lo, hi in dealt[:-1]} <= {n // parts}
    else:
        assert [count((share,)) for share in dealt] == [1] * n + [0] * (parts - n)


def test_lenets_six_filters_over_four_devices_are_1_1_1_3() -> None:
    assert [hi - lo for lo, hi in shares(6, 4)] == [1, 1, 1, 3]


@given(st.integers(1, 200), st.integers(1, 9))
def test_bands_cover_everything_once_and_differ_by_at_most_one_row(n: int, parts: int) -> None:
    cut = bands(n, parts)
    sizes = [hi - lo for lo, hi in cut]

    assert [i for lo, hi in cut for i in range(lo, hi)] == list(range(n))
    assert max(sizes) - min(sizes) <= 1
