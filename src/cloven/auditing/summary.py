"""The summary of an audit, ``summary.json``: a frozen, strict document."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from cloven.auditing.finding import Axis, Finding, Metric, ScoreRange, SeedsRange, is_protected
from cloven.documents import Document
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
"""Whether an attack would score higher with more pairs or with longer training; ``converged``: with neither."""

RiseShows = Literal["rises", "none", "undecided"]
Over = Literal["pairs", "training"]
Shows = Literal["holds", "fails", "undecided"]
ProgramTransfer = TransferDescription
"""One transfer of a program, for one image."""
Setting = str | int | float | dict[str, str]


class SecondJudge(Document):
    """A second classifier, which did not take part; ``accuracy`` is None where the labels are not known."""

    name: str
    accuracy: float | None


class AttackerModel(Document):
    """The attacker in a sentence, and what he knows."""

    sentence: str
    knows: tuple[str, ...]
    does_not_know: tuple[str, ...]


class RankedLeakage(Document):
    """The observations at one end of an axis: all whose upper limit of leakage rounds to ``leakage``."""

    leakage: float
    observations: tuple[str, ...]


class AxisRanking(Document):
    """The order of the observations that a link carries on one axis, by the upper 95 % limit of their leakage.

    ``least`` is None where all are equal to the most. ``unranked`` are observations without a score that counts:
    on the label axis those that no attack that reads labels was tried on, unless they leak most all the same.
    """

    axis: Axis
    most: RankedLeakage | None
    least: RankedLeakage | None
    ranked: int
    unranked: tuple[str, ...]


class AuditVerdict(Document):
    """The audit in a few sentences, or the reason for giving none.

    ``rankings`` are of what listeners read: of observations on links in clear, and of devices. ``protected`` are
    those of protected links, by what would leak if their protection were removed; empty where there are none.
    """

    given: bool
    reason: str | None
    sentence: str | None
    rankings: tuple[AxisRanking, ...]
    protected: tuple[AxisRanking, ...] = ()


class CountedShare(Document):
    """A share that a paper counts; ``crosses`` says whether a link carries it."""

    link: tuple[str, str] | None
    value: str
    share: str
    bytes: int
    crosses: bool


class ComputedLayer(Document):
    """A convolution, linear layer or pool, or the part of it that a device computes; ``shape`` is of its output."""

    name: str
    shape: tuple[int, ...]


class ProgramPart(Document):
    """The part of a program that one device runs; ``trusted`` is the enclave, into which nobody looks."""

    device: str
    trusted: bool
    layers: tuple[ComputedLayer, ...]


class ProgramSummary(Document):
    """A program: its devices and links, what a paper counts of it, and how well it computes what the model does.

    ``parts`` are those of its devices, in their order. ``links`` include those of the coordinator, which sends the
    image and receives the output.
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

    It is ``significant`` where the whole interval of the paired ``difference`` lies above 0; else chance may
    explain it, or there are too few seeds or images to tell. Of several attacks it is a significant one if there is
    any, and the one of the largest difference.
    """

    attack: str
    mean: float
    difference: SeedsRange

    @property
    def significant(self) -> bool:
        """Whether the whole interval of the difference lies above 0."""
        return self.difference.low > 0


class AxisScore(Document):
    """The score of an observation on one axis, by the strongest attack.

    ``held_out`` is the mean score on the pairs by which the attack was chosen, None where there was no choice;
    ``exceeded_by`` is a doubt about the choice. ``converged`` is what its learning curves show.
    ``leakage`` is (score - baseline) / (1 - baseline), cut off at 0, of the mean and of both ends of the interval;
    what counts is its upper end. ``carried_from`` names a deeper observation, and ``carried_layers`` its layers,
    whose score this is: what is seen there follows from what is seen here.
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


class AxisScores(Document):
    """A score on each axis; None where nothing was measured."""

    pixels: AxisScore | None
    labels: AxisScore | None

    def on(self, axis: Axis) -> AxisScore | None:
        """Return the score on an axis."""
        return self.pixels if axis == "pixels" else self.labels


