"""Write the tables and numbers of docs/papers/s2.md from the results beside the page; its text is written by hand.

    python -m benchmarks.s2_page [--check]

The results are the output of ``cloven reproduce s2 --table 1 --json`` (also 2, and ``3 --published``), and the
documents in the folders of the measured figures and tables. With --check nothing is written, and the exit code is 1
if the page differs from the results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from itertools import pairwise

from benchmarks.pages import interval, of, page, table, write
from cloven.auditing.finding import RecoveredReadings
from cloven.enclave.sweep import FULL, ComparedTimes
from cloven.papers.s2.classifiers import ClassifierTable
from cloven.papers.s2.enclave_fit import FittedTime, PublishedTable
from cloven.papers.s2.enclave_times import SavedTable, TimesFigure
from cloven.papers.s2.figure8 import AttackedModel, Kind, TelemetryFigure, TelemetryScore
from cloven.papers.s2.partitions import PartitionTable, in_words
from cloven.papers.s2.privacy import PointScore, Rule, ScoresFigure
from cloven.papers.s2.published import THRESHOLD


def layers(document: PartitionTable) -> str:
    """Return the layers on both sides of each partition point, as printed and as counted."""
    rows = []
    for row in document.rows:
        sides = [in_words(row.enclave), in_words(row.gpu), in_words(row.counted_enclave), in_words(row.counted_gpu)]
        shortcuts = f"{row.counted_enclave.shortcuts} and {row.counted_gpu.shortcuts}"
        rows.append([str(row.point), row.path, *sides, shortcuts, "yes" if row.agrees else "no"])
    columns = ["layer", "cut after", "enclave, printed", "GPU, printed", "enclave, counted", "GPU, counted"]
    return table((*columns, "more on shortcuts", "agree"), rows)


def printed(document: PublishedTable) -> str:
    """Return Table III with the numbers derived from its times."""
    columns = ["model", "data", "points", "cut after layer", "whole model, s", "divided, s", "printed %"]
    columns += ["derived %", "exact %", "times as fast"]
    rows = []
    for row in document.rows:
        times = [str(row.full_seconds), str(row.partitioned_seconds)]
        percent = [row.printed_percent, row.derived_percent, f"{row.reduction_percent:.2f}", f"{row.ratio:.2f}"]
        rows.append([row.model, row.data, str(row.partition_points), str(row.point), *times, *percent])
    return table(columns, rows)


def fit(document: PublishedTable) -> str:
    """Return the seven published times beside the fitted ones, and the part of each that is paging."""
    columns = ["model", "cut after layer", "operations", "weights, MB", "GMAC"]
    columns += ["published, s", "fitted, s", "of it paging, s", "residual, s"]
    rows = []
    for row in document.fit.rows:
        load = [str(row.ops), f"{row.weight_bytes / 1e6:.1f}", f"{row.macs / 1e9:.2f}"]
        times = [str(row.published_seconds), f"{row.fitted_seconds:.2f}", f"{_paging(document, row):.2f}"]
        rows.append([row.model, _where(row), *load, *times, f"{row.residual_seconds:+.2f}"])
    return table(columns, rows)


def terms(document: PublishedTable) -> str:
    """Return the four fitted numbers."""
    found = document.fit
    columns = ("fixed, s", "per operation, ms", "per MB beyond the protected memory, ms", "per GMAC, ms")
    costs = [f"{found.fixed:.2f}", f"{1e3 * found.op:.1f}", f"{1e9 * found.byte:.2f}", f"{1e12 * found.mac:.2f}"]
    return table(columns, [costs])


def clear(document: PublishedTable) -> str:
    """Return the weights that leave the enclave in clear at each cut that the paper chooses."""
    rows = []
    for row in document.fit.rows:
        if row.point is not None:
            whole = _fitted(document, row.model, None).weight_bytes
            sizes = [f"{size / 1e6:.1f}" for size in (whole, row.weight_bytes, whole - row.weight_bytes)]
            rows.append([row.model, str(row.point), *sizes, f"{_clear(document, row.model, row.point):.1f}"])
    columns = ("model", "cut after layer", "weights, MB", "in the enclave, MB", "in clear, MB", "in clear, %")
    return table(columns, rows)


def _where(row: FittedTime) -> str:
    return "whole model" if row.point is None else str(row.point)


def _fitted(document: PublishedTable, model: str, point: int | None) -> FittedTime:
    return next(row for row in document.fit.rows if row.model.endswith(model) and row.point == point)


def _paging(document: PublishedTable, row: FittedTime) -> float:
    return document.fit.byte * max(0, row.weight_bytes - document.fit.epc)


def _clear(document: PublishedTable, model: str, point: int) -> float:
    return 100 * (1 - _fitted(document, model, point).weight_bytes / _fitted(document, model, None).weight_bytes)


def times(document: TimesFigure) -> str:
    """Return the seconds per image for each cut of each model."""
    columns = ["model", "layer", "load, s", "first, s", "mean, s", "median, s", "sd, s", "front, s"]
    columns += ["hand-over, ms", "rear, s", "handed over, MB", "time saved, %", "times as fast"]
    rows = []
    for row in document.rows:
        whole = [f"{row.load:.1f}", f"{row.first:.3f}", f"{row.mean:.3f}", f"{row.median:.3f}", f"{row.spread:.3f}"]
        handed = f"{1e3 * row.parts['hand-over']:.1f}"
        parts = [f"{row.parts['front']:.3f}", handed, f"{row.parts['rear']:.3f}", f"{row.handed_bytes / 1e6:.2f}"]
        rows.append([row.model, row.point, *whole, *parts, f"{row.reduction_percent:.1f}", f"{row.ratio:.2f}"])
    return table(columns, rows)


def setup(document: ScoresFigure) -> str:
    """Return the setting of a study: its model, its images, and the training of its attacks."""
    columns = ("model", "images", "size", "CNN accuracy", "kappa", "auxiliary images", "victims", "c-GAN epochs")
    accuracy = "no labels" if document.model_accuracy is None else f"{document.model_accuracy:.1%}"
    size = "x".join(map(str, document.shape))
    counts = [f"{document.queries:,}", f"{document.victims:,}", f"{document.gan_epochs:,}"]
    row = [document.model, document.data, size, accuracy, f"{document.model_kappa or 0:.2f}", *counts]
    return table((*columns, "attacks, core minutes"), [[*row, f"{document.attack_seconds / 60:.1f}"]])


def scores(document: ScoresFigure) -> str:
    """Return the SSIM of each attack's reconstructions at each point."""
    attacks = list(dict.fromkeys(row.attack for row in document.rows))
    points: dict[int, dict[str, PointScore]] = {}
    for row in document.rows:
        points.setdefault(row.point, {})[row.attack] = row
    rows = []
    for found in points.values():
        first = next(iter(found.values()))
        ssim = [interval(found[attack].ssim) for attack in attacks]
        rows.append([first.label, str(first.bytes), *ssim, f"{first.baseline:.2f}"])
    return table(("cut after", "bytes", *attacks, "baseline"), rows)


