"""The results of cells, and findings: typed documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue

from cloven.attacks.trainer import Ended
from cloven.documents import Document
from cloven.partition.observe import View

Axis = Literal["pixels", "labels"]
Metric = Literal["ssim", "agreement"]
Measure = Literal["ssim", "agreement", "above_threshold"]
"""A score that has a baseline of each guess."""

AXES: Mapping[Axis, Metric] = {"pixels": "ssim", "labels": "agreement"}
"""The axes of leakage, and the score that is measured on each."""


IMAGE = ("input", "normalise")
"""The values of a graph that are the image, as it is or normalised."""

LISTED = 2
"""The most layers that the name of a cut lists."""

GETS = ("All that ", " gets")
"""The label of an observation of a device, around its name."""


def place(links: tuple[tuple[str, str], ...], label: str) -> str:
    """Return what is listened on: ``edge0->edge1``, links that collude with ``+``, or ``device edge0``."""
    device = device_of(label)
    where = " + ".join(f"{source}->{target}" for source, target in links) or "no link"
    return f"device {device}" if device is not None else where


def device_of(label: str) -> str | None:
    """Return the device that a listener controls; None where he listens on links."""
    before, after = GETS
    controlled = label.startswith(before) and label.endswith(after)
    return label.removeprefix(before).removesuffix(after) if controlled else None


def cut(layers: tuple[str, ...], *, share: bool = False) -> str:
    """Return where in the model something is seen: ``after conv2``, ``a share of conv2``, ``the image``.

    Args:
        layers: whose outputs are seen; of several, the first two are named.
        share: whether it is one share of them, as a paper counts it.
    """
    names = ["the image" if name in IMAGE else name for name in layers]
    more = [f"{len(names) - LISTED} more"] if len(names) > LISTED else []
    shown = [*names[:LISTED], *more]
    listed = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    if share:
        return f"a share of {listed}"
    return listed if names[0] == "the image" else f"after {listed}"


def without_protection(where: str, protection: tuple[str, ...]) -> str:
    """Return a place with the protection that its scores presume to be removed, ``edge0->edge1 without mtls``."""
    names = " and ".join(dict.fromkeys(name for name in protection if name != "none"))
    return f"{where} without {names}" if names else where


class ScoreRange(Document):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


class SeedsRange(ScoreRange):
    """A mean over images and seeds: ``covers`` says of what the interval is, ``of_seeds`` has the mean of each."""

    covers: Literal["images only", "images and seeds"] = "images only"
    of_seeds: tuple[float, ...] = ()


class SSIMRange(SeedsRange):
    """SSIM over the victim images.

    ``p95`` is the value that one image in twenty exceeds; ``above_threshold`` the share of images whose SSIM
    exceeds the audit's threshold, None of a cell, which has none.
    """

    p95: float
    above_threshold: SeedsRange | None = None


class BaselineScores(Document):
    """The scores of one guess without any observation; ``ssim`` is None for a guess that is not an image.

    ``above_threshold`` is the share of images whose SSIM exceeds the audit's threshold.
    """

    ssim: float | None
    agreement: float
    above_threshold: float | None = None


class Leakages(Document):
    """Leakage of the mean scores: (score - baseline) / (1 - baseline), 0 below the baseline.

    Those of pixels are None without reconstructions.
    """

    ssim: float | None
    agreement: float
    above_threshold: float | None = None


class JudgeRange(SeedsRange):
    """Agreement by a second classifier, and its baseline."""

    baseline: float


class IdentifiedRange(SeedsRange):
    """The share of victims picked, by their reconstructions, out of ``candidates`` images.

    ``baseline`` is that of chance, 1 / ``candidates``.
    """

    candidates: int
    baseline: float


class InsideScores(Document):
    """Mean scores inside the part of the image that is seen in clear, which is ``coverage`` of it."""

    ssim: float | None
    psnr: float
    coverage: float


class HeldOut(Document):
    """The mean scores on pairs that trained nothing, by which the strongest attack is chosen."""

    images: int
    ssim: float | None
    agreement: float


class TrainingTime(Document):
    """The time that the training of an attack took.

    ``seconds`` are of the CPU, or of the GPU, for this attack alone and all seeds together. ``epochs`` has an entry
    for each seed, None where the attack does not say, and ``ended`` what ended the training of each: its schedule,
    held-out pairs that were read no better any more, or the budget. A result that the budget ended depends on the
    speed of the machine.
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
"""What ended a training before its schedule did, in words."""


class Scores(Document):
    """The scores of an attack on an observation, of one seed or over several.

    ``agreement`` is S1's accuracy: the share of reconstructions to which the model gives the class that it gives
    the original; of a label reader, the share of labels that are the model's. A label reader makes no images: its
    other scores are None.
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

    ``pairs`` is 0 of an attack that uses none, ``training`` None where nothing was trained. ``wall_seconds`` is how
    long training and scoring took by the clock: attacks that train side by side have equal parts of it. ``notes``
    are remarks of the attack.
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

    def baseline(self, measure: Measure) -> tuple[str, float] | None:
        """Return the name and score of the highest baseline; None where no baseline has this score."""
        scored = [
            (name, score)
            for name, found in self.baselines.items()
            if (score := getattr(found, measure)) is not None
        ]
        return max(scored, key=lambda named: (named[1], named[0]), default=None)


class CellResult(Measured):
    """The document of one cell: one attack on one observation with one seed.

    ``key`` is the hash of ``provenance``: of all that can change a number. ``tensors`` is the SHA-256 of the file
    with the scores of each image.
    """

    schema_version: Literal[6] = 6
    key: str
    seed: int
    provenance: dict[str, JsonValue]
    tensors: str = ""


def is_protected(protection: tuple[str, ...]) -> bool:
    """Return whether a listener on links that are encrypted so needs to break an encryption."""
    return any(name != "none" for name in protection)


class ObservationContext(Document):
    """The observation that was attacked, and its links.

    ``devices`` is None, and ``raw_image``, the share of the image's numbers that is seen, where nobody knows it.
    ``plan`` is the title of the program that is observed, and ``layers`` the layers whose outputs are seen.
    ``protection`` is what encrypts each of ``links``, ``none`` for nothing; it is empty of a device, which decrypts
    what it receives, and of a capture, whose scores are of what was recorded, ciphertext or not.
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
        """Whether a listener sees only ciphertext: scores are of what would leak without the protection."""
        return is_protected(self.protection)


class Finding(ObservationContext, Measured):
    """An attack on an observation as the summary lists it: one seed's result, or the mean over several.

    ``observation`` is equal for equal observations; ``key`` is the first of ``keys``, one for each seed.
    """

    key: str
    keys: tuple[str, ...]
    observation: str
    seeds: tuple[int, ...]

    @property
    def place(self) -> str:
        """The links that are listened on, ``edge0->edge1``, or the device."""
        return place(self.links, self.label)

    def __repr__(self) -> str:
        likeness = f"SSIM {self.ssim.mean:.2f}, " if self.ssim is not None else ""
        where = without_protection(self.place, self.protection)
        return f"Finding({self.attack} on {where}: {likeness}agreement {self.agreement.mean:.2f})"
