"""The document ``summary.json``, with the results of an audit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from cloven.auditing.finding import Axis, Finding, Metric, ScoreRange, SeedsRange, is_protected
from cloven.documents import Document
from cloven.leakage_scale import leakage
from cloven.partition.description import LinkDescription, TransferDescription
from cloven.partition.observe import View

SCHEMA = 6
Convergence = Literal[
    "converged",
    "still rises with more pairs and training",
    "still rises with more pairs",
    "still rises with more training",
    "no rise with more pairs; training not tested",
    "no rise with more training; pairs not tested",
    "too few seeds or images to tell",
    "uses no pairs and no training",
    "not tested",
]
"""The outcome of the learning curves: an attack has ``converged`` if neither more pairs nor training would help."""

RiseShows = Literal["rises", "none", "undecided"]
Over = Literal["pairs", "training"]
Shows = Literal["holds", "fails", "undecided"]
ProgramTransfer = TransferDescription
"""One transfer of a program, for one image."""
Setting = str | int | float | dict[str, str]


class SecondJudge(Document):
    """A second classifier, which is not the attacked model; ``accuracy`` is None if labels are missing."""

    name: str
    accuracy: float | None


class AttackerModel(Document):
    """A description of the attacker in a sentence, and the attacker's knowledge."""

    sentence: str
    knows: tuple[str, ...]
    does_not_know: tuple[str, ...]


class RankedLeakage(Document):
    """The observations at one end of an axis: all whose upper limit of leakage rounds to ``leakage``."""

    leakage: float
    observations: tuple[str, ...]


class AxisRanking(Document):
    """The order of the observations on one axis, by the upper 95 % limit of their leakage.

    ``least`` is None if all leak as much as the most. ``unranked`` are observations without a usable score: on the
    label axis, those that no label reader has attacked, unless they leak most even so.
    """

    axis: Axis
    most: RankedLeakage | None
    least: RankedLeakage | None
    ranked: int
    unranked: tuple[str, ...]


class AuditVerdict(Document):
    """The audit in a few sentences, or the reason for giving none.

    ``rankings`` are of the observations that listeners can read: on links in clear, and on devices. ``protected``
    are the rankings of protected links, by what would leak without the protection; empty if there are none.
    """

    given: bool
    reason: str | None
    sentence: str | None
    rankings: tuple[AxisRanking, ...]
    protected: tuple[AxisRanking, ...] = ()


class CountedShare(Document):
    """A share that a paper counts; ``crosses`` is true if a link carries it."""

    link: tuple[str, str] | None
    value: str
    share: str
    bytes: int
    crosses: bool


class ComputedLayer(Document):
    """The part of a convolution, linear layer or pool that a device computes; ``shape`` is that of its output."""

    name: str
    shape: tuple[int, ...]


class ProgramPart(Document):
    """The part of a program that one device runs; ``trusted`` is true for the enclave."""

    device: str
    trusted: bool
    layers: tuple[ComputedLayer, ...]


class ProgramSummary(Document):
    """A program: its devices, links and transfers, the shares that a paper counts, and its accuracy.

    ``parts`` has one entry per device, in order. ``links`` include those of the coordinator, which sends the image
    and receives the output. ``agreement`` and ``max_difference`` compare its outputs with those of the whole model.
    """

    strategy: str
    title: str
    devices: int
    exact: bool
    transform: str
    accuracy: float | None
    agreement: float
    max_difference: float
    parts: tuple[ProgramPart, ...]
    links: tuple[LinkDescription, ...]
    transfers: tuple[ProgramTransfer, ...]
    counted: tuple[CountedShare, ...]


class HigherScore(Document):
    """An attack that scores higher on the victims than the one that was chosen on held-out pairs.

    It is ``significant`` if the whole interval of the paired ``difference`` lies above 0; else the difference may
    be due to chance. If several attacks score higher, this is the one with the largest difference among those that
    are significant, or else among all.
    """

    attack: str
    mean: float
    difference: SeedsRange

    @property
    def significant(self) -> bool:
        """True if the whole interval of the difference lies above 0."""
        return self.difference.low > 0


