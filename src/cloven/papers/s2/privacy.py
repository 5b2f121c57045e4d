"""The privacy study (Sect. V-D, Figs. 4 to 7): reconstructions at every partition point, and the choice of the cut.

An enclave that is cut at a point hands over the tensor that a pipeline cut there sends over its link. All points
are therefore links of one plan, and their features come from one forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cloven.attacks.trainer import CPU, Machine
from cloven.auditing.cases import Taps
from cloven.auditing.finding import Finding, SSIMRange
from cloven.auditing.settings import AuditSettings, Simulation, Study
from cloven.auditing.subject import Subject
from cloven.auditing.suite import AttackSuite
from cloven.auditing.summary import Summary
from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.papers.points import MOBILENETS, PAPERS, points
from cloven.papers.s2.published import THRESHOLD, optimal
from cloven.zoo.named import usual

TOLERANCE = 0.03
"""The SSIM by which later points may exceed the threshold; the paper's own choice overlooks points that do."""
Rule = Literal["strict", "tolerant", "baseline"]
"""The paper's rule, the same with `TOLERANCE`, and one of ours: SSIM stays below the no-information baseline.

The SSIM between a blank grey picture and a photograph can exceed the paper's threshold. The paper's rule then only
finds points at which an attack does worse than a blank picture.
"""
STRONGEST = "strongest"
"""The name of the strongest attack at each point."""
ATTACKS = ("cgan", "residual")
"""The paper's attack, and a strong learned inverse that the paper does not have."""

STAND_INS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("resnet20", "resnet56"), ("conv1", "layer1", "layer2", "layer3")),
    **dict.fromkeys(MOBILENETS, ("conv1_relu", *(f"conv_pw_{k}_relu" for k in (1, 3, 5, 11, 13)))),
}
"""The cuts of models that the paper does not have: after each stage of feature maps of one size."""


@dataclass(frozen=True)
class Amount:
    """The sizes of a study.

    Attributes:
        name: the scale's name.
        queries: the number of auxiliary images (paper: 1,000 with their feature maps).
        victims: the number of scored images (not stated in the paper).
        gan_epochs: epochs of the c-GAN (paper: 200).
        epochs: epochs of the strong attack; None for its default.
        side: the maximum side of images in pixels; ``gan_epochs`` then apply to 32 x 32 pixels, and larger images
            get proportionally fewer. None for the model's usual size.
    """

    name: str
    queries: int
    victims: int
    gan_epochs: int
    epochs: int | None
    side: int | None


AMOUNTS: Mapping[str, Amount] = {
    "full": Amount("full", 1000, 200, 200, None, None),
    "desk": Amount("desk", 1000, 200, 90, 6, 96),
}


