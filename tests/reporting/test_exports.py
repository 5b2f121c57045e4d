"""Findings as rows, tables for LaTeX, and figures of leakage by depth."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from cloven.auditing.finding_row import columns, finding_rows
from cloven.reporting.depth_figures import depth_figures, drawn
from cloven.reporting.latex import escaped, latex
from tests.reporting.summaries import captured, document, laddered, only, summary

HOSTILE = r"50% of \input{x} & $a_1^2$ ~#{}<i>|\"*`--`?`"


def test_a_row_has_the_scores_of_a_finding_with_intervals_baselines_and_leakage() -> None:
    (row, *_) = finding_rows(document(summary()), "runs/lenet5")

    assert (row.run, row.model, row.data, row.auxiliary) == ("runs/lenet5", "lenet5", "digits", "photos")
    assert (row.place, row.layers, row.shares) == ("edge0->edge1", "conv2", "conv2 0:16, 0:10, 0:10")
    assert row.ssim == pytest.approx(0.71)
    assert row.ssim_low == pytest.approx(0.71 - 0.024)
    assert (row.ssim_baseline, row.ssim_baseline_name) == (0.112, "domain mean")
    assert row.pixel_leakage == pytest.approx((0.71 - 0.112) / (1 - 0.112))
    assert row.pixel_leakage_high == pytest.approx((0.734 - 0.112) / (1 - 0.112))
    assert row.knowledge.startswith("the shapes of what crosses the link; the class")


def test_what_an_attack_does_not_have_is_empty_and_not_zero() -> None:
    rows = {row.attack: row for row in finding_rows(document(laddered(1)), "run")}

    assert rows["probe"].ssim is rows["probe"].pixel_leakage is rows["probe"].pixel_strongest is None
    assert rows["probe"].epochs is rows["probe"].psnr is rows["probe"].judge is None
    assert rows["probe"].agreement is not None


def test_the_strongest_attack_and_the_outcome_of_its_curves_are_marked() -> None:
    rows = finding_rows(document(laddered(1, ["nearest", "residual"])), "run")

    assert [(row.attack, row.pixel_strongest) for row in rows] == [("nearest", False), ("residual", True)]
    assert [row.pixel_converged for row in rows] == [
        "too few seeds or images to tell",
        "still rises with more pairs and training",
    ]
    assert {row.pixel_converged for row in finding_rows(document(summary()), "run")} == {"not tested"}


def test_every_column_is_documented() -> None:
    assert len({column.name for column in columns()}) == len(columns())
    assert [column.name for column in columns() if not column.meaning or "|" in column.meaning] == []
    assert {column.kind for column in columns()} == {str, int, float, bool}


COMMANDS = set(
    "begin end centering caption label toprule midrule bottomrule cmidrule multicolumn emph textbackslash "
    "textasciitilde textasciicircum textless textgreater textbar to times ldots".split()
)


def entries(row: str) -> int:
    """Return the number of columns that a row of a table fills."""
    cells = re.split(r"(?<!\\)&", row)
    return sum(int(span[1]) if (span := re.search(r"\\multicolumn\{(\d+)\}", cell)) else 1 for cell in cells)


def check_latex(text: str) -> None:
    """Check what LaTeX would reject: commands, environments, braces, and the number of entries in each row."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\[&%$#_{}\\]", "", body)
    assert set(re.findall(r"\\([a-zA-Z]+)", bare)) <= COMMANDS
    assert not re.search(r"\\[^a-zA-Z\s]|[#%^]|(?<!\w)_", bare)
    assert bare.count("$") % 2 == 0
    depth = 0
    for brace in re.findall(r"[{}]", bare):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", bare):
        assert kind == "begin" or opened.pop() == name
        opened += [name] * (kind == "begin")
    assert opened == []
    rows = [line for line in body.splitlines() if line.endswith(r" \\")]
    assert rows
    assert {entries(row) for row in rows} == {9}
    assert not any(line.lstrip().startswith(("[", "*")) for line in body.splitlines())


