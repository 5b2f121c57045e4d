"""The bars of S1's figures: what a strategy leaks at a layer, with the score of every image behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cloven.auditing.finding import Finding, Metric
from cloven.auditing.ranking import LEAST_KAPPA
from cloven.auditing.store import Store
from cloven.auditing.summary import Summary
from cloven.score.intervals import Interval, clustered, unpaired

TILE = "Layer 1"
"""What S1 calls a tile of the input."""


@dataclass(frozen=True, eq=False)
class StrategyBar:
    """One bar: S1's accuracy of a strategy at a layer, over all shares of it.

    Attributes:
        figure: of S1, such as ``5c``.
        model: what is divided.
        data: the kind of the data set.
        control: what is otherwise than in S1; see `experiments.CONTROLS`.
        strategy: vertical, horizontal or data.
        layer: S1's name of it; ``All on a link`` for the full view.
        devices: over how many the model is divided.
        where: a share's device or a link, where bars of one strategy and layer must be told apart.
        victims: the fingerprint of the images that were scored.
        kappa: of the CNN on them.
        scores: ``(seeds, shares, n)``: 1 where the reconstruction has the class of the original, else 0.
        ssim: likewise.
        floors: of agreement and of SSIM, the highest over the shares.
        crosses: whether a link carries it.
    """

    figure: str
    model: str
    data: str
    control: str
    strategy: str
    layer: str
    devices: int
    where: str
    victims: str
    kappa: float | None
    scores: Tensor
    ssim: Tensor
    floors: tuple[float, float]
    crosses: bool

    @property
    def name(self) -> str:
        """What tells it from all others."""
        parts = (self.figure, self.data, self.control, self.strategy, self.layer, str(self.devices), self.where)
        return "/".join(part for part in parts if part)

    @property
    def counts(self) -> bool:
        """Whether the CNN has learned enough for agreement with it to mean anything."""
        return self.kappa is None or self.kappa >= LEAST_KAPPA

    def row(self) -> dict[str, Any]:
        """It as ``figure.json`` lists it: means over seeds, shares and images, and of each share."""
        shares = self.scores.mean((0, 2)).tolist()
        return {
            "name": self.name,
            "model": self.model,
            "data": self.data,
            "control": self.control,
            "strategy": self.strategy,
            "layer": self.layer,
            "devices": self.devices,
            "where": self.where,
            "crosses": self.crosses,
            "victims": self.victims,
            "kappa": self.kappa,
            "counts": self.counts,
            "images": self.scores.shape[2],
            "seeds": self.scores.shape[0],
            "shares": shares,
            "agreement": _mean(self.scores),
            "ssim": _mean(self.ssim),
            "floors": dict(zip(("agreement", "ssim"), self.floors, strict=True)),
        }


def _mean(scores: Tensor) -> dict[str, float]:
    return asdict(clustered(scores.mean(1), seed=0))


def difference(higher: StrategyBar, lower: StrategyBar) -> Interval:
    """Agreement of one bar less that of another, over images and seeds; image by image where they are the same."""
    a, b = higher.scores.mean(1), lower.scores.mean(1)
    if higher.victims != lower.victims:
        return unpaired(a, b, seed=0)
    seeds = min(len(a), len(b))
    return clustered(a[:seeds] - b[:seeds], seed=0)


# --- from finished studies --------------------------------------------------------------------------------------


def bars(
    figure: str, control: str, division: str, summary: Summary, folder: Path, victims: str
) -> list[StrategyBar]:
    """The bars of one study.

    Args:
        figure: which of S1's it belongs to.
        control: what it varies.
        division: what is unusual about how it divides the model, in a word.
        summary: of the study.
        folder: of the study.
        victims: the fingerprint of its victim images.
    """
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in summary.findings:
        groups.setdefault(_group(finding, division), []).append(finding)
    store, data = Store(folder), summary.data.partition(":")[0]
    return [
        StrategyBar(
            figure,
            summary.model,
            data,
            control,
            strategy,
            layer,
            members[0].devices or 0,
            where,
            victims,
            summary.model_kappa,
            _scores(members, store, "agreement"),
            _scores(members, store, "ssim"),
            (_floor(members, "agreement"), _floor(members, "ssim")),
            any(member.crosses for member in members),
        )
        for (strategy, layer, where), members in groups.items()
    ]


def _group(finding: Finding, division: str) -> tuple[str, str, str]:
    """Shares of a layer make one bar; what a link carries makes one of its own."""
    if finding.view == "paper":
        return finding.strategy, TILE if finding.label == "Input tile" else finding.label, ""
    words = (division, " to ".join(finding.link or ()))
    return finding.strategy, finding.label, ", ".join(word for word in words if word)


def _scores(members: Sequence[Finding], store: Store, metric: Metric) -> Tensor:
    """``(seeds, shares, n)``."""
    return torch.stack([store.scores(member.keys, metric) for member in members], 1)


def _floor(members: Sequence[Finding], metric: Metric) -> float:
    highest = (member.baseline(metric) for member in members)
    return max(0.0 if one is None else one[1] for one in highest)