@dataclass(frozen=True)
class PrivacyStudy:
    """A study of a trained model: its images, attacks and sizes; ``weights`` is the file of the model's weights."""

    model: str
    data: str
    auxiliary: str
    weights: Path
    amount: Amount
    attacks: tuple[str, ...] = ATTACKS
    seeds: int = 1
    machine: Machine = CPU
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of one image: the model's usual one, with sides limited by the study's sizes."""
        channels, *sides = usual(self.model).shape
        height, width = (min(side, self.amount.side or side) for side in sides)
        return channels, height, width

    @property
    def gan_epochs(self) -> int:
        """Return the epochs of the c-GAN; if sides are limited, they are inversely proportional to the pixels."""
        epochs, (_, height, width) = self.amount.gan_epochs, self.shape
        return epochs if self.amount.side is None else max(1, epochs * 32**2 // (height * width))


def cuts(model: str) -> dict[str, str]:
    """Return the partition points of a model in order: path -> label.

    Raises:
        ClovenError: for a model without partition points in the paper or in `STAND_INS`.
    """
    own = {point.path: f"Layer {point.number}" for point in points(model, "s2")}
    found = own or {path: path for path in STAND_INS.get(model, ())}
    if not found:
        known = ", ".join(["torchvision:vgg16", "torchvision:resnet50", "torchvision:efficientnet_b0", *STAND_INS])
        raise ClovenError(f"{PAPERS['s2']} do not cut {model!r}; choose from {known}")
    return found


def settings(study: PrivacyStudy) -> Study:
    """Return the study as an audit."""
    subject = Subject(
        model=study.model,
        data=study.data,
        auxiliary=study.auxiliary,
        queries=study.amount.queries,
        victims=study.amount.victims,
        weights=study.weights,
        shape=study.shape,
        classes=usual(study.model).classes,
        judge="none",
        seed=study.seed,
    )
    suite = AttackSuite(study.attacks, study.amount.epochs, study.gan_epochs)
    return cut_at_every_point(subject, suite, study.seeds, study.machine)


def cut_at_every_point(subject: Subject, suite: AttackSuite, seeds: int, machine: Machine) -> Study:
    """Return the audit of a model as one pipeline that is cut at every point and tapped on every link.

    Args:
        subject: the model, its images, and the first seed.
        suite: the attacks.
        seeds: the number of seeds of each attack.
        machine: the processor and precision of the training.

    Raises:
        ClovenError: as `cuts`.
    """
    layers = cuts(subject.model)
    return Study(
        subject,
        Simulation(Taps(layers, ("full",), every_link=True), strategies=("vertical",), devices=len(layers) + 1),
        AuditSettings(
            suite=suite,
            seeds=tuple(range(subject.seed, subject.seed + seeds)),
            threshold=THRESHOLD,
            machine=machine,
        ),
    )


class PointScore(Document):
    """The SSIM of an attack's reconstructions at a partition point; ``baseline`` is the highest baseline."""

    point: int
    label: str
    path: str
    attack: str
    ssim: SSIMRange
    baseline: float
    bytes: int
    key: str


class ChosenPoint(Document):
    """A partition point: its number, and the layer after which the model is cut."""

    point: int
    path: str


class ChosenPoints(Document):
    """The point chosen by each `Rule`; None if SSIM does not stay low enough after any point."""

    strict: ChosenPoint | None = None
    tolerant: ChosenPoint | None = None
    baseline: ChosenPoint | None = None

    def by(self, rule: Rule) -> ChosenPoint | None:
        """Return the point chosen by a rule."""
        return {"strict": self.strict, "tolerant": self.tolerant, "baseline": self.baseline}[rule]


class ScoresFigure(Document):
    """The paper's Fig. 7, reproduced: SSIM at each partition point, and the choice of the cut.

    ``optimal`` has the points chosen by each attack's scores, and by those of `STRONGEST`. ``rule`` is the one that
    cuts the plan: the paper's own, or ``baseline`` if a baseline exceeds the paper's threshold.
    """

    schema_version: Literal[2] = 2
    paper: Literal["s2"] = "s2"
    figure: Literal["7"] = "7"
    scale: str
    model: str
    weights: str
    data: str
    auxiliary: str
    shape: tuple[int, int, int]
    model_accuracy: float | None
    model_kappa: float | None
    queries: int
    victims: int
    gan_epochs: int
    threshold: float
    tolerance: float
    rows: tuple[PointScore, ...]
    optimal: dict[str, ChosenPoints]
    rule: Rule
    plan: ChosenPoint | None
    no_verdict: str | None
    attack_seconds: float


