"""The README's audit on real data: MNIST, with Tiny-ImageNet photographs as the attacker's images."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Run, cloven

__all__ = ["cloven"]

DATA = os.environ.get("CLOVEN_DATA")


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="CLOVEN_DATA names no folder with MNIST and tiny-imagenet")
def test_lenet5_on_mnist_is_learned_and_every_slice_and_tile_is_attacked(cloven: Run, here: Path) -> None:
    done = cloven("audit", "lenet5", "--data", f"mnist:{DATA}", "--auxiliary", f"folder:{DATA}/tiny-imagenet/train",
                  "--attacks", "decoder", "--out", "run")  # fmt: skip
    summary = json.loads((here / "run" / "summary.json").read_text())
    paper = [f for f in summary["findings"] if f["view"] == "paper"]

    assert done.code == 0, done.err
    assert summary["model_accuracy"] >= 0.985
    assert [f["strategy"] for f in paper] == ["vertical"] * 3 + ["horizontal"] * 12 + ["data"] * 4
    assert {f["pairs"] for f in paper} == {5000}
    assert {f["victims"] for f in paper} == {7000}
    assert {o["claim"] for o in summary["orderings"]} == {"C2", "C3", "C4"}
    exact = [plan for plan in summary["plans"] if plan["exact"]]
    bare = [plan for plan in summary["plans"] if not plan["exact"]]
    assert {plan["accuracy"] for plan in exact} == {summary["model_accuracy"]}
    assert bare[0]["accuracy"] < summary["model_accuracy"]
