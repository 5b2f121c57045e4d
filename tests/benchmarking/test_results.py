"""The results of benchmarks: medians and goals, the page, and the comparison of two runs."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from benchmarks import compare, suite
from benchmarks.growth import exponent
from benchmarks.measurement import (
    BenchmarkResults,
    Measurement,
    Surroundings,
    alternating,
    measured,
    shown,
)

from cloven.documents import read_document

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def one(*repetitions: float, case: str = "a / b", **changes: Any) -> Measurement:
    return measured("division", case, repetitions, "x", **changes)


def results(*measurements: Measurement, **changes: Any) -> BenchmarkResults:
    here = Surroundings(
        processor="a processor",
        cores=2,
        system="Linux",
        python="3.11.7",
        versions={"torch": "2.13.0"},
        environment={},
    )
    given = {"surroundings": here, "left_out": {}, **changes}
    date = datetime(2026, 11, 30, tzinfo=UTC)
    return BenchmarkResults(date=date, seconds=60.0, load=0.1, measurements=measurements, **given)


def written(folder: Path, name: str, found: BenchmarkResults) -> str:
    path = folder / name
    path.write_text(found.text())
    return str(path)


def test_a_measurement_has_the_median_and_the_range_of_its_repetitions() -> None:
    found = one(3.0, 1.0, 2.0)

    assert (found.value, found.low, found.high, found.repetitions) == (2.0, 1.0, 3.0, 3)


@pytest.mark.parametrize(
    ("better", "goal", "holds"),
    [
        ("lower", 2.0, True),
        ("lower", 1.9, False),
        ("higher", 2.0, True),
        ("higher", 2.1, False),
        ("higher", None, True),
    ],
)
def test_a_goal_is_met_or_missed_by_the_median(better: Any, goal: float | None, holds: bool) -> None:
    assert one(1.0, 2.0, 3.0, better=better, goal=goal).holds == holds


def test_calls_alternate_and_the_first_run_is_not_counted() -> None:
    said: list[str] = []
    clock = iter(range(100))

    taken = alternating({name: lambda name=name: said.append(name) for name in "ab"}, 2, lambda: float(next(clock)))  # type: ignore[misc]

    assert "".join(said) == "ababab"
    assert taken == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_a_missed_goal_is_printed_and_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown([one(2.0, goal=3.0)]) == 0
    assert shown([one(2.0, 2.5, 2.2, goal=2.1)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "a / b: 2 x (at most 3)",
        "a / b: 2.2 x (2 to 2.5) (at most 2.1, missed)",
    ]


def test_exponents_are_those_of_power_laws() -> None:
    assert exponent({n: 0.1 * n**1.5 for n in (2, 4, 8, 16, 32)}) == pytest.approx(1.5)


@pytest.mark.parametrize("name", suite.USUAL)
def test_every_benchmark_returns_measurements(name: str) -> None:
    assert callable(import_module(f"benchmarks.{name}").measure)


# --- the page -------------------------------------------------------------------------------------------------


def test_the_page_has_the_machine_and_a_row_for_each_measurement(tmp_path: Path) -> None:
    found = results(one(1.0, 1.2, 1.1, goal=1.05), left_out={"he2019": "there is no data"})
    path = written(tmp_path, "bench.json", found)

    assert suite.main(["--from", path, "--page", str(tmp_path / "bench.md")]) == 2

    text = (tmp_path / "bench.md").read_text()
    assert "Measured on 2026-11-30: a processor, 2 cores, Linux" in text
    assert "| a / b | 1.1 | 1 to 1.2 | x | at most 1.05, missed |" in text
    assert "`he2019` was left out: there is no data." in text


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    found = read_document(BenchmarkResults, PAGE.with_suffix(".json"))

    assert suite.page(found) == PAGE.read_text("utf-8")


def test_an_unknown_benchmark_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        suite.main(["speed"])

    assert "speed is not a benchmark; choose from startup, division" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "code"), [(1.0, 0), (2.0, 1)])
def test_the_exit_code_says_whether_a_goal_was_missed(tmp_path: Path, value: float, code: int) -> None:
    path = written(tmp_path, "bench.json", results(one(value, goal=1.5)))

    assert suite.main(["--from", path]) == code


def test_a_benchmark_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOVEN_DATA", raising=False)

    found = suite.run(["he2019"])

    assert found.measurements == ()
    assert "CLOVEN_DATA does not name a folder" in found.left_out["he2019"]


# --- the comparison -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "better", "moved"),
    [
        ((1.0, 1.2), (1.1, 1.3), "lower", None),
        ((1.0, 1.2), (1.2, 1.3), "lower", None),
        ((1.0, 1.2), (1.3, 1.4), "lower", "worse"),
        ((1.0, 1.2), (1.3, 1.4), "higher", "better"),
        ((1.3, 1.4), (1.0, 1.2), "lower", "better"),
        ((1.3, 1.4), (1.0, 1.2), "higher", "worse"),
    ],
)
def test_a_value_moves_if_the_ranges_do_not_overlap(
    before: tuple[float, ...], after: tuple[float, ...], better: Any, moved: str | None
) -> None:
    assert compare.direction(one(*before, better=better), one(*after, better=better)) == moved


def test_what_got_worse_comes_first_and_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = results(one(1.0, 1.1), one(5.0, 5.1, case="c"), one(1.0, case="d"), one(1.0, case="old"))
    after = results(one(0.5, 0.6), one(6.0, 6.1, case="c"), one(1.0, case="d"), one(1.0, case="new"))
    files = [written(tmp_path, f"{name}.json", found) for name, found in (("a", before), ("b", after))]

    assert compare.main(files) == 1
    assert compare.main([files[0], files[0]]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "worse: division: c: 5.05 -> 6.05 x (+20%); 5 to 5.1, then 6 to 6.1",
        "better: division: a / b: 1.05 -> 0.55 x (-48%); 1 to 1.1, then 0.5 to 0.6",
        "only before: division: old (x, lower is better)",
        "only after: division: new (x, lower is better)",
        "2 of 3 values moved by more than the spread",
    ]
    assert lines[5:] == ["0 of 4 values moved by more than the spread"]


def test_another_machine_is_named(tmp_path: Path) -> None:
    before, after = results(one(1.0)), results(one(1.0))
    other = after.surroundings.model_copy(update={"cores": 8})
    moved = after.model_copy(update={"surroundings": other})

    assert next(compare.lines(before, moved, compare.compare(before, moved))) == "cores differs: 2, then 8"


def test_a_file_that_is_no_result_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text('{"date": 1}')

    assert compare.main([str(tmp_path / "a.json")] * 2) == 2
    assert "measurements" in capsys.readouterr().err