def choice(document: SavedTable) -> str:
    """Return the cut that each attack's scores choose, and the time that it saves."""
    rows = []
    for row in document.rows:
        saved = ["", "", ""]
        if row.path is not None:
            saved = [f"{row.partitioned_seconds:.3f}", f"{row.reduction_percent:.1f}", f"{row.ratio:.2f}"]
        rows.append([row.attack, row.rule, row.path or "no point", f"{row.full_seconds:.3f}", *saved])
    columns = ["attack", "rule", "cut after", "whole model, s", "divided, s", "time saved, %", "times as fast"]
    return table(columns, rows)


# --- telemetry ----------------------------------------------------------------------------------------------------


def classifiers(document: ClassifierTable) -> str:
    """Return the scores of each classifier of telemetry under each split of the data set."""
    rows = []
    for row in document.rows:
        windows = [f"{row.training_windows:,}", f"{row.test_windows:,}"]
        found = [interval(row.macro_f1), interval(row.accuracy), f"{row.kappa:.2f}"]
        rows.append([row.classifier, row.split, *windows, *found, ", ".join(row.left_out) or "none"])
    columns = ("classifier", "split", "training windows", "test windows", "macro-F1", "accuracy", "kappa")
    return table((*columns, "types left out"), rows)


def attacked(document: TelemetryFigure) -> str:
    """Return the models of Fig. 8, with the data on which each was trained and attacked."""
    rows = []
    for one in document.models:
        accuracy = "" if one.accuracy is None else f"{one.accuracy:.1%}"
        kappa = "" if one.kappa is None else f"{one.kappa:.2f}"
        counts = [f"{one.queries:,}", f"{document.victims:,}", f"{document.gan_epochs:,}"]
        setting = [one.model, one.kind, "x".join(map(str, document.shape)), f"{one.training_images:,}"]
        rows.append([*setting, accuracy, kappa, *counts, f"{one.attack_seconds / 60:.1f}", one.no_verdict or "yes"])
    columns = ("model", "data", "size", "training images", "CNN accuracy", "kappa", "auxiliary images", "victims")
    return table((*columns, "c-GAN epochs", "attacks, core minutes", "verdict"), rows)


