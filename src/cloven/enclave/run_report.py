"""The report of a run of an enclave, ``trace.json``, and the files of its sealed results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cloven.documents import Document
from cloven.enclave.runner import STEPS, Enclave, Inference
from cloven.files import write_bytes, write_text

TRACE = "trace.json"


class TraceStep(Document):
    """One of the six steps of Rajasekar et al. (2024), and its seconds: the median, for steps of an inference."""

    step: int
    what: str
    seconds: float


class Transferred(Document):
    """The values that one inference hands over, their shapes for one image, and their size in bytes."""

    values: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    bytes: int


class HalfSize(Document):
    """The size of one half of the model."""

    ops: int
    weight_bytes: int


class InputResult(Document):
    """The result of one input: its logits if it left the enclave in clear, and its file."""

    input: str
    logits: tuple[float, ...] | None
    file: str | None


class RunReport(Document):
    """A run of an enclave.

    Attributes:
        format: the version of this document.
        sealed: the id of the sealed folder.
        run: the run that the owner released; None if another party released it.
        backend: the backend of the trusted half.
        trust: how far the backend protects.
        limits: the limits of the trusted half's sandbox.
        accelerator: the name of the device that ran the rear.
        handover: memory, file or pipe.
        threads: the number of threads of each half.
        trace: the six steps of Rajasekar et al. (2024).
        handed_over: the values that one inference hands over.
        result: whether results leave the enclave sealed or in clear.
        front: the size of the front.
        rear: the size of the rear.
        inferences: the seconds of each inference by step.
        in_clear: the data outside the enclave that is not encrypted.
        results: the result of each input.
    """

    format: Literal["cloven enclave run 1"] = "cloven enclave run 1"
    sealed: str
    run: str | None
    backend: str
    trust: str
    limits: tuple[str, ...]
    accelerator: str
    handover: str
    threads: int
    trace: tuple[TraceStep, ...]
    handed_over: Transferred
    result: Literal["sealed", "clear"]
    front: HalfSize
    rear: HalfSize
    inferences: tuple[dict[str, float], ...]
    in_clear: tuple[str, ...]
    results: tuple[InputResult, ...]


def trace(enclave: Enclave, inferences: Sequence[Inference]) -> tuple[TraceStep, ...]:
    """Return the six steps of Rajasekar et al. (2024, Sect. IV) with their seconds."""
    middles = [
        statistics.median(inference.seconds[name] for inference in inferences)
        for name in ("front", "hand-over", "rear")
    ]
    seconds = [*(enclave.clock[name] for name in STEPS[:3]), *middles]
    return tuple(
        TraceStep(step=i, what=what, seconds=spent)
        for i, (what, spent) in enumerate(zip(STEPS, seconds, strict=True), 1)
    )


def keep(
    enclave: Enclave,
    folder_id: str,
    run: str | None,
    inferences: Sequence[tuple[Path, Inference]],
    out: Path | None,
) -> RunReport:
    """Return the report of a run; write it and each result (``.result``, or ``.json`` in clear) to a folder.

    Args:
        enclave: the enclave, after the inferences.
        folder_id: the id of the sealed folder.
        run: the run that the owner released, if it is known.
        inferences: the inference of each input file.
        out: the folder; None to write nothing.

    Raises:
        ClovenError: if a file cannot be written.
    """
    results = []
    for file, inference in inferences:
        target = None
        if out is not None:
            target = out / f"{file.stem}{'.json' if inference.sealed is None else '.result'}"
        logits = None if inference.logits is None else tuple(inference.logits[0].tolist())
        result = InputResult(input=file.name, logits=logits, file=None if target is None else str(target))
        if target is not None:
            write_bytes(target, inference.sealed or result.text().encode())
        results.append(result)
    split = enclave.report
    made = [inference for _, inference in inferences]
    handed = Transferred(values=split.values, shapes=split.takes, bytes=made[0].handed_bytes)
    found = RunReport(
        sealed=folder_id,
        run=run,
        backend=enclave.asked.backend.name,
        trust=enclave.asked.backend.words,
        limits=enclave.limits,
        accelerator=enclave.device,
        handover=enclave.asked.way,
        threads=enclave.asked.threads,
        trace=trace(enclave, made),
        handed_over=handed,
        result=split.result,
        front=HalfSize(ops=split.front_ops, weight_bytes=split.front_weight_bytes),
        rear=HalfSize(ops=split.rear_ops, weight_bytes=split.rear_weight_bytes),
        inferences=tuple(inference.seconds for inference in made),
        in_clear=(
            "the weights of the rear",
            *split.values,
            *(["the result"] if split.result == "clear" else []),
        ),
        results=tuple(results),
    )
    if out is not None:
        write_text(out / TRACE, found.text())
    return found
