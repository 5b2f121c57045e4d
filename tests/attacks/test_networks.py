"""The networks of attacks read large captured tensors."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cloven.attacks.attack import BatchedAttack
from cloven.attacks.decoder import Decoder
from cloven.attacks.knowledge import in_memory
from cloven.attacks.networks import Sharpened, readings, ridge
from cloven.attacks.residual import Residual
from cloven.attacks.screen import Screen
from tests.attacks.problems import blobs, generator, paired

SHAPE = st.integers(1, 9).flatmap(lambda c: st.tuples(st.just(c), st.integers(1, 5), st.integers(1, 5)))


@pytest.mark.parametrize("attack", [Decoder(epochs=1), Residual(epochs=1, widths=(4,)), Screen(epochs=1)])
def test_an_image_in_clear_is_read_among_more_channels_than_can_be_read(
    attack: BatchedAttack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link of a horizontally divided CNN carries the image and thousands of channels of deeper layers."""
    monkeypatch.setattr(Sharpened, "CHANNELS", 256)
    images = blobs(350, 0)
    many = [torch.randn(350, 129, 2, 2, generator=generator(i)) for i in (2, 3)]
    train, test = slice(0, 300), slice(300, None)
    pairs = paired(in_memory(many[0][train], images[train], many[1][train]), images[train])

    made = attack.fit(pairs, generator=generator())([many[0][test], images[test], many[1][test]])

    floor = (images[train].mean(0) - images[test]).abs().mean()
    assert float((made - images[test]).abs().mean()) < floor / 3


@given(st.lists(st.one_of(SHAPE, st.tuples(st.integers(1, 9))), max_size=6), st.integers(0, 30))
def test_readings_go_from_fine_to_coarse_as_far_as_the_channels_go(
    shapes: list[tuple[int, ...]], channels: int
) -> None:
    found = readings(shapes, channels)
    maps = [i for i, shape in enumerate(shapes) if len(shape) == 3 and shape[0] <= channels]

    assert found == [[]] if not maps else all(found)
    for fewer, more in pairwise(found):
        assert set(fewer) < set(more)
        coarsest = min(shapes[i][1] * shapes[i][2] for i in fewer)
        assert all(shapes[i][1] * shapes[i][2] < coarsest for i in set(more) - set(fewer))
    for read in found:
        assert read == sorted(set(read))
        assert sum(shapes[i][0] for i in read) <= channels
    for i in set(maps) - set(found[-1]):  # what is left out would not have fitted beside what is as fine
        finer = sum(shapes[j][0] for j in found[-1] if shapes[j][1] * shapes[j][2] >= shapes[i][1] * shapes[i][2])
        assert finer + shapes[i][0] > channels


def test_a_ridge_regression_is_the_closed_formula() -> None:
    z, x = (torch.randn(40, c, 3, 2, generator=generator(c)) for c in (5, 2))
    weight, bias = ridge(z, x, 0.0)
    rows = torch.cat([z.movedim(1, 3).reshape(-1, 5), torch.ones(240, 1)], 1).double()
    expected = torch.linalg.lstsq(rows, x.movedim(1, 3).reshape(-1, 2).double()).solution

    assert torch.allclose(torch.cat([weight, bias[:, None]], 1), expected.T)
