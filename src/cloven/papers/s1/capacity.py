"""Decoders of equal size, as a control: Table 2's decoders grow with the depth of the layer that they attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from statistics import geometric_mean

from cloven.attacks.layers import Chain, Conv, ConvT
from cloven.graph.box import Shape
from cloven.papers.s1.table2 import decoder, printed

FEWEST = 8
"""The smallest number of channels of a hidden layer."""


def matched(model: str) -> Callable[[str, Shape, Shape], Chain | None]:
    """Return a function that gives Table 2's decoders of a model, all with about `typical` weights."""
    usual = decoder(model)

    def chain(layer: str, captured: Shape, image: Shape) -> Chain | None:
        found = usual(layer, captured, image)
        return None if found is None else widened(found, typical(model, image))

    return chain


def typical(model: str, image: Shape) -> int:
    """Return the common number of weights of the decoders for a model and an image (C, H, W).

    This is the geometric mean over Table 2's decoders, or the size of the largest one with `FEWEST` channels in
    each hidden layer, if that is more.
    """
    chains = [row.chain(row.scaled(image), image) for row in printed(model) if row.takes(image)]
    least = max(parameters(_scaled(chain, 0.0)) for chain in chains)
    return max(least, round(geometric_mean(map(parameters, chains))))


def parameters(chain: Chain) -> int:
    """Return the number of weights of a chain, including biases."""
    total = 0
    for layer in chain:
        match layer:
            case Conv():
                total += layer.outputs * (9 * layer.inputs + 1)
            case ConvT():
                total += layer.outputs * (layer.kernel**2 * layer.inputs + 1)
            case _:
                pass
    return total


def widened(chain: Chain, wanted: int) -> Chain:
    """Return the chain with its hidden channels scaled so that its number of weights is nearest to ``wanted``."""
    factors = [2 ** (i / 8) for i in range(-48, 81)]
    return min((_scaled(chain, factor) for factor in factors), key=lambda made: abs(parameters(made) - wanted))


def _scaled(chain: Chain, factor: float) -> Chain:
    places = [i for i, layer in enumerate(chain) if isinstance(layer, Conv | ConvT)]
    made = list(chain)
    for before, after in pairwise(places):
        one, other = made[before], made[after]
        assert isinstance(one, Conv | ConvT)
        assert isinstance(other, Conv | ConvT)
        hidden = max(FEWEST, round(one.outputs * factor))
        made[before], made[after] = replace(one, outputs=hidden), replace(other, inputs=hidden)
    return tuple(made)
