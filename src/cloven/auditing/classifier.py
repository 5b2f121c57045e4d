"""The attacked model as its users see it: it gives images classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cloven.errors import ClovenError
from cloven.graph.box import Shape
from cloven.graph.graph import Graph
from cloven.rows import TensorRows
from cloven.runtime.torch_engine import evaluate
from cloven.threads import one_thread, repeatable


class Classifier(Protocol):
    """A model that gives images classes."""

    @property
    def shape(self) -> Shape:
        """The shape of one image."""
        ...

    @property
    def classes(self) -> int:
        """The number of classes."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash that identifies the model."""
        ...

    def classify(self, images: TensorRows) -> Tensor:
        """Return the classes ``(n,)`` of images ``(n, C, H, W)`` in [0, 1]."""
        ...


@dataclass(frozen=True, eq=False)
class WholeModel:
    """A classifier that computes the graph of the whole model in this process, on a device of PyTorch."""

    graph: Graph
    device: str = "cpu"

    @property
    def shape(self) -> Shape:
        """See `Classifier`."""
        return self.graph.input.shape

    @property
    def classes(self) -> int:
        """See `Classifier`."""
        return self.graph.by_name[self.graph.output].shape[0]

    @property
    def fingerprint(self) -> str:
        """See `Classifier`."""
        return self.graph.fingerprint

    def classify(self, images: TensorRows) -> Tensor:
        """See `Classifier`."""
        with one_thread(), repeatable():
            return classes_of(
                evaluate(self.graph, images, [self.graph.output], device=self.device)[self.graph.output]
            )


def classes_of(logits: Tensor) -> Tensor:
    """Return the classes ``(n,)`` of outputs ``(n, classes)``.

    Raises:
        ClovenError: for NaN, which argmax would take for the largest.
    """
    if wrong := int(logits.isnan().any(1).sum()):
        raise ClovenError(
            f"the model's output is NaN for {wrong} of {len(logits)} images, so it gives them no class; check its "
            "weights and its normalisation"
        )
    return logits.argmax(1)
