"""Learning curves over pairs and training, the seconds that an attack may take, and doubts about the strongest."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

import cloven
from cloven.attacks import RMLE, Attack, Decoder, Knowledge, Nearest, Probe, Reconstructor, Refine, Residual, Screen
from cloven.attacks.epochs import with_epochs
from cloven.auditing.convergence import said
from cloven.auditing.curves import fewer, rise_shown, shorter
from cloven.auditing.finding import ScoreRange
from cloven.auditing.summary import Convergence, RiseShows
from cloven.partition.transform import Transform, Transforms
from tests.cli.conftest import Run
from tests.cli.conftest import cloven as command

__all__ = ["command"]


# --- the trainings of a curve ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grey:
    """An attack that answers with the same grey everywhere."""

    level: float = 0.5
    epochs: int = 8

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> Reconstructor:
        """Return a function that ignores the captured tensors."""
        return lambda captured: torch.full((len(captured[0]), *knowledge.image), self.level)


@pytest.mark.parametrize(
    ("attack", "took", "expected"),
    [
        (Decoder(epochs=10), 10, {0.25: 2, 0.5: 5}),
        (Decoder(epochs=2), 2, {0.5: 1}),
        (Decoder(epochs=1), 1, {}),
        (Decoder(epochs=100), 8, {0.25: 2, 0.5: 4}),  # held-out pairs or the budget ended it
        (Residual(), 21, {0.25: 5, 0.5: 10}),  # trained as long as it learned
        (Grey(), None, {0.25: 2, 0.5: 4}),  # a user's own attack that does not report its epochs
        (Probe(), None, {}),
    ],
)
def test_a_curve_has_a_quarter_and_half_of_the_epochs_that_an_attack_took(
    attack: Attack, took: int | None, expected: dict[float, int]
) -> None:
    found = shorter(attack, took)

    assert {share: less.epochs for share, less in found.items()} == expected  # type: ignore[attr-defined]


def test_a_curve_has_a_quarter_and_half_of_the_pairs() -> None:
    assert fewer(1000) == [250, 500]
    assert fewer(3) == [2]
    assert fewer(2) == []


@dataclass(frozen=True)
class Several:
    """An attack that consists of others."""

    members: tuple[Attack, ...] = (Decoder(epochs=4), Nearest(), Residual())
    first: Attack = field(default_factory=lambda: Refine(start=Decoder(epochs=6)))

    fit = Grey.fit


def test_the_epochs_of_an_attack_are_also_those_of_the_attacks_that_it_consists_of() -> None:
    half = with_epochs(Several(), lambda epochs: (epochs or 6) // 2)

    assert half == Several((Decoder(epochs=2), Nearest(), Residual(epochs=3)), Refine(start=Decoder(epochs=3)))
    assert with_epochs(Nearest(), lambda _: 1) == Nearest()


def test_every_outcome_of_two_curves_has_a_word_and_converged_needs_both() -> None:
    shown = (*get_args(RiseShows), None)
    outcomes = {(pairs, training): said(pairs, training) for pairs in shown for training in shown}

    assert set(outcomes.values()) | {"uses no pairs and no training"} == set(get_args(Convergence))
    assert [found for found, word in outcomes.items() if word == "converged"] == [("none", "none")]
    assert outcomes["none", "undecided"] == "too few seeds or images to tell"


@pytest.mark.parametrize(
    ("low", "high", "shows"),
    [
        (0.01, 0.05, "rises"),
        (-0.01, 0.015, "none"),
        (0.005, 0.015, "none"),  # certain, and negligible
        (-1.1, 0.97, "undecided"),  # two seeds
        (-0.01, 0.05, "undecided"),
    ],
)
def test_a_wide_interval_shows_neither_a_rise_nor_that_there_is_none(low: float, high: float, shows: str) -> None:
    assert rise_shown(ScoreRange(mean=(low + high) / 2, low=low, high=high)) == shows


# --- audits -----------------------------------------------------------------------------------------------------

GROWING = """
from dataclasses import dataclass
import torch

@dataclass(frozen=True)
class Growing:
    '''The mean of a few images, under noise that becomes less with every epoch.'''
    epochs: int = 8

    def fit(self, knowledge, *, generator, device):
        mean, part = knowledge.auxiliary[:10].mean(0), self.epochs / 8
        def rebuilt(captured):
            noise = torch.rand(len(captured[0]), *mean.shape, generator=torch.Generator().manual_seed(1))
            return part * mean + (1 - part) * noise
        return rebuilt
