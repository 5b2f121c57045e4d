from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloven.reporting.canvas import COLOURS, Colour
from cloven.reporting.figures import Bar, BarGroup, Mark, bars


def _bar(mean: float | None = 0.6, baseline: float | None = 0.1, shares: int = 2, **kind: bool) -> Bar:
    marks = tuple(
        Mark(mean, None if mean is None else mean - 0.05, None if mean is None else mean + 0.05)
        for _ in range(shares)
    )
    colour: Colour = "vertical"
    return Bar("vertical, 4 devices", "full", colour, mean, baseline, marks, **kind)


def _drawn(*drawn: Bar, name: str = "agreement", heading: str = "Layer 2", detail: str = "conv2") -> str:
    return bars(name, "A title", [BarGroup(heading, detail, drawn)])


def _parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def _right_ends(svg: str, colour: str) -> list[float]:
    """Return the places of the vertical lines of a colour."""
    found = re.findall(rf'<path d="M ([\d.]+) [\d.]+ L \1 [\d.]+ ?" style="[^"]*var\(--{colour}\)', svg)
    return [float(x) for x in found]


def test_the_same_bars_give_the_same_bytes() -> None:
    assert _drawn(_bar(hatched=True, dashed=True)) == _drawn(_bar(hatched=True, dashed=True))


def test_the_readers_own_matplotlib_settings_do_not_show() -> None:
    import matplotlib as mpl

    plain = _drawn(_bar())
    with mpl.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "hatch.linewidth": 5}):
        assert _drawn(_bar()) == plain


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    import matplotlib as mpl

    with mpl.rc_context({"lines.linewidth": 9}):
        _drawn(_bar())
        assert mpl.rcParams["lines.linewidth"] == 9


def test_two_charts_on_a_page_share_no_id_and_refer_only_to_their_own() -> None:
    ids = {}
    for name in ("agreement", "ssim"):
        svg = _drawn(_bar(hatched=True), name=name)
        found = re.findall(r'\bid="([^"]*)"', svg)
        assert len(found) == len(set(found))
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= set(found)
        ids[name] = set(found)
    assert not ids["agreement"] & ids["ssim"]


def test_colours_come_from_the_page() -> None:
    svg = _drawn(_bar(hatched=True, dashed=True))
    assert not set(COLOURS.values()) & set(re.findall(r"#[0-9a-f]{6}", svg))
    assert not re.findall(r"(?:fill|stroke): #", svg)
    assert "var(--vertical)" in svg


def test_nothing_of_the_drawing_program_leaks_onto_the_page() -> None:
    svg = _drawn(_bar())
    for unwanted in ("<style", "<metadata", "http", "font-family", "<!DOCTYPE", "<?xml", "xlink"):
        assert unwanted not in svg


def test_a_chart_is_told_to_who_does_not_see_it() -> None:
    root = _parsed(_drawn(_bar()))
    assert root.get("role") == "img"
    told = {element.get("id"): element.text for element in root if element.tag in ("title", "desc")}
    named = [told[part] for part in str(root.get("aria-labelledby")).split()]
    assert named == ["A title", "Layer 2, vertical, 4 devices, full: 0.60, baseline 0.10."]


def test_a_bar_ends_at_its_mean_and_the_baseline_stands_at_its_score() -> None:
    svg = _drawn(_bar(mean=0.5, baseline=0.25))
    assert pytest.approx(200.0, abs=0.01) in _right_ends(svg, "vertical")
    assert pytest.approx(103.0, abs=0.01) in _right_ends(svg, "ink")


def test_a_negative_score_widens_the_scale_instead_of_being_cut() -> None:
    wide = _drawn(_bar(mean=-0.12))
    assert _right_ends(wide, "vertical")[0] >= 6
    assert _right_ends(wide, "vertical")[0] < _right_ends(wide, "muted")[0]


def test_what_is_missing_is_said_and_not_drawn() -> None:
    svg = _drawn(_bar(mean=None, baseline=None))
    assert "n/a" in svg
    assert not _right_ends(svg, "ink")


@pytest.mark.parametrize(
    "name", ["<script>x</script>", "a & \"b\" 'c'", "$x^2$", "@0@", "\\frac", "层层", "#010101"]
)
def test_a_strangers_name_is_text_and_nothing_else(name: str) -> None:
    root = _parsed(_drawn(_bar(), heading=name, detail=name))
    texts = ["".join(element.itertext()) for element in root.iter("text")]
    assert name + name in texts


def test_a_long_name_is_cut_to_the_room_it_has() -> None:
    root = _parsed(_drawn(_bar(), heading="W" * 300, detail="x" * 300))
    assert max(len("".join(element.itertext())) for element in root.iter("text")) < 60


def test_a_share_that_is_never_sent_is_a_hollow_dot() -> None:
    marks = (Mark(0.5, 0.4, 0.6), Mark(0.3, 0.2, 0.4, sent=False))
    svg = _drawn(Bar("data, 2 devices", "", "data", 0.4, None, marks))
    uses = re.findall(r'<use [^>]*x="([\d.]+)"[^>]*style="fill: var\(--(\w+)\)', svg)
    assert uses == [("200", "data"), ("122.4", "paper")]


def test_each_share_has_its_own_lane() -> None:
    few, many = (_parsed(_drawn(_bar(shares=shares))) for shares in (4, 8))
    dots = [[float(str(use.get("y"))) for use in root.iter("use")] for root in (few, many)]
    assert [len(set(found)) for found in dots] == [4 + 1, 8 + 1]  # and the baseline's foot


_scores = st.none() | st.floats(-1, 1)


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.tuples(_scores, _scores, st.integers(0, 9), st.booleans(), st.booleans()), max_size=8),
    st.text(max_size=9),
)
def test_any_bars_make_a_well_formed_picture(
    drawn: list[tuple[float | None, float | None, int, bool, bool]], name: str
) -> None:
    from cloven.reporting import words

    given_bars = [
        _bar(mean, baseline, n, hatched=hatched, dashed=dashed) for mean, baseline, n, hatched, dashed in drawn
    ]
    root = _parsed(_drawn(*given_bars, heading=words.clean(name)))
    assert sum(element.get("class") == "t-name" for element in root.iter("text")) == len(drawn)
