"""A Finding: one cell's result, with intervals, floors and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from cloven.score.baselines import Baseline, best, leakage
from cloven.score.inside import RegionScores
from cloven.score.intervals import Interval


@dataclass(frozen=True)
class Judged:
    """Agreement by a second classifier: of its class of the reconstruction with its class of the original."""

    name: str
    agreement: Interval
    floor: float


@dataclass(frozen=True)
class Finding:
    """What one attack rebuilt from one observation.

    ``agreement`` is S1's accuracy: the share of reconstructions to which the CNN gives the class that it gives
    the original; of an attack that reads labels, the share of labels that are the CNN's. Such an attack makes no
    images: ``ssim`` and ``psnr`` are None. ``ssim_p95`` is the SSIM that one victim image in twenty exceeds.
    ``inside`` scores the part of the image that is seen in clear. ``notes`` is what is to be known besides.
    ``scores`` and ``samples`` are for one's own look: per-image scores ``(n,)``, and the best, median and worst
    image by SSIM as pixels.
    """

    key: str
    attack: str
    pairs: int
    victims: int
    parameters: int
    observation_bytes: int
    agreement: Interval
    kappa: float
    ssim: Interval | None
    ssim_p95: float | None
    psnr: Interval | None
    floors: tuple[Baseline, ...]
    seconds: float
    provenance: Mapping[str, Any]
    judged: Judged | None = None
    inside: RegionScores | None = None
    notes: tuple[str, ...] = ()
    scores: Mapping[str, Tensor] = field(repr=False, compare=False, default_factory=dict)
    samples: Mapping[str, Tensor] = field(repr=False, compare=False, default_factory=dict)

    @property
    def leakage_above_floor(self) -> dict[str, float | None]:
        """(score - floor) / (1 - floor) against the best floor, for SSIM and for agreement."""
        floor = best(self.floors)
        return {
            "ssim": leakage(self.ssim.mean, floor.ssim) if self.ssim and floor.ssim is not None else None,
            "agreement": leakage(self.agreement.mean, floor.agreement),
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
            "ssim": {**asdict(self.ssim), "p95": self.ssim_p95} if self.ssim else None,
            "psnr": asdict(self.psnr) if self.psnr else None,
            "floors": {f.name: {"ssim": f.ssim, "agreement": f.agreement} for f in self.floors},
            "leakage_above_floor": self.leakage_above_floor,
            "judge": asdict(self.judged.agreement) | {"floor": self.judged.floor} if self.judged else None,
            "inside": asdict(self.inside) if self.inside else None,
            "notes": list(self.notes),
            "seconds": self.seconds,
            "provenance": dict(self.provenance),
        }
