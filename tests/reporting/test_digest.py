from __future__ import annotations

from typing import Any

import pytest

from cloven.auditing.finding import ScoreRange
from cloven.auditing.summary import ProgramTransfer
from cloven.reporting import digest, orderings, plans
from tests.reporting.summaries import document, only, summary


def _finding(**changes: Any) -> dict[str, Any]:
    return {**summary()["findings"][0], **changes}


def families(*findings: dict[str, Any]) -> list[digest.Family]:
    made = document(only(*findings))
    return digest.families(made.findings, made.observations)


TYPICAL = summary()["findings"]


def test_findings_that_differ_only_in_their_share_are_one_bar() -> None:
    found = families(*TYPICAL)
    assert [(f.first.label, f.name, len(f.findings), f.never) for f in found] == [
        ("Layer 1", "data, 4 devices", 4, 1),
        ("Layer 2", "vertical, 4 devices", 1, 0),
        ("Layer 2", "horizontal, 4 devices", 4, 0),
        ("Layer 3", "vertical, 4 devices", 1, 0),
        ("Layer 3", "horizontal, 4 devices", 4, 3),
        ("Layer 5", "vertical, 4 devices", 1, 0),
        ("Layer 5", "horizontal, 4 devices", 4, 3),
    ]


def test_what_whole_links_carry_comes_after_the_layers_that_the_paper_counts() -> None:
    whole = {"label": "All on a link", "view": "full", "layers": ["pool1", "pool2"]}
    found = families(_finding(**whole), _finding(**whole, key="again"), _finding(view="paper"))
    assert [(f.first.label, f.noun, len(f.findings)) for f in found] == [
        ("Layer 2", "share", 1),
        ("All on a link", "link", 2),
    ]


@pytest.mark.parametrize("name", ["view", "devices", "transform", "pairs", "label", "strategy"])
def test_what_is_not_comparable_is_never_averaged(name: str) -> None:
    other = {"view": "paper", "devices": 8, "transform": "int8", "pairs": 9, "label": "Layer 9", "strategy": "data"}
    changed = _finding(**{name: other[name]})
    assert len(families(_finding(), changed)) == 2


def test_the_bar_is_the_plain_mean_and_its_baseline_the_highest() -> None:
    score = TYPICAL[0]["ssim"]
    one = _finding(ssim=score | {"mean": 0.2}, baselines={"black": {"ssim": 0.05, "agreement": 0.1}})
    two = _finding(
        observation="other", ssim=score | {"mean": 0.6}, baselines={"grey": {"ssim": 0.15, "agreement": 0.1}}
    )
    (family,) = families(one, two)
    assert family.mean("ssim", "decoder") == pytest.approx(0.4)
    assert family.baseline("ssim") == 0.15
    (group,) = digest.chart([family], "ssim")
    assert group.bars[0].mean == pytest.approx(0.4)
    assert group.bars[0].baseline == 0.15


def test_the_best_baseline_passes_over_what_was_not_scored() -> None:
    baselines = {"black": {"ssim": None, "agreement": 0.1}, "grey": {"ssim": None, "agreement": 0.2}}
    (family,) = families(_finding(baselines=baselines))
    assert family.first.baseline("agreement") == ("grey", 0.2)
    assert family.first.baseline("ssim") is None


@pytest.mark.parametrize(
    ("baseline", "stands"), [(0.19, "clear"), (0.2, "reaches"), (0.3, "reaches"), (0.4, "reaches"), (0.41, "below")]
)
def test_a_score_is_clear_of_its_baseline_only_with_its_whole_interval(baseline: float, stands: str) -> None:
    assert digest.stands(ScoreRange(mean=0.3, low=0.2, high=0.4), baseline) == stands


def test_without_a_baseline_or_a_score_nothing_is_said_of_them() -> None:
    assert digest.stands(ScoreRange(mean=0.3, low=0.2, high=0.4), None) == "unknown"
    assert digest.stands(None, 0.1) == "unknown"


def test_transfers_are_summed_by_link_in_the_order_of_use() -> None:
    sent = [
        ProgramTransfer(step=0, source=a, target=b, value="v", share="", shape=(1,), bytes=n)
        for a, b, n in (("b", "a", 1), ("a", "b", 10), ("b", "a", 100))
    ]
    assert plans.links(sent) == (plans.Link("b", "a", 2, 101), plans.Link("a", "b", 1, 10))


def test_a_plan_names_what_leaks_most_of_its_own_findings() -> None:
    given = document(summary())
    views = plans.plans(given)
    assert [view.bytes for view in views] == [sum(t.bytes for t in plan.transfers) for plan in given.programs]
    assert [view.never for view in views] == [0, 12, 0]
    for view in views:
        most = view.most["ssim"]
        assert most is not None
        assert most[0].strategy == view.plan.strategy
        assert most[0].crosses


