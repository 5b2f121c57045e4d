"""The classifiers of telemetry: the most frequent class, trees on rows, and CNNs under each split."""

from __future__ import annotations

import pytest
from benchmarks import s2_page

from cloven.documents import parse_document
from cloven.errors import ClovenError
from cloven.papers.s2.classifiers import MAJORITY, TREES, ClassifierStudy, ClassifierTable, compared, unit_scores
from cloven.papers.s2.victims import TelemetryScale
from cloven.progress import no_progress
from tests.zoo.ton_iot_files import types_of, write_ton_iot

TINY = TelemetryScale("desk", 32, 1, 40, 12, 1, 1, 40)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"ton-iot:{write_ton_iot(tmp_path_factory.mktemp('ton-iot'))}:window=4"


@pytest.fixture(scope="module")
def table(spec: str) -> ClassifierTable:
    return compared(ClassifierStudy(spec, TINY, ("lenet5",)), 2, no_progress)


def test_each_classifier_is_scored_under_each_split(table: ClassifierTable) -> None:
    assert [(row.split, row.classifier) for row in table.rows] == [
        (way, name) for way in ("blocks", "time", "random") for name in (MAJORITY, TREES, "lenet5")
    ]
    assert (table.data, table.sensors, table.window, table.shape) == ("ton-iot", ("Weather",), 4, (3, 32, 32))
    assert parse_document(ClassifierTable, table.text(), "table.json") == table


def test_the_confusion_has_a_row_for_each_class(table: ClassifierTable) -> None:
    for row in table.rows:
        assert [one.name for one in row.classes] == types_of("Weather")
        assert [sum(counts) for counts in row.confusion] == [one.windows for one in row.classes]
        assert sum(one.windows for one in row.classes) == row.test_windows
        right = [counts[i] / sum(counts) for i, counts in enumerate(row.confusion)]
        assert [one.recall.mean for one in row.classes] == pytest.approx(right)
        assert row.accuracy.low <= row.accuracy.mean <= row.accuracy.high


def test_the_page_has_a_row_for_each_classifier(table: ClassifierTable) -> None:
    assert len(s2_page.classifiers(table).splitlines()) == 2 + len(table.rows)


def test_the_most_frequent_class_has_no_kappa(table: ClassifierTable) -> None:
    (row,) = (row for row in table.rows if (row.classifier, row.split) == (MAJORITY, "blocks"))

    assert row.kappa == 0
    assert sum(one.recall.mean for one in row.classes) == 1


def test_a_unit_is_the_same_in_this_process(spec: str, table: ClassifierTable) -> None:
    """A trained CNN is in the cache, so that a comparison continues where it was stopped."""
    assert unit_scores(ClassifierStudy(spec, TINY, ("lenet5",)), 2) == table.rows[2]


def test_a_given_split_is_refused(spec: str) -> None:
    with pytest.raises(ClovenError, match="leave out split: all splits are compared"):
        compared(ClassifierStudy(f"{spec}:split=time", TINY, ()), 1, no_progress)
