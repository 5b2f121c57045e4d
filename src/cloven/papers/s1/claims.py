"""The paper's claims as comparisons of bars, and a verdict on each: holds, fails, depends or undecided.

The rule is the same for all claims. Two bars are compared by the difference between their agreements, with its
interval over images and seeds. The comparison holds if the whole interval lies above zero, fails if it lies below
zero, and is undecided otherwise. A claim holds if all its comparisons hold, fails if none holds and at least one
fails, is undecided if all are undecided, and depends otherwise. Each claim is judged in the paper's setting and
again under each control: a claim that holds in the paper's setting but fails under a control depends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import torch

from cloven.auditing.aggregate import shows
from cloven.papers.s1.bars import TILE, StrategyBar, difference, score_range
from cloven.papers.s1.experiments import PAPER, SIZE, STRONG
from cloven.papers.s1.figure_document import BarComparison, JudgedClaim, Judgement

Pair = tuple[StrategyBar, StrategyBar]
"""The bar that is higher according to the paper, and the lower one."""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: some bars are higher than others.

    Attributes:
        name: its number, ``C2`` to ``C11``.
        source: the section of the paper.
        sentence: the claim, paraphrased.
        pairs: a function from the bars of one control to the pairs that are compared.
        equal: whether the claim is that the two bars of a pair are equal.
        twice: a function from the bars of all controls to the pairs of two image sizes.
    """

    name: str
    source: str
    sentence: str
    pairs: Callable[[Sequence[StrategyBar]], list[Pair]]
    equal: bool = False
    twice: Callable[[Sequence[StrategyBar]], list[Pair]] | None = None


# --- the bars of a claim ----------------------------------------------------------------------------------------


def _layers(bars: Sequence[StrategyBar]) -> list[str]:
    """Return the layers in the model's order, without the tile."""
    return sorted({bar.layer for bar in bars if bar.layer != TILE}, key=_number)


def _number(layer: str) -> int:
    last = layer.split()[-1]
    return int(last) if last.isdecimal() else 0


def _alike(bars: Sequence[StrategyBar], *fields: str) -> list[list[StrategyBar]]:
    """Return the bars in groups that have the same values in these fields."""
    groups: dict[tuple[Any, ...], list[StrategyBar]] = {}
    for bar in bars:
        groups.setdefault(tuple(getattr(bar, field) for field in fields), []).append(bar)
    return list(groups.values())


def _of(bars: Sequence[StrategyBar], *strategies: str) -> list[StrategyBar]:
    return [bar for bar in bars if bar.strategy in strategies]


SUBJECT = ("figure", "model", "data", "devices")


def _at_first(bars: Sequence[StrategyBar]) -> list[Pair]:
    found = []
    for group in _alike(bars, *SUBJECT):
        shallow = _layers(_of(group, "vertical"))[:1]
        high = [bar for bar in _of(group, "vertical") if bar.layer in shallow]
        low = [bar for bar in _of(group, "horizontal") if bar.layer in shallow] + _of(group, "data")
        found += list(product(high, low))
    return found


def _data_least(bars: Sequence[StrategyBar]) -> list[Pair]:
    found: list[Pair] = []
    for group in _alike(bars, *SUBJECT):
        found += product(_of(group, "vertical", "horizontal"), _of(group, "data"))
    return found


def _deeper(bars: Sequence[StrategyBar]) -> list[Pair]:
    numbered = [bar for bar in _of(bars, "vertical", "horizontal") if _number(bar.layer)]
    found: list[Pair] = []
    for group in _alike(numbered, *SUBJECT, "strategy"):
        found += pairwise(sorted(group, key=lambda bar: _number(bar.layer)))
    return found


def _more_classes(bars: Sequence[StrategyBar]) -> list[Pair]:
    return _across(bars, lambda a, b: a.data == "cifar10" and b.data in ("flowers102", "folder"))


def _digits_easier(bars: Sequence[StrategyBar]) -> list[Pair]:
    small = [bar for bar in bars if bar.model == "lenet5"]
    return _across(small, lambda a, b: a.data == "mnist" and b.data == "cifar10")


