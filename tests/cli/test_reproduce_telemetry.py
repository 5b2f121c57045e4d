"""``cloven reproduce s2`` for telemetry: the options that it refuses, and the table of classifiers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloven.papers.s2.classifiers import MAJORITY, TREES
from tests.cli.conftest import Run
from tests.zoo.ton_iot_files import write_ton_iot

EIGHT, CLASSIFIERS = ("--figure", "8"), ("--table", "classifiers")


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (EIGHT, ("--data is missing; give the telemetry, ton-iot:DIR",)),
        (CLASSIFIERS, ("--data is missing; give the telemetry, ton-iot:DIR",)),
        ((*EIGHT, "--scale", "tiny", "--device", "abacus"), ("--scale is 'tiny'", "--data is missing", "abacus")),
        ((*EIGHT, "--data", "digits"), ("--data is 'digits', which has pictures; expected telemetry",)),
        ((*CLASSIFIERS, "--data", "digits"), ("--data is 'digits', which has pictures; expected telemetry",)),
        ((*EIGHT, "--data", "ton-iot:there"), ("there",)),
        ((*EIGHT, "--data", "ton-iot:there", "--model", "lenet5"), ("do not cut 'lenet5'",)),
        ((*EIGHT, "--data", "ton-iot:DIR:window=4", "--attacks", "nonesuch"), ("no attack is named 'nonesuch'",)),
        ((*EIGHT, "--data", "ton-iot:DIR:window=4", "--photographs", "folder:there"), ("there",)),
        ((*CLASSIFIERS, "--data", "ton-iot:DIR:window=4:split=time"), ("leave out split: all splits are",)),
    ],
)
def test_invalid_options_are_refused(
    cloven: Run,
    here: Path,
    tmp_path_factory: pytest.TempPathFactory,
    options: tuple[str, ...],
    messages: tuple[str, ...],
) -> None:
    folder = str(write_ton_iot(tmp_path_factory.mktemp("ton-iot")))
    done = cloven("reproduce", "s2", *(option.replace("DIR", folder) for option in options))

    assert done.code == 2
    assert "Traceback" not in done.err
    for message in messages:
        assert message in done.err
    assert not list(here.iterdir())


def test_the_table_of_classifiers(cloven: Run, here: Path) -> None:
    spec = f"ton-iot:{write_ton_iot(here / 'data')}:window=4"
    done = cloven(
        "reproduce", "s2", *CLASSIFIERS, "--data", spec, "--model", "lenet5", "--out", "out", "--jobs", "1"
    )

    assert done.code == 0, done.err
    for word in (MAJORITY, TREES, "lenet5", "Macro-F1", "Recall", "scanning"):
        assert word in done.out
    table = json.loads((here / "out" / "table.json").read_text("utf-8"))
    assert [row["split"] for row in table["rows"]] == ["blocks"] * 3 + ["time"] * 3 + ["random"] * 3
