"""Study files: their audits, what they refuse, and how two of them differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloven.auditing.study_file import StudyFile, difference, planned_audits, read_study, without
from cloven.auditing.study_run import left_of, status
from cloven.documents import read_toml_document
from cloven.errors import ClovenError

MODEL = '[[models]]\nname = "lenet5"\n'


def study(text: str, tmp_path: Path) -> StudyFile:
    path = tmp_path / "study.toml"
    path.write_text(MODEL + text)
    return read_study(path)


def test_each_combination_of_model_data_queries_and_devices_is_an_audit(tmp_path: Path) -> None:
    text = """
    [axes]
    queries = [100, 200]
    devices = [2, 4]
    attacks = ["nearest", "probe"]
    seeds = 3
    """
    audits = planned_audits(study(text, tmp_path))

    asked = [(audit.request.queries, audit.request.devices, audit.request.strategies) for audit in audits]
    assert asked == [
        (100, 2, ("vertical", "horizontal", "data")),
        (200, 2, ("vertical", "horizontal", "data")),
        (100, 4, ("horizontal", "data")),
        (200, 4, ("horizontal", "data")),
    ]
    assert [audit.combinations for audit in audits] == [18, 18, 12, 12]
    assert audits[0].name.startswith("lenet5-digits-photos-100-queries-2-devices-")
    assert len({audit.name for audit in audits}) == 4


def test_an_enclave_is_audited_separately(tmp_path: Path) -> None:
    text = 'layers = ["conv1", "conv2"]\n[axes]\nstrategies = ["enclave", "vertical"]\n'
    audits = planned_audits(study(text, tmp_path))

    assert [audit.request.strategies for audit in audits] == [("vertical",), ("enclave",)]
    assert "enclave" in audits[1].name


def test_names_stay_when_a_study_grows(tmp_path: Path) -> None:
    (before,) = planned_audits(study("", tmp_path))
    after = planned_audits(
        study('[axes]\nqueries = []\nattacks = ["probe", "nearest"]\ndevices = [4, 8]\nseeds = 2\n', tmp_path)
    )

    assert before.name == after[0].name
    assert len(after) == 2


def test_excluded_combinations_are_left_out_and_no_others(tmp_path: Path) -> None:
    text = """
    [axes]
    attacks = ["nearest", "probe"]
    transforms = ["none", "int8"]
    [[exclude]]
    strategies = ["data"]
    [[exclude]]
    strategies = ["horizontal"]
    attacks = ["probe"]
    """
    found = [
        (strategy, transform, attack)
        for audit in planned_audits(study(text, tmp_path))
        for strategy in audit.request.strategies
        for transform in audit.request.defences
        for attack in audit.request.attacks
    ]

    assert len(found) == len(set(found))
    assert set(found) == {
        (strategy, transform, attack)
        for strategy in ("vertical", "horizontal")
        for transform in ("none", "int8")
        for attack in ("nearest", "probe")
        if (strategy, attack) != ("horizontal", "probe")
    }


def test_the_rest_of_a_box_without_another_is_disjoint() -> None:
    box = {"data": ("a", "b", "c"), "attacks": ("x", "y"), "devices": (2, 4)}
    rest = list(without(box, {"data": ("a", "b"), "attacks": ("y",), "devices": (4, 8)}))

    points = [
        (data, attack, devices)
        for part in rest
        for data in part["data"]
        for attack in part["attacks"]
        for devices in part["devices"]
    ]
    assert len(points) == len(set(points)) == 12 - 2
    assert list(without(box, {"data": ("d",)})) == [box]


def test_all_problems_of_entries_are_named_at_once(tmp_path: Path) -> None:
    text = """
    weihgts = "w.pth"
    [axes]
    data = ["didgits"]
    strategies = ["diagonal"]
    transforms = ["int9"]
    attacks = ["decoder", "guess"]
    seeds = 0
    [limits]
    pixels = 2.0
    """
    with pytest.raises(ClovenError) as refused:
        study(text, tmp_path)

    wrong = str(refused.value)
    for part in ("weihgts", "didgits", "diagonal", "int9", "guess", "axes.seeds", "limits.pixels"):
        assert part in wrong
    assert len(refused.value.problems) == 7


def test_all_contradictions_are_named_at_once(tmp_path: Path) -> None:
    text = """
    [[models]]
    name = "lenet5"
    [axes]
    strategies = ["enclave"]
    attacks = ["probe", "probe"]
    devices = []
    [[exclude]]
    [[exclude]]
    data = ["photos"]
    [digests]
    "digits" = "0000000000000000000000000000000000000000000000000000000000000000"
    """
    with pytest.raises(ClovenError) as refused:
        study(text, tmp_path)

    for part in (
        "give one of them another label",
        "probe occurs 2",
        "exclude.0 is empty",
        "exclude.1.data",
        "digits",
    ):
        assert part in str(refused.value)


def test_a_study_that_excludes_everything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClovenError, match="all are excluded"):
        planned_audits(study('[[exclude]]\nmodels = ["lenet5"]\n', tmp_path))


def test_a_study_of_ten_million_combinations_is_refused(tmp_path: Path) -> None:
    queries = list(range(2, 10_002))
    huge = study(f"[axes]\nqueries = {queries}\nseeds = 1000\nstrategies = ['vertical']\n", tmp_path)

    with pytest.raises(ClovenError, match=r"20,000,000 combinations \(10000 queries, 2 attacks, 1000 seeds\)"):
        planned_audits(huge)
    with pytest.raises(ClovenError, match="expected at most 1,000,000"):
        status(huge, tmp_path / "run")


def test_the_difference_names_audits_values_and_settings(tmp_path: Path) -> None:
    before = study('[axes]\nattacks = ["nearest", "probe"]\nseeds = 2\nstrategies = ["vertical"]\n', tmp_path)
    after = study(
        '[axes]\nattacks = ["nearest", "knn"]\nseeds = 3\nstrategies = ["vertical"]\nqueries = []\n'
        'auxiliary = ["photos", "same"]\n[limits]\npixels = 0.1\n',
        tmp_path,
    )
    found = difference(before, after)

    assert found.added == tuple(audit.name for audit in planned_audits(after)[1:])
    assert [found.new_combinations, found.dropped_combinations] == [6 - 2 + 6, 4 - 2]
    text = "\n".join(found.sentences())
    for part in (
        "attacks: knn new",
        "attacks: probe removed",
        "seeds: 2 before, 3 now",
        "limits.pixels: None before",
    ):
        assert part in text
    assert not difference(before, before)


def test_a_changed_setting_changes_every_combination(tmp_path: Path) -> None:
    found = difference(study("", tmp_path), study("[audit]\nepochs = 3\n", tmp_path))

    assert [found.new_combinations, found.dropped_combinations] == [6, 6]
    assert "epochs: None before, 3 now" in found.sentences()[0]


def test_the_title_does_not_identify_a_study(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('title = "one"\n' + MODEL)
    one = read_toml_document(StudyFile, path)
    path.write_text('title = "other"\n' + MODEL)

    assert one.identity() == read_toml_document(StudyFile, path).identity()
    assert one.identity() != study("[limits]\npixels = 0.5\n", tmp_path).identity()


def test_what_is_left_is_decided_without_reading_a_file(tmp_path: Path) -> None:
    audits = planned_audits(study("[axes]\nqueries = [100, 200, 300]\n", tmp_path))
    for audit in audits[:2]:
        (tmp_path / "run" / "audits" / audit.name).mkdir(parents=True)
        (tmp_path / "run" / "audits" / audit.name / "summary.json").mkdir()  # reading it would fail

    assert left_of(audits, tmp_path / "run") == [audits[2]]


def test_shards_have_each_audit_once(tmp_path: Path) -> None:
    audits = planned_audits(study("[axes]\nqueries = [100, 200, 300, 400, 500]\n", tmp_path))
    shards = [left_of(audits, tmp_path / "run", (i, 3)) for i in (1, 2, 3)]

    assert sorted(audit.name for shard in shards for audit in shard) == sorted(audit.name for audit in audits)
    with pytest.raises(ClovenError, match="--shard is 4/3"):
        left_of(audits, tmp_path / "run", (4, 3))


def test_a_study_that_has_not_begun_is_planned(tmp_path: Path) -> None:
    found = status(study("", tmp_path), tmp_path / "run")

    assert found.counts == {"planned": 1, "started": 0, "running": 0, "failed": 0, "done": 0}
    assert (found.cells.left, found.cells.left_is_estimated, found.seconds_left) == (6, True, None)
