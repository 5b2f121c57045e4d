from __future__ import annotations

import math
from typing import Any

import pytest

from cloven.reporting import digest, orderings, plans
from tests.reporting.summaries import summary


def _finding(**changes: Any) -> dict[str, Any]:
    return {**summary()["findings"][0], **changes}


def test_findings_that_differ_only_in_their_share_are_one_bar() -> None:
    found = digest.families(summary()["findings"])
    assert [(f.first["label"], f.name, len(f.findings), f.never) for f in found] == [
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
    found = digest.families([_finding(**whole), _finding(**whole, key="again"), _finding(view="paper")])
    assert [(f.first["label"], f.noun, len(f.findings)) for f in found] == [
        ("Layer 2", "share", 1),
        ("All on a link", "link", 2),
    ]


@pytest.mark.parametrize("name", ["view", "devices", "transform", "pairs", "label", "strategy"])
def test_what_is_not_comparable_is_never_averaged(name: str) -> None:
    other = {"view": "paper", "devices": 8, "transform": "int8", "pairs": 9, "label": "Layer 9", "strategy": "data"}
    changed = _finding(**{name: other[name]})
    assert len(digest.families([_finding(), changed])) == 2


def test_the_bar_is_the_plain_mean_and_its_floor_the_highest() -> None:
    one = _finding(ssim={"mean": 0.2, "low": 0.1, "high": 0.3, "p95": 0.4}, floors={"black": {"ssim": 0.05}})
    two = _finding(
        observation="other",
        ssim={"mean": 0.6, "low": 0.5, "high": 0.7, "p95": 0.8},
        floors={"grey": {"ssim": 0.15}},
    )
    family = digest.Family((one, two))
    assert family.mean("ssim", "decoder") == pytest.approx(0.4)
    assert family.floor("ssim") == 0.15


def test_the_best_floor_passes_over_what_was_not_scored() -> None:
    floors = {"black": {"ssim": None, "agreement": 0.1}, "grey": {"ssim": math.nan, "agreement": 0.2}}
    assert digest.best_floor(_finding(floors=floors), "agreement") == ("grey", 0.2)
    assert digest.best_floor(_finding(floors=floors), "ssim") is None
    assert digest.best_floor(_finding(floors={}), "ssim") is None


@pytest.mark.parametrize(
    ("floor", "stands"), [(0.19, "clear"), (0.2, "reaches"), (0.3, "reaches"), (0.4, "reaches"), (0.41, "below")]
)
def test_a_score_is_clear_of_its_floor_only_with_its_whole_interval(floor: float, stands: str) -> None:
    score = {"mean": 0.3, "low": 0.2, "high": 0.4}
    assert digest.standing(_finding(agreement=score, floors={"grey": {"agreement": floor}}), "agreement") == stands


def test_without_a_floor_or_an_interval_nothing_is_said_of_them() -> None:
    assert digest.standing(_finding(floors={}), "agreement") == "unknown"
    assert digest.standing(_finding(ssim={"mean": None, "low": None, "high": None}), "ssim") == "unknown"


def _leaking(key: str, agreement: float | None, ssim: float | None, *, crosses: bool = True) -> dict[str, Any]:
    return _finding(key=key, crosses=crosses, leakage_above_floor={"agreement": agreement, "ssim": ssim})


def test_what_no_link_carries_is_never_what_leaks_most() -> None:
    sent, ghost = _leaking("sent", 0.1, 0.1), _leaking("ghost", 0.9, 0.9, crosses=False)
    assert digest.most_leaking([ghost, sent]) is sent
    assert digest.most_leaking([ghost]) is None
    assert digest.Family((ghost, sent)).most is sent


def test_what_leaks_most_does_so_in_either_metric() -> None:
    found = [_leaking("a", 0.5, 0.1), _leaking("b", 0.1, 0.6), _leaking("c", None, None)]
    most = digest.most_leaking(found)
    assert most is found[1]
    assert digest.leading(most) == "ssim"
    assert digest.most_leaking(found[2:]) is None


def test_transfers_are_summed_by_link_in_the_order_of_use() -> None:
    sent = [{"source": a, "target": b, "bytes": n} for a, b, n in (("b", "a", 1), ("a", "b", 10), ("b", "a", 100))]
    assert plans.links(sent) == (plans.Link("b", "a", 2, 101), plans.Link("a", "b", 1, 10))


def test_a_plan_names_what_leaks_most_of_its_own_findings() -> None:
    given = summary()
    views = plans.plans(given)
    assert [view.bytes for view in views] == [sum(t["bytes"] for t in plan["transfers"]) for plan in given["plans"]]
    assert [view.never for view in views] == [0, 12, 0]
    assert all(view.most is not None and view.most["strategy"] == view.plan["strategy"] for view in views)


def test_of_plans_alike_only_the_one_that_was_attacked_has_findings() -> None:
    given = summary()
    given["plans"].append(given["plans"][0] | {"title": "vertical, no halo", "counted": []})
    assert [view.most is None for view in plans.plans(given)] == [False, False, False, True]

    given["plans"].append(given["plans"][0] | {"title": "vertical, cut elsewhere"})
    assert [view.most is None for view in plans.plans(given)] == [True, False, False, True, True]


def test_orderings_share_one_scale_with_zero_in_its_middle() -> None:
    end, rows = orderings.orderings(summary()["orderings"])
    assert end == 1.0
    for row in rows:
        assert row.marks is not None
        for name, mark in row.marks.items():
            assert 6 <= mark <= 154
            assert (mark > 80) == (row.ordering["difference"][name] > 0)


def test_an_ordering_without_numbers_has_no_marks() -> None:
    unknown = summary()["orderings"][0] | {"difference": {"mean": None, "low": None, "high": None}}
    assert orderings.orderings([unknown])[1][0].marks is None


def test_the_tally_counts_every_outcome_in_words() -> None:
    assert orderings.tally(summary()["orderings"]) == "3 hold, 1 fails, 1 undecided"
    assert orderings.tally([{"shows": "odd"}, {"shows": "fails"}, {"shows": "fails"}]) == "2 fail, 1 odd"


def test_a_row_says_first_that_its_link_never_carries_it() -> None:
    details = [
        bar.detail for group in digest.chart(digest.families(summary()["findings"]), "ssim") for bar in group.bars
    ]
    assert details[:3] == ["1 of 4 never sent · paper", "full", "paper · 4 shares"]

    ghosts = tuple(finding | {"crosses": False} for finding in summary()["findings"][3:7])
    (group,) = digest.chart([digest.Family(ghosts)], "ssim")
    assert group.bars[0].detail == "never sent · paper · 4 shares"
    assert group.bars[0].dashed
    assert not any(mark.sent for mark in group.bars[0].marks)


def test_attack_and_pairs_are_named_only_where_they_differ() -> None:
    found = digest.families([_finding(), _finding(attack="linear"), _finding(pairs=40_000)])
    (group,) = digest.chart(found, "ssim")
    assert [bar.detail for bar in group.bars] == [
        "by decoder · full · 2,000 pairs",
        "by decoder · full · 40,000 pairs",
    ]
    (group,) = digest.chart(digest.families([_finding()]), "ssim")
    assert group.bars[0].detail == "full"


def _scored(attack: str, ssim: float | None, place: str = "here", **changes: Any) -> dict[str, Any]:
    found = _finding(attack=attack, observation=place, floors={"black": {"ssim": 0.1, "agreement": 0.1}}, **changes)
    return found | {"ssim": None if ssim is None else {"mean": ssim, "low": ssim - 0.1, "high": ssim + 0.1}}


def test_a_bar_is_the_strongest_attack_of_its_family_and_no_mixture() -> None:
    (family,) = digest.families(
        [
            _scored("screen", 0.5),
            _scored("decoder", 0.3),
            _scored("screen", 0.3, "there"),
            _scored("decoder", 0.45, "there"),
            _scored("probe", None),
            _scored("probe", None, "there"),
        ]
    )
    assert len(family.places) == 2
    assert family.strongest("ssim") == "screen"
    (group,) = digest.chart([family], "ssim")
    assert group.bars[0].mean == pytest.approx(0.4)
    assert [mark.mean for mark in group.bars[0].marks] == [0.5, 0.3]
    assert digest.tried([family], "ssim") == ["screen", "decoder"]


def test_an_attack_that_was_tried_on_few_shares_does_not_stand_for_all() -> None:
    (family,) = digest.families([_scored("decoder", 0.3), _scored("decoder", 0.2, "there"), _scored("paste", 0.9)])
    assert family.strongest("ssim") == "decoder"


def test_the_attacks_on_a_place_stand_together_the_strongest_first() -> None:
    given = [
        _scored("probe", None),
        _scored("nearest", 0.2),
        _scored("decoder", 0.4, "there"),
        _scored("screen", 0.3),
    ]
    (family,) = digest.families(given)
    assert [[f["attack"] for f in place] for place in family.places] == [
        ["screen", "nearest", "probe"],
        ["decoder"],
    ]


def test_a_rung_is_as_deep_as_its_mean_is_above_the_floor() -> None:
    given = [_scored("nearest", 0.1), _scored("screen", 0.4), _scored("decoder", 0.95), _scored("probe", None)]
    (family,) = digest.families(given)
    rungs = digest.rungs(family, "ssim", ["nearest", "screen", "decoder", "probe", "absent"])
    assert [rung and (rung.level, rung.strongest) for rung in rungs] == [
        (0, False),
        (2, False),
        (5, True),
        None,
        None,
    ]


def test_what_is_best_and_below_its_floor_is_not_framed() -> None:
    (family,) = digest.families([_scored("nearest", 0.05), _scored("screen", 0.02)])
    assert not any(rung and rung.strongest for rung in digest.rungs(family, "ssim", ["nearest", "screen"]))


def test_a_chart_leaves_out_what_has_no_such_score() -> None:
    found = digest.families([_scored("probe", None)])
    assert digest.chart(found, "ssim") == []
    assert len(digest.chart(found, "agreement")) == 1
