"""What the divisions of the paper's models send, and the sizes of its decoders, as on the page."""

from __future__ import annotations

import pytest
from benchmarks import s1_page
from benchmarks.s1_divisions import DivisionsTable, decoders, rows

from cloven.documents import read_document
from cloven.graph.box import Shape

STORED = read_document(DivisionsTable, s1_page.PAGE.results / "divisions.json")


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32)])
def test_the_stored_rows_of_lenet5_are_those_that_are_computed(image: Shape) -> None:
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


def test_a_slice_is_sent_whole_only_if_the_exchange_is_of_its_layer() -> None:
    found = {
        row.division: {one.layer: (one.sent, one.slices) for one in row.slices}
        for row in rows("lenet5", (1, 28, 28))
    }

    assert found["vertical"] == {f"Layer {n}": (1, 1) for n in (2, 3, 5)}
    assert found["horizontal"] == {"Layer 2": (0, 4), "Layer 3": (4, 4), "Layer 5": (4, 4)}
    assert found["horizontal, exchange layer"]["Layer 2"] == (4, 4)
    assert found["data"] == {}
