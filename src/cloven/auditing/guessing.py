"""Guesses: the shapes that a listener who gets bytes alone takes them for; S1's black-box claim put to the test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cloven.attacks.shapes import ShapeGuess, infer
from cloven.auditing.captured import Capture
from cloven.auditing.cases import Case
from cloven.auditing.material import Material
from cloven.auditing.summary import GuessedShape, GuessedShapes

LOOKED_AT = 64
"""Images from which a shape is guessed, at most."""


def guess(every: Sequence[Case], material: Material) -> tuple[dict[str, tuple[ShapeGuess, ...]], GuessedShapes]:
    """Return what each share is taken for, by the name of its case, and how often that is right.

    Of what was captured nobody knows what is right.
    """
    found: dict[str, tuple[ShapeGuess, ...]] = {}
    rows: list[GuessedShape] = []
    for case in every:
        if case.name in found:
            continue
        captured = material.captured(case.observation, "auxiliary", case.target.recorded)
        tensors = captured.take(torch.arange(min(LOOKED_AT, len(captured))))
        guesses = tuple(infer(as_bytes(z)) for z in tensors)
        found[case.name] = guesses
        known = not isinstance(case.observation, Capture)
        for seen, z, one in zip(case.observation.seen, tensors, guesses, strict=False):
            true = tuple(z.shape[1:])
            right = one.shape == true and one.dtype == "float32" and one.layout in ("chw", "flat")
            rows.append(
                GuessedShape(
                    strategy=case.target.strategy,
                    label=case.label,
                    seen=str(seen) if known else f"message {seen.value}",
                    shape=true if known else None,
                    guess=tuple(one.shape),
                    type=one.dtype,
                    layout=one.layout,
                    hit=right if known else None,
                )
            )
    hits = [row.hit for row in rows if row.hit is not None]
    return found, GuessedShapes(hits=sum(hits) if len(hits) == len(rows) else None, of=len(rows), rows=tuple(rows))


def as_bytes(z: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return ``(n, ...)`` float32 as it lies on the wire: ``(n, bytes)``."""
    return np.ascontiguousarray(z.flatten(1).numpy().astype("<f4")).view(np.uint8)
