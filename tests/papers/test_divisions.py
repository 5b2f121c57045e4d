"""The divisions of the paper's models and the sizes of its decoders, as on the page."""

from __future__ import annotations

import pytest
from benchmarks import s1_page
from benchmarks.s1_divisions import DivisionsTable, decoders, rows

from cloven.documents import read_document

STORED = read_document(DivisionsTable, s1_page.PAGE.results / "divisions.json")


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32)])
def test_the_stored_rows_of_lenet5_are_those_that_are_computed(image: tuple[int, int, int]) -> None:
    assert [row for row in STORED.sent if (row.model, row.image) == ("lenet5", image)] == list(
        rows("lenet5", image)
    )


def test_the_stored_decoders_are_those_of_table_2() -> None:
    assert STORED.decoders == tuple(decoders())


def test_what_the_divisions_of_a_digit_send() -> None:
    found = {row.division: row for row in rows("lenet5", (1, 28, 28))}

    assert found["vertical"].bytes == 4 * (16 * 10 * 10 + 16 * 5 * 5 + 120)
    assert (found["vertical"].image_most, found["horizontal"].image_most) == (0, 1)
    assert found["data, no halo"].image_least == found["data, no halo"].image_most == 1 / 4
    assert 1 / 4 < found["data"].image_least <= found["data"].image_most < 1
    assert found["early-together"].image_most == 0


@pytest.mark.parametrize(
    ("division", "sent"),
    [
        ("vertical", {"Layer 2": 1, "Layer 3": 1, "Layer 5": 1}),
        ("horizontal", {"Layer 2": 0, "Layer 3": 4, "Layer 5": 4}),
        ("horizontal, exchange layer", {"Layer 2": 0, "Layer 3": 0, "Layer 5": 0}),
        ("data", {}),
    ],
)
def test_the_slices_that_a_link_carries_depend_on_the_exchange(division: str, sent: dict[str, int]) -> None:
    """With `layer`, a device sends the outputs of convolutions, before their activations and pools."""
    (row,) = (row for row in rows("lenet5", (1, 28, 28)) if row.division == division)

    assert {one.layer: one.sent for one in row.slices} == sent