"""
FEW = ("--auxiliary", "same", "--queries", "40", "--victims", "20", "--judge", "none", "--jobs", "1")


@pytest.fixture
def plan(command: Run, here: Path) -> str:
    """Write a plan of LeNet-5 with random weights and one link."""
    command("plan", "lenet5", "--strategy", "vertical", "--cuts", "conv1", "--out", "plan.toml")
    return "plan.toml"


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_score_that_rises_with_training_is_said_to_rise_with_training(
    command: Run, here: Path, plan: str, seeds: int
) -> None:
    (here / "growing.py").write_text(GROWING)
    options = ("--attacks", "growing:Growing", "--curve", "--seeds", seeds, "--out", "run")
    done = command("audit", plan, *FEW, *options)
    summary = json.loads((here / "run" / "summary.json").read_text())

    (one,) = summary["observations"]
    words = "still rises with more training"
    assert one["counts"]["pixels"]["converged"] == words
    for text in (done.out, (here / "run" / "report.html").read_text()):
        assert words in " ".join(text.split())
    pairs, training = (next(c for c in summary["curves"] if c["over"] == over) for over in ("pairs", "training"))
    assert (pairs["ssim"]["mean"], pairs["ssim"]["shows"]) == (0, "none")
    assert training["ssim"]["low"] > 0
    assert training["ssim"]["covers"] == ("images only" if seeds == 1 else "images and seeds")
    assert [point["time"] for point in training["points"]] == [0.25, 0.5, 1]
    assert len(list((here / "run" / "cells").glob("*.json"))) == 5 * seeds, "the whole is a point of both curves"

    times = {path.name: path.stat().st_mtime_ns for path in (here / "run" / "cells").iterdir()}
    command("audit", plan, *FEW, *options)
    assert times == {path.name: path.stat().st_mtime_ns for path in (here / "run" / "cells").iterdir()}


def bright(count: int, level: float, seed: int) -> Tensor:
    """Return images around a level of grey."""
    return level + 0.1 * torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def seen(program: cloven.Program) -> cloven.Observation:
    (one,) = cloven.observe(program, "edge1-edge2")
    return one


@pytest.fixture(scope="module")
def program() -> cloven.Program:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(600, 5)]
    model = cloven.capture(torch.nn.Sequential(*layers), torch.zeros(1, 3, 12, 12))
    return cloven.divide(model, cloven.Vertical(cuts=["0", "1"]), devices=3)


def test_an_attack_that_is_better_on_the_victims_than_the_chosen_one_is_named(seen: cloven.Observation) -> None:
    """The attacker's images are dark, the victims bright: the attack chosen on the former is weak on the latter."""
    found = cloven.audit(seen, [Grey(0.2), Grey(0.8)], auxiliary=bright(60, 0.15, 0), victims=bright(30, 0.75, 1))
    (one,) = found.observations
    chosen = one.own.pixels
    assert chosen is not None
    assert chosen.exceeded_by is not None

    assert (chosen.attack, chosen.exceeded_by.attack) == ("Grey level=0.2", "Grey level=0.8")
    assert found.strongest()[0].attack == "Grey level=0.2", "the choice stands"
    assert chosen.exceeded_by.difference.low > 0
    assert chosen.exceeded_by.mean - chosen.mean == pytest.approx(chosen.exceeded_by.difference.mean, abs=1e-6)
    (flag,) = [flag for flag in one.flags if flag.startswith("SSIM")]
    assert flag.startswith("SSIM: Grey level=0.2 was chosen on held-out pairs")
    assert "Grey level=0.8 has 0." in flag


def test_without_a_better_one_there_is_no_doubt(seen: cloven.Observation) -> None:
    found = cloven.audit(seen, [Grey(0.2), Grey(0.8)], auxiliary=bright(60, 0.15, 0), victims=bright(30, 0.15, 1))
    (one,) = found.observations

    assert one.own.pixels is not None
    assert one.own.pixels.attack == "Grey level=0.2"
    assert one.own.pixels.exceeded_by is None