def _across(bars: Sequence[StrategyBar], wanted: Callable[[StrategyBar, StrategyBar], bool]) -> list[Pair]:
    """Return the wanted pairs among the bars that differ only in the data set."""
    found: list[Pair] = []
    for group in _alike(bars, "figure", "model", "devices", "strategy", "layer", "where"):
        found += [(a, b) for a, b in product(group, group) if wanted(a, b)]
    return found


def _smaller_model(bars: Sequence[StrategyBar]) -> list[Pair]:
    first = [bar for bar in _of(bars, "vertical") if bar.layer == "Layer 2" and bar.figure.startswith("5")]
    low = [bar for bar in first if bar.model == "lenet5" and bar.data == "cifar10"]
    return list(product([bar for bar in first if bar.model != "lenet5"], low))


def _any_number(bars: Sequence[StrategyBar]) -> list[Pair]:
    return _by_devices(_of(bars, "vertical"))


def _more_devices(bars: Sequence[StrategyBar]) -> list[Pair]:
    return _by_devices(_of(bars, "horizontal", "data"))


def _by_devices(bars: Sequence[StrategyBar]) -> list[Pair]:
    """Return the pairs of Fig. 6's bars that differ only in the number of devices, from each to the next larger."""
    found: list[Pair] = []
    for group in _alike([bar for bar in bars if bar.figure == "6"], "model", "data", "strategy", "layer", "where"):
        found += pairwise(sorted(group, key=lambda bar: bar.devices))
    return found


def _recommended(bars: Sequence[StrategyBar]) -> list[Pair]:
    """Return the pairs of each plan that the paper recommends, on most devices, and each that it does not.

    It recommends tiles, tiles followed by channels, and early layers on one device; the last two are hybrids.
    """
    found = []
    for group in _alike([bar for bar in bars if bar.figure == "6"], "model", "data"):
        most = max((bar.devices for bar in _of(group, "data")), default=0)
        low = [bar for bar in _of(group, "data", "hybrid") if bar.devices == most]
        high = [bar for bar in _of(group, "vertical", "horizontal", "data") if bar not in low]
        found += list(product(high, low))
    return found


def sizes(bars: Sequence[StrategyBar]) -> list[Pair]:
    """Return the pairs of the same model at twice the image side and at the usual side, under the same attack."""
    large = {_key(bar): bar for bar in bars if bar.control == SIZE}
    usual = [bar for bar in _of(bars, "vertical") if bar.control == STRONG]
    return [(large[_key(bar)], bar) for bar in usual if _key(bar) in large]


def _key(bar: StrategyBar) -> tuple[str, str, str]:
    return bar.figure, bar.data, bar.layer


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "C2",
        "Sect. 5.2.1",
        "At the first layer, vertical leaks more than horizontal and more than data",
        _at_first,
    ),
    Claim("C3", "Sect. 5.2.1, 6", "Data leaks less than vertical and horizontal at every layer", _data_least),
    Claim("C4", "Sect. 5.2.2", "A deeper layer leaks less", _deeper),
    Claim("C5", "Sect. 5.2.3", "A data set with more classes (Flowers) leaks less than CIFAR-10", _more_classes),
    Claim("C6", "Sect. 5.2.3", "At Layer 2, LeNet-5 on CIFAR-10 leaks less than the large models", _smaller_model),
    Claim("C7", "Sect. 5.2.3", "In LeNet-5, MNIST leaks more than CIFAR-10 at the same layer", _digits_easier),
    Claim("C8", "Sect. 5.2.4", "Vertical leaks the same on 2, 4 and 8 devices", _any_number, equal=True),
    Claim("C9", "Sect. 5.2.4", "Horizontal and data leak less on more devices", _more_devices),
    Claim(
        "C10",
        "Sect. 6",
        "Tiles on most devices, tiles followed by channels, and early layers on one device leak least",
        _recommended,
    ),
    Claim("C11", "Sect. 6", "Larger images leak more, and more parts leak less", _more_devices, twice=sizes),
)
"""The paper's claims about its figures; C1 is the figures themselves, see `figures`."""


# --- the verdicts ------------------------------------------------------------------------------------------------


