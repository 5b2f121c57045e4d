"""Trees on the rows of telemetry: they recognise what a single row shows, and see only the training part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloven.zoo.row_trees import tree_classes
from cloven.zoo.telemetry import TEST, Windows, WindowSettings, read_windows
from cloven.zoo.ton_iot import SENSORS, TYPES
from tests.zoo.ton_iot_files import lines, write_ton_iot


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    """Windows of Weather and Garage_Door in which the humidity is the number of the type."""
    rows = lines("Weather", 100)
    last = [column.name for column in SENSORS["Weather"].columns].index("humidity") + 2
    told = [row.split(",") for row in rows[1:]]
    made = [",".join([*row[:last], str(TYPES.index(row[-1])), *row[last + 1 :]]) for row in told]
    folder = write_ton_iot(tmp_path_factory.mktemp("trees"), {"Weather": [rows[0], *made]})
    return read_windows(folder, WindowSettings(sensors=("Weather", "Garage_Door"), window=4))


def test_types_that_a_row_shows_are_recognised(windows: Windows) -> None:
    tests = np.flatnonzero(windows.part == TEST)

    assert np.array_equal(tree_classes(windows, tests, 0), windows.labels[tests])


def test_only_the_training_part_is_seen(windows: Windows) -> None:
    """If the types of all other windows are exchanged, the answers are the same."""
    tests = np.flatnonzero(windows.part == TEST)
    labels = np.where(windows.part == 0, windows.labels, 0)

    assert np.array_equal(tree_classes(replace(windows, labels=labels), tests, 0), tree_classes(windows, tests, 0))
