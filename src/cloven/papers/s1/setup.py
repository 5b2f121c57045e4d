"""The paper's part in an audit: its layers, its expected orderings, and the choices that it leaves open.

The decoders are in `table2`.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from cloven.auditing.aggregate import Expectation
from cloven.auditing.paper import Paper
from cloven.graph.box import Shape
from cloven.papers.points import PAPERS
from cloven.papers.s1.table2 import CORRECTION as CORRECTION
from cloven.papers.s1.table2 import TABLE_2 as TABLE_2
from cloven.papers.s1.table2 import TILE, changes, printed
from cloven.papers.s1.table2 import decoder as decoder
from cloven.papers.s1.table2 import row_for as row_for

NAME = PAPERS["s1"]
DEVICES = 4
"""The number of devices in the main experiment (Sect. 5.2)."""


def layers_of(model: str) -> dict[str, str]:
    """Return the layers at which the paper listens (Sect. 5.2), module path -> label; none for other models."""
    return {row.layer: f"Layer {row.number}" for row in printed(model) if row.number != TILE}


DECISIONS = (
    "Not stated in the paper, and chosen here: mean squared error, learning rate 1e-3, batches of 64, "
    "nearest-neighbour upsampling; reconstructions are clipped to [0, 1] and rounded to 8 bits before the CNN "
    "classifies them.",
    "The paper has no decoder for horizontal slices: a slice takes its layer's decoder with fewer input channels.",
)


def notes(model: str, image: Shape) -> tuple[str, ...]:
    """Return the differences from the paper, and the choices that it leaves open; ``image`` is (C, H, W)."""
    return (*changes(model, image), *DECISIONS)


def expectations(model: str) -> tuple[Expectation, ...]:
    """Return the orders of strategies and of layers that the paper claims for a model (C2 to C4 of `claims`)."""
    points = list(layers_of(model).items())
    if not points:
        return ()
    first, label = points[0]
    sentence = f"At {label}, vertical leaks more than horizontal"
    found = [Expectation("C2", f"{NAME}, Sect. 5.2.1", sentence, ("vertical", first), ("horizontal", first))]
    for strategy in ("vertical", "horizontal"):
        for layer, name in points:
            sentence = f"Data leaks less than {strategy} at {name}"
            source = f"{NAME}, Sect. 5.2.1, 6"
            found.append(Expectation("C3", source, sentence, (strategy, layer), ("data", None)))
        for (above, a), (below, b) in pairwise(points):
            sentence = f"{strategy.capitalize()}: {a} leaks at least as much as {b}"
            source = f"{NAME}, Sect. 5.2.2"
            found.append(Expectation("C4", source, sentence, (strategy, above), (strategy, below)))
    return tuple(found)


def paper(model: str) -> Paper:
    """Return the paper's part in the audit of a model."""
    return Paper(decoder(model), layers_of(model), expectations(model), partial(notes, model))
