"""The report of a run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloven.auditing.store import REPORT, SUMMARY, Store, expecting, read_document
from cloven.errors import ClovenError
from cloven.files import write_text
from cloven.reporting.page import Sample, render

AGAIN = "run the same audit again, which writes it anew from the cells"
ROLES = ("best", "median", "worst")


def write(folder: Path) -> Path:
    """Write ``report.html`` from the summary and the cells of a run; gives its path.

    Raises:
        ClovenError: where the folder holds no finished run, or one that was edited.
    """
    if not (folder / SUMMARY).exists():
        raise ClovenError(f"{folder} holds no {SUMMARY}; give the folder of an audit that has ended")
    summary = read_document(folder / SUMMARY, AGAIN)
    store = Store(folder)
    with expecting(folder / SUMMARY, AGAIN):
        page = render(summary, {key: _samples(store, key) for key in dict.fromkeys(_keys(summary))})
    write_text(folder / REPORT, page)
    return folder / REPORT


def _keys(summary: Mapping[str, Any]) -> list[str]:
    return [finding["key"] for finding in summary["findings"]]


def _samples(store: Store, key: str) -> tuple[Sample, ...]:
    """Best, median and worst; nothing of an attack that makes no images."""
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
