"""Compare a program with the whole model on images: equal, not equal, or not comparable.

Two programs that round differently may differ by `TOLERANCE` x max(1, largest output), or by `ROUNDING` times the
model's own float32 error if that is larger. This is a proof only if both are small compared to the spread of the
outputs: the standard deviation of an output over the images, averaged over the outputs; of a single image, over its
outputs. So the tolerance is at most `NEAR` of the spread. Equality cannot be judged if

- the model's own float32 error is above `NEAR` of the spread: its difference from the model in float64, or the
change
  of its outputs when the last bits of the images change (a threshold that rounding decides);
- the model gives different outputs in two runs;
- the model's outputs are NaN or infinite.

A program that is bitwise equal to a deterministic model is equal.
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
"""The tolerance of an output, to be multiplied by max(1, largest output)."""

TOLERANCE_ONNX = 1e-4
"""The tolerance for onnxruntime, whose kernels sum in other orders."""

ROUNDING = 4
"""The tolerance as a multiple of the model's own rounding error, where that is larger than `TOLERANCE`."""

NEAR = 0.05
"""The maximum of the tolerance, and of the model's own error, as a fraction of the outputs' spread."""

FEW = 4
"""The number of images of the second run of the model, and the number of variants with other last bits of each."""

WORST = 64
"""The number of images on which the rounding error is measured: those with the largest differences."""


class Comparison(Document):
    """The comparison of a program with the whole model on the same images.

    ``bound`` is the largest difference that counts as equal: the tolerance, or `ROUNDING` times ``rounding`` if
    that is larger. ``rounding`` is the difference between the whole model in float32 and in float64 on the images
    with the largest differences; None if the program is within the tolerance. ``spread`` is the spread of the whole
    model's outputs, and ``unjudged`` is the reason why equality cannot be judged; see this module.
    ``decided_differently`` counts images whose classes differ although the margin between the two largest outputs
    exceeds the bound. ``inexact`` lists the reasons why a plan is not exact; see `Program.inexact`.
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
        """Return whether outputs and classes equal the whole model's, and the bytes equal the transfer table's."""
        if self.unjudged:
            return False
        same = self.max_difference <= self.bound and self.decided_differently == 0
        return same and self.bytes_sent == self.bytes_an_image * self.images

    def verdict(self) -> str:
        """Return the verdict with its reason as one sentence."""
        if self.equal:
            return f"equal to the whole model on {self.images} images"
        if self.unjudged:
            return f"equality with the whole model cannot be judged: {self.unjudged}"
        return f"NOT equal to the whole model: {self.why()}"

    def why(self) -> str:
        """Return the differences as the end of a sentence."""
        accuracy = (
            "" if self.accuracy is None else f"; accuracy {self.accuracy:.4f} instead of {self.whole_accuracy:.4f}"
        )
        reason = f" ({'; '.join(self.inexact)})" if self.inexact else ""
        return f"largest difference {self.max_difference:.3g}, allowed {self.bound:.3g}{accuracy}{reason}"


def compare(
    program: Program, graph: Graph, images: Tensor, labels: NDArray[np.int64] | None = None, *, batch: int = 256
) -> Comparison:
    """Compare a program with the whole model on images ``(n, C, H, W)``, with labels ``(n,)`` if known."""
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
    """Compare the outputs of a program with those of the whole model.

    Args:
        program: the program that was run.
        graph: the whole model.
        images: the images ``(n, C, H, W)`` in [0, 1].
        made: the program's outputs ``(n, classes)``.
        labels: the labels ``(n,)``, if known.
        sent: the bytes that crossed links.
        tolerance: the largest difference that counts as equal, divided by max(1, largest output).
        batch: the number of images that the whole model computes at once.
    """
    whole = evaluate(graph, images, [graph.output], batch=batch)[graph.output]
    spread = _spread(whole)
    bound, rounding = min(tolerance * max(1.0, float(whole.abs().max())), NEAR * spread), None
    same = (made == whole) | (made.isnan() & whole.isnan())
    difference = (made - whole).abs().masked_fill(same, 0).flatten(1).amax(1)
    worst = difference.topk(min(WORST, len(images))).indices
    itself, own = _again(graph, images[worst[:FEW]])
    if float(difference.max()) > bound and program.exact:
        # Sums in another order round differently: allow what the model's own float32 error explains.
        exact = evaluate(graph, images[worst].double(), [graph.output], batch=batch)[graph.output]
        rounding = float((exact - whole[worst]).abs().max())
        bound = max(bound, ROUNDING * rounding)
        own = max(own, rounding)
    unjudged = f"the outputs of the model differ by {itself:.3g} between two runs" if itself else ""
    endless = int((~whole.isfinite().flatten(1).all(1)).sum())
    if endless and not same.all():
        unjudged = f"the model's own outputs for {endless} of {len(images)} images are NaN or infinite"
    if own > NEAR * spread and float(difference.max()) > 0 and program.exact and not unjudged:
        unjudged = (
            f"the model's own float32 error is {own:.3g}; a comparison requires at most {NEAR:.0%} of the spread "
            f"of its outputs, {spread:.3g}"
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
    """Return the mean standard deviation of outputs ``(n, ...)`` over images; of one image, over its outputs."""
    rows = outputs.double().flatten(1)
    apart = rows if len(rows) > 1 else rows.T
    return float(apart.std(0, correction=0).mean())


def _again(graph: Graph, images: Tensor) -> tuple[float, float]:
    """Return the largest difference between two runs of the model, and that with other last bits of images."""
    signs = torch.randint(-1, 2, (FEW, *images.shape), generator=torch.Generator().manual_seed(0))
    moved = (images * (1 + signs * torch.finfo(images.dtype).eps)).flatten(0, 1)
    first, second, other = (evaluate(graph, x, [graph.output])[graph.output] for x in (images, images, moved))
    apart = (other.unflatten(0, (FEW, len(images))) - first).abs()
    return float((second - first).abs().nan_to_num().max()), float(apart.nan_to_num().max())


def _accuracy(classes: Tensor, labels: NDArray[np.int64] | None) -> float | None:
    return None if labels is None else float((classes.numpy() == labels).mean())
