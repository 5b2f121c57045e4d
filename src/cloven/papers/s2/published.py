"""The second paper: its Table III, and its rule for where to cut.

S2: Rajasekar, Loh, Fok, Thing, "Privacy preserving layer partitioning for Deep Neural Network models",
arXiv 2404.07437.
"""

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
"""The SSIM under which S2 calls a reconstruction harmless (Sect. V-D)."""


def optimal(scores: Sequence[float], threshold: float = THRESHOLD, tolerance: float = 0.0) -> int | None:
    """Return S2's optimal partition point (Sect. V-D): where SSIM falls below the threshold and stays low.

    S2's own choice for EfficientNet-B0 overlooks later points that are slightly above: with a ``tolerance`` the
    point itself must be below the threshold, those behind it below threshold + tolerance.

    Args:
        scores: the mean SSIM of each partition point, from the first on.
        threshold: between -1 and 1.
        tolerance: 0 or more.

    Returns:
        The point, counted from 1; None where the scores never stay low.

    Raises:
        ClovenError: for scores, a threshold or a tolerance out of range.
    """
    problems = [
        f"the SSIM of point {p} is {s}; expected -1 to 1" for p, s in enumerate(scores, 1) if not -1 <= s <= 1
    ]
    if not -1 <= threshold <= 1:
        problems.append(f"the threshold is {threshold}; expected an SSIM, -1 to 1")
    if not (isfinite(tolerance) and tolerance >= 0):
        problems.append(f"the tolerance is {tolerance}; expected 0 or more")
    if problems:
        raise ClovenError(problems)
    for point, score in enumerate(scores, 1):
        if score < threshold and all(later < threshold + tolerance for later in scores[point:]):
            return point
    return None


# --- Table III ------------------------------------------------------------------------------------------------


class PublishedRow(Document):
    """A row of Table III with what follows from its times.

    ``printed_percent`` is as printed, ``derived_percent`` the same derived from the printed times.
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
    """A row of Table III, or a sentence of Sect. V-D3 that says as much of TON_IoT: times in seconds, as printed.

    ``printed`` is the "performance speedup" in percent.
    """

    model: str
    data: str
    point: int
    full: str
    partitioned: str
    printed: str

    @property
    def reduction(self) -> Decimal:
        """Return by how much less time the divided model takes, in percent: S2's speedup."""
        full, part = Decimal(self.full), Decimal(self.partitioned)
        return 100 * (full - part) / full

    @property
    def ratio(self) -> Decimal:
        """Return how many times as fast the divided model is: elsewhere the speedup."""
        return Decimal(self.full) / Decimal(self.partitioned)

    @property
    def derived(self) -> str:
        """Return the percentage from the printed times, with one decimal cut off, not rounded: as S2 prints it."""
        return str(self.reduction.quantize(Decimal("0.1"), ROUND_FLOOR))

    def row(self) -> PublishedRow:
        """Return the row with what follows from it."""
        return PublishedRow(
            model=self.model,
            data=self.data,
            partition_points=len(points(self.model, "S2")),
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
"""S2's published times: Table III, and Sect. V-D3 for TON_IoT."""
