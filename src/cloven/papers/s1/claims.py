"""What S1 claims, as comparisons of bars, and what the numbers say of each: holds, fails, depends.

The rule is the same for all claims. Two bars are compared by the difference of their agreement over images and
seeds: where its whole interval lies above zero the comparison holds, below zero it fails, else it is undecided. A
claim holds where all its comparisons do, fails where none holds and one fails, is undecided where all are, and
depends otherwise. It is judged as S1 does it, and under each control again: one that holds there but fails under
a control depends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from typing import Any

import torch

from cloven.auditing.aggregate import shows
from cloven.papers.s1.bars import TILE, StrategyBar, difference
from cloven.papers.s1.experiments import PAPER, SIZE, STRONG

Pair = tuple[StrategyBar, StrategyBar]
"""The bar that S1 says is higher, and the lower one."""


@dataclass(frozen=True)
class Claim:
    """What S1 says: which bars are higher than which.

    Attributes:
        name: the requirement that it stands behind, such as S1-42.
        source: where in the paper.
        sentence: the point, in our words.
        pairs: of bars of one control, what is compared.
        equal: whether the two are said to be equal instead.
        twice: of bars of several controls, what is compared between images of two sizes.
    """

    name: str
    source: str
    sentence: str
    pairs: Callable[[Sequence[StrategyBar]], list[Pair]]
    equal: bool = False
    twice: Callable[[Sequence[StrategyBar]], list[Pair]] | None = None


# --- which bars a claim is about ----------------------------------------------------------------------------------


def _layers(bars: Sequence[StrategyBar]) -> list[str]:
    """The layers in the model's order, without the tile."""
    return sorted({bar.layer for bar in bars if bar.layer != TILE}, key=_number)


def _number(layer: str) -> int:
    last = layer.split()[-1]
    return int(last) if last.isdecimal() else 0


def _alike(bars: Sequence[StrategyBar], *fields: str) -> list[list[StrategyBar]]:
    """The bars in groups that agree in these fields."""
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
    groups = _alike(bars, *SUBJECT)
    return [pair for g in groups for pair in product(_of(g, "vertical", "horizontal"), _of(g, "data"))]


def _deeper(bars: Sequence[StrategyBar]) -> list[Pair]:
    numbered = [bar for bar in _of(bars, "vertical", "horizontal") if _number(bar.layer)]
    groups = _alike(numbered, *SUBJECT, "strategy")
    return [pair for group in groups for pair in pairwise(sorted(group, key=lambda bar: _number(bar.layer)))]


def _more_classes(bars: Sequence[StrategyBar]) -> list[Pair]:
    return _across(bars, lambda a, b: a.data == "cifar10" and b.data in ("flowers102", "folder"))


def _digits_easier(bars: Sequence[StrategyBar]) -> list[Pair]:
    small = [bar for bar in bars if bar.model == "lenet5"]
    return _across(small, lambda a, b: a.data == "mnist" and b.data == "cifar10")


def _across(bars: Sequence[StrategyBar], wanted: Callable[[StrategyBar, StrategyBar], bool]) -> list[Pair]:
    """Bars that differ in the data set alone, in every strategy and layer."""
    groups = _alike(bars, "figure", "model", "devices", "strategy", "layer", "where")
    return [(a, b) for group in groups for a, b in product(group, group) if wanted(a, b)]


def _smaller_model(bars: Sequence[StrategyBar]) -> list[Pair]:
    first = [bar for bar in _of(bars, "vertical") if bar.layer == "Layer 2" and bar.figure.startswith("5")]
    low = [bar for bar in first if bar.model == "lenet5" and bar.data == "cifar10"]
    return list(product([bar for bar in first if bar.model != "lenet5"], low))


def _any_number(bars: Sequence[StrategyBar]) -> list[Pair]:
    return [pair for group in _by_devices(_of(bars, "vertical")) for pair in pairwise(group)]


def _more_devices(bars: Sequence[StrategyBar]) -> list[Pair]:
    return [pair for group in _by_devices(_of(bars, "horizontal", "data")) for pair in pairwise(group)]


def _by_devices(bars: Sequence[StrategyBar]) -> Iterator[list[StrategyBar]]:
    for group in _alike([bar for bar in bars if bar.figure == "6"], "model", "data", "strategy", "layer", "where"):
        yield sorted(group, key=lambda bar: bar.devices)


def _most_tiles(bars: Sequence[StrategyBar]) -> list[Pair]:
    """The tiles of most devices against every other bar: S1's advice."""
    found = []
    for group in _alike([bar for bar in bars if bar.figure == "6"], "model", "data"):
        most = max((bar.devices for bar in _of(group, "data")), default=0)
        low = [bar for bar in _of(group, "data") if bar.devices == most]
        found += list(product([bar for bar in group if bar not in low], low))
    return found


def sizes(bars: Sequence[StrategyBar]) -> list[Pair]:
    """The same model at twice the side, by the same attack, against its usual size."""
    large = {_key(bar): bar for bar in bars if bar.control == SIZE}
    usual = [bar for bar in _of(bars, "vertical") if bar.control == STRONG]
    return [(large[_key(bar)], bar) for bar in usual if _key(bar) in large]


