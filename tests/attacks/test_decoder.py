"""The decoder: what it learns, what it refuses, and Table 2."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cloven.attacks.decoder import Decoder, together
from cloven.attacks.knowledge import Pairs, in_memory
from cloven.attacks.layers import Conv, ReLU, Up, as_map, build, rule, text
from cloven.errors import ClovenError
from cloven.papers.s1.table2 import decoder, row_for
from tests.attacks.problems import paired


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int, seed: int) -> torch.Tensor:
    """Smooth images: enlarged noise."""
    noise = torch.rand(n, 1, 4, 4, generator=generator(seed))
    return torch.nn.functional.interpolate(noise, size=(12, 12), mode="bilinear").clamp(0, 1)


def test_a_decoder_rebuilds_images_it_has_not_seen_better_than_their_mean() -> None:
    train, test = blobs(600, 0), blobs(100, 1)
    attack = Decoder(epochs=15, learning_rate=1e-2)
    reconstruct = attack.fit(paired(in_memory(train[:, :, ::2, ::2]), train), generator=generator())

    made = reconstruct([test[:, :, ::2, ::2]])
    error = ((made - test) ** 2).mean()
    floor = ((test.mean(0) - test) ** 2).mean()

    assert made.shape == test.shape
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    assert error < floor / 4


def test_an_image_that_lies_in_clear_among_other_things_is_read_even_after_a_short_training() -> None:
    train, test = blobs(300, 0), blobs(50, 1)
    noise = torch.randn(350, 30, generator=generator(2))
    reconstruct = Decoder(epochs=1).fit(paired(in_memory(train, noise[:300]), train), generator=generator())

    assert float((reconstruct([test, noise[300:]]) - test).abs().max()) < 0.05


def test_what_is_captured_of_other_images_teaches_nothing() -> None:
    """Shuffled pairs: the attack then does no better than the mean image."""
    train, test = blobs(600, 0), blobs(100, 1)
    shuffled = train[torch.randperm(len(train), generator=generator(5))]
    attack = Decoder(epochs=15, learning_rate=1e-2)
    reconstruct = attack.fit(paired(in_memory(shuffled[:, :, ::2, ::2]), train), generator=generator())

    error = ((reconstruct([test[:, :, ::2, ::2]]) - test) ** 2).mean()

    assert error > ((test.mean(0) - test) ** 2).mean() * 0.9


def test_equal_seeds_give_equal_decoders_whatever_torchs_own_generator_did() -> None:
    images = blobs(64, 0)
    captured = images[:, :, ::3, ::3]
    pairs = paired(in_memory(captured), images, seed=3)
    made = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        made.append(Decoder(epochs=1).fit(pairs, generator=generator(7))([captured]))
        state = torch.random.get_rng_state()
        torch.manual_seed(noise)
        assert torch.equal(state, torch.random.get_rng_state()), "the caller's generator was touched"

    assert torch.equal(*made)
    assert not torch.equal(made[0], Decoder(epochs=1).fit(pairs, generator=generator(8))([captured]))


shapes = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 30), st.integers(1, 30)), st.tuples(st.integers(1, 40))
)


@given(st.lists(shapes, min_size=1, max_size=3), st.sampled_from([(1, 28, 28), (3, 32, 32), (3, 20, 34)]))
def test_the_rule_builds_a_decoder_for_any_captured_shapes(
    captured: list[tuple[int, ...]], image: tuple[int, int, int]
) -> None:
    tensors = [torch.rand(2, *shape) for shape in captured]

    network = build(rule(captured, image))

    assert tuple(together(tensors).shape[1:]) == as_map(captured)
    assert network(together(tensors)).shape == (2, *image)


def test_a_slice_takes_its_layers_row_and_a_vector_its_rows_height_and_width() -> None:
    chain_for = decoder("lenet5")

    assert text(chain_for("conv2", (4, 10, 10), (1, 28, 28)) or ()) == "Up(28x28) Conv(4,8) ReLU Conv(8,1)"
    assert text(chain_for("flatten", (120,), (3, 32, 32)) or ()).startswith("View(30x2x2) ConvT(30,60)")
    assert chain_for("conv1", (6, 28, 28), (1, 28, 28)) is None
    assert row_for("another", "conv2", (1, 28, 28)) is None


def test_pairs_that_cannot_teach_are_refused() -> None:
    with pytest.raises(ClovenError, match="the observation is empty; choose a link that is used"):
        in_memory()
    with pytest.raises(ClovenError, match=r"differ in number: \[3, 4\]"):
        in_memory(torch.rand(3, 5), torch.rand(4, 5))
    with pytest.raises(ClovenError, match="differ in number: 3, 4"):
        Pairs(in_memory(torch.rand(3, 5)), torch.rand(4, 1, 12, 12))


def test_layers_that_do_not_fit_are_refused_with_the_shapes() -> None:
    images = blobs(8, 0)
    fit = paired(in_memory(torch.rand(8, 3, 6, 6)), images)

    with pytest.raises(ClovenError, match=r"the decoder's layers do not take \(3, 6, 6\)"):
        Decoder(layers=(Conv(4, 1),)).fit(fit, generator=generator())
    with pytest.raises(ClovenError, match=r"makes \(1, 9, 9\) from \(3, 6, 6\); the images are \(1, 12, 12\)"):
        Decoder(layers=(Up(9, 9), Conv(3, 1), ReLU())).fit(fit, generator=generator())


def test_all_wrong_hyper_parameters_are_named() -> None:
    with pytest.raises(ClovenError) as caught:
        Decoder(epochs=0, learning_rate=-1.0, batch=0)

    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_captures_give_a_constant_answer_and_no_crash(value: float) -> None:
    train = blobs(64, 0)
    knowledge = paired(in_memory(torch.full((64, 2, 3, 3), value)), train)
    reconstruct = Decoder(epochs=2).fit(knowledge, generator=generator())

    made = reconstruct([torch.full((5, 2, 3, 3), value)])

    assert torch.equal(made[0], made[4])
