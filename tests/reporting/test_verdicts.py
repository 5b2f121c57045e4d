from __future__ import annotations

from typing import Any

import pytest

from cloven.reporting.verdicts import verdicts, worst
from tests.reporting.summaries import laddered, summary


def test_what_a_link_carries_stands_first_and_what_leaks_most_before_the_rest() -> None:
    found = verdicts(summary())
    carried = [bool(verdict.row["crosses"]) for verdict in found]
    assert carried == sorted(carried, reverse=True)
    for some in ([v for v in found if v.row["crosses"]], [v for v in found if not v.row["crosses"]]):
        assert [v.leak for v in some] == sorted((v.leak for v in some), reverse=True)
    assert worst(found) is found[0]


def test_what_no_link_carries_is_never_the_worst() -> None:
    given = summary()
    for row in given["verdicts"]:
        row["crosses"] = False
    assert worst(verdicts(given)) is None


def test_what_is_carried_over_counts_and_keeps_its_own_beside_it() -> None:
    found = {verdict.row["label"]: verdict for verdict in verdicts(laddered())}
    reading = found["Layer 1"].readings["ssim"]
    deeper = found["Layer 2"].readings["ssim"]
    assert reading is not None
    assert deeper is not None
    assert reading.carried
    assert reading.own is not None
    assert reading.score["mean"] == deeper.score["mean"] > reading.own["mean"]
    assert not deeper.carried


def test_a_reading_knows_the_finding_that_made_it() -> None:
    for verdict in verdicts(laddered()):
        for metric in ("ssim", "agreement"):
            reading = verdict.readings[metric]
            assert reading is not None
            assert reading.finding is not None
            assert reading.own is not None
            assert reading.finding["attack"] == reading.own["attack"] == "residual"
            assert reading.finding[metric]["mean"] == reading.own["mean"]


def test_a_gauge_keeps_what_is_out_of_its_scale_at_its_ends() -> None:
    given = laddered()
    given["verdicts"][3]["strongest"]["ssim"] |= {
        "mean": -0.2,
        "low": -0.4,
        "high": 1.2,
        "floor": None,
        "above": None,
    }
    (verdict,) = [v for v in verdicts(given) if v.row["label"] == "Layer 4"]
    reading = verdict.readings["ssim"]
    assert reading is not None
    assert reading.gauge == {"mean": 6.0, "low": 6.0, "high": 134.0}
    assert reading.standing == "unknown"
    assert verdict.leading == "agreement"


def test_a_probe_alone_gives_a_reading_of_labels_and_none_of_images() -> None:
    for verdicts_given in (True, False):
        given: dict[str, Any] = laddered(attacks=("probe",))
        found = verdicts(given if verdicts_given else given | {"verdicts": []})
        assert len(found) == 4
        assert all(v.readings["ssim"] is None and v.leading == "agreement" for v in found)


@pytest.mark.parametrize("attacks", [("decoder",), ("nearest", "probe", "screen")])
def test_verdicts_made_of_findings_are_those_of_the_summary(attacks: tuple[str, ...]) -> None:
    given = laddered(attacks=attacks)
    for row in given["verdicts"]:
        row |= {"carried": {"ssim": None, "agreement": None}, "flags": [], "converged": "not tested"}
    assert [v.row for v in verdicts(given)] == [v.row for v in verdicts(given | {"verdicts": []})]
