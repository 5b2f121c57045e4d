"""S2's Fig. 3 measured here: the times of every cut of a model, and of the whole model inside the enclave."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloven.enclave.sweep import SweepModel, measured, summarised
from cloven.enclave.timing import ExecutionOptions, this_machine
from cloven.files import write_text
from cloven.papers.s2.privacy import cuts
from cloven.papers.s2.published import EFFICIENTNET, RESNET, TABLE_3, VGG
from cloven.zoo.named import usual
from cloven.zoo.picture_files import as_files

SAMPLES: Mapping[str, int] = {"full": 100, "desk": 6}
"""The number of images that are timed at each scale, besides the one that warms up; S2's is 100 (Sect. V-C1)."""


@dataclass(frozen=True)
class TimesRequest:
    """The times to measure: of ``model``, or of S2's three, on images of ``data``, or of noise."""

    scale: str
    data: str
    model: str
    how: ExecutionOptions


def timed(request: TimesRequest, folder: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """Return the document of the figure, and keep it as ``figure.json``; what is finished in the folder is reused.

    Raises:
        ClovenError: for a model that S2 does not cut, images that cannot be read, and an enclave that fails.
    """
    models = []
    for name in [request.model] if request.model else [VGG, RESNET, EFFICIENTNET]:
        labelled = {label.removeprefix("Layer "): path for path, label in cuts(name).items()}
        models.append(SweepModel(name, usual(name).shape, usual(name).classes, labelled))
    count = 1 + SAMPLES[request.scale]
    rows = measured(models, lambda m: as_files(request.data, m.shape, count), request.how, folder, report)
    document = {
        "paper": "S2",
        "figure": "3",
        "scale": request.scale,
        "images": request.data or "noise",
        "weights": "random: times do not depend on them",
        "backend": request.how.backend.name,
        "accelerator": request.how.device,
        "handover": request.how.way,
        "trust": request.how.backend.words,
        "machine": this_machine(request.how.threads).model_dump(),
        "rows": [row.model_dump(mode="json") for row in summarised(rows)],
        "published": [row.row() for row in TABLE_3],
    }
    write_text(folder / "figure.json", json.dumps(document, indent=2) + "\n")
    return document
