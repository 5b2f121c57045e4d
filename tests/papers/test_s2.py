"""Table III and the rule of Rajasekar et al. (2024), and the cost that is fitted to the times."""

from __future__ import annotations

from itertools import product
from math import nan
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cloven
from cloven.cost.profile import DeviceProfile, read_profile
from cloven.documents import parse_document
from cloven.errors import ClovenError
from cloven.papers.points import points
from cloven.papers.s2.enclave_fit import (
    EPC,
    EnclaveCost,
    EnclaveLoad,
    PublishedTable,
    bare_graph,
    document,
    fitted,
    load,
    published,
)
from cloven.papers.s2.partitions import MODELS, Layers, PartitionTableName, in_words, partition_table
from cloven.papers.s2.published import EFFICIENTNET, RESNET, TABLE_3, VGG, PublishedTimes, optimal

# --- where to cut ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "strict", "tolerant"),
    [
        ([0.6, 0.5, 0.4, 0.3, 0.25, 0.22, 0.21, 0.19, 0.18, 0.17, 0.16, 0.15, 0.14], 8, 8),
        ([0.6, 0.4, 0.25, 0.15, 0.1], 4, 4),
        ([0.5, 0.4, 0.3, 0.19, 0.21, 0.22, 0.15, 0.1], 7, 4),
        ([0.5, 0.3, 0.15, 0.1, 0.25], None, None),
        ([0.6, 0.22, 0.1], 3, 3),  # a point slightly above the threshold is never chosen
        ([0.2, 0.2], None, None),
        ([0.1], 1, 1),
        ([], None, None),
    ],
)
def test_the_papers_rule(scores: list[float], strict: int | None, tolerant: int | None) -> None:
    assert optimal(scores) == strict
    assert optimal(scores, tolerance=0.03) == tolerant


@given(st.lists(st.floats(-1, 1), max_size=9), st.floats(-1, 1), st.floats(0, 0.5))
def test_the_point_is_the_first_that_is_low_and_stays_low(
    scores: list[float], threshold: float, tolerance: float
) -> None:
    def low(point: int) -> bool:
        return scores[point - 1] < threshold and max(scores[point:], default=-2) < threshold + tolerance

    found = optimal(scores, threshold, tolerance)

    assert found == next((point for point in range(1, len(scores) + 1) if low(point)), None)


def test_scores_and_limits_out_of_range_are_refused() -> None:
    with pytest.raises(ClovenError) as caught:
        optimal([0.5, 1.5, nan], 2, -1)

    assert caught.value.problems == (
        "the SSIM of point 2 must be between -1 and 1, got 1.5",
        "the SSIM of point 3 must be between -1 and 1, got nan",
        "the threshold must be between -1 and 1, got 2",
        "the tolerance must be 0 or more, got -1",
    )


# --- Table III ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", TABLE_3, ids=lambda row: f"{row.model}-{row.data}")
def test_the_printed_percentages_are_truncated_from_the_printed_times(row: PublishedTimes) -> None:
    assert row.derived == row.printed
    assert float(row.ratio) == pytest.approx(1 / (1 - float(row.reduction) / 100))


def test_rounded_percentages_differ_from_the_printed_ones() -> None:
    by = {(row.model, row.data): row for row in TABLE_3}

    assert round(float(by[VGG, "ImageNet"].reduction), 1) == 66.7
    assert round(float(by[RESNET, "TON_IoT"].reduction), 1) == 24.4
    assert [round(float(by[key].ratio), 2) for key in ((VGG, "ImageNet"), (RESNET, "TON_IoT"))] == [3.0, 1.32]


def test_the_numbers_of_points_are_those_of_the_paper() -> None:
    assert {row.model: row.row().partition_points for row in TABLE_3} == {VGG: 13, RESNET: 5, EFFICIENTNET: 8}
    assert all(row.point in {point.number for point in points(row.model, "s2")} for row in TABLE_3)


# --- Tables I and II ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["I", pytest.param("II", marks=pytest.mark.slow)])
def test_the_layers_on_both_sides_of_a_cut_are_those_that_the_paper_prints(name: PartitionTableName) -> None:
    found = partition_table(name, bare_graph(MODELS[name]))

    assert [row.point for row in found.rows] == list(range(1, {"I": 5, "II": 8}[name] + 1))
    assert all(row.agrees for row in found.rows)
    assert all(row.counted_enclave.shortcuts + row.counted_gpu.shortcuts == 4 * (name == "I") for row in found.rows)