def compared(claim: Claim, higher: StrategyBar, lower: StrategyBar) -> BarComparison:
    """Return the difference of a pair, and whether the claim holds for it."""
    between = difference(higher, lower)
    shown = shows(between)
    if claim.equal:
        seeds = min(higher.seeds, lower.seeds)
        shown = "holds" if torch.equal(higher.scores[:seeds], lower.scores[:seeds]) else "fails"
    return BarComparison(higher=higher.name, lower=lower.name, difference=score_range(between), shows=shown)


def verdict(shown: Sequence[Judgement]) -> Judgement:
    """Return the verdict on several comparisons, by the rule above."""
    words = set(shown)
    if not words:
        return "not tested"
    if len(words) == 1:
        return next(iter(words))
    return "depends" if "holds" in words or "depends" in words else "fails"


def judged(bars: Sequence[StrategyBar], claims: Sequence[Claim] = CLAIMS) -> list[JudgedClaim]:
    """Return every claim with its verdicts: in the paper's setting, under each control, and over all of these.

    Comparisons of a CNN whose kappa is too low are left out, and those of two figures whose attacks have different
    sizes; the claim counts both.
    """
    return [_judged(claim, bars) for claim in claims]


def all_judged(bars: Sequence[StrategyBar]) -> tuple[JudgedClaim, ...]:
    """Return claim C1, the figures themselves, and every claim about them."""
    return figures(bars), *judged(bars)


def figures(bars: Sequence[StrategyBar]) -> JudgedClaim:
    """Return claim C1, the figures themselves.

    It holds if each figure has all bars for every data set, and is undecided for those that lack some.
    """
    counts = Counter((bar.figure, bar.data) for bar in bars if bar.control == PAPER)
    complete = {count == BARS[figure] for (figure, _), count in counts.items()}
    return JudgedClaim(
        claim="C1",
        source="Fig. 5, 6",
        sentence="Seven bars for each data set in Fig. 5, nine in Fig. 6",
        verdict=verdict(["holds" if all_there else "undecided" for all_there in complete]),
        controls={f"Fig. {figure}, {data}": f"{count} bars" for (figure, data), count in counts.items()},
        comparisons={},
        seeds=None,
        left_out=0,
        mixed=0,
    )


BARS: Mapping[str, int] = {"5a": 7, "5b": 7, "5c": 7, "6": 9}
"""The number of bars for a data set.

Fig. 5 has two strategies at three layers, and a tile; Fig. 6 three strategies on three numbers of devices.
"""


def _judged(claim: Claim, bars: Sequence[StrategyBar]) -> JudgedClaim:
    by_control: dict[str, list[Pair]] = {}
    for control in dict.fromkeys([PAPER, *(bar.control for bar in bars)]):
        by_control[control] = claim.pairs([bar for bar in bars if bar.control == control])
    if claim.twice:
        by_control[SIZE] = claim.twice(bars)
    verdicts: dict[str, Judgement] = {}
    comparisons: dict[str, tuple[BarComparison, ...]] = {}
    seeds: list[int] = []
    left_out = mixed = 0
    for control, pairs in by_control.items():
        usable = [(a, b) for a, b in pairs if a.counts and b.counts]
        alike = [(a, b) for a, b in usable if a.scale.attacker == b.scale.attacker]
        left_out += len(pairs) - len(usable)
        mixed += len(usable) - len(alike)
        if alike:
            comparisons[control] = tuple(compared(claim, a, b) for a, b in alike)
            verdicts[control] = verdict([row.shows for row in comparisons[control]])
            seeds += [bar.seeds for pair in alike for bar in pair]
    return JudgedClaim(
        claim=claim.name,
        source=claim.source,
        sentence=claim.sentence,
        verdict=over_all(verdicts),
        controls=dict(verdicts),
        comparisons=comparisons,
        seeds=min(seeds, default=None),
        left_out=left_out,
        mixed=mixed,
    )


def over_all(verdicts: Mapping[str, Judgement]) -> Judgement:
    """Return the verdict over the paper's setting and all controls; it ignores undecided ones if others decide."""
    decided = [word for word in verdicts.values() if word != "undecided"]
    return verdict(decided or list(verdicts.values()))
