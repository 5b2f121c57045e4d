"""The claims of Mehrafrooz et al. (2025) on made-up bars: when each holds, fails, depends or is undecided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from cloven.auditing.ranking import LEAST_KAPPA
from cloven.papers.s1.bars import TILE, WHOLE_LINK, StrategyBar, difference
from cloven.papers.s1.claims import CLAIMS, figures, judged, over_all, verdict
from cloven.papers.s1.experiments import LINKS, PAPER, SIZE, STRONG
from cloven.papers.s1.figure_document import JudgedClaim, Judgement
from cloven.papers.s1.scales import FULL

MOBILENET, RESNET = "mobilenet_v1", "torchvision:resnet50"
FLOWERS, CIFAR, MNIST = "flowers102", "cifar10", "mnist"
HIGH, LOW = 0.8, 0.3
CLAIM = {claim.name: claim for claim in CLAIMS}


def scores(share: float, images: int = 50) -> Tensor:
    """Return the scores of one seed and one share in which the first images are recognised."""
    return (torch.arange(images) < round(share * images)).double()[None, None]


def bar(agreement: float | Tensor, **fields: Any) -> StrategyBar:
    """Return a bar of LeNet-5 in Fig. 5(c) with some fields changed."""
    given = agreement if isinstance(agreement, Tensor) else scores(agreement)
    usual: dict[str, Any] = {
        "figure": "5c",
        "model": "lenet5",
        "data": MNIST,
        "control": PAPER,
        "strategy": "vertical",
        "layer": "Layer 2",
        "devices": 4,
        "where": "",
        "victims": "some",
        "kappa": 0.9,
        "baselines": (0.1, 0.1),
        "crosses": True,
        "scale": FULL["5c"],
    }
    return StrategyBar(scores=given, ssim=given, **usual | fields)


def judge(name: str, bars: Sequence[StrategyBar]) -> JudgedClaim:
    return judged(bars, [CLAIM[name]])[0]


def changed(bars: Sequence[StrategyBar], **fields: Any) -> list[StrategyBar]:
    return [replace(one, **fields) for one in bars]


def names_of(found: JudgedClaim, control: str = PAPER) -> list[tuple[str, str]]:
    return [(row.higher, row.lower) for row in found.comparisons[control]]


# --- each claim -----------------------------------------------------------------------------------------------


Made = Callable[[float, float], list[StrategyBar]]
"""Make the bars of a claim from two agreements: the one that should be higher, and the lower one."""

ORDERS: dict[str, Made] = {
    "C2": lambda a, b: [bar(a), bar(b, strategy="horizontal"), bar(b, strategy="data", layer=TILE)],
    "C3": lambda a, b: [bar(a), bar(a, strategy="horizontal"), bar(b, strategy="data", layer=TILE)],
    "C4": lambda a, b: [bar(b, layer="Layer 3"), bar(a)],
    "C5": lambda a, b: [bar(a, model=MOBILENET, data=CIFAR), bar(b, model=MOBILENET, data=FLOWERS)],
    "C6": lambda a, b: [bar(a, figure="5a", model=MOBILENET, data=CIFAR), bar(b, data=CIFAR)],
    "C7": lambda a, b: [bar(b, data=CIFAR), bar(a)],
    "C9": lambda a, b: [bar(b, figure="6", strategy="data"), bar(a, figure="6", strategy="data", devices=2)],
    "C10": lambda a, b: [bar(a, figure="6", devices=8), bar(b, figure="6", strategy="data", devices=8)],
    "C11": lambda a, b: [bar(a, control=SIZE), bar(b, control=STRONG)],
}
"""All claims except C8, which is about equal bars."""

OTHERS: dict[str, dict[str, Any]] = {
    "C5": {"strategy": "horizontal"},
    "C6": {"devices": 2},
    "C7": {"layer": "Layer 3"},
    "C11": {"layer": "Layer 3"},
}
"""The fields of a second case of a claim, for claims in which another model is not a second case."""


def test_claims_are_complete() -> None:
    assert list(CLAIM) == [f"C{number}" for number in range(2, 12)]
    assert {*ORDERS, "C8"} == {*CLAIM}
    assert [claim.name for claim in CLAIMS if claim.equal] == ["C8"]


@pytest.mark.parametrize("name", ORDERS)
def test_a_claim_holds_fails_or_is_undecided_by_the_numbers(name: str) -> None:
    made = ORDERS[name]

    assert judge(name, made(HIGH, LOW)).verdict == "holds"
    assert judge(name, made(LOW, HIGH)).verdict == "fails"
    assert judge(name, made(HIGH, HIGH)).verdict == "undecided"


@pytest.mark.parametrize("name", ORDERS)
def test_a_claim_that_holds_in_only_one_case_depends(name: str) -> None:
    made, other = ORDERS[name], OTHERS.get(name, {"model": "another"})

    assert judge(name, made(HIGH, LOW) + changed(made(HIGH, LOW), **other)).verdict == "holds"
    assert judge(name, made(HIGH, LOW) + changed(made(LOW, HIGH), **other)).verdict == "depends"
    assert judge(name, made(HIGH, LOW) + changed(made(HIGH, HIGH), **other)).verdict == "depends"


@pytest.mark.parametrize("name", CLAIM)
def test_a_claim_without_its_bars_is_not_tested(name: str) -> None:
    made = ORDERS.get(name, lambda a, _: [bar(a, figure="6")])
    for count in (0, 1):
        found = judge(name, made(HIGH, LOW)[:count])
        assert found.verdict == "not tested"
        assert (found.controls, found.comparisons) == ({}, {})
        assert found.left_out == 0


@pytest.mark.parametrize("name", ORDERS)
def test_bars_of_a_cnn_with_a_low_kappa_are_left_out(name: str) -> None:
    made = ORDERS[name](HIGH, LOW)
    count = sum(map(len, judge(name, made).comparisons.values()))
    found = judge(name, changed(made, kappa=0.29))

    assert (found.verdict, found.left_out) == ("not tested", count)
    assert judge(name, changed(made, kappa=LEAST_KAPPA)).left_out == 0
    assert judge(name, changed(made, kappa=None)).verdict == "holds"  # the data set has no labels
    assert judge(name, [replace(made[0], kappa=0.1), *made[1:]]).left_out > 0


# --- equal bars -----------------------------------------------------------------------------------------------


def on_devices(*agreement: Tensor) -> list[StrategyBar]:
    return [bar(one, figure="6", devices=count) for one, count in zip(agreement, (2, 4, 8), strict=False)]


def test_equal_bars_must_agree_on_every_image() -> None:
    usual = scores(0.5)
    other = usual.clone()
    other[0, 0, -1] = 1.0

    assert judge("C8", on_devices(usual, usual.clone(), usual.clone())).verdict == "holds"
    assert judge("C8", on_devices(usual, usual, other)).verdict == "depends"
    assert judge("C8", on_devices(usual, other)).verdict == "fails"


def test_bars_with_the_same_mean_are_not_equal() -> None:
    """Equally many images are recognised, but different ones."""
    usual = scores(0.5)
    found = judge("C8", on_devices(usual, usual.flip(2)))

    assert found.verdict == "fails"
    assert found.comparisons[PAPER][0].difference.mean == 0


# --- what is compared -----------------------------------------------------------------------------------------


def of_layers(**fields: Any) -> list[StrategyBar]:
    """Return Fig. 5(c) for one data set: three layers with two strategies, and the tiles."""
    layers = ("Layer 5", "Layer 2", "Layer 3")
    whole = [bar(0.5, strategy=s, layer=layer) for s, layer in product(("vertical", "horizontal"), layers)]
    return changed([*whole, bar(0.5, strategy="data", layer=TILE)], **fields)


def of_devices(**fields: Any) -> list[StrategyBar]:
    """Return Fig. 6 for one data set."""
    made = [
        bar(0.5, strategy=strategy, layer=TILE if strategy == "data" else "Layer 2", devices=count)
        for strategy, count in product(("vertical", "horizontal", "data"), (8, 2, 4))
    ]
    return changed(made, figure="6", **fields)


def test_bars_of_fig_5_are_compared_within_each_data_set() -> None:
    bars = [*of_layers(), *of_layers(data=CIFAR)]
    found = {row.claim: row for row in judged(bars)}
    counts = {name: len(row.comparisons.get(PAPER, [])) for name, row in found.items()}

    # C2: one vertical bar against one horizontal bar and the tiles. C3: six bars against the tiles. C4: two
    # strategies with two pairs of layers each. C7: seven bars of one data set against those of the other.
    assert [counts[f"C{number}"] for number in range(2, 12)] == [4, 12, 8, 0, 0, 7, 0, 0, 0, 0]
    assert names_of(found["C4"])[:2] == [
        ("5c/mnist/as in the paper/vertical/Layer 2/4", "5c/mnist/as in the paper/vertical/Layer 3/4"),
        ("5c/mnist/as in the paper/vertical/Layer 3/4", "5c/mnist/as in the paper/vertical/Layer 5/4"),
    ]


def test_bars_of_fig_6_are_compared_from_fewer_devices_to_more() -> None:
    found = {row.claim: row for row in judged(of_devices())}
    counts = {name: len(row.comparisons.get(PAPER, [])) for name, row in found.items()}

    assert [counts[f"C{number}"] for number in range(8, 12)] == [2, 4, 8, 4]
    assert names_of(found["C9"])[:2] == [
        ("6/mnist/as in the paper/horizontal/Layer 2/2", "6/mnist/as in the paper/horizontal/Layer 2/4"),
        ("6/mnist/as in the paper/horizontal/Layer 2/4", "6/mnist/as in the paper/horizontal/Layer 2/8"),
    ]
    assert {lower for _, lower in names_of(found["C10"])} == {"6/mnist/as in the paper/data/Layer 1/8"}


def test_recommended_plans_are_compared_with_all_others_but_not_with_each_other() -> None:
    """A plan is recommended on most devices; a hybrid on fewer devices is neither."""
    link = {"figure": "6", "layer": WHOLE_LINK, "control": LINKS}
    hybrids = [
        bar(LOW, strategy="hybrid", devices=count, where=where, **link)
        for count, where in product((2, 4, 8), ("tiles-channels", "early-together"))
    ]
    usual = [bar(HIGH, strategy=s, devices=n, **link) for s, n in product(("vertical", "horizontal"), (2, 4, 8))]
    tiles = [
        bar(one, strategy="data", devices=n, **link) for one, n in zip((HIGH, HIGH, LOW), (2, 4, 8), strict=True)
    ]
    found = judge("C10", [*usual, *tiles, *hybrids])
    lower = [name for _, name in names_of(found, LINKS)]

    assert found.verdict == "holds"
    assert len(lower) == 3 * 8  # three recommended plans; vertical and horizontal on each number, tiles on 2 and 4
    assert set(lower) == {tiles[2].name, *(one.name for one in hybrids if one.devices == 8)}


def test_a_claim_counts_the_seeds_behind_it() -> None:
    made = ORDERS["C2"](HIGH, LOW)
    three = changed(made, scores=torch.cat([made[0].scores] * 3))

    assert (judge("C2", made).seeds, judge("C2", made).basis) == (1, "one seed: images only")
    assert (judge("C2", three).seeds, judge("C2", three).basis) == (3, "3 seeds")
    assert judge("C2", [three[0], made[1]]).seeds == 1
    assert (judge("C2", []).seeds, judge("C2", []).basis) == (None, "")
    assert figures(made).basis == ""


def test_a_verdict_of_several_seeds_covers_the_seeds() -> None:
    """A difference that the images of one seed show is undecided if it differs from seed to seed."""
    seeds = [scores(share) for share in (0.8, 0.4, 0.6)]
    low = [bar(torch.cat([scores(0.5)] * 3), strategy=s) for s in ("horizontal", "data")]

    assert judge("C2", [bar(seeds[0]), *low]).verdict == "holds"
    assert judge("C2", [bar(torch.cat(seeds)), *low]).verdict == "undecided"
    assert judge("C2", [bar(torch.cat([seeds[0]] * 3)), *low]).verdict == "holds"


def test_bars_are_equal_if_they_are_in_the_seeds_that_both_have() -> None:
    one, other = torch.cat([scores(0.8), scores(0.4)]), scores(0.8)
    bars = [bar(one, figure="6", devices=2), bar(other, figure="6", devices=4)]

    assert judge("C8", bars).verdict == "holds"
    assert judge("C8", [bars[0], replace(bars[1], scores=scores(0.4))]).verdict == "fails"


@pytest.mark.parametrize("change", [{"name": "desk"}, {"queries": 1}, {"epochs": 9}, {"strong": 9}, {"seeds": 3}])
def test_figures_whose_attacks_have_different_sizes_are_not_compared(change: dict[str, Any]) -> None:
    high, low = ORDERS["C6"](HIGH, LOW)
    found = judge("C6", [replace(high, scale=replace(high.scale, **change)), low])

    assert (found.verdict, found.mixed, found.left_out) == ("not tested", 1, 0)
    assert found.basis == "1 comparison of different scales left out"
    assert judge("C6", [replace(high, scale=FULL["5a"]), replace(low, scale=replace(FULL["5a"]))]).mixed == 0


def test_links_have_no_depth() -> None:
    ways = [bar(0.5, layer="All on a link", control=LINKS, where=w) for w in ("edge0 to edge1", "edge1 to edge0")]

    assert judge("C4", ways).verdict == "not tested"


def test_links_are_compared_between_strategies() -> None:
    links = {"layer": "All on a link", "control": LINKS, "where": "edge0 to edge1"}
    bars = [bar(HIGH, **links), bar(LOW, strategy="horizontal", **links), bar(HIGH, strategy="data", **links)]

    assert judge("C2", bars).controls == {LINKS: "depends"}


def test_digits_and_photographs_are_compared_only_for_lenet5() -> None:
    bars = changed(ORDERS["C7"](HIGH, LOW), model=MOBILENET, figure="5a")

    assert judge("C7", bars).verdict == "not tested"


# --- controls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paper", "control", "expected"),
    [
        ((HIGH, LOW), (HIGH, LOW), "holds"),
        ((HIGH, LOW), (LOW, HIGH), "depends"),
        ((HIGH, LOW), (HIGH, HIGH), "holds"),  # an undecided control is ignored
        ((LOW, HIGH), (LOW, HIGH), "fails"),
        ((LOW, HIGH), (HIGH, LOW), "depends"),
    ],
)
def test_a_claim_is_judged_again_under_each_control(
    paper: tuple[float, float], control: tuple[float, float], expected: str
) -> None:
    made = ORDERS["C2"]
    found = judge("C2", made(*paper) + changed(made(*control), control=STRONG))

    assert found.verdict == expected
    assert list(found.controls) == list(found.comparisons) == [PAPER, STRONG]
    for own, word in zip((paper, control), found.controls.values(), strict=True):
        assert word == judge("C2", made(*own)).verdict


def test_bars_of_two_controls_are_never_compared() -> None:
    high, *low = ORDERS["C2"](HIGH, LOW)

    assert judge("C2", [high, *changed(low, control=STRONG)]).verdict == "not tested"


def test_twice_the_size_is_compared_with_the_same_attack_at_the_usual_size() -> None:
    bars = [bar(HIGH, control=SIZE), bar(LOW, control=STRONG), bar(HIGH, control=PAPER)]
    found = judge("C11", bars)

    assert found.controls == {SIZE: "holds"}
    assert names_of(found, SIZE) == [(bars[0].name, bars[1].name)]
    assert judge("C11", [bars[0], bars[2]]).verdict == "not tested"
    assert judge("C11", [*bars, *changed(of_devices(), control=PAPER)]).controls == {
        PAPER: "undecided",
        SIZE: "holds",
    }


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ([], "not tested"),
        (["holds", "holds"], "holds"),
        (["fails", "fails"], "fails"),
        (["undecided"], "undecided"),
        (["undecided", "fails"], "fails"),
        (["undecided", "holds"], "depends"),
        (["fails", "holds"], "depends"),
        (["fails", "depends"], "depends"),
    ],
)
def test_the_verdict_on_several_comparisons(shown: list[Judgement], expected: str) -> None:
    assert verdict(shown) == expected


def test_the_verdict_over_all_controls() -> None:
    assert over_all({}) == "not tested"
    assert over_all({PAPER: "undecided", STRONG: "undecided"}) == "undecided"
    assert over_all({PAPER: "holds", STRONG: "holds", LINKS: "depends"}) == "depends"


# --- bars -----------------------------------------------------------------------------------------------------


def test_bars_of_the_same_images_are_compared_image_by_image() -> None:
    """Images that are hard in both bars do not widen the interval."""
    easy, hard = bar(0.6), bar(0.5)
    near, far = difference(easy, hard), difference(easy, replace(hard, victims="others"))

    assert near.mean == pytest.approx(far.mean)
    assert near.mean == pytest.approx(0.1)
    assert near.low > 0 > far.low
    assert far.high - far.low > 2 * (near.high - near.low)


def test_bars_of_different_images_may_have_different_numbers_of_them() -> None:
    few = bar(scores(LOW, images=20), data=CIFAR, victims="others")

    assert difference(bar(HIGH), few).low > 0
    assert judge("C7", [bar(HIGH), few]).verdict == "holds"


def test_a_bar_is_the_mean_over_shares_and_common_seeds() -> None:
    shares = torch.cat([scores(1.0), scores(0.0)], 1)
    seeds = torch.cat([scores(0.5), scores(0.0)])

    assert difference(bar(shares), bar(0.5)).mean == 0
    assert difference(bar(0.5), bar(seeds)).mean == 0
    assert bar(shares).row().shares == (1.0, 0.0)
    agreement = bar(shares).row().agreement
    assert (
        agreement.low < agreement.mean == 0.5 < agreement.high
    )  # equal on these 50 images, which does not settle it for others
    assert (bar(seeds).row().seeds, bar(seeds).row().images) == (2, 50)


def test_names_of_bars_are_unique() -> None:
    bars = [
        replace(one, control=control, where=where)
        for control, where in product((PAPER, STRONG), ("", "edge0 to edge1"))
        for one in [*of_layers(), *of_layers(data=CIFAR), *of_devices(), *of_layers(figure="5a")]
    ]
    assert len({one.name for one in bars}) == len(bars)


# --- the figures themselves -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([], "not tested"),
        ([*of_layers(), *of_layers(data=CIFAR), *of_devices()], "holds"),
        (of_layers()[1:], "undecided"),
        ([*of_layers(), *of_devices()[1:]], "depends"),
    ],
)
def test_claim_c1_holds_if_all_bars_are_there(made: list[StrategyBar], said: str) -> None:
    row = figures([*made, *(replace(one, control=STRONG) for one in made)])

    assert row.verdict == said
    assert sum(int(text.split()[0]) for text in row.controls.values()) == len(made)