def _key(bar: StrategyBar) -> tuple[str, str, str]:
    return bar.figure, bar.data, bar.layer


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "S1-42", "Sect. 5.2.1", "At the first layer vertical leaks more than horizontal and than data", _at_first
    ),
    Claim("S1-43", "Sect. 5.2.1, 6", "Data leaks less than vertical and horizontal at every layer", _data_least),
    Claim("S1-44", "Sect. 5.2.2", "A deeper layer leaks less", _deeper),
    Claim("S1-45", "Sect. 5.2.3", "With more classes (Flowers) less leaks than with ten (CIFAR-10)", _more_classes),
    Claim(
        "S1-46", "Sect. 5.2.3", "At Layer 2 LeNet-5 on CIFAR-10 leaks less than the large models", _smaller_model
    ),
    Claim("S1-47", "Sect. 5.2.3", "Of LeNet-5, MNIST leaks more than CIFAR-10 at the same layer", _digits_easier),
    Claim("S1-48", "Sect. 5.2.4", "Vertical leaks the same on 2, 4 and 8 devices", _any_number, equal=True),
    Claim("S1-49", "Sect. 5.2.4", "Horizontal and data leak less on more devices", _more_devices),
    Claim("S1-50", "Sect. 6", "Tiles on as many devices as possible leak least", _most_tiles),
    Claim("S1-51", "Sect. 6", "Larger images leak more, and more parts less", _more_devices, twice=sizes),
)
"""S1's claims about its figures; S1-41 is the figures themselves, see `figures`."""


# --- what the numbers say -----------------------------------------------------------------------------------------


def compared(claim: Claim, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Each pair with the difference and what it shows."""
    found = []
    for higher, lower in pairs:
        between = difference(higher, lower)
        same = torch.equal(higher.scores, lower.scores)
        shown = ("holds" if same else "fails") if claim.equal else shows(between)
        found.append({"higher": higher.name, "lower": lower.name, "difference": asdict(between), "shows": shown})
    return found


def verdict(shown: Sequence[str]) -> str:
    """One word for several comparisons; see the rule above."""
    words = set(shown)
    if not words:
        return "not tested"
    if len(words) == 1:
        return next(iter(words))
    return "depends" if "holds" in words or "depends" in words else "fails"


def judged(bars: Sequence[StrategyBar], claims: Sequence[Claim] = CLAIMS) -> list[dict[str, Any]]:
    """Every claim with its verdict as S1 does it, under each control, and over all.

    Bars of a CNN that has learned too little do not count; how many comparisons they took away is said.
    """
    return [_judged(claim, bars) for claim in claims]


def all_judged(bars: Sequence[StrategyBar]) -> list[dict[str, Any]]:
    """S1-41, the figures themselves, and every claim about them."""
    return [figures(bars), *judged(bars)]


def figures(bars: Sequence[StrategyBar]) -> dict[str, Any]:
    """S1-41, which figures were made: they hold where each has all bars for every data set."""
    counts = Counter((bar.figure, bar.data) for bar in bars if bar.control == PAPER)
    complete = {count == BARS[figure] for (figure, _), count in counts.items()}
    return {
        "claim": "S1-41",
        "source": "Fig. 5, 6",
        "sentence": "Seven bars a data set in Fig. 5, nine in Fig. 6",
        "verdict": verdict(["holds" if all_there else "fails" for all_there in complete]),
        "controls": {f"Fig. {figure}, {data}": f"{count} bars" for (figure, data), count in counts.items()},
        "comparisons": {},
        "left_out": 0,
    }


BARS: Mapping[str, int] = {"5a": 7, "5b": 7, "5c": 7, "6": 9}
"""How many bars S1 draws for a data set: two strategies at three layers and a tile; three at three counts."""


def _judged(claim: Claim, bars: Sequence[StrategyBar]) -> dict[str, Any]:
    rows: dict[str, list[dict[str, Any]]] = {}
    left_out = 0
    for control, pairs in _by_control(claim, bars).items():
        usable = [(a, b) for a, b in pairs if a.counts and b.counts]
        left_out += len(pairs) - len(usable)
        if usable:
            rows[control] = compared(claim, usable)
    verdicts = {control: verdict([row["shows"] for row in found]) for control, found in rows.items()}
    return {
        "claim": claim.name,
        "source": claim.source,
        "sentence": claim.sentence,
        "verdict": over_all(verdicts),
        "controls": verdicts,
        "comparisons": rows,
        "left_out": left_out,
    }


def _by_control(claim: Claim, bars: Sequence[StrategyBar]) -> dict[str, list[Pair]]:
    controls = dict.fromkeys([PAPER, *(bar.control for bar in bars)])
    found = {c: claim.pairs([bar for bar in bars if bar.control == c]) for c in controls}
    if claim.twice:
        found[SIZE] = claim.twice(bars)
    return {control: pairs for control, pairs in found.items() if pairs}


def over_all(verdicts: Mapping[str, str]) -> str:
    """One word for S1's own setting and the controls together; what is undecided does not count beside others."""
    decided = [word for word in verdicts.values() if word != "undecided"]
    return verdict(decided or list(verdicts.values()))
