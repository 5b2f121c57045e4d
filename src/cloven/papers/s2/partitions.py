"""Tables I and II: the layers on both sides of each partition point, as printed and as counted in the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from cloven.documents import Document
from cloven.graph.graph import Graph, Op
from cloven.papers.points import points
from cloven.papers.s2.published import EFFICIENTNET, RESNET

PartitionTableName = Literal["I", "II"]


class Layers(Document):
    """Numbers of layers: convolutions outside blocks, MBConv blocks, and fully connected layers.

    ``shortcuts`` are the convolutions on shortcuts of ResNet-50, which the paper does not count.
    """

    convolutions: int = 0
    blocks: int = 0
    linear: int = 0
    shortcuts: int = 0


class PartitionPoint(Document):
    """A partition point: the layers in the enclave and on the GPU, as printed and as counted."""

    point: int
    path: str
    enclave: Layers
    gpu: Layers
    counted_enclave: Layers
    counted_gpu: Layers

    @property
    def agrees(self) -> bool:
        """Return whether the printed numbers are those of the model, without the convolutions on shortcuts."""
        counted = (side.model_copy(update={"shortcuts": 0}) for side in (self.counted_enclave, self.counted_gpu))
        return (self.enclave, self.gpu) == tuple(counted)


class PartitionTable(Document):
    """The paper's Table I or II beside the layers that are counted in the captured model."""

    schema_version: Literal[1] = 1
    paper: Literal["s2"] = "s2"
    table: PartitionTableName
    model: str
    rows: tuple[PartitionPoint, ...]


MODELS: Mapping[PartitionTableName, str] = {"I": RESNET, "II": EFFICIENTNET}
"""The model of each table."""

PRINTED: Mapping[PartitionTableName, tuple[tuple[Layers, Layers], ...]] = {
    "I": tuple(
        (Layers(convolutions=inside), Layers(convolutions=outside, linear=1))
        for inside, outside in ((1, 48), (10, 39), (22, 27), (40, 9), (49, 0))
    ),
    "II": (
        *(
            (Layers(convolutions=1, blocks=inside), Layers(convolutions=1, blocks=16 - inside, linear=1))
            for inside in (0, 1, 3, 5, 8, 11, 15)
        ),
        (Layers(convolutions=2, blocks=16), Layers(linear=1)),
    ),
}
"""The printed numbers: in the enclave and on the GPU, at each point. The blocks on the GPU in Table II are all
printed as well, and are 16 without those in the enclave."""


def partition_table(name: PartitionTableName, graph: Graph) -> PartitionTable:
    """Return Table I or II; ``graph`` is the captured model of the table (`MODELS`)."""
    rows = []
    for point, (enclave, gpu) in zip(points(MODELS[name], "s2"), PRINTED[name], strict=True):
        last = graph.position[graph.find(point.path)] + 1
        row = PartitionPoint(
            point=point.number,
            path=point.path,
            enclave=enclave,
            gpu=gpu,
            counted_enclave=counted(graph.ops[:last]),
            counted_gpu=counted(graph.ops[last:]),
        )
        rows.append(row)
    return PartitionTable(table=name, model=MODELS[name], rows=tuple(rows))


def counted(ops: Iterable[Op]) -> Layers:
    """Return the numbers of layers among the ops of torchvision's ResNet-50 or EfficientNet-B0."""
    layers = [(op.kind, op.module) for op in ops]
    convolutions = [module for kind, module in layers if kind == "conv2d"]
    inside = {module.partition(".block.")[0] for module in convolutions if ".block." in module}
    shortcuts = sum(".downsample." in module for module in convolutions)
    return Layers(
        convolutions=sum(".block." not in module for module in convolutions) - shortcuts,
        blocks=len(inside),
        linear=sum(kind == "linear" for kind, _ in layers),
        shortcuts=shortcuts,
    )


def in_words(layers: Layers) -> str:
    """Return numbers of layers as text: ``1 conv + 3 MBConv``."""
    named = (("conv", layers.convolutions), ("MBConv", layers.blocks), ("FC", layers.linear))
    return " + ".join(f"{number} {name}" for name, number in named if number)
