from __future__ import annotations

import math
from typing import Any

import pytest

from cloven.report import digest
from tests.report.summaries import summary


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


@pytest.mark.parametrize("name", ["view", "devices", "attack", "pairs", "label", "strategy"])
def test_what_is_not_comparable_is_never_averaged(name: str) -> None:
    other = {"view": "paper", "devices": 8, "attack": "linear", "pairs": 9, "label": "Layer 9", "strategy": "data"}
    changed = _finding(**{name: other[name]})
    assert len(digest.families([_finding(), changed])) == 2


def test_the_bar_is_the_plain_mean_and_its_floor_the_highest() -> None:
    one = _finding(ssim={"mean": 0.2, "low": 0.1, "high": 0.3, "p95": 0.4}, floors={"black": {"ssim": 0.05}})
    two = _finding(ssim={"mean": 0.6, "low": 0.5, "high": 0.7, "p95": 0.8}, floors={"grey": {"ssim": 0.15}})
    family = digest.Family((one, two))
    assert family.mean("ssim") == pytest.approx(0.4)
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
    assert digest.links(sent) == (digest.Link("b", "a", 2, 101), digest.Link("a", "b", 1, 10))


def test_a_plan_names_what_leaks_most_of_its_own_findings() -> None:
    given = summary()
    views = digest.plans(given)
    assert [view.bytes for view in views] == [sum(t["bytes"] for t in plan["transfers"]) for plan in given["plans"]]
    assert [view.never for view in views] == [0, 12, 0]
    assert all(view.most is not None and view.most["strategy"] == view.plan["strategy"] for view in views)


def test_of_plans_alike_only_the_one_that_was_attacked_has_findings() -> None:
    given = summary()
    given["plans"].append(given["plans"][0] | {"title": "vertical, no halo", "counted": []})
    assert [view.most is None for view in digest.plans(given)] == [False, False, False, True]

    given["plans"].append(given["plans"][0] | {"title": "vertical, cut elsewhere"})
    assert [view.most is None for view in digest.plans(given)] == [True, False, False, True, True]


def test_orderings_share_one_scale_with_zero_in_its_middle() -> None:
    end, rows = digest.orderings(summary()["orderings"])
    assert end == 1.0
    for row in rows:
        assert row.marks is not None
        for name, mark in row.marks.items():
            assert 6 <= mark <= 154
            assert (mark > 80) == (row.ordering["difference"][name] > 0)


def test_an_ordering_without_numbers_has_no_marks() -> None:
    unknown = summary()["orderings"][0] | {"difference": {"mean": None, "low": None, "high": None}}
    assert digest.orderings([unknown])[1][0].marks is None


def test_the_tally_counts_every_outcome_in_words() -> None:
    assert digest.tally(summary()["orderings"]) == "3 hold, 1 fails, 1 undecided"
    assert digest.tally([{"shows": "odd"}, {"shows": "fails"}, {"shows": "fails"}]) == "2 fail, 1 odd"


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
        "full · decoder · 2,000 pairs",
        "full · decoder · 40,000 pairs",
        "full · linear · 2,000 pairs",
    ]
