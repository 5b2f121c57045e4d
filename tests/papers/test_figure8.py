"""Fig. 8 of Rajasekar et al. (2024): the audits of telemetry, the move of the cut, and a tiny figure."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import s2_page

from cloven.auditing.settings import Simulation
from cloven.auditing.summary import Summary
from cloven.documents import parse_document
from cloven.errors import ClovenError
from cloven.papers.s2.figure8 import (
    Audited,
    TelemetryFigure,
    TelemetryStudy,
    attack_telemetry,
    measured_moves,
    published_moves,
)
from cloven.papers.s2.published import EFFICIENTNET, RESNET
from cloven.papers.s2.victims import SCALES, VICTIMS, TelemetryScale, scale_of, telemetry
from cloven.progress import no_progress
from cloven.reporting.telemetry_figure import draw_telemetry
from tests.papers.test_privacy import summary
from tests.zoo.ton_iot_files import write_ton_iot

TINY = TelemetryScale("desk", 32, 1, 40, 24, 1, 1, 40)


def test_the_audits_are_of_both_models_on_both_data_sets() -> None:
    study = TelemetryStudy("ton-iot:DIR", SCALES["desk"], "cifar10:DIR")

    assert [(one.model, one.kind, one.name) for one in study.audits] == [
        (RESNET, "telemetry", "resnet50-ton-iot"),
        (EFFICIENTNET, "telemetry", "efficientnet_b0-ton-iot"),
        (RESNET, "photographs", "resnet50-cifar10"),
        (EFFICIENTNET, "photographs", "efficientnet_b0-cifar10"),
    ]
    asked = [study.settings(one) for one in study.audits]
    assert [one.subject.training.balanced for one in asked if one.subject.training] == [True] * 4
    assert [one.subject.training.images for one in asked if one.subject.training] == [None, None, 5_000, 5_000]
    sources = [one.source for one in asked if isinstance(one.source, Simulation)]
    assert [len(source.taps.layers) for source in sources] == [5, 8, 5, 8]
    assert all(source.taps.every_link for source in sources)


def test_without_photographs_only_telemetry_is_attacked() -> None:
    assert [one.kind for one in TelemetryStudy("ton-iot:DIR", SCALES["desk"]).audits] == ["telemetry"] * 2


def test_the_desk_scale_trains_the_gan_for_at_least_100_epochs() -> None:
    assert SCALES["desk"].gan_epochs >= 100
    with pytest.raises(ClovenError, match="--scale is 'tiny'; choose from desk, full"):
        scale_of("tiny")


def test_the_papers_cuts_move_for_one_of_two_models() -> None:
    found = {row.model: (row.telemetry, row.photographs, row.move) for row in published_moves(VICTIMS)}

    assert found == {RESNET: (3, 4, "earlier"), EFFICIENTNET: (4, 4, "same")}


MODEL = "resnet20"
"""A model with four points; the scores of `summary` have intervals of 0.01 to both sides."""


def moved(telemetry: list[float], photographs: list[float], why_not: str | None = None) -> str:
    found: dict[Audited, Summary] = {
        Audited(MODEL, "telemetry", "ton-iot:DIR"): summary({"cgan": telemetry}),
        Audited(MODEL, "photographs", "cifar10:DIR"): summary({"cgan": photographs}, why_not),
    }
    rows = [row for row in measured_moves(found) if (row.attack, row.rule) == ("cgan", "strict")]
    return rows[0].move


@pytest.mark.parametrize(
    ("telemetry", "photographs", "move"),
    [
        ([0.5, 0.1, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1], "earlier"),
        ([0.5, 0.5, 0.5, 0.1], [0.5, 0.5, 0.1, 0.1], "later"),
        ([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.1, 0.1], "later"),
        ([0.5, 0.1, 0.1, 0.1], [0.6, 0.1, 0.0, 0.1], "same"),
        ([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], "same"),
        ([0.5, 0.195, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1], "undecided"),
    ],
)
def test_a_cut_moves_only_if_the_whole_interval_does(
    telemetry: list[float], photographs: list[float], move: str
) -> None:
    assert moved(telemetry, photographs) == move


def test_a_model_that_learned_nothing_gives_no_verdict() -> None:
    assert moved([0.5, 0.1, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1], "its kappa is too low") == "no verdict"


def test_pictures_are_not_telemetry() -> None:
    with pytest.raises(
        ClovenError, match="--data is 'digits', which has pictures; expected telemetry: ton-iot:DIR"
    ):
        telemetry("digits")


@pytest.mark.slow
def test_a_tiny_figure(tmp_path: Path) -> None:
    spec = f"ton-iot:{write_ton_iot(tmp_path / 'data')}:window=4:stride=1"
    study = TelemetryStudy(spec, TINY, models=(RESNET,), attacks=("nearest",))

    found = attack_telemetry(study, tmp_path / "out", 2, no_progress)

    (model,) = found.models
    assert [row.point for row in model.rows] == [1, 2, 3, 4, 5]
    assert all(len(row.readings) == 3 for row in model.rows)
    assert [row.source for row in found.moves] == ["paper"]
    assert parse_document(TelemetryFigure, found.text(), "figure.json") == found
    assert attack_telemetry(study, tmp_path / "out", 1, no_progress) == found
    tables = [s2_page.attacked, s2_page.telemetry, s2_page.readings, s2_page.moves]
    assert [len(made(found).splitlines()) - 2 for made in tables] == [1, 5, 15, 1]
    draw_telemetry(found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