def document(study: PrivacyStudy, summary: Summary) -> ScoresFigure:
    """Return the scores of the study's audit, and the cut for each attack and for the strongest at each point.

    No point is chosen if the audit gives no verdict, for example because the model's kappa is too low.
    """
    series = scores_by_attack(study.model, summary)
    rows = sorted(
        (row for name, each in series.items() if name != STRONGEST for row in each),
        key=lambda row: (row.point, row.attack),
    )
    chosen = points_by_attack(series, summary)
    rule: Rule = "strict" if all(row.baseline < THRESHOLD for row in rows) else "baseline"
    queries = summary.settings["queries"]
    assert isinstance(queries, int)
    return ScoresFigure(
        scale=study.amount.name,
        model=study.model,
        weights=study.weights.name,
        data=study.data.partition(":")[0],
        auxiliary=study.auxiliary.partition(":")[0],
        shape=study.shape,
        model_accuracy=summary.model_accuracy,
        model_kappa=summary.model_kappa,
        queries=queries,
        victims=summary.test_images,
        gan_epochs=study.gan_epochs,
        threshold=THRESHOLD,
        tolerance=TOLERANCE,
        rows=tuple(rows),
        optimal=chosen,
        rule=rule,
        plan=chosen[STRONGEST].by(rule),
        no_verdict=summary.verdict.reason,
        attack_seconds=round(sum(row.wall_seconds for row in summary.findings), 1),
    )


def scores_by_attack(model: str, summary: Summary) -> dict[str, list[PointScore]]:
    """Return the scores at the points of a model, in order, by attack, and those of the strongest at each point.

    The strongest is chosen on held-out pairs.
    """
    layers = list(cuts(model).items())
    number = {f"edge{i}": i for i in range(len(layers))}  # the first cut is on the link from edge0
    found = [(number[row.link[0]], row, row.ssim) for row in summary.findings if row.ssim and row.link]
    found.sort(key=lambda one: (one[0], one[1].attack))
    by_attack: dict[str, list[PointScore]] = {}
    best: dict[int, tuple[float, PointScore]] = {}
    for place, finding, ssim in found:
        path, label = layers[place]
        baseline = finding.baseline("ssim")
        row = PointScore(
            point=place + 1,
            label=label,
            path=path,
            attack=finding.attack,
            ssim=ssim,
            baseline=0.0 if baseline is None else baseline[1],
            bytes=finding.observation_bytes,
            key=finding.key,
        )
        by_attack.setdefault(finding.attack, []).append(row)
        score = _held_out(finding)
        if place not in best or score >= best[place][0]:
            best[place] = (score, row)
    return {**by_attack, STRONGEST: [row for _, (_, row) in sorted(best.items())]}


def _held_out(row: Finding) -> float:
    """Return the SSIM on held-out pairs, or that on the victims if there are no held-out pairs."""
    if row.held_out is not None and row.held_out.ssim is not None:
        return row.held_out.ssim
    return row.ssim.mean if row.ssim is not None else float("-inf")


def points_by_attack(series: Mapping[str, Sequence[PointScore]], summary: Summary) -> dict[str, ChosenPoints]:
    """Return the points chosen by each of the scores of `scores_by_attack`; none, if the audit gives no verdict."""
    return {
        name: chosen_points(scores) if summary.verdict.given else ChosenPoints() for name, scores in series.items()
    }


def chosen_points(found: Sequence[PointScore]) -> ChosenPoints:
    """Return the point chosen by each rule from the scores at all points, in order."""

    def at(rule: Rule) -> ChosenPoint | None:
        number = point_by(rule, found)
        return None if number is None else ChosenPoint(point=number, path=found[number - 1].path)

    return ChosenPoints(strict=at("strict"), tolerant=at("tolerant"), baseline=at("baseline"))


def point_by(rule: Rule, found: Sequence[PointScore], end: Literal["mean", "low", "high"] = "mean") -> int | None:
    """Return the point that a rule chooses from the scores at all points, in order; None if they do not stay low.

    Args:
        rule: the rule.
        found: the scores.
        end: the numbers to go by: the mean scores, or those at the lower or the upper ends of the intervals.
    """
    scores: list[float] = [getattr(row.ssim, end) for row in found]
    match rule:
        case "strict":
            return optimal(scores)
        case "tolerant":
            return optimal(scores, tolerance=TOLERANCE)
        case "baseline":
            return optimal([max(-1.0, score - row.baseline) for score, row in zip(scores, found, strict=True)], 0.0)
