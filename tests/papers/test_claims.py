"""S1's claims on made-up bars: when each holds, fails, depends, is undecided, or cannot be tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from cloven.auditing.ranking import LEAST_KAPPA
from cloven.papers.s1.bars import TILE, StrategyBar, difference
from cloven.papers.s1.claims import CLAIMS, figures, judged, over_all, verdict
from cloven.papers.s1.experiments import LINKS, PAPER, SIZE, STRONG
from cloven.papers.s1.figure_document import JudgedClaim, Judgement

MOBILENET, RESNET = "mobilenet_v1", "torchvision:resnet50"
FLOWERS, CIFAR, MNIST = "flowers102", "cifar10", "mnist"
HIGH, LOW = 0.8, 0.3
CLAIM = {claim.name: claim for claim in CLAIMS}


def scores(share: float, images: int = 50) -> Tensor:
    """Of one seed and one share: so many images are recognised, the first ones."""
    return (torch.arange(images) < round(share * images)).double()[None, None]


def bar(agreement: float | Tensor, **fields: Any) -> StrategyBar:
    """A bar of LeNet-5 in Fig. 5(c), unless the fields say otherwise."""
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
"""The bars that a claim is about, from the agreement that it says is higher, and the lower one."""

ORDERS: dict[str, Made] = {
    "S1-42": lambda a, b: [bar(a), bar(b, strategy="horizontal"), bar(b, strategy="data", layer=TILE)],
    "S1-43": lambda a, b: [bar(a), bar(a, strategy="horizontal"), bar(b, strategy="data", layer=TILE)],
    "S1-44": lambda a, b: [bar(b, layer="Layer 3"), bar(a)],
    "S1-45": lambda a, b: [bar(a, model=MOBILENET, data=CIFAR), bar(b, model=MOBILENET, data=FLOWERS)],
    "S1-46": lambda a, b: [bar(a, figure="5a", model=MOBILENET, data=CIFAR), bar(b, data=CIFAR)],
    "S1-47": lambda a, b: [bar(b, data=CIFAR), bar(a)],
    "S1-49": lambda a, b: [bar(b, figure="6", strategy="data"), bar(a, figure="6", strategy="data", devices=2)],
    "S1-50": lambda a, b: [bar(a, figure="6", devices=8), bar(b, figure="6", strategy="data", devices=8)],
    "S1-51": lambda a, b: [bar(a, control=SIZE), bar(b, control=STRONG)],
}
"""All but S1-48, which is of equal bars."""

OTHERS: dict[str, dict[str, Any]] = {
    "S1-45": {"strategy": "horizontal"},
    "S1-46": {"devices": 2},
    "S1-47": {"layer": "Layer 3"},
    "S1-51": {"layer": "Layer 3"},
}
"""A second case of the same claim, where another model would not do."""


def test_every_claim_is_here() -> None:
    assert list(CLAIM) == [f"S1-{number}" for number in range(42, 52)]
    assert sorted([*ORDERS, "S1-48"]) == list(CLAIM)
    assert [claim.name for claim in CLAIMS if claim.equal] == ["S1-48"]


@pytest.mark.parametrize("name", ORDERS)
def test_a_claim_holds_and_fails_by_the_numbers_and_is_else_undecided(name: str) -> None:
    made = ORDERS[name]

    assert judge(name, made(HIGH, LOW)).verdict == "holds"
    assert judge(name, made(LOW, HIGH)).verdict == "fails"
    assert judge(name, made(HIGH, HIGH)).verdict == "undecided"


@pytest.mark.parametrize("name", ORDERS)
def test_a_claim_that_holds_in_one_case_alone_depends(name: str) -> None:
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
def test_bars_of_a_cnn_that_learned_too_little_do_not_count(name: str) -> None:
    made = ORDERS[name](HIGH, LOW)
    count = sum(map(len, judge(name, made).comparisons.values()))
    found = judge(name, changed(made, kappa=0.29))

    assert (found.verdict, found.left_out) == ("not tested", count)
    assert judge(name, changed(made, kappa=LEAST_KAPPA)).left_out == 0
    assert judge(name, changed(made, kappa=None)).verdict == "holds"  # nobody knows the labels
    assert judge(name, [replace(made[0], kappa=0.1), *made[1:]]).left_out > 0


# --- equal bars -----------------------------------------------------------------------------------------------


def on_devices(*agreement: Tensor) -> list[StrategyBar]:
    return [bar(one, figure="6", devices=count) for one, count in zip(agreement, (2, 4, 8), strict=False)]


def test_vertical_is_the_same_on_any_number_of_devices_to_the_last_image() -> None:
    usual = scores(0.5)
    other = usual.clone()
    other[0, 0, -1] = 1.0

    assert judge("S1-48", on_devices(usual, usual.clone(), usual.clone())).verdict == "holds"
    assert judge("S1-48", on_devices(usual, usual, other)).verdict == "depends"
    assert judge("S1-48", on_devices(usual, other)).verdict == "fails"


def test_the_same_mean_is_not_equal() -> None:
    """As many images are recognised, but not the same ones."""
    usual = scores(0.5)
    found = judge("S1-48", on_devices(usual, usual.flip(2)))

    assert found.verdict == "fails"
    assert found.comparisons[PAPER][0].difference.mean == 0


# --- what is compared -----------------------------------------------------------------------------------------


def of_layers(**fields: Any) -> list[StrategyBar]:
    """Fig. 5(c) for one data set: three layers by two strategies, and the tiles."""
    layers = ("Layer 5", "Layer 2", "Layer 3")
    whole = [bar(0.5, strategy=s, layer=layer) for s, layer in product(("vertical", "horizontal"), layers)]
    return changed([*whole, bar(0.5, strategy="data", layer=TILE)], **fields)


def of_devices(**fields: Any) -> list[StrategyBar]:
    """Fig. 6 for one data set."""
    made = [
        bar(0.5, strategy=strategy, layer=TILE if strategy == "data" else "Layer 2", devices=count)
        for strategy, count in product(("vertical", "horizontal", "data"), (8, 2, 4))
    ]
    return changed(made, figure="6", **fields)


def test_a_figure_of_layers_is_compared_within_each_data_set() -> None:
    bars = [*of_layers(), *of_layers(data=CIFAR)]
    found = {row.claim: row for row in judged(bars)}
    counts = {name: len(row.comparisons.get(PAPER, [])) for name, row in found.items()}

    # S1-42: one vertical bar against one horizontal and the tiles; S1-43: six against the tiles; S1-44: two
    # strategies, from layer to layer twice; S1-47: all seven bars of one data set against the other's.
    assert [counts[f"S1-{number}"] for number in range(42, 52)] == [4, 12, 8, 0, 0, 7, 0, 0, 0, 0]
    assert names_of(found["S1-44"])[:2] == [
        ("5c/mnist/as S1 does it/vertical/Layer 2/4", "5c/mnist/as S1 does it/vertical/Layer 3/4"),
        ("5c/mnist/as S1 does it/vertical/Layer 3/4", "5c/mnist/as S1 does it/vertical/Layer 5/4"),
    ]


def test_a_figure_of_devices_is_compared_from_fewer_to_more() -> None:
    found = {row.claim: row for row in judged(of_devices())}
    counts = {name: len(row.comparisons.get(PAPER, [])) for name, row in found.items()}

    assert [counts[f"S1-{number}"] for number in range(48, 52)] == [2, 4, 8, 4]
    assert names_of(found["S1-49"])[:2] == [
        ("6/mnist/as S1 does it/horizontal/Layer 2/2", "6/mnist/as S1 does it/horizontal/Layer 2/4"),
        ("6/mnist/as S1 does it/horizontal/Layer 2/4", "6/mnist/as S1 does it/horizontal/Layer 2/8"),
    ]
    assert {lower for _, lower in names_of(found["S1-50"])} == {"6/mnist/as S1 does it/data/Layer 1/8"}


def test_two_links_are_not_one_deeper_than_the_other() -> None:
    """All that a link carries has no depth."""
    ways = [bar(0.5, layer="All on a link", control=LINKS, where=w) for w in ("edge0 to edge1", "edge1 to edge0")]

    assert judge("S1-44", ways).verdict == "not tested"


def test_all_on_a_link_is_compared_between_strategies() -> None:
    links = {"layer": "All on a link", "control": LINKS, "where": "edge0 to edge1"}
    bars = [bar(HIGH, **links), bar(LOW, strategy="horizontal", **links), bar(HIGH, strategy="data", **links)]

    assert judge("S1-42", bars).controls == {LINKS: "depends"}


def test_digits_are_easier_than_photographs_for_lenet5() -> None:
    bars = changed(ORDERS["S1-47"](HIGH, LOW), model=MOBILENET, figure="5a")

    assert judge("S1-47", bars).verdict == "not tested"


# --- controls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paper", "control", "expected"),
    [
        ((HIGH, LOW), (HIGH, LOW), "holds"),
        ((HIGH, LOW), (LOW, HIGH), "depends"),
        ((HIGH, LOW), (HIGH, HIGH), "holds"),  # an undecided control takes nothing away
        ((LOW, HIGH), (LOW, HIGH), "fails"),
        ((LOW, HIGH), (HIGH, LOW), "depends"),
    ],
)
def test_a_claim_is_judged_again_under_each_control(
    paper: tuple[float, float], control: tuple[float, float], expected: str
) -> None:
    made = ORDERS["S1-42"]
    found = judge("S1-42", made(*paper) + changed(made(*control), control=STRONG))

    assert found.verdict == expected
    assert list(found.controls) == list(found.comparisons) == [PAPER, STRONG]
    for own, word in zip((paper, control), found.controls.values(), strict=True):
        assert word == judge("S1-42", made(*own)).verdict


def test_bars_of_two_controls_are_never_compared() -> None:
    high, *low = ORDERS["S1-42"](HIGH, LOW)

    assert judge("S1-42", [high, *changed(low, control=STRONG)]).verdict == "not tested"


def test_size_is_compared_with_the_same_attack_at_the_usual_size() -> None:
    bars = [bar(HIGH, control=SIZE), bar(LOW, control=STRONG), bar(HIGH, control=PAPER)]
    found = judge("S1-51", bars)

    assert found.controls == {SIZE: "holds"}
    assert names_of(found, SIZE) == [(bars[0].name, bars[1].name)]
    assert judge("S1-51", [bars[0], bars[2]]).verdict == "not tested"
    assert judge("S1-51", [*bars, *changed(of_devices(), control=PAPER)]).controls == {
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
def test_the_rule(shown: list[Judgement], expected: str) -> None:
    assert verdict(shown) == expected


def test_over_all() -> None:
    assert over_all({}) == "not tested"
    assert over_all({PAPER: "undecided", STRONG: "undecided"}) == "undecided"
    assert over_all({PAPER: "holds", STRONG: "holds", LINKS: "depends"}) == "depends"


# --- bars -----------------------------------------------------------------------------------------------------


def test_bars_of_the_same_images_are_compared_image_by_image() -> None:
    """Images that are hard for both make no difference between the bars."""
    easy, hard = bar(0.6), bar(0.5)
    near, far = difference(easy, hard), difference(easy, replace(hard, victims="others"))

    assert near.mean == pytest.approx(far.mean)
    assert near.mean == pytest.approx(0.1)
    assert near.low > 0 > far.low
    assert far.high - far.low > 2 * (near.high - near.low)


def test_bars_of_other_images_need_not_be_as_many() -> None:
    few = bar(scores(LOW, images=20), data=CIFAR, victims="others")

    assert difference(bar(HIGH), few).low > 0
    assert judge("S1-47", [bar(HIGH), few]).verdict == "holds"


def test_a_bar_is_the_mean_over_shares_and_as_many_seeds_as_both_have() -> None:
    shares = torch.cat([scores(1.0), scores(0.0)], 1)
    seeds = torch.cat([scores(0.5), scores(0.0)])

    assert difference(bar(shares), bar(0.5)).mean == 0
    assert difference(bar(0.5), bar(seeds)).mean == 0
    assert bar(shares).row().shares == (1.0, 0.0)
    agreement = bar(shares).row().agreement
    assert (
        agreement.low < agreement.mean == 0.5 < agreement.high
    )  # alike on 50 images, which proves nothing of others
    assert (bar(seeds).row().seeds, bar(seeds).row().images) == (2, 50)


def test_names_tell_bars_apart() -> None:
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
        (of_layers()[1:], "fails"),
        ([*of_layers(), *of_devices()[1:]], "depends"),
    ],
)
def test_a_figure_is_made_where_all_its_bars_are(made: list[StrategyBar], said: str) -> None:
    row = figures([*made, *(replace(one, control=STRONG) for one in made)])

    assert row.verdict == said
    assert sum(int(text.split()[0]) for text in row.controls.values()) == len(made)
