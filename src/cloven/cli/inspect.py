"""``cloven inspect``: the ops of a model, and all cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloven.cli import models
from cloven.cli.models import ModelOptions
from cloven.cli.options import AsJson, Classes, InputSize, Mean, ModelName, Std, Weights
from cloven.cli.printing import by, print_json, table

if TYPE_CHECKING:
    from cloven.graph.description import ModelDescription


def inspect(
    model: ModelName,
    input_size: InputSize = "",
    classes: Classes = None,
    weights: Weights = None,
    mean: Mean = "",
    std: Std = "",
    as_json: AsJson = False,
) -> None:
    """Show a model's ops and every possible cut.

    Each cut is shown with the tensors that cross it, their shapes and bytes, the multiply-accumulates (MACs) before
    and after it, and the layer's numbers in the papers: s1 is Mehrafrooz et al. (2025), s2 Rajasekar et al. (2024).
    """
    from cloven.graph.description import described
    from cloven.papers.points import points

    _, graph = models.resolved(ModelOptions(model, input_size, classes, weights, mean, std))
    numbers: dict[str, tuple[str, ...]] = {}
    for point in points(model):
        after = graph.find(point.path)
        numbers[after] = (*numbers.get(after, ()), point.name)
    description = described(graph, model, numbers)
    if as_json:
        print_json(description.model_dump(mode="json"))
        return
    _print_ops(description)
    _print_cuts(description)


def _print_ops(description: ModelDescription) -> None:
    rows = [
        [op.op, op.kind, ", ".join(op.reads), by(op.shape), op.bytes, op.macs, op.weight_bytes]
        for op in description.ops
    ]
    columns = ["op", "kind", "reads", "shape", "bytes", "MACs", "weight bytes"]
    table(f"{description.model}: ops, for one image", columns, rows)


def _print_cuts(description: ModelDescription) -> None:
    rows = []
    for cut in description.cuts:
        tensors = "; ".join(f"{tensor.value} {by(tensor.shape)}" for tensor in cut.tensors)
        macs = [cut.macs_before, cut.macs_after, f"{cut.before_percent:.1f} %"]
        rows.append([cut.after, " ".join(cut.papers), tensors, cut.bytes, *macs])
    columns = ["cut after", "papers", "tensors that cross", "bytes", "MACs before", "MACs after", "before"]
    table(f"{description.model}: every cut", columns, rows)