def test_a_budget_ends_a_training_and_is_shown(seen: cloven.Observation, tmp_path: Path) -> None:
    own, victims = bright(60, 0.3, 0), bright(30, 0.3, 1)
    found = cloven.audit(seen, [Decoder(epochs=500), "probe"], attack_seconds=0.05, auxiliary=own, victims=victims)
    by = {finding.attack: finding for finding in found.findings}
    took = by["decoder"].training

    assert took is not None
    assert (took.processor, took.ended) == ("CPU", ("budget",))
    assert took.seconds < 1
    assert took.epochs[0] is not None
    assert took.epochs[0] < 500
    assert str(took).endswith("ended by the budget")
    assert by["probe"].training is None
    (warning,) = found.summary.warnings
    assert warning == (
        "The budget of seconds ended the training of 1 of 2 findings: their numbers depend on the speed of this "
        "machine, and differ on another."
    )
    page = cloven.report(found, tmp_path / "report.html").read_text()
    assert warning in page
    assert str(took) in page
    assert found.summary.settings["attack seconds"] == 0.05
    assert found.store.cell(by["decoder"].key).provenance["attack_seconds"] == 0.05


def test_without_a_budget_a_cell_does_not_know_of_budgets(seen: cloven.Observation) -> None:
    own, victims = bright(60, 0.3, 0), bright(30, 0.3, 1)
    free = cloven.audit(seen, Decoder(epochs=1), seeds=2, auxiliary=own, victims=victims)
    ample = cloven.audit(seen, Decoder(epochs=1), seeds=2, attack_seconds=1000, auxiliary=own, victims=victims)
    (one,), (other,) = free.findings, ample.findings
    assert one.training is not None

    assert "attack_seconds" not in free.store.cell(one.key).provenance
    assert one.key != other.key
    assert (one.ssim, one.agreement, one.held_out) == (other.ssim, other.agreement, other.held_out), (
        "a budget that ends no training changes no number"
    )
    assert (one.training.epochs, one.training.ended) == ((1, 1), ("schedule", "schedule"))
    assert 0 < one.training.seconds < 10
    assert str(one.training).endswith(" CPU s, 1 epoch, 2 seeds")
    assert free.summary.warnings == ()
    frame = free.to_frame()
    assert list(frame["epochs"]) == [1]
    assert list(frame["ended"]) == ["schedule"]
    assert list(frame["training_seconds"]) == [one.training.seconds]


def test_an_attack_that_lacks_what_it_needs_is_left_out_where_it_does(program: cloven.Program) -> None:
    """A share of a layer does not determine the model's output, and a recorded transform cannot be queried."""
    plan = cloven.Plan(
        strategy=cloven.Horizontal(), devices=["a", "b"], transform=Transforms(default=Transform.parse("int8"))
    )
    assert program.model is not None
    seen = cloven.observe(cloven.compile(program.model, plan), "b->a")
    own, victims = bright(60, 0.3, 0), bright(30, 0.3, 1)
    labels = Refine(Screen(epochs=1), goal="labels")
    found = cloven.audit(seen, ["nearest", labels], auxiliary=own, victims=victims)

    assert [finding.attack for finding in found.findings] == ["nearest"]
    assert found.summary.warnings == (
        "refine-labels-screen needs the model's rear, or the service to ask, for the classes of its images; this "
        "attacker has none; refine-labels-screen was left out there",
    )
    with pytest.raises(cloven.ClovenError, match="refine-labels-screen needs the model's rear"):
        cloven.audit(seen, labels, auxiliary=own, victims=victims)


def test_an_attack_without_pairs_is_not_said_to_use_any(seen: cloven.Observation) -> None:
    own, victims = bright(60, 0.3, 0), bright(30, 0.3, 1)
    found = cloven.audit(seen, ["rear", RMLE(steps=1), "nearest"], auxiliary=own, victims=victims, attack_seconds=9)

    assert [finding.pairs for finding in found.findings] == [0, 0, 54]
    assert "rmle: the budget limits the training, not the optimisation for each image." in found.summary.warnings


def test_an_attack_that_suits_no_observation_is_left_out_with_a_warning(
    seen: cloven.Observation, command: Run, here: Path, plan: str
) -> None:
    found = cloven.audit(seen, ["nearest", "paste"], auxiliary=bright(60, 0.3, 0), victims=bright(30, 0.3, 1))
    warning = "paste: works on none of these observations; left out"

    assert [finding.attack for finding in found.findings] == ["nearest"]
    assert found.summary.warnings == (warning,)
    assert warning in repr(found)
    done = command("audit", plan, *FEW, "--attacks", "nearest,paste", "--out", "run")
    assert done.code == 0
    assert warning in done.err
    before = sorted(here.rglob("*"))
    done = command("audit", plan, *FEW, "--attacks", "enlarge,paste", "--out", "other")
    assert done.code == 2
    assert "enlarge, paste: works on none of these observations; choose others" in done.err
    assert sorted(here.rglob("*")) == before