def test_layers_as_text() -> None:
    assert in_words(Layers(convolutions=1, blocks=15, linear=1)) == "1 conv + 15 MBConv + 1 FC"
    assert in_words(Layers(linear=1)) == "1 FC"


# --- the fit --------------------------------------------------------------------------------------------------


@given(st.tuples(*[st.floats(0.01, 9)] * 4))
def test_times_that_follow_the_model_are_fitted_exactly(parts: tuple[float, float, float, float]) -> None:
    fixed, op, byte, mac = parts[0], parts[1] / 100, parts[2] / 1e8, parts[3] / 1e10
    loads = [
        EnclaveLoad(ops, size, macs) for ops, size, macs in product((20, 90), (10**6, 5 * 10**8), (10**8, 10**10))
    ]
    times = [fixed + op * load.ops + byte * max(0, load.weight_bytes - EPC) + mac * load.macs for load in loads]

    found = fitted(loads, times)

    assert (found.fixed, found.op, found.byte, found.mac) == pytest.approx((fixed, op, byte, mac))


@pytest.fixture(scope="module")
def program() -> cloven.Program:
    """A convolution of 40 bytes and a linear layer of 34,600 bytes, in one device."""
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.Flatten(), torch.nn.Linear(864, 10, bias=True))
    return cloven.divide(cloven.capture(net, torch.zeros(1, 1, 26, 38)), cloven.Vertical(cuts=[]), devices=1)


def test_the_work_of_an_enclave_is_counted_in_its_program(program: cloven.Program) -> None:
    assert load(program) == EnclaveLoad(ops=3, weight_bytes=4 * (9 + 1 + 8640 + 10), macs=9 * 864 + 8640)


@pytest.mark.parametrize(("epc", "beyond"), [(34_640, 0), (34_000, 640), (0, 34_640)])
def test_only_weights_beyond_the_protected_memory_are_paged(program: cloven.Program, epc: int, beyond: int) -> None:
    cost = EnclaveCost(fixed=1.0, op=0.5, byte=1e-3, mac=1e-6, epc=epc)

    assert cost.seconds(program) == pytest.approx(1.0 + 3 * 0.5 + beyond * 1e-3 + 16_416 * 1e-6)


def test_no_part_is_negative() -> None:
    """For more work in less time, unconstrained least squares would give a negative cost."""
    found = fitted([EnclaveLoad(1, 0, 10**9), EnclaveLoad(1, 0, 10**10)], [4.0, 2.0])

    assert (found.mac, found.byte) == (0.0, 0.0)
    assert found.fixed + found.op == pytest.approx(3.0)


def test_invalid_input_of_a_fit_is_refused() -> None:
    with pytest.raises(ClovenError) as caught:
        fitted([EnclaveLoad(1, 1, 1)], [1.0, 2.0], -1)

    assert caught.value.problems == (
        "got 2 times for 1 loads; expected one time for each, at least one",
        "the protected memory must be 0 bytes or more, got -1",
    )


def test_the_document_has_each_printed_time_beside_its_fit(program: cloven.Program) -> None:
    times = published()
    found = document(dict.fromkeys(times, program))

    rows = found.fit.rows
    assert len(rows) == len(times) == 7
    for row in rows:
        assert row.published_seconds == times[row.model, row.point]
        assert row.residual_seconds == pytest.approx(row.published_seconds - row.fitted_seconds, abs=2e-3)
    assert parse_document(PublishedTable, found.text(), "table3.json") == found


def test_the_shipped_enclave_is_the_fit_to_the_published_times() -> None:
    table = parse_document(PublishedTable, Path("docs/papers/s2/table3.json").read_text("utf-8"), "table3.json")
    fit, shipped = table.fit.profile(), read_profile(DeviceProfile, "sgx-enclave", Path())

    assert shipped.memory is not None
    assert fit.memory is not None
    assert shipped.compute.segment == pytest.approx(fit.compute.segment, rel=1e-3)
    assert shipped.compute.operator == pytest.approx(fit.compute.operator, rel=1e-3)
    assert shipped.compute.macs_per_second is fit.compute.macs_per_second is None
    assert shipped.memory.available == fit.memory.available
    assert shipped.memory.paging == pytest.approx(fit.memory.paging, rel=1e-3)
