"""Reproduce a small figure of Mehrafrooz et al. (2025): its bars, stored scores, continuing it, and its picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cloven.auditing.executor import ATTACKING
from cloven.auditing.settings import Simulation
from cloven.auditing.store import DIGEST, write_document
from cloven.auditing.subject import Subject, SubjectImages, cnn, load_images, ready, untrained
from cloven.documents import parse_document
from cloven.errors import ClovenError
from cloven.graph.graph import Graph
from cloven.papers.s1 import reproduce as module
from cloven.papers.s1 import turns
from cloven.papers.s1.bars import StrategyBar
from cloven.papers.s1.experiments import CONTROLS, DOMAIN, LINKS, PAPER, SIZE, FigureStudy, Request, panels
from cloven.papers.s1.figure_document import StrategyFigure
from cloven.papers.s1.reproduce import FIGURE, SCORES, kept, reproduce, train
from cloven.papers.s1.scales import StudyScale
from cloven.reporting.strategy_bars import PICTURE, drawn, write

TINY = StudyScale("desk", "lenet5", None, queries=40, victims=30, epochs=1, strong=1, training=6, images=900)
REQUEST = Request("5c", ("digits",), "photos", TINY, controls=())

NAMES = [
    *[f"5c/digits/{PAPER}/{s}/Layer {n}/4" for s in ("vertical", "horizontal") for n in (2, 3, 5)],
    f"5c/digits/{PAPER}/data/Layer 1/4",
]


def quiet(*_: object) -> None:
    """Report no progress."""


def run(request: Request, out: Path) -> StrategyFigure:
    return reproduce(request, out=out, jobs=1, progress=quiet)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Capture a CNN once for all studies, since this takes longer than the studies."""
    graphs: dict[object, Graph] = {}

    def once(make: Callable[..., Graph]) -> Callable[..., Graph]:
        def graph(subject: Subject, images: SubjectImages, *progress: Any) -> Graph:
            key = (make, subject.model, subject.training, images.training.fingerprint())
            if key not in graphs:
                graphs[key] = make(subject, images, *progress)
            return graphs[key]

        return graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cloven.auditing.pipeline.untrained", once(untrained))
        patch.setattr("cloven.auditing.pipeline.ready", once(ready))
        yield


@dataclass(frozen=True)
class Made:
    """Fig. 5(c) at a very small scale, on digits."""

    folder: Path
    document: StrategyFigure


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("s1") / "figure"
    return Made(folder, run(REQUEST, folder))


