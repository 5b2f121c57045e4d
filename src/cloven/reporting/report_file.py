"""The report of a run's folder."""

from __future__ import annotations

from pathlib import Path

from cloven.auditing.results import Results
from cloven.auditing.store import REPORT, Store
from cloven.errors import check_type, path_of
from cloven.files import write_text
from cloven.reporting.page import Sample, render

AGAIN = "run the same audit again, which writes it from the cells"
ROLES = ("best", "median", "worst", "usual")


def write(folder: Path) -> Path:
    """Write ``report.html`` from the summary and the cells of a run; return its path.

    Raises:
        ClovenError: where the folder holds no finished run, or one that was edited.
    """
    store = Store(folder)
    write_text(folder / REPORT, page(store))
    return folder / REPORT


def report(results: Results | str | Path, path: str | Path) -> Path:
    """Write the results of an audit as one HTML page that needs no network; return its path.

    Args:
        results: what `cloven.audit` returned, or a folder that `Results.save` or ``cloven audit`` wrote.
        path: the page.

    Raises:
        ClovenError: for a folder without a finished audit, or a path that cannot be written.
    """
    check_type(results, (Results, str, Path), "results", "what cloven.audit() returns, or a folder of results")
    store = results.store if isinstance(results, Results) else Store(Path(results))
    target = path_of(path, "path")
    write_text(target, page(store))
    return target


def page(store: Store) -> str:
    """Return the page of a finished run; raises as `write`."""
    summary = store.summary()
    keys = dict.fromkeys(finding.key for finding in summary.findings)
    return render(summary, {key: _samples(store, key) for key in keys})


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