def telemetry(document: TelemetryFigure) -> str:
    """Return the SSIM and agreement of each attack at each point, with their baselines."""
    rows = []
    for one in document.models:
        for row in one.rows:
            ssim_found = [interval(row.ssim), f"{row.baseline:.2f}"]
            agreement = [interval(row.agreement), f"{row.agreement_baseline:.2f}"]
            rows.append([one.model, one.kind, row.label, row.attack, *ssim_found, *agreement])
    return table(("model", "data", "cut after", "attack", "SSIM", "baseline", "agreement", "baseline"), rows)


def readings(document: TelemetryFigure) -> str:
    """Return how well each attack recovers the readings of each column, beside the best constant guess."""
    rows = []
    for one in document.models:
        for row in one.rows:
            for found in row.readings:
                score = f"{found.score.mean:.3g} [{found.score.low:.3g}, {found.score.high:.3g}]"
                better = "yes" if found.learned else "no"
                said = [found.column, found.measure, score, f"{found.baseline.mean:.3g}", better]
                rows.append([one.model, row.label, row.attack, *said])
    columns = ("model", "cut after", "attack", "column", "measure", "recovered", "constant guess", "better than it")
    return table(columns, rows)


def moves(document: TelemetryFigure) -> str:
    """Return the cut of each model on telemetry beside that on photographs, in the paper and here."""
    rows = []
    for one in document.moves:
        found = [_cut(one.telemetry, one.telemetry_ends), _cut(one.photographs, one.photographs_ends)]
        rows.append([one.model, one.source, one.attack, one.rule, *found, one.move])
    return table(("model", "source", "attack", "rule", "on telemetry", "on photographs", "it is cut"), rows)


def _cut(point: int | None, ends: tuple[int | None, int | None]) -> str:
    """Return a cut, and those by both ends of the intervals if they differ."""
    names = ["no point" if one is None else f"Layer {one}" for one in (point, *ends)]
    return names[0] if len({*names}) == 1 else f"{names[0]} [{names[1]}, {names[2]}]"


# --- the numbers in sentences -------------------------------------------------------------------------------------


def _range(values: Iterable[float], form: str = ".2f") -> str:
    known = sorted(values)
    least, most = format(known[0], form), format(known[-1], form)
    return least if least == most else f"{least} to {most}"


def of_fit(value: Callable[[FittedTime], str]) -> Callable[..., str]:
    """Return a function from Table III, a model and a point (default: the whole model) to a value of this time."""
    return lambda document, model, point="": value(_fitted(document, model, int(point) if point else None))


def paged(document: PublishedTable) -> str:
    """Return how many of the seven times are those of models with more weights than the protected memory."""
    return f"{sum(_paging(document, row) > 0 for row in document.fit.rows)}"


def _cuts(document: TimesFigure, *, full: bool) -> list[ComparedTimes]:
    return [row for row in document.rows if (row.point == FULL) == full]


def beyond(document: TimesFigure) -> str:
    """Return how many cuts differ from the whole model by more than it differs from itself."""
    variation = max(abs(row.reduction_percent) for row in _cuts(document, full=True))
    return str(sum(abs(row.reduction_percent) > variation for row in _cuts(document, full=False)))


