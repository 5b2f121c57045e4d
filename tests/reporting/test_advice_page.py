"""The page of an advice: its sentences, drawing and charts, for a plan and without one."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

import cloven
from cloven.advising.advice import TapLeakage
from cloven.advising.limits import Limits
from cloven.auditing.finding import AXES
from cloven.reporting.advice_charts import depth, front, letters
from cloven.reporting.advice_drawing import drawing
from tests.reporting import advices
from tests.reporting.advices import advice, compared, cuts, division, page
from tests.reporting.test_page import Page


def text_of(report: object) -> str:
    return Page(page(report, attacked=False)).text  # type: ignore[arg-type]


def test_the_first_screen_has_the_plan_its_cost_and_its_leakage_beside_their_limits() -> None:
    text = text_of(advice())

    assert "Based on assumed numbers: the estimated costs rest on 2 assumptions." in text
    assert "Vertical, cut after conv2, pool2 and conv3 on edge0, edge1, edge2, edge3" in text
    assert "An image takes 120 ms (limit 300 ms) and 90 MB of memory (limit 200 MB)." in text
    assert "Pixels leak at most 71 % (limit 80 %) to a listener on edge0 → edge1, by residual." in text
    assert (
        "Labels leak 100 % (limit 90 %) to whoever controls edge3, who gets the answer without an attack." in text
    )
    assert "estimated; 130 ms when it was executed" in text


def test_measured_numbers_are_not_called_assumed() -> None:
    assert "assumed numbers" not in text_of(advice(assumptions=()))


def test_what_is_minimised_and_limited_is_in_the_sentence() -> None:
    text = text_of(advice(minimised="throughput", limits=Limits(throughput=10, energy=0.5)))

    assert "An image takes 120 ms and 420 mJ (limit 500 mJ), at 14.2 images/s (at least 10 images/s)." in text
    assert "Throughput maximised" in text
    assert "Throughput against leakage" in text


def test_a_refusal_names_the_nearest_division_and_the_limits_to_relax() -> None:
    text = text_of(advices.refused())

    assert "No plan meets the limits" in text
    assert "The division that comes closest is all of it on edge0." in text
    assert "latency: 0.41 s instead of 0.3 s" in text
    assert "The recommended division" not in text


def test_a_plan_on_one_device_leaks_to_nobody() -> None:
    text = text_of(advices.alone())

    assert "Neither pixels nor labels leak: others cannot listen anywhere." in text
    assert "The link that returns the answer is one that others cannot listen to." in text


def test_a_plan_whose_links_are_encrypted_says_so() -> None:
    sealed = tuple(one.model_copy(update={"protected": True}) for one in advice().leakage)

    assert "Neither pixels nor labels leak: every link that others can listen to is encrypted." in text_of(
        advice(leakage=sealed)
    )


def test_leakage_that_was_not_measured_says_why() -> None:
    unread = advices.leak("edge0->edge1", "labels", 1.0, None).model_copy(update={"reason": "probe gave no result"})

    text = text_of(advice(leakage=(unread,)))

    assert "Labels leak at most 100 % (limit 90 %) to a listener on edge0 → edge1, since nothing shows that" in text
    assert "they do not: probe gave no result." in text
    assert "counted in full: probe gave no result" in text
    assert "by probe" not in text


def test_cuts_that_were_not_attacked_are_counted() -> None:
    attacked = tuple(one for one in advices.cuts() if one.pixel_leakage is not None)

    assert "5 of 6 cuts were attacked by the whole suite: the search did not need to know" in text_of(advice())
    assert "attacked by the whole suite" not in text_of(advice(cuts=attacked))


def test_an_answer_in_clear_leaks_labels_and_no_pixels() -> None:
    text = text_of(advice(leakage=(advices.leak("edge3->coordinator", "labels", 1.0, None),)))

    assert "Pixels do not leak: they do not cross any tap in clear." in text
    assert "a listener on edge3 → coordinator, who gets the answer without an attack." in text


def test_a_tap_in_clear_that_was_not_attacked_is_unknown_and_not_said_to_leak_nothing() -> None:
    leaks = [TapLeakage(tap="a->b", axis=axis, leakage=None, attack=None, protected=False) for axis in AXES]
    text = text_of(advice(leakage=tuple(leaks), limits=Limits()))

    assert "What pixels leak to a listener on a → b is unknown: nothing was attacked there." in text
    assert "to a listener on a → b, where nothing was attacked" in text
    assert "do not leak" not in text


def test_leakage_below_a_percent_is_not_called_a_limit() -> None:
    leaks = (advices.leak("edge0->edge1", "pixels", 0.001, "residual"),)

    assert "No leakage of pixels was found (limit 80 %)." in text_of(advice(leakage=leaks))


def test_exposed_encrypted_and_inner_links_and_untrusted_devices_are_distinguished() -> None:
    row = drawing(advice(), None, (), None)

    assert row is not None
    assert [hop.exposed for hop in row.hops] == [True, True, False]
    assert [hop.encrypted for hop in row.hops] == [False, True, False]
    assert [station.untrusted for station in row.stations] == [False, False, False, True]
    assert [tap.name for tap in row.taps] == ["device edge3"]
    assert row.sentence == (
        "Whoever controls edge3 reads the class of most images, but not the picture; "
        "anyone listening between edge0 and edge1 perhaps sees the image; "
        "between edge1 and edge2 sees only ciphertext (aes-128-gcm)."
    )


def test_an_encrypted_link_that_was_not_attacked_is_encrypted_all_the_same() -> None:
    unknown = {"pixels": None, "labels": None}
    leaks = tuple(
        one.model_copy(update={"leakage": unknown[one.axis], "attack": None}) if "edge1->edge2" in one.tap else one
        for one in advice().leakage
    )
    row = drawing(advice(leakage=leaks), None, (), None)

    assert row is not None
    assert row.hops[1].learns == "sees only ciphertext (aes-128-gcm)"
    assert not row.hops[1].silent
    assert "Not attacked" not in row.sentence
    assert "Without aes-128-gcm" not in text_of(advice(leakage=leaks))


def test_devices_that_form_no_chain_are_drawn_with_all_links() -> None:
    row = drawing(advices.star(), None, (), None)

    assert row is not None
    assert row.hops == ()
    assert len(row.links) == 6
    assert row.more == 2


def test_a_page_with_pictures_has_a_choice_of_links() -> None:
    made = page(advice())

    assert "What the strongest attacks reconstruct" in Page(made).text
    assert made.count('alt="its reconstruction"') > 2
    assert "Choose a link" in made
    assert "All findings" in made


@pytest.mark.parametrize("name", advices.PAGES)
@pytest.mark.parametrize("attacked", [True, False])
def test_a_page_refers_only_to_what_it_has_and_to_no_other_file(name: str, attacked: bool) -> None:
    made = page(advices.PAGES[name], attacked=attacked)
    parsed = Page(made.replace(re.findall(r"<script>.*?</script>", made, flags=re.DOTALL)[0], ""))
    ids = parsed.values("id")

    assert len(ids) == len(set(ids))
    assert {value[1:] for value in parsed.values("href") if value.startswith("#")} <= set(ids)
    assert {part for value in parsed.values("aria-labelledby") for part in value.split()} <= set(ids)
    assert all(v.startswith(("#", "data:")) for n in ("src", "href") for v in parsed.values(n))
    assert "http:" not in made
    assert "https:" not in made


def test_names_from_elsewhere_are_text() -> None:
    evil = '<img src="x" onerror="alert(1)">'
    report = advice(
        plan=evil, reason=evil, compared=(division(0, division=evil, names=(evil,), chosen=True),), untested=(evil,)
    )

    assert evil not in page(report, attacked=False)


def test_equal_advice_gives_equal_bytes() -> None:
    assert page(advice()) == page(advice())


def test_the_front_joins_what_no_other_division_beats() -> None:
    made = [
        division(0, latency=0.1, pixel_leakage=0.9),
        division(1, latency=0.2, pixel_leakage=0.3),
        division(2, latency=0.3, pixel_leakage=0.5),  # slower than the second, and leaks more
        division(3, latency=0.4, pixel_leakage=None),
        division(4, latency=None, pixel_leakage=0.0),
    ]
    chart = front(made, "pixels", "latency", Limits())

    assert chart is not None
    assert {dot.index for dot in chart.dots if dot.best} == {0, 1}
    assert (chart.unattacked, chart.unknown) == (1, 1)
    assert chart.cost_limit is None
    assert chart.leakage_limit is None


def test_the_front_of_a_throughput_prefers_more() -> None:
    made = [
        division(0, throughput=10.0, label_leakage=0.3),
        division(1, throughput=20.0, label_leakage=0.2),
        division(2, throughput=30.0, label_leakage=0.9),
    ]
    chart = front(made, "labels", "throughput", Limits(throughput=15.0, label_leakage=0.5))

    assert chart is not None
    assert {dot.index for dot in chart.dots if dot.best} == {1, 2}
    assert chart.cost_limit is not None
    assert chart.cost_limit.text.replace("\u00a0", " ") == "at least 15 images/s"


def test_a_cost_that_nobody_knows_has_no_front() -> None:
    assert front([division(0, latency=None)], "pixels", "latency", Limits()) is None


@pytest.mark.parametrize(("slowest", "logarithmic"), [(0.5, False), (50.0, True)])
def test_a_wide_range_has_a_logarithmic_axis(slowest: float, logarithmic: bool) -> None:
    chart = front([division(0, latency=0.1), division(1, latency=slowest)], "pixels", "latency", Limits())

    assert chart is not None
    assert chart.logarithmic is logarithmic
    assert len(chart.across) >= 2
    positions = sorted(tick.at for tick in chart.across)
    assert all(b - a >= 60 for a, b in pairwise(positions))


def test_each_named_division_has_a_letter_and_letters_keep_apart() -> None:
    crowded = [division(i, names=(f"baseline {i}",), latency=0.1, pixel_leakage=0.5) for i in range(8)]
    chart = front(crowded, "pixels", "latency", Limits())

    assert chart is not None
    assert list(letters(crowded).values()) == list("ABCDEFGH")
    places = [(one.x, one.y) for one in chart.letters]
    assert all(max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= 13 for i, a in enumerate(places) for b in places[i + 1 :])


def test_the_chart_by_depth_leaves_gaps_where_nothing_was_attacked() -> None:
    chart = depth(cuts(), Limits(latency=0.15, pixel_leakage=0.2), ("pool2",))

    assert chart is not None
    pixels, labels = chart.leakages
    assert len(pixels.dots) == len(labels.dots) == 5
    assert pixels.path.count("M") == 2
    assert [column.name for column in chart.columns if column.chosen] == ["pool2"]
    assert [name for name, _ in chart.limits] == ["pixels", "latency"]
    assert chart.sentence.startswith("No cut leaks least on both axes: pixels leak least after dense1 (20")


def test_a_cut_that_leaks_least_on_both_axes_is_named() -> None:
    *_, last = cuts()
    worse = last.model_copy(update={"after": "conv3", "pixel_leakage": 0.9, "label_leakage": 0.95})
    chart, single = depth([worse, last], Limits(), ()), depth([last], Limits(), ())

    assert chart is not None
    assert chart.sentence == "The cut after dense1 leaks least on both axes."
    assert single is not None
    assert single.sentence == ""  # there is nothing to compare it with


def test_cuts_that_were_not_attacked_have_no_sentence() -> None:
    chart = depth(cuts()[2:3], Limits(), ())

    assert chart is not None
    assert chart.sentence == ""


def test_report_takes_an_advice_and_a_folder_with_one(tmp_path: Path) -> None:
    given = cloven.Advice(advice())
    written = cloven.report(given, tmp_path / "page.html").read_text(encoding="utf-8")
    (tmp_path / "advice.json").write_text(given.report.text(), encoding="utf-8")

    assert cloven.report(tmp_path, tmp_path / "again.html").read_text(encoding="utf-8") == written


def test_report_names_a_wrong_type(tmp_path: Path) -> None:
    with pytest.raises(cloven.ClovenError, match=r"cloven\.advise\(\) returns, or a folder of results"):
        cloven.report(3, tmp_path / "page.html")  # type: ignore[arg-type]


def test_many_divisions_are_listed_with_what_was_left_out() -> None:
    text = text_of(advice(divisions=500, compared=compared(60)))

    assert "Of 500 divisions, the 60 with the best latency are listed." in text
