"""``cloven inspect``."""

from __future__ import annotations

from cloven.cli import models, printing
from cloven.cli.options import AsJson, Classes, InputSize, ModelName, Weights
from cloven.cli.printing import print_json


def inspect(
    model: ModelName,
    input_size: InputSize = None,
    classes: Classes = None,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's ops and every possible cut: tensors, shapes, bytes, MACs, and the papers' numbers of it."""
    from cloven.graph.cuts import cuts, described
    from cloven.papers.points import points

    graph = models.graph_of(models.model_table(model, input_size, classes, weights))
    numbers: dict[str, list[str]] = {}
    for point in points(model):
        numbers.setdefault(graph.find(point.path), []).append(point.name)
    ops, every = described(graph), [cut.row() | {"papers": numbers.get(cut.after, [])} for cut in cuts(graph)]
    if as_json:
        print_json({"model": model, "ops": ops, "cuts": every})
    else:
        printing.ops_and_cuts(model, ops, every)
