"""Compare a program with the whole model on images: equal, not equal, or cannot be judged.

Two programs that round differently may differ by `TOLERANCE` x max(1, largest output), or by `ROUNDING` times
the model's own error in float32, where that is more. That proves something only while both are small beside the
outputs' spread: the standard deviation of an output over the images, averaged over the outputs; of a single image,
over its outputs. So the tolerance is at most `NEAR` of the spread, and a model cannot be judged

- whose own error in float32 is more than `NEAR` of the spread: how far it is from itself in float64, and how far
  its outputs move when the last bits of the images do (a threshold that rounding decides);
- that differs from itself between two runs;
- whose outputs are NaN or infinite.

A program that is bitwise equal to a model that repeats itself is equal.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import computed_field
from torch import Tensor

from cloven.documents import Document
from cloven.graph.graph import Graph
from cloven.partition.program import Program, Transfer
from cloven.runtime.local import run
from cloven.runtime.torch_engine import evaluate

TOLERANCE = 1e-5
"""Largest difference of an output, times max(1, largest output)."""

TOLERANCE_ONNX = 1e-4
"""The same for onnxruntime, whose kernels sum in other orders."""

ROUNDING = 4
"""How many times the whole model's own rounding error counts as equal, where that is more than the tolerance."""

NEAR = 0.05
"""The largest share of the outputs' spread that the tolerance, and the model's own error, may be."""

FEW = 4
"""How many images the whole model runs on again: as they are, and each as often with other last bits."""

WORST = 64
"""How many images the rounding error is measured on: those that differ most."""


class Comparison(Document):
    """A program beside the whole model on the same images.

    ``bound`` is the largest difference that counts as equal: `TOLERANCE`, or `ROUNDING` times ``rounding`` where
    that is more. ``rounding`` is how far the whole model in float32 is from itself in float64 on the images that
    differ most; None where the tolerance is kept. ``spread`` is that of the whole model's outputs, and ``unjudged``
    says why equality cannot be judged; see this module. ``decided_differently`` counts images whose classes differ
    although the margin between the two best outputs exceeds the bound. ``inexact`` says why a plan that is not
    exact is not; see `Program.inexact`.
    """

    images: int
    accuracy: float | None
    whole_accuracy: float | None
    agreement: float
    max_difference: float
    bound: float
    rounding: float | None
    spread: float
    decided_differently: int
    exact_plan: bool
    bytes_an_image: int
    bytes_sent: int
    inexact: tuple[str, ...] = ()
    unjudged: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def equal(self) -> bool:
        """Return whether the program is proved to compute what the model does, and sent what its table says."""
        if self.unjudged:
            return False
        same = self.max_difference <= self.bound and self.decided_differently == 0
        return same and self.bytes_sent == self.bytes_an_image * self.images

    def verdict(self) -> str:
        """Return equal, not equal, or cannot be judged, with the reason, as one sentence."""
        if self.equal:
            return f"equal to the whole model on {self.images} images"
        if self.unjudged:
            return f"equality with the whole model cannot be judged: {self.unjudged}"
        return f"NOT equal to the whole model: {self.why()}"

    def why(self) -> str:
        """Return what differs."""
        accuracy = (
            "" if self.accuracy is None else f"; accuracy {self.accuracy:.4f} against {self.whole_accuracy:.4f}"
        )
        reason = f" ({'; '.join(self.inexact)})" if self.inexact else ""
        return f"largest difference {self.max_difference:.3g}, allowed {self.bound:.3g}{accuracy}{reason}"


def compare(
    program: Program, graph: Graph, images: Tensor, labels: NDArray[np.int64] | None = None, *, batch: int = 256
) -> Comparison:
    """Run ``images`` ``(n, C, H, W)`` through a program and through the whole model; ``labels`` ``(n,)``."""
    sent = 0

    def count(transfer: Transfer, tensor: Tensor) -> None:
        nonlocal sent
        sent += len(tensor) * transfer.transform.bytes(tensor[0].numel(), tensor.element_size())

    made = run(program, images, tap=count, batch=batch)
    return judge(program, graph, images, made, labels, sent=sent, batch=batch)


