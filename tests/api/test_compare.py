"""`cloven.compare`: programs side by side."""

from __future__ import annotations

import sys

import pytest
import torch

import cloven


def test_two_plans_compared_take_ten_lines(net: torch.nn.Module) -> None:
    model = cloven.capture(net, torch.zeros(1, 3, 12, 12))
    vertical = cloven.divide(model, cloven.Vertical(cuts=["1"]), devices=2)
    horizontal = cloven.divide(model, cloven.Horizontal(), devices=2)
    comparison = cloven.compare([vertical, horizontal])

    assert repr(comparison).splitlines()[:5] == [
        "2 programs, for one image",
        "quantity          link or device  program 1  program 2",
        "transfers                                 1          6",
        "bytes                                 3,456      6,348",
        "bytes             edge0->edge1        3,456      4,032",
    ]
    assert "<th>program 1</th>" in comparison._repr_html_()


def test_a_comparison_becomes_a_data_frame(model: cloven.Graph) -> None:
    programs = {
        "three": cloven.divide(model, cloven.Vertical(["1", "3"])),
        "two": cloven.divide(model, cloven.Vertical()),
    }

    frame = cloven.compare(programs).to_frame()

    assert list(frame.columns) == ["three", "two"]
    assert frame.loc[("transfers", ""), "three"] == 2
    assert frame.loc[("bytes", "edge0->edge1"), "three"] == 3456
    # What one of them lacks is missing, not zero.
    assert frame.loc[("MACs", "edge2")].isna().tolist() == [False, True]
    assert frame.loc["MACs"].sum().tolist() == [23328 + 15552 + 1440] * 2


def test_without_pandas_the_extra_is_named(model: cloven.Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    comparison = cloven.compare([cloven.divide(model, cloven.Vertical())])

    with pytest.raises(cloven.ClovenError, match=r"pandas is not installed.*pip install 'cloven\[audit\]'"):
        comparison.to_frame()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "programs is empty; expected programs, as cloven.divide or cloven.compile returns"),
        (["a", None], "program 1 is 'a'; program 2 is None; expected programs"),
        (3, "programs is 3; expected a list of programs"),
    ],
)
def test_what_is_not_a_program_is_named(given: object, message: str) -> None:
    with pytest.raises(cloven.ClovenError, match=message):
        cloven.compare(given)  # type: ignore[arg-type]


def test_names_of_programs_are_text(program: cloven.Program) -> None:
    with pytest.raises(cloven.ClovenError, match="the name of a program is 1; expected text"):
        cloven.compare({1: program})  # type: ignore[dict-item]


def test_one_program_alone_is_not_a_list(program: cloven.Program) -> None:
    with pytest.raises(cloven.ClovenError, match="programs is a Program; expected a list of programs"):
        cloven.compare(program)  # type: ignore[arg-type]
