"""The proportions in which devices share a layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import inf

from cloven.graph.box import Interval


def in_proportion(n: int, proportions: Sequence[float]) -> list[Interval]:
    """Return ``n`` indices as one interval for each proportion; some may be empty."""
    edges = [0, *(round(n * total / sum(proportions)) for total in accumulate(proportions))]
    return list(pairwise(edges))


def wrong_proportions(given: Sequence[float] | None) -> list[str]:
    """Return what is wrong with the shares of devices."""
    if given is None:
        return []
    if not all(0 <= share < inf for share in given) or sum(given) <= 0:
        return [f"shares are {list(given)}; expected numbers of at least 0, not all of them 0"]
    if max(given) < 1 and abs(sum(given) - 1) > 1e-3:
        total = f"{sum(given):.4g}"
        return [
            f"shares are {list(given)}, which add up to {total}; expected fractions that add up to 1, or weights "
            "such as 2,1,1"
        ]
    return []
