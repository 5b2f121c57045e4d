"""``cloven inspect``: the ops of a model, and all cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloven.cli import models
from cloven.cli.models import ModelOptions
from cloven.cli.options import AsJson, Classes, InputSize, Mean, ModelName, Std, Weights
from cloven.cli.printing import by, print_json, table


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

    For each cut: the tensors that cross it, their shapes and bytes, the multiply-accumulates before and after it,
    and the numbers that the papers give its layer.
    """
    from cloven.graph.cuts import cuts, described
    from cloven.papers.points import points

    _, graph = models.resolved(ModelOptions(model, input_size, classes, weights, mean, std))
    numbers: dict[str, list[str]] = {}
    for point in points(model):
        numbers.setdefault(graph.find(point.path), []).append(point.name)
    ops, every = described(graph), [cut.row() | {"papers": numbers.get(cut.after, [])} for cut in cuts(graph)]
    if as_json:
        print_json({"model": model, "ops": ops, "cuts": every})
        return
    _print_ops(model, ops)
    _print_cuts(model, every)


def _print_ops(model: str, ops: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for op in ops:
        reads, shape = ", ".join(op["reads"]), by(op["shape"])
        rows.append([op["op"], op["kind"], reads, shape, op["bytes"], op["macs"], op["weight_bytes"]])
    table(f"{model}: ops, for one image", ["op", "kind", "reads", "shape", "bytes", "MACs", "weight bytes"], rows)


def _print_cuts(model: str, cuts: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for cut in cuts:
        tensors = "; ".join(f"{tensor['value']} {by(tensor['shape'])}" for tensor in cut["tensors"])
        macs = [cut["macs_before"], cut["macs_after"], f"{cut['before_percent']:.1f} %"]
        rows.append([cut["after"], " ".join(cut["papers"]), tensors, cut["bytes"], *macs])
    columns = ["cut after", "papers", "tensors that cross", "bytes", "MACs before", "MACs after", "before"]
    table(f"{model}: every cut", columns, rows)