class AxisScore(Document):
    """The score of an observation on one axis, by the strongest attack.

    ``held_out`` is the mean score on the held-out pairs by which the attack was chosen, None if there was only one
    attack. ``exceeded_by`` is another attack that scores higher on the victims. ``converged`` is the outcome of the
    learning curves. ``leakage`` is (score - baseline) / (1 - baseline), at least 0, of the mean and of both ends of
    the interval; limits apply to its upper end. If the score is carried over from a deeper observation, which this
    observation determines, ``carried_from`` names it and ``carried_layers`` are its layers.
    """

    attack: str
    mean: float
    low: float
    high: float
    baseline: float
    held_out: float | None
    exceeded_by: HigherScore | None = None
    converged: Convergence = "not tested"
    leakage: ScoreRange
    carried_from: str | None = None
    carried_layers: tuple[str, ...] = ()

    @classmethod
    def of(cls, finding: Finding, metric: Metric) -> AxisScore | None:
        """Return the score of one attack on one axis; None if it has none."""
        score, baseline = finding.score(metric), finding.baseline(metric)
        if score is None or baseline is None:
            return None
        low, mean, high = (leakage(value, baseline[1]) for value in (score.low, score.mean, score.high))
        return cls(
            attack=finding.attack,
            mean=score.mean,
            low=score.low,
            high=score.high,
            baseline=baseline[1],
            held_out=getattr(finding.held_out, metric) if finding.held_out is not None else None,
            leakage=ScoreRange(mean=mean, low=low, high=high),
        )

    @property
    def largest(self) -> tuple[float, str]:
        """The leakage that limits apply to, and its attack.

        It is the upper limit of the chosen attack's leakage, or the mean leakage of one that scores significantly
        higher on the victims, if that is larger.
        """
        found, higher = (self.leakage.high, self.attack), self.exceeded_by
        if higher is None or not higher.significant:
            return found
        other = leakage(higher.mean, self.baseline), higher.attack
        return other if other[0] > found[0] else found


class AxisScores(Document):
    """The score on each axis; None where nothing was measured."""

    pixels: AxisScore | None
    labels: AxisScore | None

    def on(self, axis: Axis) -> AxisScore | None:
        """Return the score on an axis."""
        return self.pixels if axis == "pixels" else self.labels


class ObservationSummary(Document):
    """An observation: its strongest attacks, and scores that are carried over from deeper observations.

    ``own`` are the scores of the attacks on it; ``counts`` are the same, or the scores carried over where they are
    higher. ``labels_read`` says whether a label reader attacked it; without one, low agreement does not show that
    labels are hidden. ``flags`` are doubts in words. ``protection`` is as in `ObservationContext`: the scores of
    protected links are those without the protection.
    """

    observation: str
    strategy: str
    label: str
    layers: tuple[str, ...]
    link: tuple[str, str] | None
    links: tuple[tuple[str, str], ...]
    view: View
    crosses: bool
    transform: str
    attacks: tuple[str, ...]
    labels_read: bool
    own: AxisScores
    counts: AxisScores
    flags: tuple[str, ...]
    protection: tuple[str, ...] = ()

    @property
    def protected(self) -> bool:
        """True if a listener sees only ciphertext."""
        return is_protected(self.protection)

    @property
    def exposed(self) -> bool:
        """True if a listener can read it: it is sent, and not protected."""
        return self.crosses and not self.protected

    @property
    def leaks(self) -> tuple[float, ...]:
        """The upper limits of its leakage on the two axes, rounded to a percent, the larger first."""
        scores = (self.counts.pixels, self.counts.labels)
        return tuple(sorted((round(score.leakage.high, 2) for score in scores if score), reverse=True))


class CurvePoint(Document):
    """The scores of an attack with a share of the pairs or of its training time.

    ``epochs`` is the number of epochs of its training, averaged over the seeds; None if it has none.
    """

    pairs: int
    time: float
    epochs: float | None
    ssim: SeedsRange | None
    agreement: SeedsRange | None


