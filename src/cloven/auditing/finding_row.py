"""Findings as rows of one flat table: the definition of the columns of data frames and of all exports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Literal, Union, get_args, get_origin

from pydantic import Field

from cloven.auditing.convergence import convergence
from cloven.auditing.finding import AXES, Axis, Finding, ScoreRange
from cloven.auditing.summary import AxisScore, Convergence, LearningCurve, ObservationSummary, Summary
from cloven.documents import Document
from cloven.partition.observe import View


class FindingRow(Document):
    """A finding as one row: every entry is a number, a text, true or false, or None where nothing is known.

    The entries of an axis (``ssim`` and ``pixel_...``) are None for an attack that has no score on it. Scores and
    leakage of an encrypted link are those without the encryption.
    """

    run: str = Field(description="folder of the audit")
    cloven: str = Field(description="version of cloven that ran the audit")
    model: str = Field(description="the model")
    data: str = Field(description="data set of the victim images")
    auxiliary: str = Field(description="data set of the attacker's images")
    strategy: str = Field(description="strategy of the division: `vertical`, `horizontal`, `data`, ...")
    plan: str = Field(description="the division in words")
    devices: int | None = Field(description="number of devices; empty if it is unknown")
    place: str = Field(description="tapped links, `edge0->edge1`, or the device that the listener controls")
    label: str = Field(description="the observation in words, as in the report")
    layers: str = Field(description="layers whose outputs are observed, separated by `, `")
    shares: str = Field(description="observed values, each with its share, separated by `; `")
    view: View = Field(description="`full`: all that crosses; `paper`: the one share that a paper counts")
    transform: str = Field(description="transform of the links, or `none`")
    protection: str = Field(description="encryption of the links, or `none`")
    crosses: bool = Field(description="whether a link carries the observation")
    raw_image: float | None = Field(description="share of the image's own numbers that is observed")
    bytes: int = Field(description="size of the observation of one image")
    attack: str = Field(description="the attack")
    knowledge: str = Field(description="what the attacker knows, separated by `; `")
    parameters: int = Field(description="number of trained parameters of the attack")
    pairs: int = Field(description="number of pairs that train the attack; 0 if it uses none")
    victims: int = Field(description="number of victim images")
    seeds: int = Field(description="number of seeds")
    seed_values: str = Field(description="the seeds, separated by spaces")
    covers: Literal["images only", "images and seeds"] = Field(description="what the 95 % intervals cover")

    ssim: float | None = Field(description="mean SSIM of reconstructions")
    ssim_low: float | None = Field(description="lower end of its 95 % interval")
    ssim_high: float | None = Field(description="upper end of its 95 % interval")
    ssim_baseline: float | None = Field(description="SSIM of the best guess without the observation")
    ssim_baseline_name: str | None = Field(description="name of that guess")
    ssim_held_out: float | None = Field(description="SSIM on held-out pairs, which choose the strongest attack")
    pixel_leakage: float | None = Field(description="(score - baseline) / (1 - baseline), at least 0")
    pixel_leakage_low: float | None = Field(description="the same of the lower end")
    pixel_leakage_high: float | None = Field(description="the same of the upper end, to which limits apply")
    pixel_strongest: bool | None = Field(description="whether the attack is the strongest on the observation")
    pixel_converged: Convergence | None = Field(description="outcome of the learning curves (`--curve`)")

    agreement: float | None = Field(description="share of images whose class is read or reconstructed")
    agreement_low: float | None = Field(description="lower end of its 95 % interval")
    agreement_high: float | None = Field(description="upper end of its 95 % interval")
    agreement_baseline: float | None = Field(description="agreement of the best guess without the observation")
    agreement_baseline_name: str | None = Field(description="name of that guess")
    agreement_held_out: float | None = Field(description="agreement on held-out pairs")
    label_leakage: float | None = Field(description="(score - baseline) / (1 - baseline), at least 0")
    label_leakage_low: float | None = Field(description="the same of the lower end")
    label_leakage_high: float | None = Field(description="the same of the upper end, to which limits apply")
    label_strongest: bool | None = Field(description="whether the attack is the strongest on the observation")
    label_converged: Convergence | None = Field(description="outcome of the learning curves (`--curve`)")

    threshold: float = Field(description="SSIM above which an image counts as recognisable")
    above_threshold: float | None = Field(description="share of images whose SSIM exceeds it")
    above_threshold_low: float | None = Field(description="lower end of its 95 % interval")
    above_threshold_high: float | None = Field(description="upper end of its 95 % interval")
    above_threshold_baseline: float | None = Field(description="that share of the best guess")
    above_threshold_leakage: float | None = Field(description="(share - baseline) / (1 - baseline), at least 0")
    identified: float | None = Field(description="share of victims that their reconstruction identifies")
    identified_low: float | None = Field(description="lower end of its 95 % interval")
    identified_high: float | None = Field(description="upper end of its 95 % interval")
    identified_baseline: float | None = Field(description="that share by chance")
    candidates: int | None = Field(description="number of images among which a victim is identified")
    psnr: float | None = Field(description="mean PSNR in dB")
    psnr_low: float | None = Field(description="lower end of its 95 % interval")
    psnr_high: float | None = Field(description="upper end of its 95 % interval")
    judge: float | None = Field(description="agreement by the second classifier (`--judge`)")
    judge_low: float | None = Field(description="lower end of its 95 % interval")
    judge_high: float | None = Field(description="upper end of its 95 % interval")
    judge_baseline: float | None = Field(description="that agreement of the best guess")
    kappa: float = Field(description="Cohen's kappa of read or reconstructed classes")

    epochs: int | None = Field(description="epochs of training, the most of any seed")
    training_seconds: float | None = Field(description="processor time of the training, summed over seeds")
    processor: Literal["CPU", "GPU"] | None = Field(description="the processor that trained the attack")
    ended: str | None = Field(description="what ended the training: `schedule`, `no improvement`, `budget`")
    wall_seconds: float = Field(description="elapsed time of training and scoring")
    notes: str = Field(description="remarks of the attack, separated by `; `")
    observation: str = Field(description="hash of the observation; equal observations have one")
    key: str = Field(description="hash of all that can change a number; the first of `keys`")
    keys: str = Field(description="the cell of each seed, `cells/KEY.json`, separated by spaces")


class FindingTable(Document):
    """The rows of one or more audits, as ``cloven results --json`` prints them."""

    schema_version: Literal[1] = 1
    rows: tuple[FindingRow, ...]


@dataclass(frozen=True)
class Column:
    """A column of exports: ``kind`` is str, int, float or bool; ``optional`` if it may be empty."""

    name: str
    kind: type
    optional: bool
    meaning: str


def columns() -> tuple[Column, ...]:
    """Return the columns in order."""
    found = []
    for name, entry in FindingRow.model_fields.items():
        optional = get_origin(entry.annotation) in (Union, UnionType)
        kind, *_ = get_args(entry.annotation) if optional else (entry.annotation,)
        plain = kind if isinstance(kind, type) else str  # else it is a choice of texts
        found.append(Column(name, plain, optional, entry.description or ""))
    return tuple(found)


SAME = (
    *("strategy", "plan", "devices", "place", "label", "view", "transform", "crosses", "raw_image", "attack"),
    *("parameters", "pairs", "victims", "kappa", "wall_seconds", "observation", "key"),
)
"""The entries that a row takes from its finding unchanged."""


def finding_rows(summary: Summary, run: str) -> tuple[FindingRow, ...]:
    """Return the findings of an audit as rows.

    Args:
        summary: the audit.
        run: the name of its folder.
    """
    observations = {one.observation: one for one in summary.observations}
    curves: dict[tuple[str, str], list[LearningCurve]] = defaultdict(list)
    for curve in summary.curves:
        curves[curve.observation, curve.attack].append(curve)
    common: dict[str, object] = {
        "run": run,
        "cloven": summary.cloven,
        "model": summary.model,
        "data": summary.data,
        "auxiliary": summary.auxiliary,
        "knowledge": "; ".join(summary.attacker.knows),
        "threshold": summary.threshold,
    }
    found = []
    for finding in summary.findings:
        mine = curves.get((finding.observation, finding.attack), summary.curves[:1])
        entries = common | _context(finding) | _measured(finding)
        for axis in AXES:
            entries |= _axis(axis, finding, observations[finding.observation], mine)
        found.append(FindingRow.model_validate(entries))
    return tuple(found)


def _context(finding: Finding) -> dict[str, object]:
    """Return the entries of the observation and of the attack."""
    shares = zip(finding.seen, finding.share, strict=True)
    return {name: getattr(finding, name) for name in SAME} | {
        "layers": ", ".join(finding.layers),
        "shares": "; ".join(f"{value} {share}" for value, share in shares),
        "protection": ", ".join(dict.fromkeys(finding.protection)) or "none",
        "bytes": finding.observation_bytes,
        "seeds": len(finding.seeds),
        "seed_values": " ".join(map(str, finding.seeds)),
        "notes": "; ".join(finding.notes),
        "keys": " ".join(finding.keys),
    }


def _axis(
    axis: Axis, finding: Finding, observation: ObservationSummary, curves: Sequence[LearningCurve]
) -> dict[str, object]:
    """Return the entries of an axis; None where the attack has no score on it."""
    metric, noun = AXES[axis], axis.removesuffix("s")
    score, guess, chosen = AxisScore.of(finding, metric), finding.baseline(metric), observation.own.on(axis)
    return {
        **_ends(metric, score),
        f"{metric}_baseline": score and score.baseline,
        f"{metric}_baseline_name": guess[0] if score and guess else None,
        f"{metric}_held_out": score and score.held_out,
        **_ends(f"{noun}_leakage", score and score.leakage),
        f"{noun}_strongest": chosen is not None and chosen.attack == finding.attack if score else None,
        f"{noun}_converged": convergence(curves, finding, metric) if score else None,
    }


def _measured(finding: Finding) -> dict[str, object]:
    """Return the entries of the other scores, and of the training."""
    above, guess = finding.ssim and finding.ssim.above_threshold, finding.baseline("above_threshold")
    picked, judged, took = finding.identified, finding.judge, finding.training
    return {
        "covers": finding.agreement.covers,
        **_ends("above_threshold", above),
        "above_threshold_baseline": guess[1] if above and guess else None,
        "above_threshold_leakage": finding.leakage.above_threshold,
        **_ends("identified", picked),
        "identified_baseline": picked and picked.baseline,
        "candidates": picked and picked.candidates,
        **_ends("psnr", finding.psnr),
        **_ends("judge", judged),
        "judge_baseline": judged and judged.baseline,
        "epochs": max((count for count in took.epochs if count is not None), default=None) if took else None,
        "training_seconds": took and took.seconds,
        "processor": took and took.processor,
        "ended": ", ".join(dict.fromkeys(took.ended)) if took else None,
    }


def _ends(name: str, score: ScoreRange | AxisScore | None) -> dict[str, object]:
    """Return the entries of a mean and its interval."""
    return {name: score and score.mean, f"{name}_low": score and score.low, f"{name}_high": score and score.high}
