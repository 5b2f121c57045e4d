"""S1's black-box claim put to the test: what a listener who gets bytes alone takes them for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cloven.attacks.shapes import ShapeGuess, infer
from cloven.auditing.cases import Case
from cloven.auditing.material import Material

Guessed = Mapping[str, tuple[ShapeGuess, ...]]
"""For each case, by its name: what each captured tensor is taken for."""

LOOKED_AT = 64
"""Images from which a shape is guessed, at most."""


def guess(every: Sequence[Case], material: Material) -> tuple[dict[str, tuple[ShapeGuess, ...]], dict[str, Any]]:
    """What each share is taken for from its bytes, and how often that is right (decision: a message a share)."""
    found: dict[str, tuple[ShapeGuess, ...]] = {}
    rows: list[dict[str, Any]] = []
    for case in every:
        if case.name in found:
            continue
        captured = material.captured(case.observation, "auxiliary", case.target.recorded)
        tensors = captured.take(torch.arange(min(LOOKED_AT, len(captured))))
        guesses = tuple(infer(as_bytes(z)) for z in tensors)
        found[case.name] = guesses
        rows += [
            _row(case, str(seen), tuple(z.shape[1:]), one)
            for seen, z, one in zip(case.observation.seen, tensors, guesses, strict=False)
        ]
    return found, {"hits": sum(row["hit"] for row in rows), "of": len(rows), "rows": rows}


def as_bytes(z: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """``(n, ...)`` float32 as it lies on the wire: ``(n, bytes)``."""
    return np.ascontiguousarray(z.flatten(1).numpy().astype("<f4")).view(np.uint8)


def _row(case: Case, seen: str, true: tuple[int, ...], one: ShapeGuess) -> dict[str, Any]:
    right = one.shape == true and one.dtype == "float32" and one.layout in ("chw", "flat")
    return {
        "strategy": case.target.strategy,
        "label": case.label,
        "seen": seen,
        "shape": list(true),
        "guess": list(one.shape),
        "type": one.dtype,
        "layout": one.layout,
        "hit": right,
    }
