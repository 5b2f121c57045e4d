"""The plain script of Mehrafrooz et al. (2025) attacks what cloven attacks, with the same decoders and scores."""

from __future__ import annotations

import pytest
import torch
from benchmarks import s1_script
from benchmarks.s1_script import cuts, decoder, quarter

from cloven.attacks.layers import build
from cloven.score.similarity import ssim
from cloven.zoo.named import make

IMAGES = [(1, 28, 28), (3, 32, 32)]


@pytest.mark.parametrize("image", IMAGES)
def test_there_are_nineteen_decoders_of_the_same_functions(image: tuple[int, int, int]) -> None:
    model, images = make("lenet5", shape=image, classes=10), torch.rand(3, *image)
    found = list(cuts("lenet5", image))

    assert len(found) == 19
    for cut, row in found:
        captured = s1_script.record(model, cut, images)
        chain = row.chain(tuple(captured.shape[1:]), image)
        plain, own = decoder(chain), build(chain)
        own.load_state_dict(plain.state_dict())
        assert plain(captured).shape == images.shape
        torch.testing.assert_close(plain(captured), own(captured))


def test_quarters_make_the_image() -> None:
    images = torch.rand(2, 3, 8, 8)
    rows = [torch.cat([quarter(images, i), quarter(images, i + 1)], 3) for i in (0, 2)]

    assert torch.equal(torch.cat(rows, 2), images)


def test_the_similarity_is_the_same() -> None:
    a, b = torch.rand(2, 4, 3, 16, 16)

    torch.testing.assert_close(s1_script.ssim(a, b).double(), ssim(a, b), atol=1e-6, rtol=0)


def test_a_small_attack_has_a_score_for_each_share_and_image() -> None:
    model, images = make("lenet5", shape=(1, 28, 28), classes=10), torch.rand(8, 1, 28, 28)

    found = s1_script.attacked(model, "lenet5", images, images[:3], epochs=1, seed=0)

    shapes = {bar: tuple(scores.ssim.shape) for bar, scores in found.items()}
    layers = ("Layer 2", "Layer 3", "Layer 5")
    assert shapes == {
        ("data", "Layer 1"): (4, 3),
        **{("vertical", layer): (1, 3) for layer in layers},
        **{("horizontal", layer): (4, 3) for layer in layers},
    }
