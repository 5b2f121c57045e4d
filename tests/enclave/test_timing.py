"""The times of a study: measured in real processes, kept, and compared with the model all inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloven.enclave import study
from cloven.enclave.backends import named
from cloven.enclave.study import FULL, How, Model, measured, summarised
from cloven.enclave.timing import STEADY, Timed, timed
from cloven.errors import ClovenError
from cloven.zoo.named import make
from cloven.zoo.pictures import as_files

HOW = How(named("simulated"), "cpu", "file", 1)
LENET = Model("lenet5", (1, 28, 28), 10, {"2": "conv2", "3": "pool2"})


@pytest.mark.slow
def test_a_model_that_is_all_inside_is_timed() -> None:
    state = make("lenet5", shape=(1, 28, 28), classes=10).state_dict()
    found = timed(
        LENET.plan(None), state, as_files("", (1, 28, 28), 4), backend=HOW.backend, device="cpu", way="file",
        threads=1, memory=2**31,
    )  # fmt: skip

    assert found.samples == 3
    assert found.handed_bytes == 0
    assert list(found.parts) == list(STEADY)
    assert all(seconds > 0 for seconds in found.parts.values())
    assert sum(found.parts.values()) < 2 * found.median
    assert found.load > found.first
    with pytest.raises(ClovenError, match="2 pictures; expected 3 or more"):
        timed(
            LENET.plan(None), state, [b"", b""], backend=HOW.backend, device="cpu", way="file", threads=1,
            memory=2**31,
        )  # fmt: skip


def test_rows_are_kept_and_measured_again_where_something_else_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(1, 100))

    def made_up(*_: Any, **__: Any) -> Timed:
        median = float(next(seconds))
        return Timed(9.0, 2.0, 7 * median, median, 0.1, {"front": median}, 12, 3)

    monkeypatch.setattr(study, "timed", made_up)
    said: list[str] = []

    def pictures(_: Model) -> Sequence[bytes]:
        return [b"1", b"2", b"3", b"4"]

    first = measured([LENET], pictures, HOW, tmp_path, said.append)
    again = measured([LENET], pictures, HOW, tmp_path, said.append)
    other = measured([LENET], pictures, How(HOW.backend, "cpu", "pipe", 1), tmp_path, said.append)

    assert [row["point"] for row in first] == ["2", "3", FULL]
    assert [row["cut"] for row in first] == ["conv2", "pool2", None]
    assert first == again
    assert [row["median"] for row in first] == [1.0, 2.0, 3.0]
    assert [row["median"] for row in other] == [4.0, 5.0, 6.0]
    assert said == ["lenet5, 2", "lenet5, 3", "lenet5, full"] * 2
    rows = summarised(first)
    assert [round(row["reduction_percent"], 1) for row in rows] == [66.7, 33.3, 0.0]
    assert [row["ratio"] for row in rows] == [3.0, 1.5, 1.0]
    (tmp_path / "rows" / "lenet5-2.json").write_text("{")
    with pytest.raises(ClovenError, match=r"lenet5-2.json cannot be read .* remove it"):
        measured([LENET], pictures, HOW, tmp_path, said.append)


def test_pictures_of_noise_are_always_the_same_and_those_of_data_are_the_datas() -> None:
    from cloven.zoo.datasets import load
    from cloven.zoo.folders import decode_picture

    assert as_files("", (3, 8, 8), 2) == as_files("", (3, 8, 8), 2)
    (file,) = as_files("digits", (1, 28, 28), 1)
    assert np.array_equal(decode_picture(file, (1, 28, 28)), load("digits", shape=(1, 28, 28), limit=1).pixels[0])
    with pytest.raises(ClovenError, match=r"digits has .* images; expected 100000"):
        as_files("digits", (1, 28, 28), 100_000)


def test_figures_are_drawn(tmp_path: Path) -> None:
    from cloven.report.s2 import draw, draw_scores

    row = {
        "model": "lenet5",
        "point": "2",
        "mean": 0.2,
        "spread": 0.01,
        "samples": 3,
        "parts": {"front": 0.1, "rear": 0.1},
    }
    how = {"trust": "none", "machine": {"processor": "x", "threads": 1}, "accelerator": "cpu", "handover": "file"}
    draw({"rows": [row, {**row, "point": FULL}], **how}, tmp_path / "3.png")
    score = {"mean": 0.3, "low": 0.2, "high": 0.4}
    rows = [
        {"point": p, "label": f"Layer {p}", "attack": a, "ssim": score, "floor": 0.1}
        for p in (1, 2)
        for a in ("cgan", "residual")
    ]
    chosen = {"strongest": {"strict": {"point": 2, "path": "x"}, "tolerant": None}}
    draw_scores(
        {
            "rows": rows,
            "optimal": chosen,
            "threshold": 0.2,
            "model": "m",
            "data": "d",
            "queries": 1,
            "gan_epochs": 1,
        },
        tmp_path / "7.png",
    )

    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("3.png", "7.png"))
