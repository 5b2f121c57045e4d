"""The documents of results: of a cell (one seed), and of a finding (all seeds)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue

from cloven.attacks.training_end import Ended
from cloven.documents import Document
from cloven.partition.observe import View

Axis = Literal["pixels", "labels"]
Metric = Literal["ssim", "agreement"]
Measure = Literal["ssim", "agreement", "above_threshold"]
"""A score for which each baseline has a value."""

AXES: Mapping[Axis, Metric] = {"pixels": "ssim", "labels": "agreement"}
"""The axes of leakage, and the score on each."""

NAMES: Mapping[Metric, str] = {"ssim": "SSIM", "agreement": "agreement"}
"""The name of each score in sentences."""


IMAGE = ("input", "normalise")
"""The values of a graph that are the image itself, or the normalised image."""

LISTED = 2
"""The largest number of layers in the name of a cut."""

GETS = ("All that ", " gets")
"""The text before and after a device's name, in the label of an observation of that device."""


def place(links: tuple[tuple[str, str], ...], label: str) -> str:
    """Return the place of a tap: ``edge0->edge1``, several links joined by ``+``, or ``device edge0``."""
    device = device_of(label)
    where = " + ".join(f"{source}->{target}" for source, target in links) or "no link"
    return f"device {device}" if device is not None else where


def device_of(label: str) -> str | None:
    """Return the device that a listener controls; None for a listener on links."""
    before, after = GETS
    controlled = label.startswith(before) and label.endswith(after)
    return label.removeprefix(before).removesuffix(after) if controlled else None


def cut(layers: tuple[str, ...], *, share: bool = False) -> str:
    """Return the position of an observation in the model: ``after conv2``, ``a share of conv2``, ``the image``.

    Args:
        layers: the layers whose outputs are observed; the first two are named.
        share: whether only one share of them is observed, as a paper counts it.
    """
    names = ["the image" if name in IMAGE else name for name in layers]
    more = [f"{len(names) - LISTED} more"] if len(names) > LISTED else []
    shown = [*names[:LISTED], *more]
    listed = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    if share:
        return f"a share of {listed}"
    return listed if names[0] == "the image" else f"after {listed}"


def without_protection(where: str, protection: tuple[str, ...]) -> str:
    """Return a place with the protection that its scores assume to be removed, ``edge0->edge1 without mtls``."""
    names = " and ".join(dict.fromkeys(name for name in protection if name != "none"))
    return f"{where} without {names}" if names else where


class ScoreRange(Document):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


class SeedsRange(ScoreRange):
    """A mean over images and seeds: ``covers`` is what the interval covers; ``of_seeds`` holds each seed's mean."""

    covers: Literal["images only", "images and seeds"] = "images only"
    of_seeds: tuple[float, ...] = ()


class SSIMRange(SeedsRange):
    """SSIM over the victim images.

    ``p95`` is the value that one image in twenty exceeds; ``above_threshold`` the share of images whose SSIM
    exceeds the audit's threshold. It is None for a single cell.
    """

    p95: float
    above_threshold: SeedsRange | None = None


class BaselineScores(Document):
    """The scores of one guess that uses no observation; ``ssim`` is None for a guess that is not an image.

    ``above_threshold`` is the share of images whose SSIM exceeds the audit's threshold.
    """

    ssim: float | None
    agreement: float
    above_threshold: float | None = None


class Leakages(Document):
    """Leakage of the mean scores: (score - baseline) / (1 - baseline), or 0 below the baseline.

    ``ssim`` and ``above_threshold`` are None for an attack that makes no reconstructions.
    """

    ssim: float | None
    agreement: float
    above_threshold: float | None = None


class JudgeRange(SeedsRange):
    """Agreement by a second classifier, and its baseline."""

    baseline: float


class IdentifiedRange(SeedsRange):
    """The share of victim images that their reconstructions identify among ``candidates`` images.

    ``baseline`` is that of chance, 1 / ``candidates``.
    """

    candidates: int
    baseline: float


class RecoveredReadings(Document):
    """The readings of one column of a sensor, as decoded from the reconstructions of windows of telemetry.

    The measure of a column of numbers is the mean absolute error, in the unit of the data set; that of a column of
    categories is the share of rows whose category is right.

    Attributes:
        column: the column.
        measure: the measure.
        score: its mean over the victim windows.
        baseline: the same of the best constant guess: the median, or the most frequent category, of the training
            part of the data set.
        gain: the paired difference, positive where the attack is better than the guess.
    """

    column: str
    measure: Literal["error", "accuracy"]
    score: SeedsRange
    baseline: SeedsRange
    gain: SeedsRange

    @property
    def learned(self) -> bool:
        """True if the whole interval of the gain lies above 0."""
        return self.gain.low > 0

    @property
    def error_left(self) -> float | None:
        """The mean error over that of the guess, or the same of the shares of wrong rows; None if that is 0."""
        found, guessed = self.score.mean, self.baseline.mean
        if self.measure == "accuracy":
            found, guessed = 1 - found, 1 - guessed
        return found / guessed if guessed else None


class InsideScores(Document):
    """Mean scores inside the part of the image that is sent in clear; ``coverage`` is the size of this part."""

    ssim: float | None
    psnr: float
    coverage: float


class HeldOut(Document):
    """The mean scores on the held-out pairs, by which the strongest attack is chosen."""

    images: int
    ssim: float | None
    agreement: float


