"""``cloven results``: the table of finished audits, and their exports."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from cloven.auditing.finding_row import FindingTable, columns
from tests.cli.conftest import Run
from tests.reporting.runs import write_run
from tests.reporting.summaries import laddered, summary


def test_without_options_the_strongest_attacks_are_printed(cloven: Run, here: Path) -> None:
    write_run(here / "run", laddered(2))

    done = cloven("results", "run")

    assert done.code == 0, done.err
    title, attacked, *_ = done.out.splitlines()
    assert title == "run: lenet5 on digits"
    assert attacked == "2 observations attacked by nearest, probe, screen, decoder, cgan, residual"
    assert "edge0->edge1" in done.out


def test_csv_parquet_and_json_have_the_same_rows(cloven: Run, here: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra `audit`")
    write_run(here / "run", laddered(2, ["probe", "residual"]))

    done = cloven("results", "run", "--csv", "new/out.csv", "--parquet", "out.parquet", "--json")

    assert done.code == 0, done.err
    rows = json.loads(done.out)["rows"]
    assert [(row["attack"], row["pixel_strongest"]) for row in rows] == [("probe", None), ("residual", True)] * 2
    assert parquet.read_table("out.parquet").to_pylist() == rows
    with Path("new/out.csv").open(newline="") as file:
        texts = list(csv.DictReader(file))
    assert [float(row["ssim"]) if row["ssim"] else None for row in texts] == [row["ssim"] for row in rows]
    assert texts[0].keys() == rows[0].keys()
    assert texts[0]["crosses"] == "true"
    assert [row["seed_values"] for row in texts] == ["0 1 2"] * 4


def test_parquet_has_the_meaning_of_its_columns(cloven: Run, here: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra `audit`")
    write_run(here / "run", summary(1))
    cloven("results", "run", "--parquet", "out.parquet")

    schema = parquet.read_schema("out.parquet")

    assert schema.names == [column.name for column in columns()]
    assert schema.field("victims").metadata == {b"meaning": b"number of victim images"}
    assert str(schema.field("pixel_leakage").type) == "double"


def test_json_follows_its_published_schema(cloven: Run, here: Path) -> None:
    write_run(here / "run", summary())

    table = FindingTable.model_validate_json(cloven("results", "run", "--json").out)

    assert len(table.rows) == 19
    assert {row.run for row in table.rows} == {"run"}


def test_a_folder_of_audits_gives_the_rows_of_all_that_have_ended(cloven: Run, here: Path) -> None:
    write_run(here / "runs" / "digits", summary(2))
    write_run(here / "runs" / "deep" / "cifar", summary(3, data="cifar10"))
    write_run(here / "runs" / "going-on", summary(1))
    (here / "runs" / "going-on" / "summary.json").unlink()

    done = cloven("results", "runs", "runs/digits", "--json")

    assert done.code == 0
    assert [row["run"] for row in json.loads(done.out)["rows"]] == ["runs/deep/cifar"] * 3 + ["runs/digits"] * 2
    assert "runs/going-on is left out: the audit in it has not ended" in done.err


def test_figures_and_tables_are_written(cloven: Run, here: Path) -> None:
    write_run(here / "run", summary())

    done = cloven("results", "run", "--figures", "figures", "--latex", "table.tex")

    assert done.code == 0, done.err
    assert sorted(path.name for path in (here / "figures").iterdir()) == [
        f"lenet5-{strategy}.{kind}"
        for strategy in ("data", "horizontal", "vertical")
        for kind in ("pdf", "png", "svg")
    ]
    assert "\\begin{tabular}" in Path("table.tex").read_text()
    assert done.out == ""


def test_all_problems_are_named_and_nothing_is_written(cloven: Run, here: Path) -> None:
    (here / "empty").mkdir()
    damaged = write_run(here / "damaged", summary(2))
    first, second = sorted((damaged / "cells").glob("*.json"))
    first.write_text(first.read_text().replace('"victims": 180', '"victims": 181'))
    second.unlink()
    old = write_run(here / "old", summary(1)) / "summary.json"
    _as_another_version(old)
    write_run(here / "going-on", summary(1))
    (here / "going-on" / "summary.json").unlink()

    done = cloven("results", "absent", "empty", "damaged", "old", "going-on", "--csv", "out.csv")

    assert done.code == 2
    assert "cannot read absent: No such file or directory; expected the folder of an audit" in done.err
    assert "empty holds no finished audit; give a folder that `cloven audit` wrote" in done.err
    assert f"{first.relative_to(here)} was edited or damaged" in done.err
    assert f"cannot read {second.relative_to(here)}: No such file or directory" in done.err
    assert "old/summary.json was written by another version of cloven (schema 5, here 6)" in done.err
    assert "going-on holds no summary.json; give the folder of an audit that has ended" in done.err
    assert not (here / "out.csv").exists()


def test_many_damaged_cells_are_counted(cloven: Run, here: Path) -> None:
    run = write_run(here / "run", summary(30))
    for cell in (run / "cells").iterdir():
        cell.write_text("{}")

    done = cloven("results", "run")

    assert done.code == 2
    assert len(done.err.splitlines()) == 21
    assert done.err.endswith("run: 10 more problems\n")


def test_two_exports_need_two_files(cloven: Run, here: Path) -> None:
    write_run(here / "run", summary(1))

    done = cloven("results", "run", "--csv", "out", "--latex", "./out")

    assert done.code == 2
    assert "--csv, --parquet and --latex name one file twice; give each its own" in done.err
    assert not (here / "out").exists()


def test_a_missing_package_is_named_with_its_extra(
    cloven: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(here / "run", summary(1))
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    done = cloven("results", "run", "--csv", "out.csv", "--parquet", "out.parquet")

    assert done.code == 2
    assert "pyarrow is not installed; it comes with an extra: pip install 'cloven[audit]'" in done.err
    assert not (here / "out.csv").exists()


@pytest.mark.slow
def test_ten_thousand_cells_are_exported(cloven: Run, here: Path) -> None:
    write_run(here / "run", summary(10_000))

    done = cloven("results", "run", "--csv", "out.csv")

    assert done.code == 0, done.err
    with Path("out.csv").open(newline="") as file:
        assert sum(1 for _ in csv.reader(file)) == 10_001


def _as_another_version(path: Path) -> None:
    from cloven.auditing.store import DIGEST, write_document

    found = json.loads(path.read_text()) | {"schema_version": 5}
    write_document(path, {name: value for name, value in found.items() if name != DIGEST})