def times(folder: Path) -> dict[str, int]:
    """Return the time at which each cell of the paper's setting was written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "digits" / "cells").iterdir()}


def same(one: StrategyBar, other: StrategyBar) -> bool:
    """Return whether two bars are equal in every field, with bit-equal scores."""
    return all(
        torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


# --- the document ---------------------------------------------------------------------------------------------


def test_a_figure_has_a_bar_for_each_strategy_and_layer(made: Made) -> None:
    document = made.document

    assert [bar.name for bar in document.bars] == NAMES
    (digits,) = document.data
    assert (digits.images, digits.split, digits.agrees) == (1797, (1437, 180, 180), None)
    assert [len(bar.shares) for bar in document.bars] == [1, 1, 1, 4, 4, 4, 4]
    assert {(bar.images, bar.seeds, bar.model) for bar in document.bars} == {(30, 1, "lenet5")}
    assert all(bar.counts and bar.kappa is not None and bar.kappa > 0.6 for bar in document.bars)
    assert len({bar.victims for bar in document.bars}) == 1
    for bar in document.bars:
        score = bar.agreement
        assert 0 <= score.low <= score.mean <= score.high <= 1
        assert score.mean == pytest.approx(sum(bar.shares) / len(bar.shares))


def test_the_document_lists_its_settings_and_differences_from_the_paper(made: Made) -> None:
    document = made.document

    assert (document.paper, document.figure, document.title) == ("s1", "5c", "Fig. 5(c): LeNet-5")
    assert document.controls == {}
    assert document.smaller == (
        "auxiliary images at most: 40 (paper: 40000)",
        "victim images at most: 30 (paper: all)",
        "epochs of the decoders: 1 (paper: 10)",
        "epochs of the CNN: 6 (paper: 10)",
        "training images of the CNN at most: 900 (paper: all)",
    )
    (panel,) = document.panels
    assert (panel.name, panel.control, panel.test_images) == ("digits", PAPER, 30)
    assert [plan.devices for plan in panel.plans] == [4, 4, 4, 4]
    assert panel.settings["training images"] == 900


def test_claims_are_judged_if_the_figure_has_their_bars(made: Made) -> None:
    figures, *claims = made.document.claims
    counts = {row.claim: len(row.comparisons.get(PAPER, [])) for row in claims}

    assert (figures.claim, figures.controls) == ("C1", {"Fig. 5c, digits": "7 bars"})
    assert {name: count for name, count in counts.items() if count} == {"C2": 2, "C3": 6, "C4": 4}
    for row in claims:
        assert (row.verdict == "not tested") == (not counts[row.claim])


def test_the_document_and_the_scores_are_written(made: Made) -> None:
    written = json.loads((made.folder / FIGURE).read_text())
    assert written.pop(DIGEST)
    assert parse_document(StrategyFigure, json.dumps(written), FIGURE) == made.document
    found = load_file(made.folder / SCORES)

    assert set(found) == {f"{name}/{metric}" for name in NAMES for metric in ("agreement", "ssim")}
    for bar in made.document.bars:
        scores = found[f"{bar.name}/agreement"]
        assert scores.shape == (1, len(bar.shares), 30)
        assert scores.double().mean((0, 2)).tolist() == list(bar.shares)
        assert found[f"{bar.name}/ssim"].double().mean() == pytest.approx(bar.ssim.mean, abs=1e-6)
    assert not list(made.folder.rglob("*.part"))


# --- reading and continuing a figure --------------------------------------------------------------------------


def test_bars_are_read_as_they_were_written(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run repeats no cell, and the bars that it writes are those that are read."""
    before, written = times(made.folder), list[StrategyBar]()
    keep = module.keep

    def remembered(folder: Path, document: StrategyFigure, found: list[StrategyBar]) -> StrategyFigure:
        written.extend(found)
        return keep(folder, document, found)

    monkeypatch.setattr(module, "keep", remembered)
    again = run(REQUEST, made.folder)

    assert times(made.folder) == before
    assert len(before) == 2 * sum(len(bar.shares) for bar in made.document.bars)
    for part in ("bars", "claims", "smaller", "scale"):
        assert getattr(again, part) == getattr(made.document, part)
    assert [bar.name for bar in written] == NAMES
    assert all(same(a, b) for a, b in zip(kept(made.folder), written, strict=True))


def one_by_one(do: Callable[[Any, int], Any], shared: Any, count: int, *, jobs: int) -> Iterator[Any]:
    assert jobs == 2
    return (do(shared, index) for index in range(count))


def test_cnns_are_trained_in_parallel_and_cached_for_the_studies(tmp_path: Path) -> None:
    small = replace(TINY, training=1, images=200)
    request = replace(
        REQUEST, scale=small, controls=(DOMAIN, SIZE)
    )  # two studies at the usual size, one at twice the side
    subjects = [panel.study.subject for panel in panels(request)]
    said: list[tuple[str, int, int]] = []

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOVEN_CACHE", str(tmp_path))
        patch.setattr(module, "side_by_side", one_by_one)  # starting processes takes longer than this training
        train(subjects, 2, lambda *of: said.append(of))
        kept = set(tmp_path.iterdir())
        for subject in subjects:
            cnn(subject, load_images(subject), lambda *_: pytest.fail("it is trained again"))

    assert said == [("training the CNNs", done, 2) for done in range(3)]
    assert len(kept) == 2
    assert set(tmp_path.iterdir()) == kept


def test_a_control_is_added_to_a_finished_figure(made: Made, tmp_path: Path) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "figure")
    before = times(folder)
    document = run(replace(REQUEST, controls=(LINKS,)), folder)
    bars = document.bars

    assert times(folder) == before
    assert [bar.name for bar in bars[:7]] == NAMES
    assert [(bar.strategy, bar.layer, bar.where) for bar in bars[7:]] == [
        ("vertical", "All on a link", "edge0 to edge1"),
        ("horizontal", "All on a link", "edge0 to edge1"),
        ("horizontal", "All on a link", "edge1 to edge0"),
        ("horizontal", "All on a link", "star, edge0 to edge1"),
        ("horizontal", "All on a link", "star, edge1 to edge0"),
        ("data", "All on a link", "tiles, edge0 to edge1"),
        ("data", "All on a link", "tiles, edge1 to edge0"),
    ]
    assert len({bar.name for bar in bars}) == 14
    assert all(bar.crosses for bar in bars[7:])
    assert document.controls == {LINKS: CONTROLS[LINKS]}
    found = {row.claim: row.comparisons.get(LINKS, ()) for row in document.claims}
    assert [len(found[f"C{number}"]) for number in (2, 3, 4)] == [6, 10, 0]  # links have no depth

    axes = drawn(document).axes
    assert [len(place.patches) for place in axes] == [7, 7]
    assert [place.get_title().rpartition(": ")[2] for place in axes] == [PAPER, LINKS]