def rising(document: TimesFigure) -> str:
    """Return from how many cuts to the next one of the same model the share of the front rises, of how many."""
    rows = _cuts(document, full=False)
    pairs = [(a, b) for a, b in pairwise(rows) if a.model == b.model]
    shares = [[row.parts["front"] / (row.parts["front"] + row.parts["rear"]) for row in pair] for pair in pairs]
    return f"{sum(later > earlier for earlier, later in shares)} of {len(shares)}"


def _attacked(document: ScoresFigure, attack: str) -> list[PointScore]:
    return [row for row in document.rows if row.attack == attack]


def ssim(document: ScoresFigure, attack: str, *labels: str) -> str:
    """Return an attack's SSIM at the points with given labels, or its range over all points."""
    rows = [row for row in _attacked(document, attack) if not labels or row.label in labels]
    return _range(row.ssim.mean for row in rows)


def falls(document: ScoresFigure, attack: str) -> str:
    """Return from how many points to the next one an attack's SSIM falls, of how many."""
    means = [row.ssim.mean for row in _attacked(document, attack)]
    return f"{sum(b < a for a, b in pairwise(means))} of {len(means) - 1}"


def low(document: ScoresFigure, attack: str) -> str:
    """Return at how many points an attack's SSIM is below the paper's threshold, of how many."""
    rows = _attacked(document, attack)
    return f"{sum(row.ssim.mean < THRESHOLD for row in rows)} of {len(rows)}"


def uninformed(document: ScoresFigure, attack: str) -> str:
    """Return at how many points an attack's SSIM is below the baseline, of how many."""
    rows = _attacked(document, attack)
    return f"{sum(row.ssim.mean < row.baseline for row in rows)} of {len(rows)}"


def stronger(document: ScoresFigure, attack: str, other: str) -> str:
    """Return at how many points the SSIM of an attack is higher than that of another, of how many."""
    pairs = list(zip(_attacked(document, attack), _attacked(document, other), strict=True))
    return f"{sum(a.ssim.mean > b.ssim.mean for a, b in pairs)} of {len(pairs)}"


def chosen(document: SavedTable, attack: str, rule: str) -> str:
    """Return the layer after which an attack's scores cut the model by a rule, in code, or "no point"."""
    path = next(row.path for row in document.rows if (row.attack, row.rule) == (attack, rule))
    return f"`{path}`" if path else "no point"


def _telemetry(document: TelemetryFigure, model: str) -> AttackedModel:
    return next(one for one in document.models if one.model.endswith(model) and one.kind == "telemetry")


def _at(document: TelemetryFigure, model: str, attack: str, point: str) -> TelemetryScore:
    rows = _telemetry(document, model).rows
    return next(row for row in rows if row.attack == attack and row.point == int(point))


def cut(document: TelemetryFigure, model: str, attack: str, rule: Rule) -> str:
    """Return the layer after which an attack's scores on telemetry cut a model by a rule, or "no point"."""
    point = _telemetry(document, model).optimal[attack].by(rule)
    return "no point" if point is None else f"Layer {point.point}"


def similar(document: TelemetryFigure, model: str, attack: str, point: str) -> str:
    """Return an attack's SSIM on telemetry at a layer."""
    return f"{_at(document, model, attack, point).ssim.mean:.2f}"


def _reading(document: TelemetryFigure, model: str, attack: str, point: str, column: str) -> RecoveredReadings:
    return next(one for one in _at(document, model, attack, point).readings if one.column == column)


def recovered(document: TelemetryFigure, model: str, attack: str, point: str, column: str) -> str:
    """Return the error of the readings of a column that an attack recovers at a layer."""
    return f"{_reading(document, model, attack, point, column).score.mean:.2f}"


def guess(document: TelemetryFigure, model: str, attack: str, point: str, column: str) -> str:
    """Return the error of the best constant guess of the readings of a column."""
    return f"{_reading(document, model, attack, point, column).baseline.mean:.2f}"


def kappa(document: TelemetryFigure, model: str, kind: Kind) -> str:
    """Return the kappa of a model on telemetry or photographs."""
    found = next(one for one in document.models if one.model.endswith(model) and one.kind == kind)
    return "unknown" if found.kappa is None else f"{found.kappa:.2f}"


