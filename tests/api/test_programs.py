"""Programs of at most ten lines that do a whole task with only cloven and torch."""

from __future__ import annotations

import pytest
from torch import nn

import cloven
from tests.api.test_audit import blobs

PHOTOS, TESTS = blobs(100, seed=4), blobs(30, seed=5)


def test_an_own_module_is_audited_with_the_residual_attack(net: nn.Module) -> None:
    """One link of a divided model."""
    model = cloven.capture(net, TESTS[:1])
    program = cloven.divide(model, cloven.Vertical(cuts=["1"]), devices=2)
    results = cloven.audit(
        cloven.observe(program), cloven.attacks.Residual(epochs=1), auxiliary=PHOTOS, victims=TESTS
    )
    (finding,) = results.strongest()
    assert finding.attack == "residual"


def test_two_links_are_ranked(net: nn.Module) -> None:
    """The first link leaks more than the second."""
    model = cloven.capture(net, TESTS[:1])
    program = cloven.divide(model, cloven.Vertical(cuts=["1", "3"]), devices=3)
    results = cloven.audit(cloven.observe(program), "residual", auxiliary=PHOTOS, victims=TESTS)
    first, second = results.strongest()
    assert first.link == ("edge0", "edge1")
    assert second.link == ("edge1", "edge2")


def test_two_plans_are_compared(net: nn.Module) -> None:
    """Bytes side by side, and leakage in one audit."""
    model = cloven.capture(net, TESTS[:1])
    programs = [cloven.divide(model, cloven.Vertical(cuts=[cut]), devices=2) for cut in ("1", "3")]
    assert "bytes" in repr(cloven.compare(programs))
    observations = [one for program in programs for one in cloven.observe(program)]
    results = cloven.audit(observations, "nearest", auxiliary=PHOTOS, victims=TESTS)
    assert [finding.strategy for finding in results.findings] == ["program 1", "program 2"]


def test_the_results_are_a_table_in_a_terminal_and_a_frame_elsewhere(program: cloven.Program) -> None:
    """Results are printed as a table, and returned as a data frame."""
    results = cloven.audit(cloven.observe(program), "probe", auxiliary=PHOTOS, victims=TESTS)
    assert "edge0->edge1" in repr(results)
    pytest.importorskip("pandas", reason="the extra `audit`")
    assert set(results.to_frame()["attack"]) == {"probe"}
