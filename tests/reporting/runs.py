"""Folders of made-up audits, with the files that a real one has."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from cloven.auditing.finding import CellResult, Finding, Measured
from cloven.auditing.store import CELLS, CONFIG, SUMMARY, to_text, write_document
from tests.reporting.summaries import document

PIXELS = torch.arange(4 * 28 * 28).reshape(4, 1, 28, 28).to(torch.uint8)
TENSORS = save(
    {
        "index": torch.arange(4),
        "originals": PIXELS,
        "reconstructions": PIXELS.flip(3).contiguous(),
        "score/ssim": torch.linspace(0, 1, 4),
        "score/agreement": torch.ones(4),
    }
)
"""The images and scores of each cell."""

DIGEST = hashlib.sha256(TENSORS).hexdigest()


def write_run(folder: Path, given: dict[str, Any]) -> Path:
    """Write a made-up summary as the folder of an audit, with a cell for each finding and seed; return it."""
    findings = []
    for finding in given["findings"]:
        keys = [f"{seed}{finding['key'][1:]}" for seed in finding["seeds"]]
        findings.append(finding | {"key": keys[0], "keys": keys})
    summary = document(given | {"findings": findings})
    (folder / CELLS).mkdir(parents=True)
    (folder / CONFIG).write_text(to_text({"schema": summary.schema_version}))
    for one in summary.findings:
        for key, seed in zip(one.keys, one.seeds, strict=True):
            write_document(folder / CELLS / f"{key}.json", _cell(one, key, seed).model_dump(mode="json"))
            (folder / CELLS / f"{key}.safetensors").write_bytes(TENSORS)
    write_document(folder / SUMMARY, summary.model_dump(mode="json"))
    return folder


def _cell(finding: Finding, key: str, seed: int) -> CellResult:
    measured = {name: getattr(finding, name) for name in Measured.model_fields}
    return CellResult(**measured, key=key, seed=seed, provenance={"seed": seed}, tensors=DIGEST)
