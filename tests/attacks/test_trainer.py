"""The training core: each attack learns the same alone, beside others, and after it was stopped."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cloven.attacks.attack import BatchedAttack
from cloven.attacks.augmented import Augmented
from cloven.attacks.conv_probe import ConvProbe
from cloven.attacks.decoder import Decoder
from cloven.attacks.ensemble import Ensemble
from cloven.attacks.knowledge import Knowledge, LabelReader, Reconstructor, in_memory, rows
from cloven.attacks.matching import PixelDescent
from cloven.attacks.mlp_probe import MLPProbe
from cloven.attacks.probe import Probe
from cloven.attacks.refine import Refine
from cloven.attacks.residual import Residual
from cloven.attacks.screen import Screen
from cloven.attacks.ssim_loss import ssim_loss
from cloven.attacks.trainer import CPU, Fitting, Machine, Trainee, Training, TrainingSchedule, order, train
from cloven.errors import ClovenError
from cloven.rows import all_rows
from cloven.score import ssim
from tests.attacks.problems import blobs, front, generator, paired, pairs_of, problem

ATTACKS: list[BatchedAttack] = [
    Decoder(epochs=3),
    Screen(epochs=3),
    Residual(epochs=3, widths=(4, 6), held_out=0.2),
    Residual(epochs=3, widths=(4,), masked=0.2),
    Refine(Decoder(epochs=3), descents=(PixelDescent(3, 0.01, 0.1),)),
    Ensemble(Residual(epochs=3, widths=(4,)), members=2),
    Augmented(Residual(epochs=3, widths=(4,)), copies=2),
    MLPProbe(epochs=3, hidden=8),
    ConvProbe(epochs=3, width=8, held_out=0.2),
]
NAMES = ["decoder", "screen", "residual", "residual-masked", "refine", "ensemble", "augmented", "mlp", "conv"]


def made(learned: Reconstructor | LabelReader) -> torch.Tensor:
    captured = front(blobs(20, 9))
    return learned.classify(captured) if isinstance(learned, LabelReader) else learned(captured)


def begun(attack: BatchedAttack, pairs: Knowledge) -> Trainee:
    return attack.begin(pairs, generator(7), CPU)


def test_attacks_that_share_batches_learn_what_each_learns_alone() -> None:
    pairs = problem()
    alone = [made(attack.fit(pairs, generator=generator(7))) for attack in ATTACKS]
    together = train([begun(attack, pairs) for attack in ATTACKS])

    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, made(other))


class StoppedError(Exception):
    pass


class Counting:
    """A trainee whose steps are counted."""

    def __init__(self, trainee: Trainee) -> None:
        self.trainee, self.pairs, self.schedule = trainee, trainee.pairs, trainee.schedule
        self.steps = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.trainee, name)

    def step(
        self, index: torch.Tensor, captured: list[torch.Tensor], images: torch.Tensor, progress: float
    ) -> None:
        self.steps += 1
        self.trainee.step(index, captured, images, progress)


class Interrupted(Counting):
    """A trainee that dies in its last epoch."""

    def step(
        self, index: torch.Tensor, captured: list[torch.Tensor], images: torch.Tensor, progress: float
    ) -> None:
        if progress > 0.7:
            raise StoppedError
        super().step(index, captured, images, progress)


@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_a_training_that_was_killed_goes_on_to_the_same_result(attack: BatchedAttack, tmp_path: Path) -> None:
    pairs, file = problem(), tmp_path / "half.checkpoint"
    with pytest.raises(StoppedError):
        train([Interrupted(begun(attack, pairs))], [file])  # type: ignore[list-item]
    assert file.exists()

    again = Counting(begun(attack, pairs))
    (resumed,) = train([again], [file])  # type: ignore[list-item]

    assert torch.equal(made(resumed), made(attack.fit(pairs, generator=generator(7))))
    assert again.schedule is not None
    assert again.pairs is not None
    assert again.steps == -(-again.schedule.training(len(again.pairs)) // again.schedule.batch), (
        "more than the last epoch"
    )


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which every step takes a second, and so does the end of every epoch."""
    ticks = count()
    monkeypatch.setattr(Machine, "seconds", lambda _: float(next(ticks)))


