"""The privacy study of Rajasekar et al. (2024): partition points, the audit, and the cuts by made-up findings."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from cloven.auditing.finding import Finding
from cloven.auditing.settings import Simulation
from cloven.auditing.summary import AuditVerdict, Summary
from cloven.auditing.targets import of_strategies
from cloven.enclave.sweep import CutTimes, summarised
from cloven.enclave.timing import MeasuredMachine
from cloven.errors import ClovenError
from cloven.papers.s2.enclave_times import TimesFigure, table_3
from cloven.papers.s2.privacy import AMOUNTS, ChosenPoint, ChosenPoints, PrivacyStudy, cuts, document, settings
from cloven.papers.s2.published import EFFICIENTNET, RESNET, VGG
from cloven.runtime.capture import capture
from cloven.zoo.named import make

STUDY = PrivacyStudy("resnet20", "cifar10:DIR", "folder:DIR", Path("w.th"), AMOUNTS["desk"])


MACHINE = MeasuredMachine(processor="", cores=2, threads=1, system="", python="", torch="", cloven="")


def timed_cut(model: str, cut: str | None, median: float, beside: float) -> CutTimes:
    return CutTimes(
        model=model,
        point=cut or "full",
        cut=cut,
        images=3,
        backend="simulated",
        accelerator="cpu",
        handover="memory",
        trust="",
        machine=MACHINE,
        load=9.0,
        first=2.0,
        mean=median,
        median=median,
        spread=0.1,
        beside=beside,
        parts={},
        handed_bytes=12,
        samples=2,
    )


def finding(attack: str, point: int, score: float, baseline: float) -> Finding:
    """Return a finding of an attack at a partition point, counted from 0."""
    whole = {"covers": "images only", "of_seeds": [score]}
    return Finding.model_validate_json(
        json.dumps(
            {
                "strategy": "vertical",
                "plan": "vertical",
                "devices": 5,
                "link": [f"edge{point}", f"edge{point + 1}"],
                "links": [[f"edge{point}", f"edge{point + 1}"]],
                "transform": "none",
                "view": "full",
                "crosses": True,
                "layers": [],
                "label": "",
                "seen": [],
                "share": [],
                "raw_image": 0.0,
                "observation_bytes": 100,
                "attack": attack,
                "parameters": 1,
                "pairs": 800,
                "victims": 100,
                "agreement": {"mean": 0.5, "low": 0.4, "high": 0.6, **whole},
                "kappa": 0.9,
                "ssim": {"mean": score, "low": score - 0.01, "high": score + 0.01, "p95": score, **whole},
                "psnr": None,
                "identified": None,
                "baselines": {
                    "mean image": {"ssim": baseline, "agreement": 0.1},
                    "grey": {"ssim": baseline / 2, "agreement": 0.1},
                    "modal class": {"ssim": None, "agreement": 0.1},
                },
                "leakage": {"ssim": 0.1, "agreement": 0.1},
                "judge": None,
                "inside": None,
                "held_out": None,
                "notes": [],
                "training": None,
                "wall_seconds": 60.0,
                "key": "k",
                "keys": ["k"],
                "observation": "o",
                "seeds": [0],
            }
        )
    )


def summary(scores: dict[str, list[float]], why_not: str | None = None, *, baseline: float = 0.1) -> Summary:
    """Return the part of an audit's summary that is read, with findings not in the order of the points."""
    findings = []
    for attack, row in scores.items():
        findings += [finding(attack, point, score, baseline) for point, score in reversed(list(enumerate(row)))]
    verdict = AuditVerdict(given=why_not is None, reason=why_not, sentence=None, rankings=())
    return Summary.model_construct(
        findings=tuple(findings),
        model_accuracy=0.9,
        model_kappa=0.9,
        verdict=verdict,
        settings={"queries": 800},
        test_images=100,
    )


def test_the_partition_points_of_each_model() -> None:
    assert [len(cuts(name)) for name in (VGG, RESNET, EFFICIENTNET)] == [13, 5, 8]
    assert list(cuts("resnet20")) == ["conv1", "layer1", "layer2", "layer3"]
    with pytest.raises(
        ClovenError, match=r"Rajasekar et al\. \(2024\) do not cut 'lenet5'; choose from torchvision:vgg16"
    ):
        cuts("lenet5")


@pytest.mark.parametrize("name", ["resnet20", pytest.param("mobilenet_v1_0.25", marks=pytest.mark.slow)])
def test_the_links_of_one_pipeline_are_the_points_in_order(name: str) -> None:
    shape = (3, 32, 32)
    graph = capture(make(name, shape=shape, classes=10), torch.zeros(1, *shape))
    asked = settings(PrivacyStudy(name, "cifar10:DIR", "same", Path("w"), AMOUNTS["desk"]))

    assert isinstance(asked.source, Simulation)
    taps, devices = asked.source.taps, asked.source.devices
    (target,) = of_strategies(graph, asked.source.strategies, tuple(taps.layers), devices, ())

    program = target.program
    assert program is not None
    carried = {link: [t.value for t in program.transfers if t.link == link] for link in program.links}
    assert list(carried) == [(f"edge{i}", f"edge{i + 1}") for i in range(len(cuts(name)))]
    assert list(carried.values()) == [[graph.find(path)] for path in cuts(name)]


