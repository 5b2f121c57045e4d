"""Any observation as maps: shares whose place is known go where they belong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloven.attacks.adapt import Adaptor, layout
from cloven.attacks.attack import BatchedAttack
from cloven.attacks.decoder import Decoder
from cloven.attacks.knowledge import Knowledge, SharePlace, in_memory
from cloven.attacks.nearest import Nearest
from cloven.attacks.residual import Residual
from cloven.attacks.screen import Screen
from tests.attacks.problems import blobs, generator, paired, pairs_of

MAP = (4, 8, 6)


def whole(n: int = 40) -> torch.Tensor:
    return torch.randn(n, *MAP, generator=generator()) * 3 + 5


def adapted(pairs: Knowledge) -> list[torch.Tensor]:
    captured, _ = pairs_of(pairs).first()
    made: list[torch.Tensor] = Adaptor(pairs_of(pairs), pairs.places)(captured)
    return made


def test_bands_and_halo_strips_of_one_map_lie_where_they_belong() -> None:
    z = whole()
    pairs = paired(
        in_memory(z[:, :, 2:5], z[:, :, 5:6]),
        torch.rand(40, 1, 16, 12),
        places=(SharePlace("a", (0, 2, 0), MAP), SharePlace("a", (0, 5, 0), MAP)),
    )
    (made,) = adapted(pairs)

    assert made.shape == (40, 5, 8, 6)  # and a mask
    assert made[:, 4, 2:6].eq(1).all()
    assert made[:, :, :2].eq(0).all()
    assert made[:, :, 6:].eq(0).all()
    seen = made[:, :4, 2:6]
    assert float(seen.mean()) == pytest.approx(0, abs=1e-4)
    assert float(seen.std()) == pytest.approx(1, abs=0.01)
    scaled = (z[:, :, 2:6] - z[:, :, 2:6].mean((0, 2, 3), keepdim=True)) / z[:, :, 2:6].std((0, 2, 3), keepdim=True)
    assert torch.allclose(seen, scaled, atol=0.01)


def test_channel_slices_make_a_map_of_the_channels_that_were_seen() -> None:
    z = whole()
    places = (SharePlace("a", (1, 0, 0), MAP), SharePlace("a", (3, 0, 0), MAP))
    pairs = paired(in_memory(z[:, 1:2], z[:, 3:4]), torch.rand(40, 1, 16, 12), places=places)
    (made,) = adapted(pairs)

    assert made.shape == (40, 4, 8, 6)  # channels 1 to 3 and a mask; channel 2 was not seen
    assert made[:, 1].eq(0).all()
    (alone,) = adapted(paired(in_memory(z[:, 1:3]), torch.rand(40, 1, 16, 12), places=places[:1]))
    assert alone.shape == (40, 2, 8, 6)  # nothing is missing: no mask


def test_without_places_each_share_is_a_map_of_its_own_and_a_vector_a_vector() -> None:
    found = layout([(4, 8, 6), (4, 2, 6), (10,), (5, 7)], None)

    assert found.shapes == ((4, 8, 6), (4, 2, 6), (10,), (1, 5, 7))
    assert not any(found.partial)


def test_channels_that_hardly_vary_are_not_blown_up() -> None:
    z = whole()
    z[:, 0] = 2.0
    z[:, 1] = 1e-7 * z[:, 1]
    (made,) = adapted(paired(in_memory(z), torch.rand(40, 1, 16, 12)))

    assert made[:, 0].abs().max() < 1e-3
    assert made[:, 1].abs().max() < 0.01
    assert torch.isfinite(made).all()


shapes = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 20), st.integers(1, 20)),
    st.tuples(st.integers(1, 30)),
    st.tuples(st.integers(1, 4), st.integers(1, 6)),
)
attacks = st.sampled_from([Decoder(epochs=1), Screen(epochs=1), Residual(epochs=1, widths=(3,)), Nearest()])


@given(st.lists(shapes, min_size=1, max_size=3), st.sampled_from([(1, 12, 12), (3, 11, 17)]), attacks)
@settings(max_examples=40, deadline=None)
def test_every_attack_works_on_any_shapes(
    captured: list[tuple[int, ...]], image: tuple[int, int, int], attack: BatchedAttack
) -> None:
    tensors = [torch.randn(9, *shape, generator=generator(i)) for i, shape in enumerate(captured)]
    images = torch.rand(9, *image, generator=generator(99))

    learned = attack.fit(paired(in_memory(*tensors), images), generator=generator())
    made = learned([z[:2] for z in tensors])

    assert made.shape == (2, *image)
    assert 0 <= float(made.min()) <= float(made.max()) <= 1


@pytest.mark.parametrize("attack", [Screen(epochs=2), Residual(epochs=2, widths=(4,)), Nearest()])
@pytest.mark.parametrize("kind", ["noise", "constant", "one value", "nan", "huge"])
def test_what_teaches_nothing_gives_an_answer_and_no_crash(attack: BatchedAttack, kind: str) -> None:
    train = blobs(60, 0)
    noise = torch.randn(60, 3, 4, 4, generator=generator())
    z = {
        "noise": noise,
        "constant": torch.full_like(noise, 7.0),
        "one value": noise[:, :1, :1, :1].reshape(60, 1),
        "nan": torch.full_like(noise, torch.nan),
        "huge": noise * 1e30,
    }[kind]
    learned = attack.fit(paired(in_memory(z), train), generator=generator())
    made = learned(in_memory(z).take(torch.arange(5)))

    assert torch.isfinite(made).all()
