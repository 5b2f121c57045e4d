"""Advice that executes the best divisions in a laboratory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.runtime.lab.programs import root


@root
@pytest.mark.slow
def test_the_fastest_of_the_executed_divisions_is_recommended(cloven: Run, tmp_path: Path) -> None:
    images = ("--queries", "60", "--victims", "40", "--attacks", "screen,probe")

    done = cloven("advise", "--measure", *images, "--out", tmp_path, "--json")

    report = json.loads(done.out)
    times = {one["division"]: one["measured_latency"] for one in report["compared"] if one["measured_latency"]}
    assert done.code == 0
    assert 1 < len(times) <= 5
    assert report["plan"] == min(times, key=lambda name: times[name])
    assert any("the laboratory slows only computations" in text for text in report["untested"])
