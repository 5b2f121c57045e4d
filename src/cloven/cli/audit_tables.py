"""The tables of ``cloven audit``: the observations, and the results of the attacks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.cli.printing import NARROW, interval, print_json, print_text, table

if TYPE_CHECKING:
    from cloven.auditing.cases import Case
    from cloven.auditing.finding import ObservationContext, RecoveredReadings, TrainingTime
    from cloven.auditing.summary import AxisScore, ObservationSummary, Summary

log = logging.getLogger("cloven")

FEW = 20
"""The largest number of flags, and of notes, to print; the report has all of them."""
BETTER = "numbers: mean absolute error; categories: share of right rows; * better than the best constant guess"
"""The meaning of what `reading` returns."""


def print_observations(found: Sequence[tuple[Case, Sequence[str]]]) -> None:
    """Print the observations of an audit, and the attacks on each."""
    contexts = [(case.context, attacks) for case, attacks in found]
    changed = any(one.transform != "none" for one, _ in contexts)
    rows = []
    for one, attacks in contexts:
        transform = [one.transform] if changed else []
        sent = "yes" if one.crosses else "never"
        shares = "; ".join(f"{value} {share}" for value, share in zip(one.seen, one.share, strict=True))
        where = [one.strategy, one.label, one.view, _links(one)]
        rows.append([*where, *transform, sent, one.observation_bytes, ", ".join(attacks), shares])
    columns = ["strategy", "where", "view", "link", *(["transform"] if changed else []), "sent", "bytes"]
    title = f"{len(found)} observation{'s' * (len(found) != 1)}; nothing was trained or written"
    table(title, [*columns, "attacks", "shares"], rows)


def print_audit(found: Summary, folder: Path, *, as_json: bool) -> None:
    """Write the report of an audit, print the audit, and log its warnings and files."""
    from cloven.reporting.report_file import write

    page = write(folder)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_summary(found)
    for note in (*found.warnings, *(found.capture.notes if found.capture is not None else ())):
        log.warning("%s", note)
    log.info("report: %s   summary: %s", page, folder / "summary.json")


def print_summary(found: Summary) -> None:
    """Print an audit: the verdict, the strongest attack on each observation, the orderings, and remarks."""
    from cloven.auditing.results import ranked

    verdict = found.verdict
    print_text((verdict.sentence if verdict.given else f"No verdict: {verdict.reason}") or "")
    known = found.model_accuracy is not None and found.model_kappa is not None
    accuracy = f"accuracy {found.model_accuracy:.1%}, kappa {found.model_kappa:.2f}" if known else "no labels"
    took = {(one.observation, one.attack): one.training for one in found.findings}
    rows = [
        [_observed(one), *(_scored(score, one, took) for score in (one.counts.pixels, one.counts.labels))]
        for one in ranked(found)
    ]
    table(
        f"{found.model} on {found.data} ({accuracy})\nthe strongest attack on each observation: mean [95 %], "
        f"over {found.covers}",
        ["observation", "pixels: SSIM", "labels: agreement"],
        rows,
        width=NARROW,
    )
    _print_readings(found)
    if found.orderings:
        table(
            "Expectations of Mehrafrooz et al. (2025), and the measured differences",
            ["claim", "statement", "difference", "shows"],
            [[o.claim, o.sentence, interval(o.difference), o.shows] for o in found.orderings],
            width=NARROW,
        )
    for line in _remarks(found):
        print_text(line)


def _print_readings(found: Summary) -> None:
    """Print the readings that the strongest attack on each observation recovers, if images are windows of them."""
    findings = {(one.observation, one.attack): one for one in found.findings if one.readings}
    strongest = [(one, one.own.pixels) for one in found.observations if one.own.pixels is not None]
    shown = [
        (one, findings[one.observation, pixels.attack])
        for one, pixels in strongest
        if (one.observation, pixels.attack) in findings
    ]
    if not shown:
        return
    columns = shown[0][1].readings
    rows = [[_observed(one), row.attack, *map(reading, row.readings)] for one, row in shown]
    guess = ["best constant guess", "", *(f"{one.baseline.mean:.3g}" for one in columns)]
    names = ["observation", "attack", *(one.column for one in columns)]
    table(f"Readings recovered from windows, mean [95 %]\n{BETTER}", names, [*rows, guess])


def reading(found: RecoveredReadings) -> str:
    """Return a column's score with its interval, and a star if it is better than the best constant guess."""
    score = found.score
    return f"{score.mean:.3g} [{score.low:.3g}, {score.high:.3g}]{' *' * found.learned}"


def _observed(one: ObservationSummary) -> str:
    """Return the name of an observation, in two lines."""
    transform = "" if one.transform == "none" else f", {one.transform}"
    sent = "" if one.crosses else ", never sent"
    return f"{one.strategy}, {one.label}{transform}\n{_links(one)}, {one.view}{sent}"


def _scored(
    score: AxisScore | None, one: ObservationSummary, took: Mapping[tuple[str, str], TrainingTime | None]
) -> str:
    """Return a score in lines: mean and interval; leakage and baseline; attack and training; convergence."""
    if score is None:
        return "not scored"
    whose = f"{score.attack}, carried over" if score.carried_from else score.attack
    verb = "would leak" if one.protected else "leaks"
    leaked = f"{verb} up to {score.leakage.high:.0%}, baseline {score.baseline:.2f}"
    training = took.get((score.carried_from or one.observation, score.attack))
    lines = [interval(score), leaked, whose if training is None else f"{whose}: {training}"]
    return "\n".join([*lines, *([score.converged] if score.converged != "not tested" else [])])


def _remarks(found: Summary) -> Iterator[str]:
    """Yield the remarks on an audit: doubts about the attacks, notes on them, guessed shapes."""
    flags = [f"{one.strategy}, {one.label}: {flag}" for one in found.observations for flag in one.flags]
    notes = [f"{f.strategy}, {f.label}, {f.attack}: {note}" for f in found.findings for note in f.notes]
    for kind, lines in (("flag", flags), ("note", notes)):
        distinct = list(dict.fromkeys(lines))
        yield from (f"{kind}: {line}" for line in distinct[:FEW])
        if len(distinct) > FEW:
            yield f"{kind}: {len(distinct) - FEW:,} more are in the report"
    shapes = found.shapes
    if shapes is not None and shapes.hits is not None:
        yield f"shapes guessed from bytes: {shapes.hits:,} of {shapes.of:,} are right"


def _links(one: ObservationSummary | ObservationContext) -> str:
    from cloven.auditing.finding import without_protection

    links = [one.link] if one.link else one.links
    return without_protection(" + ".join(" > ".join(link) for link in links if link) or "no link", one.protection)