@pytest.mark.parametrize("broken", [FIGURE, SCORES])
def test_a_folder_without_a_figure_is_refused(made: Made, tmp_path: Path, broken: str) -> None:
    for name in (FIGURE, SCORES):
        (tmp_path / name).write_bytes((made.folder / name).read_bytes())
    assert len(kept(tmp_path)) == 7

    (tmp_path / broken).write_bytes(b"{}")
    with pytest.raises(ClovenError, match=rf"{broken} (has no digest|was edited or damaged).*run the same command"):
        kept(tmp_path)
    (tmp_path / broken).unlink()
    with pytest.raises(ClovenError, match=str(tmp_path)):
        kept(tmp_path)


def test_a_figure_of_another_version_is_refused(made: Made, tmp_path: Path) -> None:
    write_document(tmp_path / FIGURE, made.document.model_dump(mode="json") | {"schema_version": 2})

    with pytest.raises(ClovenError) as caught:
        kept(tmp_path)
    (problem,) = caught.value.problems
    assert "run the same command again" in problem


# --- a limit on the time --------------------------------------------------------------------------------------


class Clock:
    """A clock that stands still until a number of attacks is finished, and then shows a day later."""

    def __init__(self, attacks: int) -> None:
        self.attacks, self.seconds = attacks, 0.0

    def perf_counter(self) -> float:
        return self.seconds

    def report(self, stage: str, done: int, total: int) -> None:
        if stage == ATTACKING and done == self.attacks:
            self.seconds = 86_400.0


