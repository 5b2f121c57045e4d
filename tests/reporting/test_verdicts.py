from __future__ import annotations

from cloven.reporting.verdicts import Verdict, verdicts
from tests.reporting.summaries import document, laddered, summary


def seen(given: dict[str, object]) -> list[Verdict]:
    return verdicts(document(given))


def test_what_a_link_carries_stands_first_and_what_leaks_most_before_the_rest() -> None:
    found = seen(summary())
    carried = [verdict.row.crosses for verdict in found]
    assert carried == sorted(carried, reverse=True)
    for some in ([v for v in found if v.row.crosses], [v for v in found if not v.row.crosses]):
        assert [v.row.leaks for v in some] == sorted((v.row.leaks for v in some), reverse=True)


def test_what_is_carried_over_counts_and_keeps_its_own_beside_it() -> None:
    found = {verdict.row.label: verdict for verdict in seen(laddered())}
    reading = found["Layer 1"].readings["ssim"]
    deeper = found["Layer 2"].readings["ssim"]
    assert reading is not None
    assert deeper is not None
    assert reading.carried
    assert reading.own is not None
    assert reading.score.mean == deeper.score.mean > reading.own.mean
    assert not deeper.carried


def test_a_reading_knows_the_finding_that_made_it() -> None:
    for verdict in seen(laddered()):
        for metric in ("ssim", "agreement"):
            reading = verdict.readings[metric]
            assert reading is not None
            assert reading.finding is not None
            assert reading.own is not None
            assert reading.finding.attack == reading.own.attack == "residual"
            score = reading.finding.score(metric)
            assert score is not None
            assert score.mean == reading.own.mean


def test_a_gauge_keeps_what_is_out_of_its_scale_at_its_ends() -> None:
    given = laddered()
    given["observations"][3]["counts"]["pixels"] |= {"mean": -0.2, "low": -0.4, "high": 1.2, "baseline": 0.5}
    (verdict,) = [v for v in seen(given) if v.row.label == "Layer 4"]
    reading = verdict.readings["ssim"]
    assert reading is not None
    assert reading.gauge == {"mean": 6.0, "low": 6.0, "high": 134.0, "baseline": 70.0}
    assert reading.standing == "reaches"


def test_a_probe_alone_gives_a_reading_of_labels_and_none_of_images() -> None:
    found = seen(laddered(attacks=("probe",)))
    assert len(found) == 4
    assert all(v.readings["ssim"] is None and v.readings["agreement"] is not None for v in found)
