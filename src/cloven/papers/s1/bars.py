"""The bars of Figs. 5 and 6: the agreement of a strategy at a layer, with the score of every image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from cloven.auditing.finding import Finding, Metric, ObservationContext, ScoreRange
from cloven.auditing.ranges import POSSIBLE, difference_bounds
from cloven.auditing.ranking import LEAST_KAPPA
from cloven.auditing.store import Store
from cloven.auditing.summary import Summary
from cloven.papers.s1.experiments import FigureStudy
from cloven.papers.s1.figure_document import BarBaselines, BarRow
from cloven.papers.s1.scales import StudyScale
from cloven.score.intervals import Interval, of_mean, of_share, paired, unpaired

TILE = "Layer 1"
"""The paper's name for a tile of the input."""

WHOLE_LINK = "All on a link"
"""The name for all that a link carries, which is compared between strategies whatever crosses it."""


@dataclass(frozen=True, eq=False)
class StrategyBar:
    """One bar: the agreement (the paper's accuracy) of a strategy at a layer, over all shares of the layer.

    Attributes:
        figure: the paper's figure, such as ``5c``.
        model: the divided model.
        data: the kind of the data set.
        control: the difference from the paper; see `experiments.CONTROLS`.
        strategy: vertical, horizontal or data.
        layer: the paper's name of the layer; `WHOLE_LINK` for the full view.
        devices: the number of devices.
        where: the link, which distinguishes bars of one strategy and layer in the full view.
        victims: the fingerprint of the scored images.
        kappa: Cohen's kappa of the CNN on these images.
        scores: ``(seeds, shares, n)``: 1 where the reconstruction has the class of the original, else 0.
        ssim: ``(seeds, shares, n)``: the SSIM of each reconstruction.
        baselines: of agreement and of SSIM, the highest over the shares.
        crosses: whether a link carries the tensor.
        scale: the sizes of the figure's studies.
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
    baselines: tuple[float, float]
    crosses: bool
    scale: StudyScale

    @property
    def name(self) -> str:
        """Return a name that is unique in the figure."""
        parts = (self.figure, self.data, self.control, self.strategy, self.layer, str(self.devices), self.where)
        return "/".join(part for part in parts if part)

    @property
    def counts(self) -> bool:
        """Return whether the CNN's kappa is high enough for agreement to be meaningful."""
        return self.kappa is None or self.kappa >= LEAST_KAPPA

    @property
    def seeds(self) -> int:
        """Return the number of seeds with which the attack was trained."""
        return self.scores.shape[0]

    def row(self) -> BarRow:
        """Return the bar's row in ``figure.json``: the means over seeds, shares and images, and of each share."""
        agreement, ssim = self.baselines
        return BarRow(
            name=self.name,
            model=self.model,
            data=self.data,
            control=self.control,
            strategy=self.strategy,
            layer=self.layer,
            devices=self.devices,
            where=self.where,
            crosses=self.crosses,
            victims=self.victims,
            kappa=self.kappa,
            counts=self.counts,
            images=self.scores.shape[2],
            seeds=self.seeds,
            shares=tuple(self.scores.mean((0, 2)).tolist()),
            agreement=score_range(of_share(self.scores.mean(1))),
            ssim=score_range(of_mean(self.ssim.mean(1), within=POSSIBLE["ssim"])),
            baselines=BarBaselines(agreement=agreement, ssim=ssim),
        )


def score_range(interval: Interval) -> ScoreRange:
    """Return a mean and its interval as a document."""
    return ScoreRange(**asdict(interval))


def difference(higher: StrategyBar, lower: StrategyBar) -> Interval:
    """Return the difference between the agreement of two bars, with its interval over images and seeds.

    Bars of the same images are compared image by image.
    """
    a, b = higher.scores.mean(1), lower.scores.mean(1)
    compare = paired if higher.victims == lower.victims else unpaired
    return compare(a, b, within=difference_bounds("agreement"))


# --- from finished studies --------------------------------------------------------------------------------------

Place = tuple[str, str, str]
"""The strategy, the layer and the link of a bar of a study."""


def bars(
    figure: str,
    scale: StudyScale,
    panel: FigureStudy,
    summary: Summary,
    folder: Path,
    victims: str,
    shares: Mapping[Place, int],
) -> list[StrategyBar]:
    """Return the bars of one study, each with the seeds that all its shares have.

    A bar is left out as long as one of its shares has no seed.

    Args:
        figure: the paper's figure.
        scale: the sizes of the figure's studies.
        panel: the study.
        summary: the study's summary.
        folder: the study's folder.
        victims: the fingerprint of its victim images.
        shares: the number of shares of each bar.
    """
    groups: dict[Place, list[Finding]] = {}
    for finding in summary.findings:
        groups.setdefault(place(finding, panel.division), []).append(finding)
    store, data = Store(folder), summary.data.partition(":")[0]
    return [
        StrategyBar(
            figure,
            summary.model,
            data,
            panel.control,
            strategy,
            layer,
            members[0].devices or 0,
            where,
            victims,
            summary.model_kappa,
            _scores(members, store, "agreement"),
            _scores(members, store, "ssim"),
            (_baseline(members, "agreement"), _baseline(members, "ssim")),
            any(member.crosses for member in members),
            scale,
        )
        for (strategy, layer, where), members in groups.items()
        if len(members) == shares[strategy, layer, where]
    ]


def place(seen: ObservationContext, division: str) -> Place:
    """Return the place of an observation's bar; all shares of a layer make one bar, each tap another."""
    if seen.view == "paper":
        return seen.strategy, TILE if seen.label == "Input tile" else seen.label, ""
    together = " and ".join(sorted({device for link in seen.links for device in link}))
    words = (division, " to ".join(seen.link) if seen.link else together)
    return seen.strategy, WHOLE_LINK, ", ".join(word for word in words if word)


def is_sliced(where: Place) -> bool:
    """Return whether the bar at a place takes an attack for each slice of a layer."""
    strategy, layer, _ = where
    return strategy == "horizontal" and layer != WHOLE_LINK


def _scores(members: Sequence[Finding], store: Store, metric: Metric) -> Tensor:
    """Return the scores ``(seeds, shares, n)``."""
    seeds = min(len(member.seeds) for member in members)
    return torch.stack([store.scores(member.keys[:seeds], metric) for member in members], 1)


def _baseline(members: Sequence[Finding], metric: Metric) -> float:
    highest = (member.baseline(metric) for member in members)
    return max(0.0 if one is None else one[1] for one in highest)