def test_a_figure_that_takes_too_long_has_the_bars_that_are_finished(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first seed comes first, and bars of slices come last; the figure goes on from there."""
    request = replace(REQUEST, scale=replace(TINY, seeds=2))

    def until(attacks: int) -> StrategyFigure:
        clock = Clock(attacks)
        monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(turns, "time", clock)
        return reproduce(request, out=tmp_path / "out", jobs=1, progress=clock.report, hours=1)

    nothing = until(0)
    assert (nothing.bars, str(nothing.progress)) == ((), "0 of 7 bars, 0 of 38 cells")

    first = until(5)
    assert str(first.progress) == "3 of 7 bars, 5 of 38 cells"  # only two of the four tiles
    assert [bar.name for bar in first.bars] == NAMES[:3]
    assert {bar.seeds for bar in first.bars} == {1}
    assert {row.claim: row.verdict for row in first.claims}["C1"] == "undecided"
    assert "unfinished: 3 of 7 bars" in drawn(first).get_suptitle()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "digits" / "cells").iterdir()}

    second = until(21)
    assert {bar.name: bar.seeds for bar in second.bars} == dict.fromkeys(NAMES, 1) | dict.fromkeys(NAMES[:2], 2)
    assert [bar.row() for bar in kept(tmp_path / "out")] == list(second.bars)
    assert second.bars[2].agreement == made.document.bars[2].agreement  # as without a second seed

    whole = until(-1)
    assert whole.progress.complete
    assert [(bar.name, bar.seeds) for bar in whole.bars] == [(name, 2) for name in NAMES]
    assert before.items() <= times(tmp_path / "out").items()


# --- invalid requests -----------------------------------------------------------------------------------------


def test_all_problems_are_reported_before_anything_is_written(here: Path) -> None:
    request = replace(
        REQUEST, data=("cifar10:nowhere", "mnist:neither"), scale=replace(TINY, epochs=0), controls=tuple(CONTROLS)
    )
    with pytest.raises(ClovenError) as caught:
        run(request, here / "out")

    said = caught.value.problems
    assert len(said) == len(set(said))
    for words in ("nowhere", "neither", "epochs is 0; expected 1 or more"):
        assert [problem for problem in said if words in problem]
    assert not list(here.iterdir())


def test_two_data_sets_of_one_kind_are_refused(here: Path) -> None:
    """Two data sets of one kind would have the same folders and names of bars."""
    with pytest.raises(ClovenError, match=r"digits is given 2 times; give one data set of each kind"):
        run(replace(REQUEST, data=("digits", "digits")), here / "out")
    assert not list(here.iterdir())


def test_no_control_has_more_images_than_there_are_photographs(here: Path) -> None:
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 255, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / f"{i}.png")
    few = replace(REQUEST, auxiliary=f"folder:{here}")

    assert module.ready(few).scale.queries == 5
    assert module.ready(replace(few, auxiliary="photos")).scale.queries == 40


# --- the picture ----------------------------------------------------------------------------------------------


def test_the_picture(made: Made, tmp_path: Path) -> None:
    path = write(tmp_path, made.document)

    assert path == tmp_path / PICTURE
    assert [file.name for file in tmp_path.iterdir()] == [PICTURE]
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width == 1300
        assert 500 < picture.height < 1500
        assert len(picture.convert("RGB").getcolors(2**20) or []) > 100


def test_the_picture_shows_agreement_as_height_and_hatches_unsent_tensors(made: Made) -> None:
    from matplotlib.patches import Rectangle

    (place,) = drawn(made.document).axes
    shown = [patch for patch in place.patches if isinstance(patch, Rectangle)]
    bars = made.document.bars

    assert [patch.get_height() for patch in shown] == [bar.agreement.mean for bar in bars]
    assert [bool(patch.get_hatch()) for patch in shown] == [not bar.crosses for bar in bars]
    assert [label.get_text() for label in place.get_xticklabels()] == [
        "V Layer 2",
        "V Layer 3",
        "V Layer 5",
        "H Layer 2",
        "H Layer 3",
        "H Layer 5",
        "D Layer 1",
    ]


def test_a_row_has_the_title_of_its_own_cnn(made: Made) -> None:
    """Images of twice the size have another CNN."""
    document = made.document
    panel = document.panels[0].model_copy(update={"control": SIZE, "model_accuracy": 0.123})
    bar = document.bars[0].model_copy(update={"control": SIZE})
    more = {"panels": (*document.panels, panel), "bars": (*document.bars, bar)}
    first, second = drawn(document.model_copy(update=more)).axes

    assert "12.3%" not in first.get_title()
    assert second.get_title() == f"lenet5 on digits (12.3%): {SIZE}"


# --- Fig. 6 ---------------------------------------------------------------------------------------------------


def vertical(request: Request) -> list[FigureStudy]:
    found: list[FigureStudy] = []
    for panel in panels(request):
        assert isinstance(panel.study.source, Simulation)
        source = replace(panel.study.source, strategies=("vertical",))
        found.append(replace(panel, study=replace(panel.study, source=source)))
    return found


def test_vertical_leaks_the_same_on_any_number_of_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "panels", vertical)
    document = run(replace(REQUEST, figure="6"), tmp_path / "out")
    two, four, eight = kept(tmp_path / "out")

    assert (two.devices, four.devices, eight.devices) == (2, 4, 8)
    assert torch.equal(two.scores, four.scores)
    assert torch.equal(four.scores, eight.scores)
    assert torch.equal(two.ssim, eight.ssim)
    verdicts = {row.claim: row.verdict for row in document.claims}
    assert (verdicts.pop("C1"), verdicts.pop("C8")) == ("undecided", "holds")  # three of nine bars
    assert set(verdicts.values()) == {"not tested"}


@pytest.mark.slow
def test_figure_6_of_a_narrow_mobilenet(tmp_path: Path) -> None:
    scale = replace(TINY, model="mobilenet_v1_0.25", side=32, queries=40, victims=20, training=1, images=40)
    document = run(replace(REQUEST, figure="6", scale=scale), tmp_path / "out")
    bars = kept(tmp_path / "out")

    assert [(bar.strategy, bar.layer, bar.devices) for bar in bars] == [
        (strategy, layer, devices)
        for devices in (2, 4, 8)
        for strategy, layer in (("vertical", "Layer 2"), ("horizontal", "Layer 2"), ("data", "Layer 1"))
    ]
    assert [bar.scores.shape[1] for bar in bars] == [1, 2, 2, 1, 4, 4, 1, 8, 8]
    assert torch.equal(bars[0].scores, bars[3].scores)
    assert torch.equal(bars[3].ssim, bars[6].ssim)
    assert document.claims[1].left_out == 6  # the kappa of a CNN trained on 40 images is too low
