"""The readings of sensors that reconstructions of windows recover, and audits that report them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cloven.auditing.paper import NO_PAPER
from cloven.auditing.pipeline import Execution, execute
from cloven.auditing.readings import Readings, readings_of
from cloven.auditing.request import AuditRequest, study
from cloven.auditing.subject import ModelTraining, how_trained
from cloven.auditing.summary import Summary
from cloven.zoo.datasets import load
from cloven.zoo.images import Images
from tests.zoo.ton_iot_files import write_ton_iot

SENSORS = "sensors=Weather+Garage_Door:window=4:stride=1"
NUMBERS = ("temperature", "pressure", "humidity")
CATEGORIES = ("door_state", "sphone_signal")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"ton-iot:{write_ton_iot(tmp_path_factory.mktemp('ton-iot'))}:{SENSORS}"


@pytest.fixture(scope="module")
def victims(spec: str) -> Images:
    images = load(spec)
    assert images.part is not None
    return images.take(np.flatnonzero(images.part == 2)[:12])


@pytest.fixture(scope="module")
def readings(spec: str, victims: Images) -> Readings:
    found = readings_of(spec, victims)
    assert found is not None
    return found


def test_perfect_reconstructions_have_only_the_error_of_rounding(readings: Readings, victims: Images) -> None:
    """A level of a pixel is one of 256 quantiles; categories come back exactly."""
    scores = readings.scores(victims.rows())

    assert [column for column, _ in scores] == [*NUMBERS, *CATEGORIES]
    for name in NUMBERS:
        found, guessed = scores[name, "error"]
        assert float(found.mean()) < 0.1 * float(guessed.mean())
    for name in CATEGORIES:
        assert scores[name, "accuracy"][0].tolist() == [1.0] * len(victims)


def test_errors_are_in_the_unit_of_the_file(readings: Readings, victims: Images) -> None:
    """Images of one level are decoded to the median: the score of the guess, up to the last level."""
    scores = readings.scores(torch.full((len(victims), *victims.shape), 0.5))

    for i, name in enumerate(NUMBERS):
        expected = np.abs(readings.true[..., i] - readings.guess[i]).mean(1)
        found, guessed = scores[name, "error"]
        assert guessed.tolist() == pytest.approx(expected.tolist())
        assert found.tolist() == pytest.approx(expected.tolist(), abs=0.2)


def test_the_guess_of_a_category_is_the_most_frequent(readings: Readings) -> None:
    for i, name in enumerate(CATEGORIES, len(NUMBERS)):
        assert readings.guess[i] in (0, 1), name


def test_pictures_have_no_readings() -> None:
    assert readings_of("digits", load("digits", limit=3)) is None


def test_whatever_changes_a_score_changes_the_fingerprint(readings: Readings) -> None:
    other = replace(readings, true=readings.true + 1)

    assert other.fingerprint != readings.fingerprint == replace(readings).fingerprint


@pytest.fixture(scope="module")
def summary(spec: str, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    asked = study(
        AuditRequest(
            "lenet5",
            spec,
            "same",
            ("nearest", "probe"),
            ("enclave",),
            ("conv1", "conv3"),
            queries=40,
            input_size=(3, 32, 32),
            judge="none",
            epochs=1,
        )
    )
    short = replace(asked, subject=replace(asked.subject, training=ModelTraining(1, balanced=True)))
    return execute(short, NO_PAPER, Execution(tmp_path_factory.mktemp("audit") / "run"))


@pytest.mark.parametrize(
    ("model", "data", "training"),
    [
        ("torchvision:resnet18", "ton-iot:DIR", ModelTraining(balanced=True)),
        ("torchvision:resnet18", "cifar10:DIR", None),
        ("lenet5", "ton-iot:DIR", None),
        ("package.module:factory", "ton-iot:DIR", None),
    ],
)
def test_a_model_of_a_library_is_trained_on_windows(model: str, data: str, training: ModelTraining | None) -> None:
    """No library has weights for them; the zoo's own models are always trained, a user's own never."""
    subject = study(AuditRequest(model, data, strategies=("enclave",), layers=("conv1",))).subject

    assert subject.training == training
    assert (subject.shape is None) == (training is not None or ":" not in model or "." in model)
    assert how_trained(subject).balanced == data.startswith("ton-iot")


def test_an_audit_of_telemetry_trains_the_model_and_reports_the_readings(summary: Summary) -> None:
    by = {(finding.label, finding.attack): finding for finding in summary.findings}
    (nearest, _), (read, _) = (
        [finding for (_, attack), finding in by.items() if attack == name] for name in ("nearest", "probe")
    )

    assert summary.settings["training weights"] == "equal for all classes"
    assert [(one.column, one.measure) for one in nearest.readings] == [
        *((name, "error") for name in NUMBERS),
        *((name, "accuracy") for name in CATEGORIES),
    ]
    assert read.readings == ()
    for one in nearest.readings:
        sign = 1 if one.measure == "accuracy" else -1
        assert one.gain.mean == pytest.approx(sign * (one.score.mean - one.baseline.mean))
        assert one.gain.low <= one.gain.mean <= one.gain.high
        assert one.learned == (one.gain.low > 0)
