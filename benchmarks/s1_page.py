"""Write the tables and numbers of docs/papers/s1.md from the results beside the page; its text is written by hand.

    python -m benchmarks.s1_page [--check]

The results are the ``figure.json`` of each figure, and the output of ``cloven reproduce s1 --claims --json`` and of
``python -m benchmarks.s1_divisions``. With --check nothing is written, and the exit code is 1 if the page differs
from the results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from benchmarks.pages import interval, of, page, table, write
from benchmarks.s1_divisions import DivisionsTable, SentRow
from cloven.papers.s1.experiments import CONTROLS, LINKS, PAPER
from cloven.papers.s1.figure3 import CostBar
from cloven.papers.s1.figure3_document import CostFigure
from cloven.papers.s1.figure_document import (
    BarComparison,
    BarRow,
    JudgedClaim,
    JudgedClaims,
    StrategyFigure,
    StudyRow,
)
from cloven.papers.s1.table1 import DataSetRow

WHERE = ("data", "strategy", "layer", "devices")


def bars(figure: StrategyFigure) -> str:
    """Return the bars as in the paper: agreement with interval, range of shares and baseline, and SSIM."""
    columns = (*WHERE, "agreement", "shares", "baseline", "SSIM", "sent")
    rows = []
    for bar in figure.bars:
        if bar.control == PAPER:
            shares = f"{min(bar.shares):.2f} to {max(bar.shares):.2f}"
            sent = "yes" if bar.crosses else "never"
            scores = [
                _agreement(bar, figure),
                shares,
                f"{bar.baselines.agreement:.2f}",
                f"{bar.ssim.mean:.2f}",
                sent,
            ]
            rows.append([*_where(bar), *scores])
    return table(columns, rows)


def controls(figure: StrategyFigure) -> str:
    """Return a row for each bar, with its agreement as in the paper and under each control that has the bar."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    names: dict[str, None] = {}
    for bar in figure.bars:
        if bar.control != LINKS:
            found.setdefault(_where(bar), {})[bar.control] = _agreement(bar, figure)
            names[bar.control] = None
    rows = []
    for where, row in found.items():
        rows.append([*where, *(row.get(name, "") for name in names)])
    return table((*WHERE, *names), rows)


def links(figure: StrategyFigure) -> str:
    """Return the bars of all tensors on a link, attacked by the strong decoder."""
    rows = []
    for bar in figure.bars:
        if bar.control == LINKS:
            scores = [_agreement(bar, figure), f"{bar.baselines.agreement:.2f}", f"{bar.ssim.mean:.2f}"]
            rows.append([*_where(bar), bar.where, *scores])
    return table((*WHERE, "link", "agreement", "baseline", "SSIM"), rows)


def _agreement(bar: BarRow, figure: StrategyFigure) -> str:
    """Return a bar's agreement with its interval, and its number of seeds if the figure is to have several."""
    return interval(bar.agreement) + (f" ({bar.seeds})" if figure.scale.seeds > 1 else "")


def _where(bar: BarRow) -> tuple[str, ...]:
    return bar.data, bar.strategy, bar.layer, str(bar.devices)


def claims(document: JudgedClaims) -> str:
    """Return every claim with its verdict, what the verdict rests on, and the verdict under each control."""
    rows = (
        [c.claim, c.sentence, f"**{c.verdict}**", c.basis, "; ".join(map(": ".join, c.controls.items()))]
        for c in document.claims
    )
    return table(("claim", "statement", "verdict", "basis", "under each control"), rows)


def exceptions(document: JudgedClaims | StrategyFigure) -> str:
    """Return a row for each comparison behind the claims that does not hold."""
    rows = []
    for claim in document.claims:
        for control, every in claim.comparisons.items():
            rows += [_exception(claim, control, one) for one in every if one.shows != "holds"]
    return table(("claim", "control", "higher in the paper", "lower in the paper", "difference", "result"), rows)


