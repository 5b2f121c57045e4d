"""`cloven.Results`: tables, data frames, folders, and the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cloven
from cloven.partition.protection import Protection
from tests.api.test_audit import blobs


@pytest.fixture(scope="module")
def results(program: cloven.Program) -> cloven.Results:
    return cloven.audit(
        cloven.observe(program), ["nearest", "probe"], auxiliary=blobs(120, seed=2), victims=blobs(30, seed=3)
    )


def test_results_print_as_a_short_table(results: cloven.Results) -> None:
    title, verdict, intervals, *table = repr(results).splitlines()

    assert title == "2 observations attacked by nearest, probe"
    assert verdict.startswith(("Pixels: ", "No verdict: "))
    assert intervals == "95 % intervals over images only (one seed)."
    assert table[0].split()[0] == "observation"
    assert [line.split()[0] for line in table[1:]] == ["edge0->edge1", "edge1->edge2"]
    assert len(table) == 3
    assert "<table>" in results._repr_html_()


def test_links_of_one_name_are_told_apart_by_their_programs(model: cloven.Graph) -> None:
    programs = [cloven.divide(model, cloven.Vertical(cuts=[cut])) for cut in ("1", "3")]
    seen = [observation for program in programs for observation in cloven.observe(program)]
    found = cloven.audit(seen, "nearest", auxiliary=blobs(40, seed=2), victims=blobs(30, seed=3))

    lines = repr(found).splitlines()[-2:]
    assert sorted(line.split("->")[0] for line in lines) == ["program 1: edge0", "program 2: edge0"]


def test_a_device_is_named_and_not_its_links(program: cloven.Program) -> None:
    seen = [*cloven.observe(program, device="edge0"), *cloven.observe(program, device="edge1")]
    found = cloven.audit(seen, "nearest", auxiliary=blobs(40, seed=2), victims=blobs(30, seed=3))

    assert [one.place for one in found.findings] == ["device edge0", "device edge1"]
    assert {line[:12] for line in repr(found).splitlines()[-2:]} == {"device edge0", "device edge1"}


def test_a_protected_link_is_not_said_to_leak_to_a_listener(model: cloven.Graph) -> None:
    protection = Protection(default="ascon-aead128", links={"edge1-edge2": "none"})
    plan = cloven.Plan(
        strategy=cloven.Vertical(cuts=["1", "3"]), devices=["edge0", "edge1", "edge2"], protection=protection
    )
    found = cloven.audit(
        cloven.observe(cloven.compile(model, plan)),
        ["nearest", "probe"],
        auxiliary=blobs(120, seed=2),
        victims=blobs(30, seed=3),
    )

    assert "edge0->edge1 (full view, before ascon-aead128 encrypts it)" in repr(
        cloven.observe(cloven.compile(model, plan))[0]
    )
    assert [one.place for one in found.findings if one.protected] == ["edge0->edge1"] * 2
    assert repr(found.strongest()[-1]).startswith("Finding(nearest on edge0->edge1 without ascon-aead128: SSIM")
    (warned,) = found.summary.warnings
    assert warned.startswith("Protected links: edge0->edge1 (ascon-aead128). A listener there sees only ciphertext")
    assert [line.split()[0] for line in repr(found).splitlines()[-2:]] == ["edge1->edge2", "edge0->edge1"]


def test_what_also_crosses_a_link_in_clear_is_exposed(model: cloven.Graph) -> None:
    """In horizontal partitioning a device sends the same share to all others."""
    protection = Protection(default="mtls", links={"b-c": "none"})
    plan = cloven.Plan(strategy=cloven.Horizontal(), devices=["a", "b", "c"], protection=protection)
    seen = cloven.observe(cloven.compile(model, plan), ["b->a", "b->c"], value="1")
    found = cloven.audit(seen, "nearest", auxiliary=blobs(60, seed=2), victims=blobs(30, seed=3))

    assert [(one.place, one.protected) for one in found.findings] == [("b->a", True), ("b->c", False)]
    assert [one.place for one in found.strongest()] == ["b->c"]
    assert [(one.exposed, one.link) for one in found.observations] == [(True, ("b", "c"))]


def test_a_finding_prints_as_one_line(results: cloven.Results) -> None:
    assert repr(results.strongest("labels")[0]).startswith("Finding(")
    assert len(repr(results.findings[0]).splitlines()) == 1


def test_a_data_frame_has_a_row_for_each_finding(results: cloven.Results, tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="the extra `audit`")
    frame = results.to_frame()

    assert len(frame) == len(results.findings) == 4
    assert list(frame["attack"]) == ["nearest", "probe"] * 2
    assert frame["pixel_leakage"].notna().sum() == 2
    assert list(frame["covers"]) == ["images only"] * 4
    assert (frame["label_leakage_high"] >= frame["label_leakage"]).all()
    frame.to_latex(tmp_path / "table.tex")
    assert "\\begin{tabular}" in (tmp_path / "table.tex").read_text()


def test_saved_results_are_read_again(results: cloven.Results, tmp_path: Path) -> None:
    folder = results.save(tmp_path / "kept")

    assert cloven.Results.load(folder).summary == results.summary
    with pytest.raises(cloven.ClovenError, match="kept exists and is not empty"):
        results.save(folder)
    with pytest.raises(cloven.ClovenError, match=r"holds no summary\.json"):
        cloven.Results.load(tmp_path)


def test_a_report_is_one_page(results: cloven.Results, tmp_path: Path) -> None:
    page = cloven.report(results, tmp_path / "report.html").read_text()
    folder = results.save(tmp_path / "kept")

    assert page.startswith("<!doctype html>")
    assert '<ol class="chain' in page
    assert cloven.report(folder, tmp_path / "again.html").read_text() == page
    with pytest.raises(cloven.ClovenError, match=r"results is a Tensor; expected what cloven\.audit"):
        cloven.report(torch.zeros(1), tmp_path / "report.html")  # type: ignore[arg-type]


def test_what_is_not_a_path_is_answered_in_one_sentence(results: cloven.Results, program: cloven.Program) -> None:
    plan = cloven.Plan(strategy=cloven.Vertical(cuts=["1"]), devices=["a", "b"])
    calls: list[Callable[[Any], object]] = [
        results.save,
        cloven.Results.load,
        cloven.Plan.load,
        plan.save,
        lambda path: cloven.report(results, path),
        lambda path: cloven.read_capture(path, program),
    ]
    for call in calls:
        with pytest.raises(cloven.ClovenError, match="is 3; expected a path"):
            call(3)


def test_an_axis_is_pixels_or_labels(results: cloven.Results) -> None:
    with pytest.raises(cloven.ClovenError, match="axis is 'ssim'; choose from pixels, labels"):
        results.strongest("ssim")  # type: ignore[arg-type]


def test_the_summary_has_a_json_schema(results: cloven.Results) -> None:
    schema = type(results.summary).model_json_schema()

    assert schema["properties"]["schema_version"]["const"] == 6
    assert "findings" in schema["required"]