@pytest.mark.usefixtures("ticking")
def test_each_training_says_how_long_its_own_steps_took() -> None:
    knowledge = problem()
    attacks = [Decoder(epochs=3), Refine(Decoder(epochs=3), descents=(PixelDescent(3, 0.01, 0.1),)), Probe()]
    learned = train([begun(attack, knowledge) for attack in attacks])

    three = Training(epochs=3, seconds=3 * (5 + 1), ended="schedule")  # 300 pairs in batches of 64
    fewer = replace(three, seconds=3 * (4 + 1))  # refine keeps 64 pairs to choose by
    assert [one.training for one in learned] == [three, fewer, None]


@pytest.mark.usefixtures("ticking")
def test_a_training_that_was_killed_goes_on_counting(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train([Interrupted(begun(Decoder(epochs=3), problem()))], [tmp_path / "half"])  # type: ignore[list-item]
    (resumed,) = train([begun(Decoder(epochs=3), problem())], [tmp_path / "half"])

    assert resumed.training == Training(3, 18.0, "schedule")


def in_rounds(knowledge: Knowledge) -> Fitting:
    """Rounds of 1, 2 and 4 epochs; with 300 pairs an epoch takes 9 steps, and 10 ticks."""
    trainee = begun(Residual(widths=(4,)), knowledge)
    assert isinstance(trainee, Fitting)
    assert trainee.schedule.rounds == 3
    trainee.schedule = replace(trainee.schedule, epochs=1)
    return trainee


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize(("budget", "epochs"), [(29.0, 1), (30.0, 3), (69.0, 3)])
def test_a_round_is_begun_only_if_the_budget_lasts_to_its_end(budget: float, epochs: int) -> None:
    (learned,) = train([in_rounds(problem())], budget=budget)

    assert learned.training == Training(epochs, 10.0 * epochs, "budget")


@pytest.mark.usefixtures("ticking")
def test_a_budget_for_one_round_teaches_what_that_round_teaches_alone() -> None:
    (within,) = train([in_rounds(problem())], budget=20.0)

    alone = Residual(epochs=1, widths=(4,)).fit(problem(), generator=generator(7))
    assert torch.equal(made(within), made(alone))


def test_a_training_that_was_killed_in_its_second_round_goes_on_to_the_same_result(tmp_path: Path) -> None:
    (whole,) = train([in_rounds(problem())])
    stopped = in_rounds(problem())
    ended = stopped.ended

    def dying(epoch: int) -> bool:
        if epoch == 3:
            raise StoppedError
        return ended(epoch)

    stopped.ended = dying  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        train([stopped], [tmp_path / "half"])
    (resumed,) = train([in_rounds(problem())], [tmp_path / "half"])

    assert torch.equal(made(resumed), made(whole))


class Noting(Counting):
    """A trainee that notes its progress."""

    def __init__(self, trainee: Trainee) -> None:
        super().__init__(trainee)
        self.progress: list[float] = []

    def step(
        self, index: torch.Tensor, captured: list[torch.Tensor], images: torch.Tensor, progress: float
    ) -> None:
        self.progress.append(progress)
        super().step(index, captured, images, progress)


@pytest.mark.usefixtures("ticking")
def test_a_budget_too_small_for_the_first_round_shortens_it() -> None:
    trainee = Noting(begun(Residual(epochs=3, widths=(4,)), problem()))
    (learned,) = train([trainee], budget=12.0)  # type: ignore[list-item]

    assert learned.training == Training(2, 13.0, "budget")  # the end of the last epoch comes on top
    assert trainee.progress == sorted(trainee.progress)
    assert trainee.progress[-1] > 0.9, "the learning rate has not come down"


def test_training_ends_when_held_out_pairs_no_longer_improve() -> None:
    noise = torch.randn(300, 6, 8, 8, generator=generator(4))
    (lost,) = train([in_rounds(paired(in_memory(noise), blobs(300, 3)))])
    (learned,) = train([in_rounds(problem())])

    assert lost.training is not None
    assert learned.training is not None
    assert (lost.training.epochs, lost.training.ended) == (3, "no improvement")
    assert (learned.training.epochs, learned.training.ended) == (7, "schedule")


def test_what_is_no_checkpoint_is_refused_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "half.checkpoint"
    file.write_bytes(b"something else")

    with pytest.raises(ClovenError, match=r"half.checkpoint is not a checkpoint of this training .*; delete it"):
        train([begun(Decoder(epochs=1), problem())], [file])


def test_the_order_of_the_pairs_depends_on_seed_and_epoch_alone() -> None:
    assert torch.equal(order(1, 0, 50), order(1, 0, 50))
    assert not torch.equal(order(1, 0, 50), order(1, 1, 50))
    assert not torch.equal(order(1, 0, 50), order(2, 0, 50))
    assert order(3, 2, 50).sort().values.tolist() == list(range(50))


def test_held_out_pairs_do_not_train() -> None:
    pairs = problem(100)
    images = all_rows(pairs_of(pairs).images).clone()
    images[90:] = 0.0
    changed = replace(pairs, auxiliary=images)
    attack = Residual(epochs=1, widths=(4,), held_out=0.1)
    networks = []
    for given_pairs in (pairs, changed):
        trainee = begun(attack, given_pairs)
        for index in order(5, 0, TrainingSchedule(1, 32, 0.1).training(100)).split(32):
            trainee.step(index, pairs_of(pairs).captured.take(index), pairs_of(pairs).images[index], 0.5)
            assert int(index.max()) < 90
        networks.append(trainee)


def test_bfloat16_is_nearly_float32_and_not_quite() -> None:
    pairs, attack = problem(), Decoder(epochs=3)
    full = made(attack.fit(pairs, generator=generator(7)))
    (learned,) = train([attack.begin(pairs, generator(7), Machine(precision="bfloat16"))])
    half = made(learned)

    assert not torch.equal(full, half)
    assert float((full - half).abs().mean()) < 0.05


def test_a_machine_that_is_not_there_is_refused() -> None:
    with pytest.raises(ClovenError) as caught:
        Machine("tpu", "float8")

    assert list(caught.value.problems) == [
        "precision is 'float8'; choose from float32, bfloat16",
        "device is 'tpu'; choose cpu or cuda",
    ]
    if not torch.cuda.is_available():
        with pytest.raises(ClovenError, match="PyTorch finds no CUDA here: use cpu"):
            Machine("cuda")


def test_the_loss_is_one_minus_the_score() -> None:
    a, b = torch.rand(4, 3, 20, 14, generator=generator()), torch.rand(4, 3, 20, 14, generator=generator(1))

    assert float(ssim_loss(20, 14)(a, b)) == pytest.approx(1 - float(ssim(a, b).mean()), abs=1e-5)


def test_the_probe_rebuilds_nothing_for_refine_to_start_from() -> None:
    with pytest.raises(
        ClovenError, match="start is probe, which reads classes; expected an attack that reconstructs"
    ):
        Refine(Probe()).fit(problem(), generator=generator())


def test_a_network_is_not_left_in_training_mode() -> None:
    learned = Screen(epochs=1).fit(problem(), generator=generator())

    network: nn.Module = learned.network
    assert not any(module.training for module in network.modules())


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.lists(st.integers(0, 5), min_size=1), st.booleans())
def test_rows_are_those_of_indexing_and_lie_as_they_lay(shape: list[int], index: list[int], last: bool) -> None:
    z = torch.rand(6, *shape)
    if last and z.ndim == 4:
        z = z.contiguous(memory_format=torch.channels_last)

    found = rows(z, torch.tensor(index))

    assert torch.equal(found, z[torch.tensor(index)])
    assert z.ndim != 4 or not last or found.is_contiguous(memory_format=torch.channels_last)
