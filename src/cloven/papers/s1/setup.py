"""The first paper: its layer names, what it leaves open, what it expects; its decoders are in `table2`.

S1: Mehrafrooz, Siyadatzaadeh, Mentens, Stefanov, "A Security Analysis of CNN Partitioning Strategies for
Distributed Inference at the Edge".
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from cloven.auditing.aggregate import Expectation
from cloven.auditing.paper import Paper
from cloven.graph.box import Shape
from cloven.papers.s1.table2 import MENDED as MENDED
from cloven.papers.s1.table2 import TABLE_2 as TABLE_2
from cloven.papers.s1.table2 import TILE, changes, printed
from cloven.papers.s1.table2 import decoder as decoder
from cloven.papers.s1.table2 import row_for as row_for

DEVICES = 4
"""The devices of S1's main experiment (Sect. 5.2)."""


def layers_of(model: str) -> dict[str, str]:
    """Return where S1 listens to a model (Sect. 5.2), as module path -> label; nothing for other models."""
    return {row.layer: f"Layer {row.number}" for row in printed(model) if row.number != TILE}


DECISIONS = (
    "S1 leaves open and this audit decides: mean squared error, learning rate 1e-3, batches of 64, "
    "nearest-neighbour enlarging; reconstructions are clipped to [0, 1] and rounded to 8 bits before the CNN "
    "sees them.",
    "S1 gives no decoder for horizontal slices: a slice takes its layer's decoder with fewer input channels.",
)


def notes(model: str, image: Shape) -> tuple[str, ...]:
    """Return the differences from what S1 prints, and decisions that it leaves open; ``image`` is (C, H, W)."""
    return (*changes(model, image), *DECISIONS)


def expectations(model: str) -> tuple[Expectation, ...]:
    """Return S1-42 to S1-44 for a model: S1's order of the strategies, and its order of the layers."""
    points = list(layers_of(model).items())
    if not points:
        return ()
    first, label = points[0]
    sentence = f"At {label}, vertical leaks more than horizontal"
    found = [Expectation("S1-42", "S1, Sect. 5.2.1", sentence, ("vertical", first), ("horizontal", first))]
    for strategy in ("vertical", "horizontal"):
        for layer, name in points:
            sentence = f"Data leaks less than {strategy} at {name}"
            found.append(Expectation("S1-43", "S1, Sect. 5.2.1, 6", sentence, (strategy, layer), ("data", None)))
        for (above, a), (below, b) in pairwise(points):
            sentence = f"{strategy.capitalize()}: {a} leaks at least as much as {b}"
            found.append(Expectation("S1-44", "S1, Sect. 5.2.2", sentence, (strategy, above), (strategy, below)))
    return tuple(found)


def paper(model: str) -> Paper:
    """Return S1's part in the audit of a model."""
    return Paper(decoder(model), layers_of(model), expectations(model), partial(notes, model))