def _exception(claim: JudgedClaim, control: str, one: BarComparison) -> list[str]:
    names = (" ".join(part for part in bar.split("/") if part != control) for bar in (one.higher, one.lower))
    return [claim.claim, control, *names, interval(one.difference), one.shows]


def setup(figure: StrategyFigure) -> str:
    """Return a row for each study: accuracy and kappa of its CNN, numbers of images, and time."""
    return table(
        (
            "study",
            "model",
            "image",
            "control",
            "CNN accuracy",
            "kappa",
            "auxiliary images",
            "victims",
            "attacks, core minutes",
        ),
        (
            [
                p.name,
                p.model,
                _image(p.input),
                p.control,
                "no labels" if p.model_accuracy is None else f"{p.model_accuracy:.1%}",
                f"{p.model_kappa:.2f}",
                f"{p.settings['queries']:,}",
                f"{p.test_images:,}",
                f"{p.attack_seconds / 60:.1f}",
            ]
            for p in figure.panels
        ),
    )


def reached(figure: StrategyFigure) -> str:
    """Return how much of a figure is finished, and the time of its attacks."""
    found, seeds = figure.progress, [bar.seeds for bar in figure.bars]
    row = [
        f"{found.bars} of {found.planned_bars}",
        f"{found.cells} of {found.planned_cells}",
        f"{_between(seeds, 'd')} of {figure.scale.seeds}",
        f"{_minutes(figure):.0f}",
    ]
    return table(("bars", "attacks", "seeds of a bar", "attacks, core minutes"), [row])


def _minutes(figure: StrategyFigure) -> float:
    return sum(panel.attack_seconds for panel in figure.panels) / 60


def data(figure: StrategyFigure) -> str:
    """Return a row for each data set: its size, and its differences from the paper's."""
    columns = ("data", "images", "size", "classes", "differences from the paper")
    rows = []
    for row in figure.data:
        differs = "; ".join(row.differs) or ("none" if row.agrees else "not in the paper")
        rows.append([_kind(row), f"{row.images:,}", row.size, str(row.classes), differs])
    return table(columns, rows)


def _kind(data: DataSetRow) -> str:
    return data.name.partition(":")[0]


def cost(figure: CostFigure) -> str:
    """Return Fig. 3: seconds of each device without and with the cipher, by reading, preset and processor."""
    rows = []
    for reading in figure.readings:
        for preset in reading.presets:
            for bar in preset.bars:
                times = [f"{bar.seconds_without:.3g}", f"{bar.seconds_with:.3g}", f"{bar.ratio:.2f}"]
                rows.append([reading.reading, preset.name, bar.processor, bar.device, *times])
    return table(("layers counted as", "preset", "processor", "device", "s without", "s with", "ratio"), rows)


def arithmetic(figure: CostFigure) -> str:
    """Return the cycles per byte that the paper's two heights of Fig. 3 imply, beside those that are published."""
    sums = figure.readings[0].arithmetic
    row = [f"{sums.cycles_a_byte:,.0f}", _between(sums.published, ".1f"), _between(sums.short, ",.0f")]
    columns = (
        "implied by the paper, cycles per byte",
        "published, long messages",
        "published, a message of one byte",
    )
    return table(columns, [row])


def sent(document: DivisionsTable) -> str:
    """Return what each division sends for one image: bytes, pixels of the image, and the slices of the paper."""
    rows = []
    for row in document.sent:
        slices = ", ".join(f"{one.layer}: {one.sent} of {one.slices}" for one in row.slices)
        size = [f"{row.bytes / 1e6:.3g}", f"{row.busiest / 1e6:.3g}"]
        rows.append([row.model, _image(row.image), row.division, *size, f"{_pixels(row)} %", slices])
    columns = (
        "model",
        "image",
        "division",
        "all links, MB",
        "busiest link, MB",
        "image on a link",
        "slices sent whole",
    )
    return table(columns, rows)