def cells(text: str) -> list[list[str]]:
    """Return the rows of tables that are not headings."""
    lines = (line.strip().removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\"))
    return [line.split(" & ") for line in lines if "multicolumn" not in line and "Observation" not in line]


def test_a_table_has_scores_with_intervals_and_baselines_by_cut() -> None:
    text = latex([document(summary())])

    check_latex(text)
    assert re.findall(r"\\emph\{(.*?)\}", text)[:4] == [
        "Vertical, after conv2",
        "Vertical, after pool2",
        "Vertical, after conv3",
        "Horizontal, a share of conv2",
    ]
    first = cells(text)[0]
    assert first[:5] == [
        r"edge0$\to$edge1",
        "decoder",
        "0.71 {[}0.69, 0.73{]}",
        "0.11",
        "67 {[}65, 70{]}",
    ]
    assert "95 \\% interval" in text
    assert "images only (one seed)" in text


def test_a_score_that_is_missing_is_a_dash() -> None:
    given = laddered(1, ["probe"])

    assert cells(latex([document(given)]))[0][1:5] == ["--"] * 4


@pytest.mark.parametrize("given", [laddered(3), captured(protected=True), summary(0), summary(data=HOSTILE)])
def test_tables_are_well_formed(given: dict[str, Any]) -> None:
    text = latex([document(given)])

    if given["findings"]:
        check_latex(text)
    assert text.count("\\begin{table}") == 1


def test_audits_of_one_model_and_data_set_share_a_table() -> None:
    text = latex([document(given) for given in (laddered(1), laddered(2), laddered(1, data="cifar10"))])

    check_latex(text)
    assert re.findall(r"\\label\{(.*?)\}", text) == ["tab:lenet5-digits-1", "tab:lenet5-cifar10-2"]


def test_any_name_is_printed_as_it_is() -> None:
    assert escaped("a_b & 50%") == r"a\_b \& 50\%"
    assert escaped("[x] -- *") == "{[}x{]} -{}-{} {*}"
    assert escaped("edge0->edge1") == r"edge0$\to$edge1"
    assert escaped("a\nb\x1b") == "a b"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_tables_compile(tmp_path: Path) -> None:
    texts = latex([document(given) for given in (laddered(3), summary(), summary(model=HOSTILE))])
    source = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{texts}\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(source)

    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def single(layer: int) -> dict[str, Any]:
    """Return an audit of one cut of the made-up model."""
    return only(summary()["findings"][layer])


def test_a_figure_has_the_cuts_of_all_audits_by_depth() -> None:
    deep, shallow, middle = (document(single(layer)) for layer in (2, 0, 1))

    (figure,) = depth_figures([deep, shallow, middle])

    assert (figure.model, figure.strategy) == ("lenet5", "vertical")
    assert list(figure.cuts) == ["after conv2", "after pool2", "after conv3"]
    assert figure.series == ["digits, full view"]


def test_there_is_a_figure_for_each_model_and_strategy_in_three_formats() -> None:
    files = drawn([document(summary()), document(single(0) | {"model": "other"})])

    assert {name.partition(".")[0] for name in files} == {
        "lenet5-vertical", "lenet5-horizontal", "lenet5-data", "other-vertical",
    }  # fmt: skip
    assert files["other-vertical.pdf"].startswith(b"%PDF")
    assert files["other-vertical.png"].startswith(b"\x89PNG")
    assert ElementTree.fromstring(files["other-vertical.svg"]).tag.endswith("svg")


def test_the_same_results_are_the_same_files() -> None:
    found = [document(single(0))]

    assert drawn(found) == drawn(found)


def test_what_no_attack_measured_and_strange_names_are_drawn() -> None:
    odd = laddered(1, ["probe"], model="$x^$ <b>", data="$\\frac$ &")

    assert sorted(drawn([document(odd)])) == [f"_x____b_-vertical.{kind}" for kind in ("pdf", "png", "svg")]
