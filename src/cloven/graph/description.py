"""The description of a model that ``cloven inspect`` prints: its ops and every possible cut, for one image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from cloven.documents import Document
from cloven.graph.cuts import cuts
from cloven.graph.graph import Graph
from cloven.graph.ops import macs


class OpDescription(Document):
    """An op: its output's shape and bytes, its multiply-accumulates, and the bytes of its weights."""

    op: str
    kind: str
    module: str
    reads: tuple[str, ...]
    shape: tuple[int, ...]
    bytes: int
    macs: int
    weight_bytes: int


class TensorDescription(Document):
    """A tensor that crosses a cut."""

    value: str
    shape: tuple[int, ...]
    bytes: int


class CutDescription(Document):
    """A cut after an op: ``before_percent`` of the MACs come before it; ``papers`` are its names in the papers."""

    after: str
    module: str
    tensors: tuple[TensorDescription, ...]
    bytes: int
    macs_before: int
    macs_after: int
    before_percent: float
    papers: tuple[str, ...]


class ModelDescription(Document):
    """A model with its ops and cuts, in order."""

    version: Literal[1] = 1
    model: str
    ops: tuple[OpDescription, ...]
    cuts: tuple[CutDescription, ...]


def described(graph: Graph, name: str, papers: Mapping[str, tuple[str, ...]]) -> ModelDescription:
    """Return the description of a model; ``papers`` maps the op before a cut to the cut's names in the papers."""
    ops = [
        OpDescription(
            op=op.name,
            kind=op.kind,
            module=op.module,
            reads=op.inputs,
            shape=op.shape,
            bytes=op.bytes,
            macs=macs(op, graph.input_shapes(op)),
            weight_bytes=op.param_bytes,
        )
        for op in graph.ops
    ]
    places = []
    for cut in cuts(graph):
        total = cut.macs_before + cut.macs_after
        tensors = [TensorDescription(value=op.name, shape=op.shape, bytes=op.bytes) for op in cut.tensors]
        places.append(
            CutDescription(
                after=cut.after,
                module=cut.module,
                tensors=tuple(tensors),
                bytes=cut.bytes,
                macs_before=cut.macs_before,
                macs_after=cut.macs_after,
                before_percent=100 * cut.macs_before / total if total else 0.0,
                papers=papers.get(cut.after, ()),
            )
        )
    return ModelDescription(model=name, ops=tuple(ops), cuts=tuple(places))
