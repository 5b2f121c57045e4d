from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloven.reporting import series
from cloven.reporting.panels import STEP, Line, Panel, Spot, panels
from cloven.reporting.verdicts import verdicts
from tests.reporting.summaries import document, laddered

TICKS = ((0.0, "0"), (1.0, "1"))


def _panel(*ends: float, name: str = "decoder") -> Panel:
    lines = tuple(
        Line(f"{name}{i}", "muted", (Spot(0, 0.1), Spot(1, end, end - 0.1, end + 0.1)))
        for i, end in enumerate(ends)
    )
    return Panel("Layer 2", "edge0", lines, TICKS, TICKS, 0.2)


def _names(svg: str) -> dict[str, float]:
    texts = ElementTree.fromstring(svg).iter("text")
    return {"".join(t.itertext()): float(str(t.get("y"))) for t in texts if t.get("class") == "t-label"}


def test_names_that_would_collide_stand_apart_in_the_order_of_their_ends() -> None:
    names = _names(panels("x", "A title", [_panel(0.5, 0.51, 0.49, 0.5)]))
    ordered = sorted(names[f"decoder{i}"] for i in range(4))
    assert min(b - a for a, b in pairwise(ordered)) >= STEP - 0.1
    assert names["decoder1"] == ordered[0]
    assert names["decoder2"] == ordered[-1]


def test_a_plot_is_as_high_as_its_names_need() -> None:
    few, many = (ElementTree.fromstring(panels("x", "t", [_panel(*[0.5] * n)])) for n in (2, 12))
    assert float(str(many.get("viewBox")).split()[3]) > float(str(few.get("viewBox")).split()[3]) + 40


def test_equal_panels_give_equal_bytes_and_say_what_they_show() -> None:
    svg = panels("x", "A title", [_panel(0.5)])
    assert svg == panels("x", "A title", [_panel(0.5)])
    assert "Layer 2, edge0: decoder0." in svg
    assert "var(--muted)" in svg


@pytest.mark.parametrize("name", ["<script>x</script>", "$x^2$", "@0@", "a & b"])
def test_a_strangers_name_is_text(name: str) -> None:
    assert f"{name}0" in _names(panels("x", name, [_panel(0.5, name=name)], in_a_row=1))


@settings(deadline=None, max_examples=15)
@given(st.lists(st.lists(st.floats(-2, 2), max_size=9), min_size=1, max_size=5), st.sampled_from([1, 2]))
def test_any_panels_make_a_well_formed_picture(ends: list[list[float]], in_a_row: int) -> None:
    root = ElementTree.fromstring(panels("x", "t", [_panel(*some) for some in ends], in_a_row=in_a_row))
    assert sum(element.get("class") == "t-name" for element in root.iter("text")) == len(ends)


def test_a_curve_lies_at_its_pairs_and_its_scores() -> None:
    summary = document(laddered())
    found = series.curves(summary.curves, verdicts(summary), "ssim", "pairs")
    assert found[0].heading == "Layer 2, vertical"
    line = found[0].lines[-1]
    assert (line.name, line.colour) == ("residual ↗", "vertical")
    assert [spot.x for spot in line.spots] == pytest.approx([0, 0.5, 1])
    (row,) = [r for r in summary.curves if (r.label, r.attack, r.over) == ("Layer 2", "residual", "pairs")]
    means = [point.ssim.mean / 0.8 for point in row.points if point.ssim is not None]
    assert [spot.y for spot in line.spots] == pytest.approx(means)
    assert found[0].baseline == pytest.approx(0.112 / 0.8)
    assert all("probe" not in line.name for panel in found for line in panel.lines)


def test_a_scale_holds_all_scores_and_starts_at_zero_where_it_can() -> None:
    assert series.scale([0.02, 0.15]) == series.AxisScale(0.0, 0.2)
    assert series.scale([-0.02, 0.7]) == series.AxisScale(0.0, 0.8)
    assert series.scale([-0.3, 0.7]).low == pytest.approx(-0.4)
    assert series.scale([None, float("nan")]) == series.AxisScale(0.0, 1.0)


def test_a_defence_lies_at_its_leakage_and_its_accuracy() -> None:
    rows = document(laddered()).defences
    vertical, _ = series.defences(rows, "ssim")
    assert [line.name.replace("\xa0", " ") for line in vertical.lines][2] == "int8, 2.1 kB"
    (spot,) = vertical.lines[2].spots
    assert spot.x == pytest.approx(0.5 / 0.6)
    assert spot.y == pytest.approx(0.75)


def test_without_labels_a_defence_stands_at_its_agreement_with_the_whole_model() -> None:
    rows = [row.model_copy(update={"accuracy": None}) for row in document(laddered()).defences]
    assert series.kept(rows[0]) == rows[0].agreement_with_the_model
    assert len(series.defences(rows, "ssim")) == 2


def test_a_defence_of_which_nothing_was_attacked_is_not_drawn() -> None:
    given = laddered()
    rows = [row | {"most": {"pixels": None, "labels": None}} for row in given["defences"]]
    assert series.defences(document(given | {"defences": rows}).defences, "ssim") == []


def test_links_that_taps_put_together_are_all_named() -> None:
    one = document(laddered()).observations[0]
    several = one.model_copy(update={"link": None, "links": (("a", "b"), ("b", "c"))})
    assert series.where(several) == "a → b and b → c"
    assert series.where(several.model_copy(update={"link": ("a", "b")})) == "a → b"
    assert series.where(several.model_copy(update={"links": ()})) == "no link"
