"""The product of all strategies, models and numbers of devices: `benchmarks/equivalence.py`, here on two models."""

from __future__ import annotations

import sys

import pytest
from benchmarks import equivalence
from benchmarks.equivalence import CASES, DEVICES, HEAD, Case, product

from cloven.partition.data import Data


@pytest.mark.slow
def test_every_strategy_for_every_number_of_devices_computes_what_the_model_does() -> None:
    lines = list(product(("resnet20", "mobilenet_v2"), DEVICES, size=224))

    assert [line.text() for line in lines if not line.holds] == []
    assert len(lines) == 2 * sum(len(case.numbers) for case in CASES)


def test_the_script_prints_a_line_a_plan_and_says_that_all_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["equivalence.py", "--models", "lenet5", "--devices", "4"])

    assert equivalence.main() == 0

    head, table = capsys.readouterr().out.split(HEAD)
    plans = [row.split(" | ") for row in table.strip().splitlines() if row.startswith("| lenet5")]
    # A chain has no block to tile up to the inside of.
    expected = [case.title for case in CASES if 4 in case.numbers and "block" not in case.title]
    assert head == ""
    assert [plan[1] for plan in plans] == expected
    assert {plan[5] for plan in plans} == {"yes"}
    assert f"{len(expected)} plans, 0 not equal" in table


def test_the_script_fails_where_a_line_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Case("tiles without halo", lambda *_: Data((2, 2), halo="none"), (4,))
    monkeypatch.setattr(equivalence, "CASES", (wrong,))
    monkeypatch.setattr(sys, "argv", ["equivalence.py", "--models", "lenet5"])

    assert equivalence.main() == 1

    assert "1 plans, 1 not equal" in capsys.readouterr().out
