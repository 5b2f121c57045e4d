"""The documents of Figs. 5 and 6: bars, their studies, and the verdicts on the paper's claims."""

from __future__ import annotations

from typing import Literal

from cloven.auditing.finding import ScoreRange
from cloven.auditing.summary import Setting, Shows
from cloven.documents import Document
from cloven.papers.s1.scales import StudyScale
from cloven.papers.s1.table1 import DataSetRow
from cloven.tables import counted

Judgement = Literal["holds", "fails", "depends", "undecided", "not tested"]
"""The verdict on a claim; see `cloven.papers.s1.claims`."""


class BarBaselines(Document):
    """The highest no-information baselines over the shares of a bar."""

    agreement: float
    ssim: float


class BarRow(Document):
    """A bar: means over seeds, shares and images, and the mean of each share.

    ``name`` is unique in the figure; the other entries are those of `cloven.papers.s1.bars.StrategyBar`.
    """

    name: str
    model: str
    data: str
    control: str
    strategy: str
    layer: str
    devices: int
    where: str
    crosses: bool
    victims: str
    kappa: float | None
    counts: bool
    images: int
    seeds: int
    shares: tuple[float, ...]
    agreement: ScoreRange
    ssim: ScoreRange
    baselines: BarBaselines


class BarComparison(Document):
    """Two bars, the first of which is higher according to the paper, and the measured difference."""

    higher: str
    lower: str
    difference: ScoreRange
    shows: Shows


class JudgedClaim(Document):
    """A claim of the paper with its verdicts: over all, in the paper's setting, and under each control.

    ``comparisons`` are those behind the verdict of each control, and ``seeds`` the smallest number of seeds behind
    them, None if there are none. Two kinds of comparisons are left out: ``left_out`` counts those of CNNs whose
    kappa is too low, and ``mixed`` those of figures whose attacks have different sizes (`StudyScale.attacker`).
    """

    claim: str
    source: str
    sentence: str
    verdict: Judgement
    controls: dict[str, str]
    comparisons: dict[str, tuple[BarComparison, ...]]
    seeds: int | None
    left_out: int
    mixed: int

    @property
    def basis(self) -> str:
        """Return what the intervals behind the verdict cover, or why there are none; empty for the figures."""
        if self.seeds is not None:
            return "one seed: images only" if self.seeds == 1 else f"{self.seeds} seeds"
        return f"{counted(self.mixed, 'comparison')} of different scales left out" if self.mixed else ""


class DividedModel(Document):
    """A division of a study's model, and how well its outputs match those of the whole model."""

    title: str
    devices: int
    exact: bool
    accuracy: float | None
    agreement: float


class StudyVerdict(Document):
    """The verdict of a study's audit, or the reason why there is none."""

    given: bool
    reason: str | None
    sentence: str | None


class StudyRow(Document):
    """A study of a figure: the subject and settings of its audit, and its verdict."""

    name: str
    control: str
    plans: tuple[DividedModel, ...]
    attack_seconds: float
    model: str
    data: str
    auxiliary: str
    model_accuracy: float | None
    model_kappa: float | None
    test_images: int
    classes: int
    input: tuple[int, ...]
    settings: dict[str, Setting]
    verdict: StudyVerdict
    notes: tuple[str, ...]


class FigureProgress(Document):
    """The finished part of a figure: ``bars`` with at least one seed, and ``cells`` (an attack with one seed)."""

    bars: int
    planned_bars: int
    cells: int
    planned_cells: int

    @property
    def complete(self) -> bool:
        """Return whether nothing is left."""
        return self.cells == self.planned_cells

    def __str__(self) -> str:
        return f"{self.bars} of {self.planned_bars} bars, {self.cells} of {self.planned_cells} cells"


class StrategyFigure(Document):
    """A reproduced figure of the paper.

    ``smaller`` lists the differences from the paper's scale; ``tensors_sha256`` is the digest of the file with the
    scores of each image.
    """

    schema_version: Literal[6] = 6
    cloven: str
    paper: Literal["s1"] = "s1"
    figure: str
    title: str
    scale: StudyScale
    smaller: tuple[str, ...]
    data: tuple[DataSetRow, ...]
    controls: dict[str, str]
    panels: tuple[StudyRow, ...]
    bars: tuple[BarRow, ...]
    claims: tuple[JudgedClaim, ...]
    progress: FigureProgress
    notes: tuple[str, ...]
    seconds: float
    tensors_sha256: str = ""


class JudgedClaims(Document):
    """The paper's claims, judged by several figures."""

    schema_version: Literal[3] = 3
    figures: tuple[str, ...]
    scale: str
    claims: tuple[JudgedClaim, ...]