class ObservationSummary(Document):
    """An observation: its strongest attacks, and what follows from deeper observations.

    ``own`` are the scores of the attacks on it, ``counts`` the same or what was carried over where that is more.
    ``labels_read`` says whether an attack that reads labels was tried; without one, low agreement is no sign that
    labels are hidden. ``flags`` are doubts in words. ``protection`` is as in `ObservationContext`: on protected
    links the scores are of what would leak without it.
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
        """Whether a listener sees only ciphertext."""
        return is_protected(self.protection)

    @property
    def exposed(self) -> bool:
        """Whether a listener reads it: it is sent, and not protected."""
        return self.crosses and not self.protected

    @property
    def leaks(self) -> tuple[float, ...]:
        """The upper limits of its leakage on the two axes as they are shown, in whole percent, the larger first."""
        scores = (self.counts.pixels, self.counts.labels)
        return tuple(sorted((round(score.leakage.high, 2) for score in scores if score), reverse=True))


class CurvePoint(Document):
    """The scores of an attack with a share of the pairs or of its training time.

    ``epochs`` is the mean over seeds of the epochs that it was trained, None where it has none.
    """

    pairs: int
    time: float
    epochs: float | None
    ssim: SeedsRange | None
    agreement: SeedsRange | None


class Rise(SeedsRange):
    """The paired difference of a score between all and half of the pairs or of the training time.

    It ``shows`` none where even the upper end of its interval is negligible (at most 0.02), that the score rises
    where the whole interval lies above 0, and else nothing: it is undecided.
    """

    shows: RiseShows


class LearningCurve(Document):
    """The scores of an attack on an observation against the pairs, or the training time, and what half lacks.

    The last point has all ``pairs`` and the whole training. ``ssim`` is None for an attack that makes no images.
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
        """Whether a score of the attack still rises."""
        return any(rise is not None and rise.shows == "rises" for rise in (self.agreement, self.ssim))

    def rise(self, metric: Metric) -> Rise | None:
        """Return the rise of a score."""
        return self.ssim if metric == "ssim" else self.agreement


class DefenceSummary(Document):
    """What a transform of the links costs and hides: accuracy, bytes, and the most that a link leaks."""

    strategy: str
    title: str
    transform: str
    accuracy: float | None
    agreement_with_the_model: float
    bytes: int
    most: AxisScores


class MeasuredOrdering(Document):
    """What a paper expects of two groups of observations beside the measured difference."""

    claim: str
    source: str
    sentence: str
    metric: Metric
    expected: Literal["positive"]
    difference: ScoreRange
    shows: Shows


class GuessedShape(Document):
    """What a share was taken for; ``shape`` and ``hit`` are None where nobody knows what it is."""

    strategy: str
    label: str
    seen: str
    shape: tuple[int, ...] | None
    guess: tuple[int, ...]
    type: str
    layout: str
    hit: bool | None


class GuessedShapes(Document):
    """How many of the guesses are right; None where nobody knows."""

    hits: int | None
    of: int
    rows: tuple[GuessedShape, ...]


class CapturedMessage(Document):
    """A message of a capture, and the shape that it is read in."""

    message: str
    type: str
    shape: tuple[int, ...]


class CaptureSummary(Document):
    """What a tap recorded."""

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
    """All that an audit found.

    ``model_accuracy`` and ``model_kappa`` are None without labels. ``settings`` and ``versions`` say how to run it
    again; ``warnings`` are remarks that change how the numbers are to be read. ``capture`` is there for what a tap
    recorded, ``shapes`` where they were guessed.
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
        """What the intervals of its scores are over: images only, where each attack was trained once."""
        several = any(finding.agreement.covers == "images and seeds" for finding in self.findings)
        return "images and seeds" if several else "images only: one seed says nothing of others"


def schema() -> dict[str, JsonValue]:
    """Return the JSON schema of ``summary.json``."""
    return Summary.model_json_schema()
