"""Every strategy once on each of some models; the numbers of devices take turns from model to model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from benchmarks.equivalence import CASES, line

SIZE = 64
"""Pixels on a side."""


def every_strategy(models: Sequence[str]) -> list[Any]:
    """Parameters of a test: model, index of the strategy, number of devices."""
    return [
        pytest.param(model, i, number, id=f"{model}-{case.title}-{number}")
        for turn, model in enumerate(models)
        for i, case in enumerate(CASES)
        for number in [case.numbers[(turn + i) % len(case.numbers)]]
    ]


def holds(model: str, case: int, devices: int) -> None:
    """Compare a plan with the whole model on two photographs."""
    found = line(model, CASES[case], devices, size=SIZE, count=2)
    if found is None:
        pytest.skip(f"{model} has no block with branches")

    assert found.holds, found.found.why()
