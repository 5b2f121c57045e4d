"""A Finding: one cell's result, with intervals, floors and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from cloven.score.floors import Floor, above, best
from cloven.score.intervals import Interval


@dataclass(frozen=True)
class Finding:
    """What one attack rebuilt from one observation.

    ``agreement`` is S1's accuracy: the share of reconstructions to which the CNN gives the class that it gives
    the original; ``ssim_p95`` is the SSIM that one victim image in twenty exceeds. ``scores`` and ``samples``
    are for one's own look: per-image scores ``(n,)``, and the best, median and worst image by SSIM as pixels.
    """

    key: str
    attack: str
    pairs: int
    victims: int
    parameters: int
    observation_bytes: int
    agreement: Interval
    kappa: float
    ssim: Interval
    ssim_p95: float
    psnr: Interval
    floors: tuple[Floor, ...]
    seconds: float
    provenance: Mapping[str, Any]
    scores: Mapping[str, Tensor] = field(repr=False, compare=False, default_factory=dict)
    samples: Mapping[str, Tensor] = field(repr=False, compare=False, default_factory=dict)

    @property
    def leakage_above_floor(self) -> dict[str, float]:
        """(score - floor) / (1 - floor) against the best floor, for SSIM and for agreement."""
        floor = best(self.floors)
        assert floor.ssim is not None
        return {
            "ssim": above(self.ssim.mean, floor.ssim),
            "agreement": above(self.agreement.mean, floor.agreement),
        }

    def to_json(self) -> dict[str, Any]:
        """The finding as the summary and the store hold it."""
        return {
            "key": self.key,
            "observation_bytes": self.observation_bytes,
            "attack": self.attack,
            "parameters": self.parameters,
            "pairs": self.pairs,
            "victims": self.victims,
            "agreement": asdict(self.agreement),
            "kappa": self.kappa,
            "ssim": {**asdict(self.ssim), "p95": self.ssim_p95},
            "psnr": asdict(self.psnr),
            "floors": {f.name: {"ssim": f.ssim, "agreement": f.agreement} for f in self.floors},
            "leakage_above_floor": self.leakage_above_floor,
            "seconds": self.seconds,
            "provenance": dict(self.provenance),
        }
