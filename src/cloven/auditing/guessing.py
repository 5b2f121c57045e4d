"""Guess the shapes of captured bytes, as the black-box attacker of Mehrafrooz et al. (2025) would have to."""

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
"""The largest number of images from which a shape is guessed."""


def guess(every: Sequence[Case], material: Material) -> tuple[dict[str, tuple[ShapeGuess, ...]], GuessedShapes]:
    """Return the guessed shape of each share, by the name of its case, and the number of correct guesses.

    The true shapes in a capture are unknown, so its guesses are not counted.
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
    """Return a float32 tensor ``(n, ...)`` as the bytes that are sent: ``(n, bytes)``."""
    return np.ascontiguousarray(z.flatten(1).numpy().astype("<f4")).view(np.uint8)