def test_each_attack_and_the_strongest_choose_a_point() -> None:
    found = document(STUDY, summary({"cgan": [0.5, 0.19, 0.1, 0.1], "residual": [0.9, 0.7, 0.4, 0.15]}))

    assert [(row.point, row.attack) for row in found.rows[:3]] == [
        (1, "cgan"),
        (1, "residual"),
        (2, "cgan"),
    ]
    assert found.rows[2].path == "layer1"
    assert {row.baseline for row in found.rows} == {0.1}
    points = {name: chosen.strict.path for name, chosen in found.optimal.items() if chosen.strict}
    assert points == {"cgan": "layer1", "residual": "layer3", "strongest": "layer3"}


def test_a_rise_at_the_end_leaves_no_strict_point() -> None:
    found = document(STUDY, summary({"cgan": [0.5, 0.3, 0.1, 0.22]})).optimal["cgan"]

    assert found == ChosenPoints(tolerant=ChosenPoint(point=3, path="layer2"))


def test_table_3_lists_the_time_that_each_choice_saves() -> None:
    scores = document(STUDY, summary({"cgan": [0.5, 0.19, 0.1, 0.1], "residual": [0.9, 0.7, 0.4, 0.3]}))
    seconds = {None: 4.2, "conv1": 1.0, "layer1": 1.4, "layer2": 2.0, "layer3": 3.0}
    timed = [timed_cut("lenet5", cut, median, 9.9) for cut, median in seconds.items()]
    timed += [timed_cut("resnet20", cut, median, 4.2) for cut, median in seconds.items()]
    times = TimesFigure(
        scale="desk",
        images="noise",
        backend="simulated",
        accelerator="cpu",
        handover="memory",
        trust="",
        machine=MACHINE,
        rows=tuple(summarised(timed)),
        published=(),
    )

    rows = table_3(times, scores).rows

    assert [(row.attack, row.rule) for row in rows] == list(
        product(("cgan", "residual", "strongest"), ("strict", "tolerant", "baseline"))
    )
    assert (rows[0].path, rows[0].full_seconds, rows[0].partitioned_seconds) == ("layer1", 4.2, 1.4)
    assert rows[0].reduction_percent == pytest.approx(100 * (4.2 - 1.4) / 4.2)
    assert rows[0].ratio == pytest.approx(3.0)
    assert (rows[-1].point, rows[-1].path, rows[-1].partitioned_seconds, rows[-1].ratio) == (None,) * 4


def test_no_point_is_chosen_if_no_score_stays_low() -> None:
    found = document(STUDY, summary({"residual": [0.9, 0.8, 0.7, 0.6]}))

    assert found.optimal["strongest"] == ChosenPoints()


def test_the_plan_is_cut_by_s2s_rule_for_the_strongest() -> None:
    found = document(STUDY, summary({"cgan": [0.5, 0.19, 0.1, 0.1], "residual": [0.9, 0.7, 0.19, 0.15]}))

    assert (found.rule, found.plan) == ("strict", ChosenPoint(point=3, path="layer2"))
    assert (found.queries, found.victims, found.attack_seconds) == (800, 100, 480.0)


def test_the_baseline_replaces_a_threshold_that_it_exceeds() -> None:
    found = document(
        STUDY, summary({"cgan": [0.6, 0.27, 0.15, 0.15], "residual": [0.9, 0.5, 0.27, 0.26]}, baseline=0.28)
    )

    assert found.optimal["cgan"].strict == ChosenPoint(point=3, path="layer2")
    assert found.optimal["cgan"].baseline == ChosenPoint(point=2, path="layer1")
    assert found.optimal["residual"].baseline == ChosenPoint(point=3, path="layer2")
    assert found.optimal["strongest"].strict is None
    assert (found.rule, found.plan) == ("baseline", ChosenPoint(point=3, path="layer2"))


def test_no_point_is_chosen_without_a_verdict() -> None:
    found = document(STUDY, summary({"residual": [0.1, 0.1, 0.1, 0.1]}, "the kappa is too low"))

    assert found.no_verdict == "the kappa is too low"
    assert found.optimal["residual"] == ChosenPoints()
    assert found.plan is None


def test_at_desk_scale_images_are_small_and_the_gan_has_fewer_epochs_for_large_ones() -> None:
    mobile = replace(STUDY, model="mobilenet_v1_0.75")
    full = replace(mobile, amount=AMOUNTS["full"])

    asked = [settings(study) for study in (STUDY, mobile, full)]
    assert [one.subject.shape for one in asked] == [(3, 32, 32), (3, 96, 96), (3, 224, 224)]
    assert [one.settings.suite.gan_epochs for one in asked] == [90, 10, 200]


def test_the_audit_is_of_all_links_at_s2s_threshold() -> None:
    asked = settings(STUDY)

    assert isinstance(asked.source, Simulation)
    assert asked.settings.threshold == 0.2
    assert asked.source.taps.every_link
    assert tuple(asked.source.taps.views) == ("full",)
    assert asked.settings.suite.names == ("cgan", "residual")
    assert asked.subject.weights == Path("w.th")
