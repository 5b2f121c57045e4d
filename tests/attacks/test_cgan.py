"""The conditional GAN: what it learns, that it is exact, and what is said when it collapses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from cloven.attacks.cgan import CGAN, Adversaries, Discriminator, Generator, collapse, halfway
from cloven.attacks.knowledge import Knowledge, LabelReader, in_memory
from cloven.attacks.trainer import DescribedReconstructor, Machine, train
from cloven.errors import ClovenError
from cloven.rows import all_rows
from cloven.score import ssim
from tests.attacks.problems import paired, pairs_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int, seed: int = 0, side: int = 16) -> Tensor:
    """Smooth images ``(n, 1, side, side)``."""
    noise = torch.rand(n, 1, 5, 5, generator=generator(seed))
    return F.interpolate(noise, size=side, mode="bilinear")


def features(images: Tensor) -> Tensor:
    kernel = torch.randn(6, images.shape[1], 4, 4, generator=generator(9)) / 4
    return F.conv2d(images, kernel, stride=2, padding=1).relu()


def trainee(attack: CGAN, pairs: Knowledge, seed: int = 0) -> Adversaries:
    return attack.begin(pairs, generator(seed), Machine())


def fitted(attack: CGAN, pairs: Knowledge, seed: int = 0) -> DescribedReconstructor:
    (made,) = train([trainee(attack, pairs, seed)])
    assert not isinstance(made, LabelReader)
    return made


def easy(n: int = 96) -> Knowledge:
    images = blobs(n)
    return paired(in_memory(features(images)), images)


# --- what it learns ---------------------------------------------------------------------------------------------


def test_with_a_pixel_loss_it_rebuilds_what_it_has_not_seen_better_than_the_mean_image() -> None:
    pairs, victims = easy(300), blobs(50, 1)
    made = fitted(CGAN(epochs=8, learning_rate=1e-3, pixel=100, width=8), pairs)([features(victims)])
    mean = all_rows(pairs_of(pairs).images).mean(0, keepdim=True).expand_as(victims)

    assert made.shape == victims.shape
    assert (made - victims).square().mean() < 0.2 * (mean - victims).square().mean()
    assert ssim(made, victims).mean() > ssim(mean, victims).mean() + 0.3


def test_without_one_the_discriminator_alone_teaches_it_where_things_are() -> None:
    """It is conditional: what it makes of an image is more like that image than like others."""
    pairs, victims = easy(300), blobs(50, 1)
    made = fitted(CGAN(epochs=8, learning_rate=3e-3, width=8), pairs)([features(victims)])

    own, others = ((made - victims.roll(k, 0)).square().mean() for k in (0, 1))
    assert own < 0.4 * others


def test_it_is_what_s2_says() -> None:
    attack = CGAN()
    assert (attack.name, attack.epochs, attack.pixel) == ("cgan", 200, 0.0)
    assert attack.settings([(8, 4, 4)], (3, 32, 32))["learning_rate"] == 2e-4
    one = trainee(attack, easy(20))
    network = one.maker.network[1]
    assert isinstance(network, Generator)
    assert len(network.blocks) == 2
    assert {group["betas"] for half in (one.maker, one.judge) for group in half.optimiser.param_groups} == {
        (0.5, 0.999)
    }


@pytest.mark.parametrize(
    ("shape", "inside"),
    [((6, 32, 32), (16, 8)), ((6, 8, 8), (4, 2)), ((6, 3, 3), (2,)), ((50,), (2,)), ((6, 4, 9), (8, 4))],
)
def test_the_encoder_halves_what_it_reads_twice_down_to_a_side_of_two(
    shape: tuple[int, ...], inside: tuple[int, ...]
) -> None:
    made = Generator([shape], (1, 32, 32), 4).eval()
    sides: list[int] = []
    for down in made.downs:
        down.register_forward_hook(lambda _, __, out: sides.append(out.shape[2]))

    assert made([torch.rand(2, *shape)]).shape == (2, 1, 32, 32)
    assert tuple(sides) == inside


def test_the_decoder_sees_the_maps_of_the_encoder() -> None:
    """With blocks and a lowest doubling that give nothing, the captured tensors still reach the image."""
    made = Generator([(6, 8, 8)], (1, 32, 32), 4).eval()
    for weight in made.downs[-1].parameters():
        nn.init.zeros_(weight)
    maps = torch.rand(2, 6, 8, 8, generator=generator())

    assert not torch.allclose(made([maps]), made([maps.flip(0)]))


def test_the_discriminator_is_a_down_sampler_and_convolutional_blocks() -> None:
    judge = Discriminator([(6, 8, 8)], (3, 96, 96), 8)

    assert [layer.stride for layer in judge.downs] == [(2, 2)] * 3
    assert [next(layer.parameters()).shape[:2] for layer in judge.blocks] == [(64, 64)] * 2
    assert judge(torch.rand(4, 3, 96, 96), [torch.rand(2, 6, 8, 8)]).shape == (4, 1, 12, 12)


def test_the_learning_rate_stays_for_half_of_the_training_and_then_falls_to_nothing() -> None:
    rate = halfway(0.2)
    assert [rate(p) for p in (0.0, 0.5, 0.75, 1.0)] == pytest.approx([0.2, 0.2, 0.1, 0.0])


def test_a_discriminator_sees_what_was_captured() -> None:
    images = blobs(8)
    judge = Discriminator([(6, 8, 8)], (1, 16, 16), 8).eval()
    maps = features(images)
    both = judge(torch.cat([images, images]), [maps])

    torch.testing.assert_close(both[:8], judge(images, [maps]))
    torch.testing.assert_close(both[:8], both[8:])
    assert not torch.allclose(both[:8], judge(images, [maps.flip(0)]))
    assert both.shape[2:] == (8, 8)


# --- exact ------------------------------------------------------------------------------------------------------


def test_the_same_seed_learns_the_same_and_another_does_not() -> None:
    pairs = easy(40)
    before = torch.random.get_rng_state()
    captured, _ = pairs_of(pairs).first(5)
    a, b, c = (fitted(CGAN(epochs=2, width=4), pairs, seed)(captured) for seed in (3, 3, 4))

    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("pixel", [0.0, 100.0])
def test_a_training_that_was_broken_off_learns_the_same(tmp_path: Path, pixel: float) -> None:
    pairs, attack = easy(40), CGAN(epochs=5, width=4, pixel=pixel)
    whole = trainee(attack, pairs)
    (first,) = train([whole])

    stopped = trainee(attack, pairs)
    step, steps = stopped.step, 3 * 3 + 1

    def interrupted(index: Tensor, captured: list[Tensor], images: Tensor, progress: float) -> None:
        nonlocal steps
        steps -= 1
        if steps < 0:
            raise KeyboardInterrupt
        step(index, captured, images, progress)

    stopped.step = interrupted  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        train([stopped], [tmp_path / "half"])
    again = trainee(attack, pairs)
    (second,) = train([again], [tmp_path / "half"])

    assert callable(first)
    assert callable(second)
    assert torch.equal(first(pairs_of(pairs).first(40)[0]), second(pairs_of(pairs).first(40)[0]))
    state, other = whole.state(), again.state()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_learning_to_make_leaves_the_judge_as_it_is() -> None:
    pairs = easy(16)
    one = trainee(CGAN(width=4), pairs)
    captured, images = pairs_of(pairs).first(16)
    one.maker.network.train()
    maps, made = one._made(captured)
    before = {name: value.clone() for name, value in one.judge.network.state_dict().items()}
    one._make(maps, images, made)

    assert all(torch.equal(value, before[name]) for name, value in one.judge.network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in one.judge.network.parameters())


# --- any shape --------------------------------------------------------------------------------------------------

sides = st.integers(4, 33)


@settings(max_examples=15, deadline=None)
@given(
    image=st.tuples(st.sampled_from([1, 3]), sides, sides),
    captured=st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40)) | st.tuples(st.integers(1, 50)),
        min_size=1,
        max_size=3,
    ),
    count=st.integers(1, 5),
)
def test_anything_captured_of_any_images_can_be_tried(
    image: tuple[int, ...], captured: list[tuple[int, ...]], count: int
) -> None:
    """Odd sides, fewer pairs than a batch, and a single pair left over."""
    random = generator()
    pairs = paired(
        in_memory(*(torch.randn(count, *shape, generator=random) for shape in captured)),
        torch.rand(count, *image, generator=random),
    )
    made = fitted(CGAN(epochs=1, batch=2, width=2), pairs)(pairs_of(pairs).first(count)[0])

    assert made.shape == (count, *image)
    assert 0 <= float(made.min()) <= float(made.max()) <= 1


def test_hyper_parameters_out_of_range_are_refused_together() -> None:
    with pytest.raises(ClovenError) as caught:
        CGAN(epochs=0, learning_rate=0, batch=0, pixel=-1, width=0)
    assert [str(line).split()[0] for line in caught.value.problems] == [
        "epochs",
        "learning_rate",
        "batch",
        "pixel",
        "width",
    ]


# --- collapse ---------------------------------------------------------------------------------------------------


def test_a_generator_that_always_makes_the_same_is_found_out() -> None:
    pairs = easy(40)
    one = trainee(CGAN(epochs=1, width=4), pairs)
    train([one])
    out: nn.Conv2d = one.maker.network[1].out
    with torch.no_grad():
        out.weight.zero_()

    made = one.finish(None)
    assert list(made.notes) == ["collapsed: its images differ from each other by 0% of what real ones do"]


def test_a_discriminator_that_always_wins_is_said() -> None:
    images = blobs(20)
    assert collapse(images, images, 0.5) == ()
    assert collapse(images, images, 0.004) == (
        "saturated: the discriminator tells every image apart (its loss is 0.004)",
    )
    assert collapse(images[:1] * 0, images[:1], 0.5) == ()


def test_one_that_learns_has_not_collapsed() -> None:
    assert list(fitted(CGAN(epochs=3, learning_rate=1e-3, pixel=100, width=8), easy(200)).notes) == []
