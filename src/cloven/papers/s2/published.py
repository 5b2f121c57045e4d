"""The paper's Table III, and its rule that chooses the cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from math import isfinite

from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.papers.points import points

VGG, RESNET, EFFICIENTNET = "torchvision:vgg16", "torchvision:resnet50", "torchvision:efficientnet_b0"

THRESHOLD = 0.2
"""The SSIM below which the paper considers a reconstruction harmless (Sect. V-D)."""


def optimal(scores: Sequence[float], threshold: float = THRESHOLD, tolerance: float = 0.0) -> int | None:
    """Return the optimal partition point (Sect. V-D): the first from which SSIM stays below the threshold.

    The paper's own choice for EfficientNet-B0 overlooks later points slightly above the threshold. With a
    ``tolerance``, the point itself must be below the threshold, and later points below threshold + tolerance.

    Args:
        scores: the mean SSIM of each partition point, in order.
        threshold: an SSIM between -1 and 1.
        tolerance: 0 or more.

    Returns:
        The point, counted from 1; None if the scores never stay low.

    Raises:
        ClovenError: for scores, a threshold or a tolerance out of range.
    """
    problems = [
        f"the SSIM of point {p} must be between -1 and 1, got {s}"
        for p, s in enumerate(scores, 1)
        if not -1 <= s <= 1
    ]
    if not -1 <= threshold <= 1:
        problems.append(f"the threshold must be between -1 and 1, got {threshold}")
    if not (isfinite(tolerance) and tolerance >= 0):
        problems.append(f"the tolerance must be 0 or more, got {tolerance}")
    if problems:
        raise ClovenError(problems)
    for point, score in enumerate(scores, 1):
        if score < threshold and all(later < threshold + tolerance for later in scores[point:]):
            return point
    return None


# --- Table III ------------------------------------------------------------------------------------------------


class PublishedRow(Document):
    """A row of Table III with numbers derived from its times.

    ``printed_percent`` is the percentage in the paper, ``derived_percent`` the same percentage derived from the
    printed times.
    """

    model: str
    data: str
    partition_points: int
    point: int
    full_seconds: float
    partitioned_seconds: float
    printed_percent: str
    derived_percent: str
    reduction_percent: float
    ratio: float


@dataclass(frozen=True)
class PublishedTimes:
    """A row of Table III, or the same numbers for TON_IoT from Sect. V-D3.

    Attributes:
        model: the model's name.
        data: the data set.
        point: the partition point.
        full: the printed time of the whole model in the enclave, in seconds.
        partitioned: the printed time of the divided model, in seconds.
        printed: the printed "performance speedup" in percent.
    """

    model: str
    data: str
    point: int
    full: str
    partitioned: str
    printed: str

    @property
    def reduction(self) -> Decimal:
        """Return the percentage of time that the division saves; the paper calls it the speedup."""
        full, part = Decimal(self.full), Decimal(self.partitioned)
        return 100 * (full - part) / full

    @property
    def ratio(self) -> Decimal:
        """Return how many times as fast the divided model is, usually called the speedup."""
        return Decimal(self.full) / Decimal(self.partitioned)

    @property
    def derived(self) -> str:
        """Return the percentage derived from the printed times, truncated to one decimal as in the paper."""
        return str(self.reduction.quantize(Decimal("0.1"), ROUND_FLOOR))

    def row(self) -> PublishedRow:
        """Return the row with derived numbers."""
        return PublishedRow(
            model=self.model,
            data=self.data,
            partition_points=len(points(self.model, "s2")),
            point=self.point,
            full_seconds=float(self.full),
            partitioned_seconds=float(self.partitioned),
            printed_percent=self.printed,
            derived_percent=self.derived,
            reduction_percent=round(float(self.reduction), 2),
            ratio=round(float(self.ratio), 3),
        )


TABLE_3: tuple[PublishedTimes, ...] = (
    PublishedTimes(VGG, "ImageNet", 8, "4.2", "1.4", "66.6"),
    PublishedTimes(RESNET, "ImageNet", 4, "4.02", "3.6", "10.4"),
    PublishedTimes(EFFICIENTNET, "ImageNet", 4, "3.7", "2.5", "32.4"),
    PublishedTimes(RESNET, "TON_IoT", 3, "4.02", "3.04", "24.3"),
    PublishedTimes(EFFICIENTNET, "TON_IoT", 4, "3.7", "2.5", "32.4"),
)
"""The published times: Table III, and Sect. V-D3 for TON_IoT."""
