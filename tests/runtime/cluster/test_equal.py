"""Workers give the same outputs as the whole model, for every kind of plan, model and protection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloven.runtime.cluster.coordinator import Prediction
from tests.runtime.cluster.machines import cluster, machines, no_options, send, with_keys
from tests.runtime.cluster.plans import PROTECTIONS, SHAPES, STRATEGIES, alone, bundled, images, keys, whole

EVERY = [(m, s, p) for m in SHAPES for s in STRATEGIES for p in PROTECTIONS]


def _chosen() -> list[tuple[str, str, str]]:
    """Return each strategy on LeNet-5 with the protections in turn; the other combinations are slow tests."""
    return [("lenet5", strategy, PROTECTIONS[i % len(PROTECTIONS)]) for i, strategy in enumerate(STRATEGIES)]


def holds(model: str, strategy: str, protection: str, folder: Path) -> None:
    """Compare the outputs of workers with those of one process and of the whole model."""
    bundle, given = bundled(model, strategy, protection), images(model)
    keyed = keys() if protection != "none" else None
    with machines(bundle, folder, with_keys(keyed) if keyed else no_options) as made:
        found = send(bundle, cluster(folder, made, keyed), given)

    outputs = np.stack([answer.output for answer in found if isinstance(answer, Prediction)])
    assert np.array_equal(outputs, alone(bundle, given))
    expected = whole(model, given)
    assert np.abs(outputs - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
    assert np.ptp(expected, axis=0).max() > 0.01, "the images must make a difference, or nothing is shown"


@pytest.mark.parametrize(("model", "strategy", "protection"), _chosen())
def test_workers_answer_as_the_whole_model(model: str, strategy: str, protection: str, tmp_path: Path) -> None:
    holds(model, strategy, protection, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "strategy", "protection"), [case for case in EVERY if case not in _chosen()])
def test_workers_answer_as_the_whole_model_always(
    model: str, strategy: str, protection: str, tmp_path: Path
) -> None:
    holds(model, strategy, protection, tmp_path)