class TrainingTime(Document):
    """The time that the training of an attack took.

    ``seconds`` are CPU or GPU seconds for this attack alone, summed over the seeds. ``epochs`` has an entry for
    each seed, None if the attack does not report it. ``ended`` says what ended the training of each seed: its
    schedule, a score on held-out pairs that stopped improving, or the budget. A result whose training the budget
    ended depends on the speed of the machine.
    """

    processor: Literal["CPU", "GPU"]
    seconds: float
    epochs: tuple[int | None, ...]
    ended: tuple[Ended, ...]

    def __str__(self) -> str:
        """Return ``28 CPU s, 3 epochs; ended by the budget``."""
        known = sorted({count for count in self.epochs if count is not None})
        said = f"{self.seconds:.3g}" if self.seconds < 100 else f"{self.seconds:,.0f}"
        shown = f"{said} {self.processor} s"
        if known:
            span = f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"
            shown += f", {span} epoch{'s' * (known != [1])}"
        if len(self.ended) > 1:
            shown += f", {len(self.ended)} seeds"
        ends = [f"ended by {ENDS[end]}" for end in dict.fromkeys(self.ended) if end in ENDS]
        return "; ".join([shown, *ends])


ENDS: Mapping[Ended, str] = {"no improvement": "held-out pairs that did not improve", "budget": "the budget"}
"""The reasons why a training ended before its schedule did, in words."""


class Scores(Document):
    """The scores of an attack on an observation, of one seed or over several.

    ``agreement`` is the share of reconstructions that the model assigns to the same class as the original
    (Mehrafrooz et al., 2025, call it accuracy); for a label reader, the share of images whose class, as the model
    gives it, was read. A label reader makes no reconstructions: its other scores are None.
    """

    agreement: SeedsRange
    ssim: SSIMRange | None
    psnr: SeedsRange | None
    identified: IdentifiedRange | None
    judge: JudgeRange | None

    def score(self, metric: Metric) -> SeedsRange | None:
        """Return the score of a metric; None where the attack has none."""
        return self.ssim if metric == "ssim" else self.agreement


class Measured(Scores):
    """The measurements of an attack on an observation, of one seed or over several.

    ``pairs`` is 0 for an attack that uses none; ``training`` is None for an attack that is not trained.
    ``wall_seconds`` is the elapsed time of training and scoring, divided equally among attacks that are trained
    together. ``notes`` are remarks of the attack. ``readings`` has an entry for each column of telemetry; it is
    empty for pictures, and for an attack that makes no reconstructions.
    """

    attack: str
    parameters: int
    pairs: int
    victims: int
    observation_bytes: int
    kappa: float
    baselines: dict[str, BaselineScores]
    leakage: Leakages
    inside: InsideScores | None
    held_out: HeldOut | None
    training: TrainingTime | None
    notes: tuple[str, ...]
    wall_seconds: float
    readings: tuple[RecoveredReadings, ...] = ()

    def baseline(self, measure: Measure) -> tuple[str, float] | None:
        """Return the name and score of the highest baseline; None if no baseline has this score."""
        scored = [
            (name, score)
            for name, found in self.baselines.items()
            if (score := getattr(found, measure)) is not None
        ]
        return max(scored, key=lambda named: (named[1], named[0]), default=None)

    @property
    def cut_short(self) -> bool:
        """True if a limit on seconds ended a training: the complete attack might find more."""
        return self.training is not None and "budget" in self.training.ended


class CellResult(Measured):
    """The document of one cell: one attack on one observation with one seed.

    ``key`` is the hash of ``provenance``, which is everything that can change a number. ``tensors`` is the SHA-256
    of the file with the scores of each image.
    """

    schema_version: Literal[6] = 6
    key: str
    seed: int
    provenance: dict[str, JsonValue]
    tensors: str = ""


def is_protected(protection: tuple[str, ...]) -> bool:
    """Return whether any of the links with these protections is encrypted."""
    return any(name != "none" for name in protection)


class ObservationContext(Document):
    """The observation that was attacked, and its links.

    ``plan`` is the title of the observed program, and ``layers`` are the layers whose outputs are observed.
    ``raw_image`` is the share of the image's own numbers that is observed; it and ``devices`` are None if unknown.
    ``protection`` names the encryption of each of ``links``, or ``none``. It is empty for a device, which decrypts
    what it receives, and for a capture, which is scored as it was recorded, ciphertext or not.
    """

    plan: str
    strategy: str
    devices: int | None
    link: tuple[str, str] | None
    links: tuple[tuple[str, str], ...]
    transform: str
    view: View
    crosses: bool
    layers: tuple[str, ...]
    label: str
    seen: tuple[str, ...]
    share: tuple[str, ...]
    raw_image: float | None
    observation_bytes: int
    protection: tuple[str, ...] = ()

    @property
    def protected(self) -> bool:
        """True if a listener sees only ciphertext; the scores are then those without the protection."""
        return is_protected(self.protection)


class Finding(ObservationContext, Measured):
    """The result of an attack on an observation, averaged over the seeds.

    ``observation`` is equal for equal observations. ``keys`` has the cell of each seed, and ``key`` is the first.
    """

    key: str
    keys: tuple[str, ...]
    observation: str
    seeds: tuple[int, ...]

    @property
    def place(self) -> str:
        """The place of the tap: links such as ``edge0->edge1``, or a device."""
        return place(self.links, self.label)

    def __repr__(self) -> str:
        likeness = f"SSIM {self.ssim.mean:.2f}, " if self.ssim is not None else ""
        where = without_protection(self.place, self.protection)
        return f"Finding({self.attack} on {where}: {likeness}agreement {self.agreement.mean:.2f})"
