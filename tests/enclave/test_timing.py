"""The times of a study: measured in real processes, stored, and compared with the whole model inside."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloven.enclave import sweep
from cloven.enclave.backends import named
from cloven.enclave.sweep import FULL, SweepModel, measured, summarised
from cloven.enclave.timing import STEADY, ExecutionOptions, InferenceTimes, owned, ready, timed
from cloven.errors import ClovenError
from cloven.zoo.named import make
from cloven.zoo.picture_files import as_files

HOW = ExecutionOptions(named("simulated"), "cpu", "file", 1)
LENET = SweepModel("lenet5", (1, 28, 28), 10, {"2": "conv2", "3": "pool2"})


@pytest.mark.slow
def test_a_model_is_timed_beside_itself_all_inside() -> None:
    state = make("lenet5", shape=(1, 28, 28), classes=10).state_dict()
    whole, pictures = LENET.plan(None), as_files("", (1, 28, 28), 4)
    with (
        owned(whole, state, pictures, 2**31) as mine,
        ready(mine, whole, HOW) as full,
        ready(mine, LENET.plan("conv2"), HOW) as cut,
    ):
        inside, divided = timed(full, full), timed(cut, full)

    for found in (inside, divided):
        assert found.samples == 3
        assert all(seconds > 0 for seconds in found.parts.values())
        assert sum(found.parts.values()) < 2 * found.median
        assert found.load > found.first
        assert 0 < found.beside < found.load
    assert (inside.handed_bytes, divided.handed_bytes) == (0, 4 * 16 * 10 * 10)
    assert list(inside.parts) == list(STEADY)
    with pytest.raises(ClovenError, match="the number of pictures is 2; expected 3 or more"):
        owned(whole, state, [b"", b""], 2**31).__enter__()


def test_rows_are_kept_and_measured_again_where_something_else_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(1, 100))

    def made_up(*_: Any) -> InferenceTimes:
        median = float(next(seconds))
        return InferenceTimes(
            load=9.0,
            first=2.0,
            mean=7 * median,
            median=median,
            spread=0.1,
            beside=2 * median,
            parts={"front": median},
            handed_bytes=12,
            samples=3,
        )

    for name in ("owned", "ready"):
        monkeypatch.setattr(sweep, name, lambda *_: nullcontext())
    monkeypatch.setattr(sweep, "timed", made_up)
    said: list[str] = []

    def pictures(_: SweepModel) -> Sequence[bytes]:
        return [b"1", b"2", b"3", b"4"]

    first = measured([LENET], pictures, HOW, tmp_path, said.append)
    again = measured([LENET], pictures, HOW, tmp_path, said.append)
    other = measured([LENET], pictures, ExecutionOptions(HOW.backend, "cpu", "pipe", 1), tmp_path, said.append)

    assert [row.point for row in first] == ["2", "3", FULL]
    assert [row.cut for row in first] == ["conv2", "pool2", None]
    assert first == again
    assert [row.median for row in first] == [1.0, 2.0, 3.0]
    assert [row.median for row in other] == [4.0, 5.0, 6.0]
    assert said == ["lenet5, 2", "lenet5, 3", "lenet5, full"] * 2
    rows = summarised([*first, first[0].model_copy(update={"median": 4.0})])
    assert [row.reduction_percent for row in rows] == [50.0, 50.0, 50.0, -100.0]
    assert [row.ratio for row in rows] == [2.0, 2.0, 2.0, 0.5]
    (tmp_path / "rows" / "lenet5-2.json").write_text("{")
    with pytest.raises(ClovenError, match=r"lenet5-2.json is not valid JSON"):
        measured([LENET], pictures, HOW, tmp_path, said.append)


def test_pictures_of_noise_are_always_the_same_and_those_of_data_are_the_datas() -> None:
    from cloven.zoo.datasets import load
    from cloven.zoo.folders import decode_picture

    assert as_files("", (3, 8, 8), 2) == as_files("", (3, 8, 8), 2)
    (file,) = as_files("digits", (1, 28, 28), 1)
    assert np.array_equal(decode_picture(file, (1, 28, 28)), load("digits", shape=(1, 28, 28), limit=1).pixels[0])
    with pytest.raises(ClovenError, match=r"digits has .* images; expected 100000"):
        as_files("digits", (1, 28, 28), 100_000)
