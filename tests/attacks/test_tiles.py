"""Tiles: where they are found, what is refused, and what is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cloven.attacks.attack import BatchedAttack
from cloven.attacks.knowledge import Knowledge, Pairs, SharePlace, in_memory
from cloven.attacks.tile_search import explained, locate
from cloven.attacks.tiles import Enlarge, Inpaint, Paste, diffused
from cloven.attacks.trainer import DescribedReconstructor, Machine, train
from cloven.errors import ClovenError
from tests.attacks.problems import paired, pairs_of

MEAN, DEVIATION = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(n: int, seed: int = 0, size: tuple[int, int] = (24, 20), coarse: int = 6) -> Tensor:
    """Smooth colour images with a little grain: ``(n, 3, *size)``."""
    random = generator(seed)
    noise = torch.rand(n, 3, coarse, coarse, generator=random)
    smooth = F.interpolate(noise, size=size, mode="bilinear")
    return (smooth + 0.02 * torch.randn(smooth.shape, generator=random)).clamp(0, 1)


def learned(attack: BatchedAttack, pairs: Knowledge) -> DescribedReconstructor:
    made: DescribedReconstructor = attack.fit(pairs, generator=generator())
    return made


# --- finding ----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(data=st.data(), raw=st.booleans())
def test_a_tile_is_found_wherever_it_lies(data: st.DataObject, raw: bool) -> None:
    images = photographs(40)
    height, width = data.draw(st.integers(3, 24), "height"), data.draw(st.integers(3, 20), "width")
    top, left = data.draw(st.integers(0, 24 - height), "top"), data.draw(st.integers(0, 20 - width), "left")
    sent = images if raw else (images - MEAN) / DEVIATION

    tiles = locate(Pairs(in_memory(sent[:, :, top : top + height, left : left + width]), images))

    assert [(t.part, t.channel, t.box[1:]) for t in tiles] == [
        (c, c, (slice(top, top + height), slice(left, left + width))) for c in range(3)
    ]
    scales, shifts = ((1.0,) * 3, (0.0,) * 3) if raw else (DEVIATION.flatten().tolist(), MEAN.flatten().tolist())
    assert [t.scale for t in tiles] == pytest.approx(scales, abs=1e-5)
    assert [t.shift for t in tiles] == pytest.approx(shifts, abs=1e-5)


def test_how_well_a_place_fits_is_the_squared_correlation() -> None:
    images = photographs(3).double()
    z = images[:, 1:2, 5:9, 3:8] + 0.1 * torch.rand(3, 1, 4, 5, generator=generator()).double()

    fits = explained(z, images)

    assert fits.shape == (1, 3, 21, 16)
    for channel, top, left in ((0, 0, 0), (1, 5, 3), (2, 20, 15)):
        shown = images[:, channel, top : top + 4, left : left + 5].flatten()
        expected = torch.corrcoef(torch.stack([z.flatten(), shown]))[0, 1].square()
        torch.testing.assert_close(fits[0, channel, top, left], expected)


def test_channels_may_be_swapped_left_out_and_in_bytes() -> None:
    images = photographs(40)
    swapped = (images[:, [2, 0]] * 255).round()[:, :, 4:12, 2:9]
    tiles = locate(Pairs(in_memory(swapped), images))
    assert [(t.channel, t.top, t.left) for t in tiles] == [(2, 4, 2), (0, 4, 2)]

    grey = images[:, :1].expand(-1, 3, -1, -1)
    assert [t.channel for t in locate(Pairs(in_memory(grey[:, :, 2:9]), grey))] == [0, 1, 2]


def test_several_pieces_are_found_among_other_things() -> None:
    images = photographs(40)
    others = torch.randn(40, 30, generator=generator()), torch.randn(40, 8, 6, 6, generator=generator())
    captured = in_memory(others[0], images[:, :, :13], others[1], images[:, :, 11:])

    assert [(t.number, t.top, t.height) for t in locate(Pairs(captured, images))] == [(1, 0, 13)] * 3 + [
        (3, 11, 13)
    ] * 3


def test_features_noise_and_what_is_of_one_colour_are_no_pieces() -> None:
    images = photographs(40)
    kernel = torch.randn(3, 3, 3, 3, generator=generator())
    for z in (
        F.conv2d(images, kernel, padding=1),
        F.conv2d(images, kernel, padding=1).relu(),
        F.avg_pool2d(images, 4),
        torch.randn(40, 3, 8, 8, generator=generator()),
        torch.zeros(40, 3, 8, 8),
        images[:, :, :8, :8].flip(0),
        images.repeat(1, 2, 1, 1),
        F.pad(images, (1, 1, 1, 1)),
        images.flatten(1),
    ):
        assert locate(Pairs(in_memory(z), images)) == ()


def test_too_little_to_tell_by_is_no_piece() -> None:
    images = photographs(3)
    assert locate(Pairs(in_memory(images[:, :, :2, :2]), images)) == ()
    assert locate(Pairs(in_memory(images[:1]), images[:1]))


# --- what is made of them ---------------------------------------------------------------------------------------

ATTACKS = (Paste(), Paste("blur"), Enlarge(), Inpaint(epochs=1, widths=(4,)))


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_where_nothing_is_a_piece_of_the_image_it_is_said(attack: BatchedAttack) -> None:
    pairs = paired(in_memory(torch.randn(40, 16, 8, 8), torch.randn(40, 5)), photographs(40))
    with pytest.raises(
        ClovenError,
        match=r"(\w+) needs a piece of the image, and the captured tensors \(16x8x8, 5\) show none; use",
    ):
        attack.begin(pairs, generator(), Machine())


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.name != "enlarge"], ids=repr)
@pytest.mark.parametrize("known", [True, False])
def test_what_the_pieces_show_is_exact(attack: BatchedAttack, known: bool) -> None:
    """Halves with a halo of 2 rows, normalised; a third tensor shows something else."""
    images, victims = photographs(60), photographs(7, 1)
    other = torch.randn(67, 4, 5, 5, generator=generator())
    halves = (SharePlace("input", (0, top, 3), (3, 24, 20)) for top in (0, 10))
    places = (*halves, SharePlace("y", (0, 0, 0), (4, 5, 5)))

    def sent(x: Tensor, rest: Tensor) -> list[Tensor]:
        z = (x - MEAN) / DEVIATION
        return [z[:, :, :12, 3:17], z[:, :, 10:24, 3:17], rest]

    captured = in_memory(*sent(images, other[:60]))
    made = learned(attack, paired(captured, images, places=places if known else None))
    rebuilt = made(sent(victims, other[60:]))

    assert rebuilt.shape == victims.shape
    assert 0 <= float(rebuilt.min()) <= float(rebuilt.max()) <= 1
    torch.testing.assert_close(rebuilt[..., 3:17], victims[..., 3:17], atol=1e-5, rtol=0)
    assert made.notes[:2] == (
        "captured tensor 0 is the image's rows 0 to 12, columns 3 to 17",
        "captured tensor 1 is the image's rows 10 to 24, columns 3 to 17",
    )
    assert (made.parameters > 0) == (attack.name == "inpaint")


@pytest.mark.parametrize("attack", [*ATTACKS[:3], Inpaint(epochs=1, widths=(4,))], ids=repr)
def test_a_whole_image_comes_back_as_it_is(attack: BatchedAttack) -> None:
    images, victims = photographs(40), photographs(5, 1)
    made = learned(attack, paired(in_memory((images - MEAN) / DEVIATION), images))
    torch.testing.assert_close(made([(victims - MEAN) / DEVIATION]), victims, atol=1e-5, rtol=0)


def test_the_rest_is_the_mean_image() -> None:
    images, victims = photographs(40), photographs(5, 1)
    made = learned(Paste(), paired(in_memory(images[:, :, :, 10:]), images))([victims[:, :, :, 10:]])
    torch.testing.assert_close(made[..., :10], images.mean(0, keepdim=True)[..., :10].expand(5, -1, -1, -1))


def test_blurring_keeps_what_is_known_and_continues_its_colours() -> None:
    images = torch.rand(3, 2, 17, 9, generator=generator())
    mask = torch.zeros(1, 2, 17, 9)
    mask[:, :, 3:7, 2:6] = 1

    made = diffused(images, mask)

    assert torch.equal(made[:, :, 3:7, 2:6], images[:, :, 3:7, 2:6])
    shown = images[:, :, 3:7, 2:6].flatten(2)
    assert bool((made.flatten(2) <= shown.amax(2, keepdim=True) + 1e-6).all())
    assert bool((made.flatten(2) >= shown.amin(2, keepdim=True) - 1e-6).all())
    colour = torch.full_like(images, 0.3)
    torch.testing.assert_close(diffused(colour, mask), colour)


def test_blurring_beats_the_mean_image_on_smooth_images_near_the_piece() -> None:
    images, victims = photographs(80, coarse=3), photographs(20, 1, coarse=3)
    pairs, sent = paired(in_memory(images[..., 4:16]), images), [victims[..., 4:16]]
    blur, mean = (learned(Paste(fill), pairs)(sent) for fill in ("blur", "mean"))
    near = [2, 3, 16, 17]

    def error(x: Tensor) -> float:
        return float((x - victims)[..., near].square().mean())

    assert error(blur) < 0.5 * error(mean)


def test_a_channel_of_which_nothing_is_known_is_the_mean_image_s() -> None:
    images, victims = photographs(40), photographs(5, 1)
    made = learned(Paste("blur"), paired(in_memory(images[:, 1:2]), images))([victims[:, 1:2]])
    torch.testing.assert_close(made[:, 1], victims[:, 1])
    torch.testing.assert_close(made[:, ::2], images.mean(0, keepdim=True)[:, ::2].expand(5, -1, -1, -1))


def test_a_piece_is_enlarged_to_the_image() -> None:
    images, victims = photographs(40), photographs(5, 1)
    made = learned(Enlarge(), paired(in_memory(images[:, :, 2:14, 5:15]), images))([victims[:, :, 2:14, 5:15]])
    expected = F.interpolate(victims[:, :, 2:14, 5:15], size=(24, 20), mode="bilinear")
    torch.testing.assert_close(made, expected)

    halves = paired(in_memory(images[:, :, 2:8, 5:15], images[:, :, 6:14, 5:15]), images)
    both = learned(Enlarge(), halves)([victims[:, :, 2:8, 5:15], victims[:, :, 6:14, 5:15]])
    torch.testing.assert_close(both, expected)


def test_a_fill_that_is_not_known_is_refused() -> None:
    with pytest.raises(ClovenError, match="fill is 'grey'; expected mean or blur"):
        Paste("grey")


# --- inpainting -------------------------------------------------------------------------------------------------


def test_inpainting_learns_what_lies_outside() -> None:
    """On images whose right half mirrors the left."""
    images, victims = (
        torch.cat([x, x.flip(3)], 3) for x in (photographs(n, n, (16, 8), coarse=3) for n in (400, 40))
    )
    pairs, sent = paired(in_memory(images[..., :8]), images), [victims[..., :8]]
    attack = Inpaint(epochs=10, learning_rate=5e-3, widths=(8,))
    made = learned(attack, pairs)(sent)
    pasted, blurred = (learned(Paste(fill), pairs)(sent) for fill in ("mean", "blur"))

    def error(x: Tensor) -> float:
        return float((x - victims)[..., 8:].square().mean())

    assert error(made) < 0.6 * min(error(pasted), error(blurred))


def test_inpainting_that_was_broken_off_learns_the_same(tmp_path: Path) -> None:
    images = photographs(60)
    pairs, attack = paired(in_memory(images[..., :12]), images), Inpaint(epochs=5, widths=(4,))
    made = learned(attack, pairs)

    checkpoint = tmp_path / "training"
    stopped = attack.begin(pairs, generator(), Machine())
    _broken_off(stopped)
    with pytest.raises(KeyboardInterrupt):
        train([stopped], [checkpoint])
    (resumed,) = train([attack.begin(pairs, generator(), Machine())], [checkpoint])
    assert callable(resumed)
    assert torch.equal(resumed(pairs_of(pairs).first(60)[0]), made(pairs_of(pairs).first(60)[0]))


def _broken_off(trainee: object, after: int = 3) -> None:
    """Interrupt a training in the first step after so many epochs."""
    (inner,) = trainee.inner  # type: ignore[attr-defined]
    step, ended, epochs = inner.step, inner.ended, []

    def count(epoch: int) -> bool:
        epochs.append(epoch)
        return bool(ended(epoch))

    def interrupted(*given: object) -> None:
        if len(epochs) == after:
            raise KeyboardInterrupt
        step(*given)

    inner.ended, inner.step = count, interrupted
