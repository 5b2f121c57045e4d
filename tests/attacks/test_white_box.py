"""Attackers with the weights (refinement, inversion without data, augmentation), and ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import process_time

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cloven.attacks.attack import BatchedAttack
from cloven.attacks.augmented import Augmented, moved
from cloven.attacks.decoder import Decoder
from cloven.attacks.ensemble import Ensemble
from cloven.attacks.knowledge import Knowledge, LabelReader, QueryResult, Reconstructor, in_memory
from cloven.attacks.matching import PixelDescent
from cloven.attacks.nearest import Nearest
from cloven.attacks.probe import Probe
from cloven.attacks.provenance import is_white_box, settings_of
from cloven.attacks.refine import Refine
from cloven.attacks.registry import load
from cloven.attacks.residual import Residual
from cloven.attacks.rmle import RMLE
from cloven.attacks.trainer import Fitting, Machine, train
from cloven.auditing.suite import AttackSuite
from cloven.errors import ClovenError
from cloven.rows import all_rows
from tests.attacks.problems import blobs, classes, front, generator, paired, pairs_of, problem

QUICK = Residual(epochs=3, widths=(4,))
VICTIMS = blobs(40, 9)


def learned(attack: BatchedAttack, knowledge: Knowledge) -> Reconstructor:
    found = attack.fit(knowledge, generator=generator(7))
    assert isinstance(found, Reconstructor)
    return found


def error(made: Tensor, images: Tensor = VICTIMS) -> float:
    return float((made - images).square().mean())


BEST_GUESS = error(VICTIMS.mean(0, keepdim=True).expand_as(VICTIMS))


class Seen(Decoder):
    """An attack that shows what it knows."""

    needs_classes = True

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Fitting:
        KNOWN.append(knowledge)
        return super().begin(knowledge, generator, machine)


class Blind(Seen):
    """The same, but it does not use the classes."""

    needs_classes = False


KNOWN: list[Knowledge] = []


# --- refinement -------------------------------------------------------------------------------------------------


def test_refinement_comes_nearer_to_the_image_than_its_start() -> None:
    knowledge, seen = problem(), front(VICTIMS)
    start, refined = learned(QUICK, knowledge), learned(Refine(QUICK), knowledge)

    assert error(refined(seen)) < error(start(seen)) / 2
    assert refined.training is not None  # type: ignore[attr-defined]


READ = 0.01 * torch.randn(1, 16, 16, generator=generator(21))
READ[0, 0, 0] = 1.0


def cornered(n: int, seed: int) -> Tensor:
    """Smooth images of which one pixel is black or white."""
    images = blobs(n, seed)
    images[:, 0, 0, 0] = torch.randint(0, 2, (n,), generator=generator(seed)).float()
    return images


def deep(images: Tensor) -> list[Tensor]:
    """A front that keeps coarse pixels, and a number that depends on one pixel, and a little on all others."""
    return [F.avg_pool2d(images, 4), (images * READ).sum((2, 3)) - 0.5]


def deep_rear(captured: Sequence[Tensor]) -> Tensor:
    """The classes differ in the number alone."""
    return torch.cat([-captured[1], captured[1]], 1)


def deep_classes(images: Tensor) -> Tensor:
    return deep_rear(deep(images)).argmax(1)


def deep_problem(n: int) -> Knowledge:
    images = cornered(n, 3)
    known = paired(in_memory(*deep(images)), images, classes=deep_classes(images), front=deep)
    return replace(known, rear=deep_rear)


class Enlarged:
    """An attack that shows the coarse pixels."""

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> Reconstructor:
        return lambda captured: F.interpolate(captured[0], (16, 16), mode="bilinear")


def test_deep_features_are_refined_for_labels_where_pixels_keep_the_start() -> None:
    knowledge, descents, victims = deep_problem(300), (PixelDescent(40, 0.02, 0.0),), cornered(40, 9)
    chosen = learned(Refine(Enlarged(), "pixels", descents), knowledge)
    pixels, labels = (
        chosen(deep(victims)),
        learned(Refine(Enlarged(), "labels", descents), knowledge)(deep(victims)),
    )
    start = F.interpolate(deep(victims)[0], (16, 16), mode="bilinear")

    def agreement(made: Tensor) -> float:
        return float((deep_classes(made) == deep_classes(victims)).float().mean())

    assert "its start is kept" in chosen.notes[-1]  # type: ignore[attr-defined]
    assert torch.equal(pixels, start)
    assert agreement(labels) >= 0.95 > agreement(start)
    assert error(labels, victims) > error(pixels, victims)


def test_the_start_does_not_train_on_the_pairs_that_choose() -> None:
    Refine(Seen(epochs=1), descents=(PixelDescent(1, 0.01, 0.0),)).fit(problem(400), generator=generator())
    known = KNOWN.pop()
    assert known.classes is not None

    assert (len(pairs_of(known)), len(known.classes)) == (336, 336)


def test_labels_need_the_answers_and_what_classifies() -> None:
    knowledge, attack = problem(), Refine(Decoder(epochs=1), "labels")

    with pytest.raises(ClovenError, match="refine-labels-decoder needs the classes that the service answered"):
        attack.fit(replace(knowledge, classes=None), generator=generator())
    with pytest.raises(ClovenError, match="refine-labels-decoder needs the model's rear, or the service to ask"):
        attack.fit(replace(knowledge, query=None), generator=generator())
    with pytest.raises(ClovenError, match="goal is 'faces'; expected pixels or labels"):
        Refine(goal="faces")  # type: ignore[arg-type]


def test_refine_stands_for_both_goals() -> None:
    suite = AttackSuite(("refine", "probe"), epochs=2)

    assert suite.names == ("refine-pixels", "refine-labels", "probe")
    assert AttackSuite(("refine", "refine-labels")).problems() == [
        "attack 'refine-labels' is given 2 times (refine stands for refine-pixels, refine-labels); give it once"
    ]
    with pytest.raises(ClovenError, match="refine stands for refine-pixels and refine-labels; choose one of them"):
        load("refine")


# --- inversion without data -------------------------------------------------------------------------------------


def test_inversion_uses_no_images_and_no_queries() -> None:
    seen = front(VICTIMS)
    alone = Knowledge((1, 16, 16), observed=in_memory(*seen), front=front)
    made = learned(RMLE(), alone)(seen)

    assert error(made) < BEST_GUESS / 20
    assert torch.equal(made, learned(RMLE(), replace(problem(), observed=in_memory(*seen)))(seen))


def test_inversion_chooses_its_smoothness_by_what_it_is_to_attack() -> None:
    seen = front(VICTIMS)
    weights = (1000.0, 1.0)
    known = learned(RMLE(smoothness=weights), Knowledge((1, 16, 16), observed=in_memory(*seen), front=front))
    unknown = learned(RMLE(smoothness=weights), Knowledge((1, 16, 16), front=front))

    assert error(known(seen)) < error(unknown(seen))
    with pytest.raises(ClovenError, match="rmle needs the model's weights"):
        RMLE().fit(Knowledge((1, 16, 16)), generator=generator())


@pytest.mark.parametrize("side", [(5, 9), (28, 28), (33, 17)])
def test_descent_takes_images_of_any_size(side: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *side, generator=generator())

    made = PixelDescent(60, 0.05, 0.0)(lambda x: [x * 2], torch.full_like(images, 0.5), [images * 2])

    assert error(made, images) < 1e-3


# --- augmentation -----------------------------------------------------------------------------------------------


def test_augmentation_finds_images_that_are_flipped_ones_of_those_at_hand() -> None:
    knowledge = problem(60)
    flipped = all_rows(pairs_of(knowledge).images).flip(3)
    plain, more = (learned(attack, knowledge) for attack in (Nearest(), Augmented(Nearest(), copies=12, shift=0.0)))

    assert error(plain(front(flipped)), flipped) > 0.01
    assert error(more(front(flipped)), flipped) == 0


def augmented(knowledge: Knowledge, attack: Augmented) -> Knowledge:
    attack.fit(knowledge, generator=generator(3))
    return KNOWN.pop()


def test_copies_are_pairs_and_the_first_of_each_image_is_as_it_was_captured() -> None:
    knowledge = problem(40)
    noisy = replace(knowledge, captured=in_memory(front(blobs(40, 0))[0] + 0.01))
    known = augmented(noisy, Augmented(Seen(epochs=1), copies=3))
    assert known.pairs is not None
    assert noisy.pairs is not None
    captured, images = known.pairs.first()

    same = torch.tensor([any(torch.equal(a, b) for b in all_rows(noisy.pairs.images)) for a in images])
    assert len(images) == 120
    assert torch.equal(images[:30], all_rows(noisy.pairs.images)[:30])
    assert torch.equal(captured[0][:30], noisy.pairs.first(30)[0][0])
    assert torch.allclose(captured[0][30:60], front(images[30:60])[0])
    assert same.sum() < 60
    again = augmented(noisy, Augmented(Seen(epochs=1), copies=3))
    assert again.pairs is not None
    assert torch.equal(all_rows(again.pairs.images), images)


def test_the_last_pairs_are_copies_of_the_last_images_alone() -> None:
    knowledge = problem(40)
    assert knowledge.auxiliary is not None
    marked = all_rows(knowledge.auxiliary).clone()
    marked[-2:] = 1.0
    known = augmented(replace(knowledge, auxiliary=marked), Augmented(Seen(epochs=1), copies=4))
    assert known.auxiliary is not None

    white = (all_rows(known.auxiliary) == 1).flatten(1).all(1)
    assert white.nonzero()[:, 0].tolist() == list(range(152, 160))


def test_classes_of_copies_are_the_models() -> None:
    knowledge = deep_problem(40)
    known = augmented(knowledge, Augmented(Seen(epochs=1)))

    assert known.auxiliary is not None
    assert known.classes is not None
    assert torch.equal(known.classes, deep_classes(all_rows(known.auxiliary)))
    assert not torch.equal(known.classes[30:60], knowledge.classes[:30])  # type: ignore[index]
    assert augmented(knowledge, Augmented(Blind(epochs=1))).classes is None
    with pytest.raises(ClovenError, match="probe needs the classes"):
        Augmented(Probe()).fit(replace(knowledge, rear=None), generator=generator())


def test_the_time_of_the_front_counts_as_time_of_the_attack() -> None:
    calls = []

    def slow(images: Tensor) -> list[Tensor]:
        until = process_time() + 0.005
        while process_time() < until:
            pass
        calls.append(len(images))
        return front(images)

    attack = Augmented(Decoder(epochs=2, batch=20), copies=2)
    trainee = attack.begin(replace(problem(40), front=slow), generator(), Machine())
    calls.clear()
    (made,) = train([trainee])

    assert made.training is not None
    assert len(calls) >= 6
    assert made.training.seconds >= 0.005 * len(calls)


def test_copies_are_flipped_and_shifted_with_mirrored_borders() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    shown = moved(image, torch.zeros(200, dtype=torch.long), torch.ones(200, dtype=torch.bool), 0.25, seed=0)
    padded = F.pad(image, (1, 1, 1, 1), mode="reflect")
    windows = [padded[:, :, i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    allowed = torch.cat([flipped for w in windows for flipped in (w, w.flip(3))])

    found = torch.stack([(one == allowed).flatten(1).all(1) for one in all_rows(shown)])
    assert found.any(1).all()
    assert found.any(0).all()


# --- ensembles --------------------------------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_different_trainings_and_better_than_they_are() -> None:
    knowledge, seen = problem(), front(VICTIMS)
    together = learned(Ensemble(QUICK), knowledge)
    made = [one(seen) for one in together.members]  # type: ignore[attr-defined]

    assert torch.allclose(together(seen), torch.stack(made).mean(0))
    assert not torch.equal(made[0], made[1])
    assert error(together(seen)) < 0.9 * sum(map(error, made)) / 3


class Says:
    """A label reader whose class depends on its seed."""

    name = "says"

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> LabelReader:
        number = generator.initial_seed() // 1_000_003

        class Reader:
            def classify(self, captured: Sequence[Tensor]) -> Tensor:
                rows = torch.arange(len(captured[0]))
                return torch.where(rows == 0, number, torch.where(rows == 1, min(number, 1), 5))

        return Reader()


def test_of_label_readers_most_decide_and_in_a_tie_the_first() -> None:
    reader = Ensemble(Says()).fit(problem(), generator=generator(0))

    assert reader.classify(front(blobs(3, 1))).tolist() == [0, 1, 5]


# --- all --------------------------------------------------------------------------------------------------------

EVERY: list[BatchedAttack] = [
    Refine(QUICK, descents=(PixelDescent(10, 0.01, 0.1),)),
    Refine(QUICK, "labels", descents=(PixelDescent(10, 0.01, 0.1),)),
    RMLE(steps=20, smoothness=(1.0,)),
    Augmented(QUICK, copies=2),
    Ensemble(QUICK, members=2),
]
NAMES = [attack.label for attack in EVERY]


@pytest.mark.parametrize("attack", EVERY, ids=NAMES)
def test_the_result_depends_on_the_seed_alone_and_not_on_the_images_beside_it(attack: BatchedAttack) -> None:
    knowledge, seen = problem(100), front(VICTIMS)
    one, other = learned(attack, knowledge), learned(attack, knowledge)

    assert torch.equal(one(seen), other(seen))
    assert torch.allclose(one(seen)[7:9], one([z[7:9] for z in seen]), atol=1e-3)


@pytest.mark.parametrize("attack", EVERY, ids=NAMES)
@pytest.mark.parametrize("what", ["noise", "bytes", "constant", "shuffled"])
def test_what_says_nothing_of_the_image_teaches_nothing(attack: BatchedAttack, what: str) -> None:
    images = blobs(200, 0)

    def said(of: Tensor, seed: int) -> Tensor:
        z, drawn = front(of)[0], generator(seed)
        return {
            "noise": torch.randn(z.shape, generator=drawn),
            "bytes": torch.randint(0, 256, z.shape, generator=drawn).float(),
            "constant": torch.full_like(z, 0.3),
            "shuffled": z[torch.randperm(len(z), generator=drawn)],
        }[what]

    def asked(of: Tensor) -> QueryResult:
        return QueryResult([said(of, 5)], classes(of))

    knowledge = replace(problem(200), captured=in_memory(said(images, 1)), query=asked)
    made = learned(attack, knowledge)([said(VICTIMS, 2)])

    assert error(made) > BEST_GUESS * 0.95


@pytest.mark.parametrize("attack", EVERY, ids=NAMES)
def test_all_that_changes_the_result_is_in_its_provenance(attack: BatchedAttack) -> None:
    known = settings_of(attack, [(6, 8, 8)], (1, 16, 16))

    inner = known.get("start", known.get("attack"))
    assert isinstance(attack, RMLE) or (isinstance(inner, dict) and inner["epochs"] == 3)
    assert is_white_box(attack) == (not isinstance(attack, Ensemble))
    assert is_white_box(Ensemble(attack)) == is_white_box(attack)


def test_a_suite_names_those_that_need_the_weights() -> None:
    suite = AttackSuite(("decoder", "refine", "rmle", "residual-ensemble", Ensemble(Augmented(Decoder()))))

    assert suite.white_box == ("refine-pixels", "refine-labels", "rmle", "(decoder-augmented)-ensemble")
