"""The report of a run's folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from cloven.advising.advice import Advice, AdviceReport
from cloven.auditing.results import Results, ranked
from cloven.auditing.store import REPORT, Store
from cloven.auditing.summary import Summary
from cloven.collection import paused
from cloven.documents import read_document
from cloven.errors import check_type, path_of
from cloven.files import write_text
from cloven.partition.description import described_transfers
from cloven.partition.vertical import Vertical
from cloven.reporting.advice_page import AdvisedPlan, render_advice
from cloven.reporting.findings import Sample
from cloven.reporting.page import render

ADVICE = "advice.json"
MOST = 500
"""The largest number of findings that a page shows."""
ROLES = ("best", "median", "worst", "usual")


def write(folder: Path) -> Path:
    """Write ``report.html`` from the summary and the cells of a run; return its path.

    Raises:
        ClovenError: where the folder holds no finished run, or one that was edited.
    """
    store = Store(folder)
    write_text(folder / REPORT, page(store))
    return folder / REPORT


def report(results: Results | Advice | str | Path, path: str | Path) -> Path:
    """Write the results of an audit, or an advice, as one HTML page that needs no network; return its path.

    Args:
        results: what `cloven.audit` or `cloven.advise` returned, or a folder that `Results.save`, ``cloven audit``
            or ``cloven advise`` wrote. From a folder of ``cloven advise``, the page has no pictures.
        path: the page.

    Raises:
        ClovenError: for a folder without a finished audit or an advice, or a path that cannot be written.
    """
    expected = "what cloven.audit() or cloven.advise() returns, or a folder of results"
    check_type(results, (Results, Advice, str, Path), "results", expected)
    target = path_of(path, "path")
    if isinstance(results, Advice):
        made = advice_page(results)
    elif isinstance(results, Results):
        made = page(results.store)
    elif (Path(results) / ADVICE).is_file():
        made = advice_page(Advice(read_document(AdviceReport, Path(results) / ADVICE)))
    else:
        made = page(Store(Path(results)))
    write_text(target, made)
    return target


def page(store: Store) -> str:
    """Return the page of a finished run; raises as `write`."""
    with paused():
        summary = most_exposed(store.summary())
        return render(summary, all_samples(store, summary))


def most_exposed(summary: Summary, most: int = MOST) -> Summary:
    """Return a summary without the observations that leak least, if it has more than ``most`` findings."""
    if len(summary.findings) <= most:
        return summary
    numbers = Counter(finding.observation for finding in summary.findings)
    names = [one.observation for one in ranked(summary)]
    totals = accumulate(numbers[name] for name in names)
    kept = {name for name, total in zip(names, totals, strict=True) if total <= most}
    left = len(numbers) - len(kept)
    note = (
        f"This page leaves out the {left:,} of {len(numbers):,} observations that leak least; `cloven results` "
        "exports all of them."
    )
    return summary.model_copy(
        update={
            "findings": tuple(one for one in summary.findings if one.observation in kept),
            "observations": tuple(one for one in summary.observations if one.observation in kept),
            "curves": tuple(one for one in summary.curves if one.observation in kept),
            "warnings": (*summary.warnings, note),
        }
    )


def advice_page(advice: Advice) -> str:
    """Return the page of an advice, with pictures if its plan was attacked."""
    found = AdvisedPlan()
    if advice.program is not None:
        # It imports torch, which a page of documents does not need.
        from cloven.auditing.divisions import described_parts

        parts, transfers = described_parts(advice.program), described_transfers(advice.program)
        found = replace(found, parts=parts, transfers=transfers)
    if advice.plan is not None:
        cuts = tuple(cut for one in advice.plan.stages if isinstance(one, Vertical) for cut in one.cuts)
        found = replace(found, cuts=cuts)
    if advice.results is not None:
        store, summary = advice.results.store, advice.results.summary
        found = replace(found, summary=summary, samples=all_samples(store, summary))
    return render_advice(advice.report, found)


def all_samples(store: Store, summary: Summary) -> dict[str, tuple[Sample, ...]]:
    """Return the sample images of each finding, by its key."""
    return {key: _samples(store, key) for key in dict.fromkeys(finding.key for finding in summary.findings)}


def _samples(store: Store, key: str) -> tuple[Sample, ...]:
    """Return the sample images of a cell; none of an attack that makes no images."""
    tensors = store.tensors(key)
    if "reconstructions" not in tensors:
        return ()
    return tuple(
        Sample(
            role=role,
            ssim=float(tensors["score/ssim"][index]),
            agrees=bool(tensors["score/agreement"][index]),
            original=tensors["originals"][i].numpy(),
            reconstruction=tensors["reconstructions"][i].numpy(),
        )
        for i, (role, index) in enumerate(zip(ROLES, tensors["index"].tolist(), strict=True))
    )