def judge(
    program: Program,
    graph: Graph,
    images: Tensor,
    made: Tensor,
    labels: NDArray[np.int64] | None = None,
    *,
    sent: int,
    tolerance: float = TOLERANCE,
    batch: int = 256,
) -> Comparison:
    """Return what was made of ``images`` ``(n, C, H, W)`` by a program, ``(n, classes)``, beside the whole model's.

    Args:
        program: what was run.
        graph: the whole model.
        images: in [0, 1].
        made: the program's outputs.
        labels: ``(n,)``, if known.
        sent: the bytes that crossed links.
        tolerance: times max(1, largest output), the largest difference that counts as equal.
        batch: how many images the whole model runs at once.
    """
    whole = evaluate(graph, images, [graph.output], batch=batch)[graph.output]
    spread = _spread(whole)
    bound, rounding = min(tolerance * max(1.0, float(whole.abs().max())), NEAR * spread), None
    same = (made == whole) | (made.isnan() & whole.isnan())
    difference = (made - whole).abs().masked_fill(same, 0).flatten(1).amax(1)
    worst = difference.topk(min(WORST, len(images))).indices
    itself, own = _again(graph, images[worst[:FEW]])
    if float(difference.max()) > bound and program.exact:
        # Sums in another order round otherwise; a model that float32 itself computes no better cannot tell.
        exact = evaluate(graph, images[worst].double(), [graph.output], batch=batch)[graph.output]
        rounding = float((exact - whole[worst]).abs().max())
        bound = max(bound, ROUNDING * rounding)
        own = max(own, rounding)
    unjudged = f"the model differs from itself by {itself:.3g} between two runs" if itself else ""
    endless = int((~whole.isfinite().flatten(1).all(1)).sum())
    if endless and not same.all():
        unjudged = f"the model's own outputs for {endless} of {len(images)} images are NaN or infinite"
    if own > NEAR * spread and float(difference.max()) > 0 and program.exact and not unjudged:
        unjudged = (
            f"the model's own error in float32 is {own:.3g}, near the spread of its outputs, {spread:.3g} (at most "
            f"{NEAR:.0%} of it tells a right program from a wrong one)"
        )
    classes, expected = made.argmax(1), whole.argmax(1)
    best = whole.topk(min(2, whole.shape[1]), dim=1).values
    clear = (best[:, 0] - best[:, -1]) > bound
    return Comparison(
        images=len(images),
        accuracy=_accuracy(classes, labels),
        whole_accuracy=_accuracy(expected, labels),
        agreement=float((classes == expected).double().mean()),
        max_difference=float(difference.max()),
        bound=bound,
        rounding=rounding,
        spread=spread,
        decided_differently=int(((classes != expected) & clear).sum()),
        exact_plan=program.exact,
        bytes_an_image=sum(t.bytes for t in program.transfers),
        bytes_sent=sent,
        inexact=program.inexact,
        unjudged=unjudged,
    )


def _spread(outputs: Tensor) -> float:
    """Return how far outputs ``(n, ...)`` of different images lie apart; of one image, its own numbers."""
    rows = outputs.double().flatten(1)
    apart = rows if len(rows) > 1 else rows.T
    return float(apart.std(0, correction=0).mean())


def _again(graph: Graph, images: Tensor) -> tuple[float, float]:
    """Return how far a second run of the whole model is from a first, and one on images with other last bits."""
    signs = torch.randint(-1, 2, (FEW, *images.shape), generator=torch.Generator().manual_seed(0))
    moved = (images * (1 + signs * torch.finfo(images.dtype).eps)).flatten(0, 1)
    first, second, other = (evaluate(graph, x, [graph.output])[graph.output] for x in (images, images, moved))
    apart = (other.unflatten(0, (FEW, len(images))) - first).abs()
    return float((second - first).abs().nan_to_num().max()), float(apart.nan_to_num().max())


def _accuracy(classes: Tensor, labels: NDArray[np.int64] | None) -> float | None:
    return None if labels is None else float((classes.numpy() == labels).mean())