def decoders(document: DivisionsTable) -> str:
    """Return the number of weights of each decoder of Table 2."""
    return table(
        ("model", "image", "layer", "weights"),
        ([row.model, _image(row.image), row.layer, f"{row.weights:,}"] for row in document.decoders),
    )


def _image(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _pixels(row: SentRow) -> str:
    least, most = (f"{100 * share:.0f}" for share in (row.image_least, row.image_most))
    return least if least == most else f"{least} to {most}"


def _between(values: Sequence[float], form: str) -> str:
    least, most = (format(value, form) for value in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


# --- the numbers in sentences -------------------------------------------------------------------------------------


def _selected(figure: StrategyFigure, words: Sequence[str]) -> list[BarRow]:
    """Return the bars that the words describe; those of the paper's setting unless a word is a control."""
    wanted = {*words} if {*words} & {*CONTROLS} else {*words, PAPER}
    found = [bar for bar in figure.bars if wanted <= _words(bar)]
    if not found:
        raise ValueError(f"no bar of Fig. {figure.figure} is {' '.join(sorted(wanted))}")
    return found


def _words(bar: BarRow) -> set[str]:
    return {bar.data, bar.strategy, bar.layer, bar.control, bar.where, f"{bar.devices} devices"}


def of_bars(value: Callable[[BarRow], float], form: str = ".2f") -> Callable[..., str]:
    """Return a function from a figure and words to the value of the bars that they describe, or its range."""
    return lambda figure, *words: _between([value(bar) for bar in _selected(figure, words)], form)


def of_study(value: Callable[[StudyRow], float], form: str) -> Callable[..., str]:
    """Return a function from a figure and the name of a study to a value of the study."""
    return lambda figure, name: format(value(next(row for row in figure.panels if row.name == name)), form)


def of_data(value: Callable[[DataSetRow], int]) -> Callable[..., str]:
    """Return a function from a figure and the kind of a data set to a value of the data set."""
    return lambda figure, kind: f"{value(next(row for row in figure.data if _kind(row) == kind)):,}"


def verdict(document: JudgedClaims, claim: str, control: str = "") -> str:
    """Return the verdict on a claim, over all or under one control."""
    found = next(row for row in document.claims if row.claim == claim)
    return found.controls[control] if control else found.verdict


def compared(document: JudgedClaims | StrategyFigure, claim: str, control: str, *shows: str) -> str:
    """Return the number of comparisons of a claim under a control, of all or of those with a result."""
    rows = next(row for row in document.claims if row.claim == claim).comparisons[control]
    return str(sum(not shows or row.shows in shows for row in rows))


def of_cost(value: Callable[[CostBar], float]) -> Callable[..., str]:
    """Return a function from Fig. 3 and a reading, preset, processor and device to a value of this bar."""

    def made(figure: CostFigure, reading: str, preset: str, processor: str, device: str) -> str:
        presets = next(row.presets for row in figure.readings if row.reading == reading)
        bars = next(row.bars for row in presets if row.name == preset)
        return f"{value(next(bar for bar in bars if (bar.processor, bar.device) == (processor, device))):.3g}"

    return made


def cycles(figure: CostFigure, which: str) -> str:
    """Return the cycles per byte that the paper implies, or those published for long or short messages."""
    sums = figure.readings[0].arithmetic
    known = {"implied": (sums.cycles_a_byte,), "long": sums.published, "short": sums.short}
    return _between(known[which], ",.0f")


def of_sent(value: Callable[[SentRow], str]) -> Callable[..., str]:
    """Return a function from the divisions, a model, an image and a division to a value of this row."""

    def made(document: DivisionsTable, model: str, image: str, division: str) -> str:
        wanted = model, image, division
        return value(next(row for row in document.sent if (row.model, _image(row.image), row.division) == wanted))

    return made


def slices(document: DivisionsTable, division: str, layer: str = "") -> str:
    """Return how many slices of a division a link carries whole, of how many, over all models and sizes."""
    rows = [one for row in document.sent if row.division == division for one in row.slices]
    rows = [one for one in rows if layer in ("", one.layer)]
    return f"{sum(one.sent for one in rows)} of {sum(one.slices for one in rows)}"


def tiles(document: DivisionsTable, division: str) -> str:
    """Return the shares of the image on a link of tiles, over all models and sizes, in percent."""
    rows = [row for row in document.sent if row.division == division]
    return _between([100 * share for row in rows for share in (row.image_least, row.image_most)], ".0f")


def weights(document: DivisionsTable, model: str, image: str, layer: str) -> str:
    """Return the number of weights of a decoder of Table 2."""
    wanted = model, image, layer
    found = next(row for row in document.decoders if (row.model, _image(row.image), row.layer) == wanted)
    return f"{found.weights:,}"


PAGE = page(
    "s1",
    {
        "bars": of(StrategyFigure, bars),
        "controls": of(StrategyFigure, controls),
        "links": of(StrategyFigure, links),
        "claims": of(JudgedClaims, claims),
        "exceptions": of(JudgedClaims, exceptions),
        "figure_exceptions": of(StrategyFigure, exceptions),
        "setup": of(StrategyFigure, setup),
        "reached": of(StrategyFigure, reached),
        "data": of(StrategyFigure, data),
        "cost": of(CostFigure, cost),
        "arithmetic": of(CostFigure, arithmetic),
        "sent": of(DivisionsTable, sent),
        "decoders": of(DivisionsTable, decoders),
    },
    {
        "agreement": of(StrategyFigure, of_bars(lambda bar: bar.agreement.mean)),
        "baseline": of(StrategyFigure, of_bars(lambda bar: bar.baselines.agreement)),
        "ssim": of(StrategyFigure, of_bars(lambda bar: bar.ssim.mean)),
        "kappa": of(StrategyFigure, of_study(lambda study: study.model_kappa or 0.0, ".2f")),
        "accuracy": of(StrategyFigure, of_study(lambda study: study.model_accuracy or 0.0, ".1%")),
        "auxiliary": of(StrategyFigure, of_study(lambda study: int(str(study.settings["queries"])), ",")),
        "victims": of(StrategyFigure, of_study(lambda study: study.test_images, ",")),
        "images": of(StrategyFigure, of_data(lambda data: data.images)),
        "classes": of(StrategyFigure, of_data(lambda data: data.classes)),
        "verdict": of(JudgedClaims, verdict),
        "compared": of(JudgedClaims, compared),
        "judged": of(StrategyFigure, compared),
        "finished": of(StrategyFigure, lambda figure, what: str(getattr(figure.progress, what))),
        "minutes": of(StrategyFigure, lambda figure: f"{_minutes(figure):.0f}"),
        "epochs": of(StrategyFigure, lambda figure: str(figure.scale.epochs)),
        "low": of(StrategyFigure, of_bars(lambda bar: bar.agreement.low)),
        "high": of(StrategyFigure, of_bars(lambda bar: bar.agreement.high)),
        "without": of(CostFigure, of_cost(lambda bar: bar.seconds_without)),
        "with": of(CostFigure, of_cost(lambda bar: bar.seconds_with)),
        "ratio": of(CostFigure, of_cost(lambda bar: bar.ratio)),
        "cycles": of(CostFigure, cycles),
        "megabytes": of(DivisionsTable, of_sent(lambda row: f"{row.bytes / 1e6:.3g}")),
        "pixels": of(DivisionsTable, of_sent(_pixels)),
        "slices": of(DivisionsTable, slices),
        "tiles": of(DivisionsTable, tiles),
        "weights": of(DivisionsTable, weights),
    },
)


if __name__ == "__main__":
    sys.exit(write(PAGE))
