"""S2's privacy study: its partition points, the audit that it is, and what made-up findings say of where to cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cloven.auditing.settings import Simulation
from cloven.auditing.summary import Summary
from cloven.auditing.targets import of_strategies
from cloven.enclave.sweep import CutTimes, summarised
from cloven.enclave.timing import MeasuredMachine
from cloven.errors import ClovenError
from cloven.papers.s2.privacy import AMOUNTS, RULES, Study, cuts, document, settings, table_3
from cloven.papers.s2.published import EFFICIENTNET, RESNET, VGG
from cloven.runtime.capture import capture
from cloven.zoo.named import make
from tests.reporting.summaries import document as parsed
from tests.reporting.summaries import summary as made_up

STUDY = Study("resnet20", "cifar10:DIR", "folder:DIR", Path("w.th"), AMOUNTS["desk"])


def timed_cut(model: str, cut: str | None, median: float, beside: float) -> CutTimes:
    machine = MeasuredMachine(processor="", cores=2, threads=1, system="", python="", torch="", cloven="")
    return CutTimes(
        model=model,
        point=cut or "full",
        cut=cut,
        images=3,
        backend="simulated",
        accelerator="cpu",
        handover="memory",
        trust="",
        machine=machine,
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


def summary(scores: dict[str, list[float]], why_not: str | None = None, *, floor: float = 0.1) -> Summary:
    """A summary of such an audit, in another order than that of the points."""
    given = made_up()
    (pattern, *_) = given["findings"]
    baselines = {"mean image": floor, "grey": floor / 2}
    findings = [
        {
            **pattern,
            "link": [f"edge{point}", f"edge{point + 1}"],
            "attack": attack,
            "ssim": {**pattern["ssim"], "mean": score, "low": score - 0.01, "high": score + 0.01},
            "baselines": {name: {"ssim": value, "agreement": 0.1} for name, value in baselines.items()},
            "observation_bytes": 100,
            "key": "k",
            "seconds": 60.0,
        }
        for attack, row in scores.items()
        for point, score in reversed(list(enumerate(row)))
    ]
    verdict = {"given": why_not is None, "reason": why_not}
    found = {"findings": findings, "observations": [], "model_accuracy": 0.9, "model_kappa": 0.9}
    return parsed(given | found | {"verdict": verdict, "settings": {"queries": 800}, "test_images": 100})


def test_where_the_models_are_cut() -> None:
    assert [len(cuts(name)) for name in (VGG, RESNET, EFFICIENTNET)] == [13, 5, 8]
    assert list(cuts("resnet20")) == ["conv1", "layer1", "layer2", "layer3"]
    with pytest.raises(ClovenError, match="S2 does not cut 'lenet5'; choose from torchvision:vgg16"):
        cuts("lenet5")


@pytest.mark.parametrize("name", ["resnet20", pytest.param("mobilenet_v1_0.25", marks=pytest.mark.slow)])
def test_the_links_of_one_pipeline_are_the_points_in_order(name: str) -> None:
    shape = (3, 32, 32)
    graph = capture(make(name, shape=shape, classes=10), torch.zeros(1, *shape))
    source = settings(Study(name, "cifar10:DIR", "same", Path("w"), AMOUNTS["desk"])).source
    assert isinstance(source, Simulation)

    (target,) = of_strategies(graph, source.strategies, tuple(source.taps.layers), source.devices, ())

    program = target.program
    assert program is not None
    carried = {link: [t.value for t in program.transfers if t.link == link] for link in program.links}
    assert list(carried) == [(f"edge{i}", f"edge{i + 1}") for i in range(len(cuts(name)))]
    assert list(carried.values()) == [[graph.find(path)] for path in cuts(name)]


def test_every_attack_has_its_point_and_the_strongest_the_latest() -> None:
    found = document(STUDY, summary({"cgan": [0.5, 0.19, 0.1, 0.1], "residual": [0.9, 0.7, 0.4, 0.15]}))

    assert [(row["point"], row["attack"]) for row in found["rows"][:3]] == [
        (1, "cgan"),
        (1, "residual"),
        (2, "cgan"),
    ]
    assert found["rows"][2]["path"] == "layer1"
    assert {row["floor"] for row in found["rows"]} == {0.1}
    points = {name: chosen["strict"]["path"] for name, chosen in found["optimal"].items()}
    assert points == {"cgan": "layer1", "residual": "layer3", "strongest": "layer3"}


def test_a_rise_at_the_end_leaves_no_strict_point() -> None:
    found = document(STUDY, summary({"cgan": [0.5, 0.3, 0.1, 0.22]}))["optimal"]["cgan"]

    assert found == {"strict": None, "tolerant": {"point": 3, "path": "layer2"}, "floor": None}


def test_table_3_is_what_each_choice_saves_of_the_time_all_inside() -> None:
    scores = document(STUDY, summary({"cgan": [0.5, 0.19, 0.1, 0.1], "residual": [0.9, 0.7, 0.4, 0.3]}))
    seconds = {None: 4.2, "conv1": 1.0, "layer1": 1.4, "layer2": 2.0, "layer3": 3.0}
    times = {
        "rows": [
            row.model_dump()
            for row in summarised(
                [
                    timed_cut(model, cut, median, 4.2 if model == "resnet20" else 9.9)
                    for model in ("lenet5", "resnet20")
                    for cut, median in seconds.items()
                ]
            )
        ]
    }

    rows = table_3(times, scores)

    assert [(row["attack"], row["rule"]) for row in rows] == [
        (attack, rule) for attack in ("cgan", "residual", "strongest") for rule in RULES
    ]
    assert (rows[0]["path"], rows[0]["full_seconds"], rows[0]["partitioned_seconds"]) == ("layer1", 4.2, 1.4)
    assert rows[0]["reduction_percent"] == pytest.approx(100 * (4.2 - 1.4) / 4.2)
    assert rows[0]["ratio"] == pytest.approx(3.0)
    assert all(rows[-1][name] is None for name in ("point", "path", "partitioned_seconds", "ratio"))


def test_nothing_is_found_where_nothing_stays_low() -> None:
    found = document(STUDY, summary({"residual": [0.9, 0.8, 0.7, 0.6]}))["optimal"]

    assert found["strongest"] == dict.fromkeys(RULES)


def test_the_plan_is_cut_by_s2s_rule_for_the_strongest() -> None:
    found = document(STUDY, summary({"cgan": [0.5, 0.19, 0.1, 0.1], "residual": [0.9, 0.7, 0.19, 0.15]}))

    assert (found["rule"], found["plan"]) == ("strict", {"point": 3, "path": "layer2"})
    assert (found["queries"], found["victims"], found["attack_seconds"]) == (800, 100, 480.0)


def test_a_threshold_that_knowing_nothing_exceeds_gives_way_to_the_floor() -> None:
    found = document(
        STUDY, summary({"cgan": [0.6, 0.27, 0.15, 0.15], "residual": [0.9, 0.5, 0.27, 0.26]}, floor=0.28)
    )

    assert found["optimal"]["cgan"]["strict"] == {"point": 3, "path": "layer2"}
    assert [found["optimal"][name]["floor"]["path"] for name in ("cgan", "residual")] == ["layer1", "layer2"]
    assert found["optimal"]["strongest"]["strict"] is None
    assert (found["rule"], found["plan"]) == ("floor", {"point": 3, "path": "layer2"})


def test_of_a_model_that_has_learned_too_little_nothing_is_said() -> None:
    found = document(STUDY, summary({"residual": [0.1, 0.1, 0.1, 0.1]}, "it has learned too little"))

    assert found["no_verdict"] == "it has learned too little"
    assert found["optimal"]["residual"] == dict.fromkeys(RULES)
    assert found["plan"] is None


def test_at_desk_scale_images_are_small_and_the_gan_has_fewer_epochs_for_large_ones() -> None:
    mobile = replace(STUDY, model="mobilenet_v1_0.75")
    full = replace(mobile, amount=AMOUNTS["full"])

    asked = [settings(study) for study in (STUDY, mobile, full)]
    assert [one.subject.shape for one in asked] == [(3, 32, 32), (3, 96, 96), (3, 224, 224)]
    assert [one.settings.suite.gan_epochs for one in asked] == [90, 10, 200]


def test_the_audit_is_of_all_links_at_s2s_threshold() -> None:
    asked = settings(STUDY)

    assert asked.settings.threshold == 0.2
    assert isinstance(asked.source, Simulation)
    assert asked.source.taps.every_link
    assert tuple(asked.source.taps.views) == ("full",)
    assert asked.settings.suite.names == ("cgan", "residual")
    assert asked.subject.weights == Path("w.th")