class Rise(SeedsRange):
    """The paired difference of a score between all and half of the pairs or of the training time.

    ``shows`` is ``none`` if the upper end of the interval is negligible (at most 0.02), ``rises`` if the whole
    interval lies above 0, and else ``undecided``.
    """

    shows: RiseShows


class LearningCurve(Document):
    """The scores of an attack on an observation against the pairs or the training time, and the rise at the end.

    The last point has all pairs and the whole training. ``ssim`` is None for an attack that makes no
    reconstructions.
    """

    observation: str
    attack: str
    strategy: str
    label: str
    layers: tuple[str, ...]
    transform: str
    over: Over
    points: tuple[CurvePoint, ...]
    ssim: Rise | None
    agreement: Rise

    @property
    def rises(self) -> bool:
        """True if a score of the attack still rises."""
        return any(rise is not None and rise.shows == "rises" for rise in (self.agreement, self.ssim))

    def rise(self, metric: Metric) -> Rise | None:
        """Return the rise of a score."""
        return self.ssim if metric == "ssim" else self.agreement


class DefenceSummary(Document):
    """The effect of a transform of the links: accuracy, bytes, and the largest leakage of a link in clear."""

    strategy: str
    title: str
    transform: str
    accuracy: float | None
    agreement_with_the_model: float
    bytes: int
    most: AxisScores


class MeasuredOrdering(Document):
    """A paper's expectation about two groups of observations, and the measured difference."""

    claim: str
    source: str
    sentence: str
    metric: Metric
    expected: Literal["positive"]
    difference: ScoreRange
    shows: Shows


class GuessedShape(Document):
    """The guessed shape of a share; the true ``shape``, and ``hit``, are None for a capture."""

    strategy: str
    label: str
    seen: str
    shape: tuple[int, ...] | None
    guess: tuple[int, ...]
    type: str
    layout: str
    hit: bool | None


class GuessedShapes(Document):
    """The guessed shapes, and the number of correct ones; None for a capture, whose true shapes are unknown."""

    hits: int | None
    of: int
    rows: tuple[GuessedShape, ...]


class CapturedMessage(Document):
    """A message of a capture, and the shape in which it is read."""

    message: str
    type: str
    shape: tuple[int, ...]


class CaptureSummary(Document):
    """A description of a capture: the tapped link, and what was recorded."""

    link: tuple[str, str]
    protected: bool
    session: str
    bytes_an_image: int
    payload_bytes: int
    images: int
    unmatched: dict[str, int]
    fingerprint: str
    notes: tuple[str, ...]
    messages: tuple[CapturedMessage, ...]


class Summary(Document):
    """The results of an audit.

    ``model_accuracy`` and ``model_kappa`` are None without labels. ``settings`` and ``versions`` are needed to
    repeat the audit. ``warnings`` are remarks that change the meaning of the numbers. ``capture`` is None for a
    simulation, ``shapes`` unless shapes were guessed.
    """

    schema_version: Literal[6] = 6
    cloven: str
    model: str
    data: str
    auxiliary: str
    model_accuracy: float | None
    model_kappa: float | None
    test_images: int
    classes: int
    input: tuple[int, ...]
    seconds: float
    threshold: float
    versions: dict[str, str | int]
    settings: dict[str, Setting]
    judge: SecondJudge | None
    attacker: AttackerModel
    verdict: AuditVerdict
    programs: tuple[ProgramSummary, ...]
    findings: tuple[Finding, ...]
    observations: tuple[ObservationSummary, ...]
    curves: tuple[LearningCurve, ...]
    defences: tuple[DefenceSummary, ...]
    orderings: tuple[MeasuredOrdering, ...]
    shapes: GuessedShapes | None
    capture: CaptureSummary | None
    not_measured: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = Field(default=())

    @property
    def covers(self) -> str:
        """The scope of the intervals of the scores: images only, if each attack was trained once."""
        several = any(finding.agreement.covers == "images and seeds" for finding in self.findings)
        return "images and seeds" if several else "images only (one seed)"


def schema() -> dict[str, JsonValue]:
    """Return the JSON schema of ``summary.json``."""
    return Summary.model_json_schema()