def test_a_plan_has_its_own_findings() -> None:
    given = summary()
    given["programs"].append(given["programs"][0] | {"title": "vertical, cut elsewhere"})
    views = plans.plans(document(given))
    assert [view.most["ssim"] is None for view in views] == [False, False, False, True]


def test_orderings_share_one_scale_with_zero_in_its_middle() -> None:
    end, rows = orderings.orderings(document(summary()).orderings)
    assert end == 1.0
    for row in rows:
        for name, mark in row.marks.items():
            assert 6 <= mark <= 154
            assert (mark > 80) == (getattr(row.ordering.difference, name) > 0)


def test_the_tally_counts_every_outcome_in_words() -> None:
    assert orderings.tally(document(summary()).orderings) == "3 hold, 1 fails, 1 undecided"


def test_a_row_says_first_that_its_link_never_carries_it() -> None:
    details = [bar.detail for group in digest.chart(families(*TYPICAL), "ssim") for bar in group.bars]
    assert details[:3] == ["1 of 4 never sent · paper", "full", "paper · 4 shares"]

    ghosts = [finding | {"crosses": False} for finding in TYPICAL[3:7]]
    (group,) = digest.chart(families(*ghosts), "ssim")
    assert group.bars[0].detail == "never sent · paper · 4 shares"
    assert group.bars[0].dashed
    assert not any(mark.sent for mark in group.bars[0].marks)


def test_attack_and_pairs_are_named_only_where_they_differ() -> None:
    weak = _finding(attack="linear", ssim=TYPICAL[0]["ssim"] | {"mean": 0.2})
    (group,) = digest.chart(families(_finding(), weak, _finding(observation="other", pairs=40_000)), "ssim")
    assert [bar.detail for bar in group.bars] == [
        "by decoder · full · 2,000 pairs",
        "by decoder · full · 40,000 pairs",
    ]
    (group,) = digest.chart(families(_finding()), "ssim")
    assert group.bars[0].detail == "full"


def _scored(attack: str, ssim: float | None, place: str = "here") -> dict[str, Any]:
    found = _finding(attack=attack, observation=place, baselines={"black": {"ssim": 0.1, "agreement": 0.1}})
    score = TYPICAL[0]["ssim"] | {"mean": ssim, "low": (ssim or 0) - 0.1, "high": (ssim or 0) + 0.1}
    return found | {"ssim": None if ssim is None else score}


def test_a_bar_has_the_score_that_counts_at_each_place() -> None:
    (family,) = families(
        _scored("screen", 0.5),
        _scored("decoder", 0.3),
        _scored("screen", 0.3, "there"),
        _scored("decoder", 0.45, "there"),
        _scored("probe", None),
        _scored("probe", None, "there"),
    )
    assert len(family.places) == 2
    (group,) = digest.chart([family], "ssim")
    assert [mark.mean for mark in group.bars[0].marks] == [0.5, 0.45]
    assert group.bars[0].mean == pytest.approx(0.475)
    assert group.bars[0].detail == "by the strongest · full"
    assert digest.tried([family], "ssim") == ["screen", "decoder"]


def test_the_attacks_on_a_place_stand_together_the_strongest_first() -> None:
    (family,) = families(
        _scored("probe", None), _scored("nearest", 0.2), _scored("decoder", 0.4, "there"), _scored("screen", 0.3)
    )
    assert [[f.attack for f in place] for place in family.places] == [["screen", "nearest", "probe"], ["decoder"]]


def test_a_rung_is_as_deep_as_its_leakage() -> None:
    (family,) = families(
        _scored("nearest", 0.1), _scored("screen", 0.4), _scored("decoder", 0.95), _scored("probe", None)
    )
    rungs = digest.rungs(family, "ssim", ["nearest", "screen", "decoder", "probe", "absent"])
    assert [rung and (rung.level, rung.strongest) for rung in rungs] == [
        (0, False),
        (2, False),
        (5, True),
        None,
        None,
    ]


def test_what_is_best_and_below_its_baseline_is_not_framed() -> None:
    (family,) = families(_scored("nearest", 0.05), _scored("screen", 0.02))
    assert not any(rung and rung.strongest for rung in digest.rungs(family, "ssim", ["nearest", "screen"]))


def test_a_chart_leaves_out_what_has_no_such_score() -> None:
    found = families(_scored("probe", None))
    assert digest.chart(found, "ssim") == []
    assert len(digest.chart(found, "agreement")) == 1