def informed(document: TelemetryFigure, model: str, attack: str, column: str) -> str:
    """Return at how many layers an attack knows more of a column than the best constant guess, of how many."""
    rows = [row for row in _telemetry(document, model).rows if row.attack == attack]
    known = [one.learned for row in rows for one in row.readings if one.column == column]
    return f"{sum(known)} of {len(known)}"


PAGE = page(
    "s2",
    {
        "layers": of(PartitionTable, layers),
        "printed": of(PublishedTable, printed),
        "fit": of(PublishedTable, fit),
        "terms": of(PublishedTable, terms),
        "clear": of(PublishedTable, clear),
        "times": of(TimesFigure, times),
        "setup": of(ScoresFigure, setup),
        "scores": of(ScoresFigure, scores),
        "choice": of(SavedTable, choice),
        "classifiers": of(ClassifierTable, classifiers),
        "attacked": of(TelemetryFigure, attacked),
        "telemetry": of(TelemetryFigure, telemetry),
        "readings": of(TelemetryFigure, readings),
        "moves": of(TelemetryFigure, moves),
    },
    {
        "published": of(PublishedTable, of_fit(lambda row: str(row.published_seconds))),
        "gmac": of(PublishedTable, of_fit(lambda row: f"{row.macs / 1e9:.2f}")),
        "residual": of(PublishedTable, of_fit(lambda row: f"{row.residual_seconds:+.2f}")),
        "residuals": of(PublishedTable, lambda d: _range(abs(row.residual_seconds) for row in d.fit.rows)),
        "permac": of(PublishedTable, lambda d: f"{1e12 * d.fit.mac:.2f}"),
        "memory": of(PublishedTable, lambda d: f"{d.fit.epc / 2**20:.0f}"),
        "paged": of(PublishedTable, paged),
        "clear": of(
            PublishedTable, lambda d: _range((_clear(d, r.model, r.point) for r in d.fit.rows if r.point), ".0f")
        ),
        "cuts": of(TimesFigure, lambda d: str(len(_cuts(d, full=False)))),
        "samples": of(TimesFigure, lambda d: _range((row.samples for row in d.rows), "d")),
        "itself": of(TimesFigure, lambda d: _range((r.reduction_percent for r in _cuts(d, full=True)), ".0f")),
        "beyond": of(TimesFigure, beyond),
        "rising": of(TimesFigure, rising),
        "handover": of(
            TimesFigure, lambda d: _range((1e3 * r.parts["hand-over"] for r in _cuts(d, full=False)), ".1f")
        ),
        "ssim": of(ScoresFigure, ssim),
        "falls": of(ScoresFigure, falls),
        "low": of(ScoresFigure, low),
        "uninformed": of(ScoresFigure, uninformed),
        "stronger": of(ScoresFigure, stronger),
        "baseline": of(ScoresFigure, lambda d: _range(row.baseline for row in d.rows)),
        "kappa": of(ScoresFigure, lambda d: f"{d.model_kappa or 0:.2f}"),
        "accuracy": of(ScoresFigure, lambda d: f"{d.model_accuracy or 0:.1%}"),
        "auxiliary": of(ScoresFigure, lambda d: f"{d.queries:,}"),
        "victims": of(ScoresFigure, lambda d: f"{d.victims:,}"),
        "epochs": of(ScoresFigure, lambda d: f"{d.gan_epochs:,}"),
        "chosen": of(SavedTable, chosen),
        "scored": of(TelemetryFigure, lambda d: f"{d.victims:,}"),
        "trained": of(TelemetryFigure, lambda d: f"{d.gan_epochs:,}"),
        "pixels": of(TelemetryFigure, lambda d: " x ".join(map(str, d.shape))),
        "pairs": of(TelemetryFigure, lambda d: _range((one.queries for one in d.models), ",d")),
        "cut": of(TelemetryFigure, cut),
        "kappaof": of(TelemetryFigure, kappa),
        "similar": of(TelemetryFigure, similar),
        "baselines": of(TelemetryFigure, lambda d: _range(row.baseline for one in d.models for row in one.rows)),
        "recovered": of(TelemetryFigure, recovered),
        "guess": of(TelemetryFigure, guess),
        "informed": of(TelemetryFigure, informed),
    },
)


if __name__ == "__main__":
    sys.exit(write(PAGE))
