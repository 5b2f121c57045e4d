"""The figures of Mehrafrooz et al. (2025) as data: their studies, scales, and decoders of equal size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cloven.attacks.layers import Chain, Conv, ConvT, build
from cloven.attacks.trainer import Machine
from cloven.auditing.cases import Taps
from cloven.auditing.settings import Simulation
from cloven.auditing.subject import SAME, ModelTraining
from cloven.auditing.suite import AttackSuite
from cloven.papers.s1 import setup
from cloven.papers.s1.capacity import FEWEST, matched, parameters, widened
from cloven.papers.s1.experiments import (
    CONTROLS,
    COUNTS,
    DOMAIN,
    EQUAL,
    FIGURES,
    LINKS,
    PAPER,
    SIZE,
    STRONG,
    WIRE,
    FigureStudy,
    Request,
    folder_of,
    hybrids,
    panels,
)
from cloven.papers.s1.scales import BENCH, DESK, FULL, SCALES, StudyScale
from cloven.papers.s1.table2 import TABLE_2, DecoderRow, decoder, made, printed
from cloven.partition import plan as plans
from cloven.partition.observe import seen_on
from cloven.partition.plan import Plan
from cloven.runtime.capture import capture
from cloven.zoo.named import make

MOBILENET, RESNET, LENET = "mobilenet_v1", "torchvision:resnet50", "lenet5"
ALL = ("vertical", "horizontal", "data")


def named(request: Request) -> dict[str, FigureStudy]:
    """Return the studies of a figure by name."""
    found = panels(request)
    assert len({panel.name for panel in found}) == len(found)
    return {panel.name: panel for panel in found}


def of(figure: str, *data: str, scale: str = "full", controls: tuple[str, ...] = tuple(CONTROLS)) -> Request:
    return Request(figure, data, "folder:photos", SCALES[scale][figure], controls)


# --- Fig. 5 ---------------------------------------------------------------------------------------------------


def simulation(panel: FigureStudy) -> Simulation:
    """Return the simulation of a study."""
    assert isinstance(panel.study.source, Simulation)
    return panel.study.source


@pytest.mark.parametrize(
    ("figure", "model", "layers"),
    [
        ("5a", MOBILENET, {"conv1_bn": "Layer 2", "conv_pw_5": "Layer 33", "conv_pw_11_relu": "Layer 72"}),
        ("5b", RESNET, {"conv1": "Layer 2", "layer1.2.bn2": "Layer 33", "layer2.0.conv2": "Layer 42"}),
        ("5c", LENET, {"conv2": "Layer 2", "pool2": "Layer 3", "flatten": "Layer 5"}),
    ],
)
def test_the_studies_of_the_paper(figure: str, model: str, layers: dict[str, str]) -> None:
    found = named(of(figure, "cifar10:c", "flowers102:f", controls=()))

    assert list(found) == ["cifar10", "flowers102"]
    for spec, panel in zip(("cifar10:c", "flowers102:f"), found.values(), strict=True):
        own, who = panel.study, panel.study.subject
        side = 32 if figure == "5c" else 224
        assert (panel.control, panel.division) == (PAPER, "")
        assert (who.model, who.data, who.auxiliary, who.shape) == (model, spec, "folder:photos", (3, side, side))
        assert (who.queries, who.victims, who.judge) == (40_000, None, "none")
        assert who.training == ModelTraining(10, None, "cpu")
        assert own.source == Simulation(Taps(layers, ("paper",)), None, ALL, 4)
        assert own.settings.suite == AttackSuite(("decoder",), 10)


@pytest.mark.parametrize(("spec", "shape"), [("mnist:m", (1, 28, 28)), ("digits", (1, 28, 28)), ("folder:f", None)])
def test_lenet5_takes_the_images_as_they_are(spec: str, shape: tuple[int, ...] | None) -> None:
    (panel,) = panels(of("5c", spec, controls=()))

    assert panel.study.subject.shape == (shape or (3, 32, 32))


@pytest.mark.parametrize("figure", list(FIGURES))
def test_training_may_start_from_weights(figure: str) -> None:
    start = Path("w.safetensors")
    found = panels(replace(of(figure, "cifar10:c"), start=start))

    assert {panel.study.subject.training for panel in found} == {ModelTraining(10, None, "cpu", start)}
    assert {panel.study.subject.weights for panel in found} == {None}


@pytest.mark.parametrize("figure", ["5a", "5b", "5c"])
def test_a_panel_takes_table_2s_decoders(figure: str) -> None:
    (panel,) = panels(of(figure, "cifar10:c", controls=()))
    image = panel.study.subject.shape
    assert image is not None
    for row in printed(panel.study.subject.model):
        if row.takes(image):
            assert panel.chain_for(row.layer, row.captured, image) == row.chain(row.captured, image)


def test_fig_5_has_all_controls() -> None:
    found = named(of("5c", "mnist:m"))

    assert {name: panel.control for name, panel in found.items()} == {
        "mnist": PAPER,
        "mnist-equal": EQUAL,
        "mnist-in-domain": DOMAIN,
        "mnist-strong": STRONG,
        "mnist-twice": SIZE,
        "mnist-links": LINKS,
        "mnist-star": LINKS,
        "mnist-tiles": LINKS,
    }
    assert len(panels(of("5c", "mnist:m", "cifar10:c"))) == 2 * len(found)


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_is_chosen_by_its_name(control: str) -> None:
    found = panels(of("5a", "cifar10:c", controls=(control,)))

    usual = [STRONG] if control == SIZE else []  # twice the size is compared with it
    assert [panel.control for panel in found] == [PAPER, *usual, *[control] * (3 if control == LINKS else 1)]


def test_each_control_varies_one_thing() -> None:
    found = named(of("5c", "mnist:m"))
    usual = found["mnist"].study
    source, subject = usual.source, usual.subject
    suite = AttackSuite(("residual",), FULL["5c"].strong)
    strong = replace(usual, settings=replace(usual.settings, suite=suite))
    assert isinstance(source, Simulation)
    vertical = replace(source, strategies=("vertical",))

    assert found["mnist-equal"].study == replace(usual, source=vertical)
    assert found["mnist-in-domain"].study == replace(usual, subject=replace(subject, auxiliary=SAME))
    assert found["mnist-strong"].study == strong
    twice = replace(strong, source=vertical, subject=replace(subject, shape=(1, 56, 56)))
    assert found["mnist-twice"].study == twice
    taps = replace(source.taps, views=("full",))
    full = replace(source, taps=taps, strategies=("vertical", "horizontal"))
    assert found["mnist-links"].study == replace(strong, source=full)
    for name in ("star", "tiles"):
        panel = found[f"mnist-{name}"]
        assert panel.division == name
        assert replace(simulation(panel), plan=None) == replace(full, strategies=())


def test_the_plans_whose_links_carry_more_than_the_paper_counts() -> None:
    found = named(of("5a", "cifar10:c", controls=(LINKS,)))
    star, tiles = (simulation(found[f"cifar10-{name}"]).plan for name in ("star", "tiles"))

    assert star is not None
    assert tiles is not None
    assert [spec.kind for spec in star.stages] == ["horizontal"]
    assert (star.routing, star.reuse) == ("star", False)
    assert [spec.kind for spec in tiles.stages] == ["data"]
    for plan in (star, tiles):
        assert (plan.named_model.name, tuple(plan.named_model.input)) == (MOBILENET, (3, 224, 224))
        assert list(plan.devices) == ["edge0", "edge1", "edge2", "edge3"]


def test_strong_attacks_take_no_decoder_of_the_papers() -> None:
    found = named(of("5c", "mnist:m"))
    for name in ("strong", "twice", "links", "star", "tiles"):
        assert found[f"mnist-{name}"].chain_for("conv2", (16, 10, 10), (1, 28, 28)) is None


def test_a_request_sets_images_seed_seeds_and_machine() -> None:
    scale = replace(FULL["5c"], images=900, training=3, seeds=2)
    request = Request("5c", ("digits",), "photos", scale, (), Machine("cpu:0"), 1000, 7)
    (panel,) = panels(request)
    own, subject = panel.study.settings, panel.study.subject

    assert (own.seeds, own.disk, own.machine.device) == ((7, 8), 1000, "cpu:0")
    assert (subject.seed, subject.auxiliary, subject.training) == (7, "photos", ModelTraining(3, 900, "cpu:0"))


# --- Fig. 6 ---------------------------------------------------------------------------------------------------


def test_fig_6_has_a_study_for_each_number_of_devices() -> None:
    found = named(of("6", "cifar10:c", controls=()))

    assert COUNTS == (2, 4, 8)
    assert list(found) == ["cifar10-2", "cifar10-4", "cifar10-8"]
    for count, panel in zip(COUNTS, found.values(), strict=True):
        own = panel.study
        assert panel.control == PAPER
        assert (own.subject.model, own.subject.shape) == (MOBILENET, (3, 224, 224))
        assert own.source == Simulation(Taps({"conv1_bn": "Layer 2"}, ("paper",)), None, ALL, count)
        assert own.settings.suite == AttackSuite(("decoder",), 10)


def test_fig_6_has_two_controls() -> None:
    found = named(of("6", "cifar10:c"))

    assert [(panel.control, simulation(panel).devices) for panel in found.values()] == [
        (control, count) for count in COUNTS for control in (PAPER, STRONG, *[LINKS] * 4)
    ]
    strong = found["cifar10-8-strong"]
    assert strong.study.settings.suite == AttackSuite(("residual",), FULL["6"].strong)
    assert simulation(strong).devices == 8


def test_fig_6_compares_what_a_link_carries_also_in_the_plans_that_the_paper_recommends() -> None:
    found = named(of("6", "cifar10:c", controls=(LINKS,)))
    usual = simulation(found["cifar10-8-links"])
    made = {name: simulation(found[f"cifar10-8-{name}"]).plan for name in ("tiles", *hybrids(MOBILENET))}

    assert usual.strategies == ("vertical", "horizontal")
    assert usual.taps == Taps({"conv1_bn": "Layer 2"}, (), colluding=(WIRE,))
    for name, plan in made.items():
        assert plan is not None
        assert len(plan.devices) == 8
        assert simulation(found[f"cifar10-8-{name}"]).taps == usual.taps
    shown = {
        name: [(spec.kind, spec.until, spec.on) for spec in plan.stages] for name, plan in made.items() if plan
    }
    assert shown == {
        "tiles": [("data", None, None)],
        "tiles-channels": [("data", "conv1_bn", None), ("horizontal", None, None)],
        "early-together": [("vertical", "conv_pw_5", ("edge0",)), ("horizontal", None, None)],
    }


@pytest.mark.parametrize("count", COUNTS)
def test_what_the_first_link_carries_in_a_hybrid(count: int) -> None:
    graph = capture(make("mobilenet_v1_0.25", shape=(3, 32, 32), classes=10), torch.zeros(1, 3, 32, 32))
    seen = {}
    for name, entries in hybrids("mobilenet_v1_0.25").items():
        devices = [f"edge{i}" for i in range(count)]
        plan = Plan.model_validate({"devices": devices, **entries}, strict=False)
        seen[name] = seen_on(plans.compile(graph, plan), *WIRE)

    assert 1 / count <= seen["tiles-channels"].raw_image < 1 / count + 0.1  # a tile with its margin
    assert seen["early-together"].raw_image == 0
    assert seen["early-together"].seen[0].value == graph.find("conv_pad_6")


# --- scales ---------------------------------------------------------------------------------------------------


def test_every_scale_has_its_name() -> None:
    assert list(SCALES) == ["full", "bench", "desk"]
    assert list(FULL) == list(DESK) == list(FIGURES)
    for name, scales in SCALES.items():
        assert {scale.name for scale in scales.values()} == {name}


def test_the_figures_of_the_bench_scale_can_be_compared() -> None:
    assert list(BENCH) == ["5a", "5c", "6"]
    assert BENCH["5a"] == BENCH["6"]  # one CNN
    assert len({scale.attacker for scale in BENCH.values()}) == 1
    assert {scale.seeds for scale in BENCH.values()} == {3}


@pytest.mark.parametrize("figure", FIGURES)
def test_the_papers_scale_is_not_smaller_than_itself(figure: str) -> None:
    full = FULL[figure]

    assert full.smaller(full) == ()
    assert (full.queries, full.victims, full.epochs, full.training, full.images) == (40_000, None, 10, 10, None)


def test_the_differences_from_the_papers_scale_are_listed() -> None:
    own = StudyScale("desk", "mobilenet_v1_0.5", 32, 2000, 500, epochs=9, strong=3, training=8, images=7000)

    assert own.smaller(FULL["5a"]) == (
        "model: mobilenet_v1_0.5 (paper: mobilenet_v1)",
        "image side: 32 (paper: 224)",
        "auxiliary images at most: 2000 (paper: 40000)",
        "victim images at most: 500 (paper: all)",
        "epochs of the decoders: 9 (paper: 10)",
        "epochs of the CNN: 8 (paper: 10)",
        "training images of the CNN at most: 7000 (paper: all)",
    )
    assert replace(FULL["5c"], epochs=2).smaller(FULL["5c"]) == ("epochs of the decoders: 2 (paper: 10)",)


@pytest.mark.parametrize("figure", FIGURES)
def test_the_desks_scale_keeps_the_figures_kind_of_model(figure: str) -> None:
    desk, full = DESK[figure], FULL[figure]

    assert desk.model.startswith(full.model)
    assert list(setup.layers_of(desk.model)) == list(setup.layers_of(full.model))
    assert desk.smaller(full)


@pytest.mark.parametrize("change", [{"strong": 1}, {"seeds": 5}])
def test_settings_that_the_paper_does_not_have_are_not_differences(change: dict[str, int]) -> None:
    assert replace(FULL["5a"], **change).smaller(FULL["5a"]) == ()  # type: ignore[arg-type]


def test_a_figure_has_a_folder() -> None:
    assert folder_of("5c", "desk").as_posix() == "runs/s1-5c-desk"


# --- decoders of equal size -----------------------------------------------------------------------------------


def weights(chain: Chain) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(chain).parameters())


@pytest.mark.parametrize("row", TABLE_2, ids=lambda row: f"{row.model}-{row.number}-{row.image[1]}")
def test_parameters_are_torchs(row: DecoderRow) -> None:
    chain = row.chain(row.captured, row.image)

    assert parameters(chain) == weights(chain)
    assert parameters(widened(chain, 20_000)) == weights(widened(chain, 20_000))


@pytest.mark.parametrize(
    ("model", "image"),
    [
        (LENET, (3, 32, 32)),
        (LENET, (1, 28, 28)),
        (MOBILENET, (3, 224, 224)),
        (MOBILENET, (3, 32, 32)),
        ("mobilenet_v1_0.5", (3, 32, 32)),
        (RESNET, (3, 224, 224)),
        (RESNET, (3, 32, 32)),
    ],
)
def test_matched_decoders_have_about_as_many_weights(model: str, image: tuple[int, ...]) -> None:
    counts, usual = [], []
    for row in printed(model):
        if row.takes(image):
            channels, *sides = row.scaled(image)
            narrow = channels // 2 if model.endswith("0.5") and row.number > 1 else channels
            captured = (narrow, *sides)
            chain = matched(model)(row.layer, captured, image)
            assert chain is not None
            assert made(chain, captured) == image
            assert min(layer.outputs for layer in chain[:-1] if isinstance(layer, Conv | ConvT)) >= FEWEST
            counts.append(parameters(chain))
            usual.append(parameters(row.chain(captured, image)))
    assert len(counts) == 4
    assert max(counts) / min(counts) < 1.15
    assert max(usual) / min(usual) > 80  # as in the paper


def test_matched_decoders_differ_from_table_2_only_in_their_widths() -> None:
    before, after = (
        decoder(LENET)("pool2", (16, 6, 6), (3, 32, 32)),
        matched(LENET)("pool2", (16, 6, 6), (3, 32, 32)),
    )

    assert before is not None
    assert after is not None
    assert list(map(type, before)) == list(map(type, after))
    assert before != after


def test_there_is_no_matched_decoder_without_a_row_in_table_2() -> None:
    assert matched(LENET)("conv1", (6, 28, 28), (3, 32, 32)) is None
    assert matched(MOBILENET)("conv_pw_5", (256, 7, 28), (3, 224, 224)) is None
