"""Transforms on tensors: closed forms, independence of the batch, and their effect in a program."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from cloven.errors import ClovenError
from cloven.files import cache_dir
from cloven.graph.graph import Graph
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.observe import seen_on
from cloven.partition.program import Program
from cloven.partition.strategy import Strategy
from cloven.partition.transform import NONE, UNCHANGED, Transform, Transforms
from cloven.partition.vertical import Vertical
from cloven.runtime.bundle.writer import write
from cloven.runtime.capture import capture
from cloven.runtime.check import compare
from cloven.runtime.local import run
from cloven.runtime.transmission import IMAGES, apply, seed_of, seeds_of, sent
from cloven.zoo.datasets import load
from cloven.zoo.images import split
from cloven.zoo.models import build
from cloven.zoo.training import EPOCHS, trained
from tests.models import Recorder

ALL = ("float16", "int8", "topk:0.1", "noise:0.5", "dropout:0.3")
SHARE = ((0, 6), (0, 9), (0, 7))


def seeds(number: int) -> list[int]:
    return seeds_of("value", SHARE, range(number))


def maps(number: int = 5, seed: int = 0) -> Tensor:
    """Return signed numbers ``(number, 6, 9, 7)`` with a different range for each image."""
    drawn = torch.randn(number, 6, 9, 7, generator=torch.Generator().manual_seed(seed))
    scale = torch.logspace(-3, 3, number).reshape(-1, 1, 1, 1)
    return drawn * scale + scale


def made(text: str, tensor: Tensor) -> Tensor:
    return apply(Transform.parse(text), tensor, seeds(len(tensor)))


# --- closed forms ---------------------------------------------------------------------------------------------


def test_none_is_the_tensor_itself() -> None:
    x = maps()

    assert apply(NONE, x, seeds(5)) is x


def test_float16_is_torchs_and_what_is_beyond_it_is_its_largest() -> None:
    x = maps()
    wide = torch.tensor([[1e5, -1e5, 65504.0, 1e-9, 65519.0]])

    assert torch.equal(made("float16", x), x.half().float())
    assert made("float16", wide).tolist() == [[65504.0, -65504.0, 65504.0, 0.0, 65504.0]]


def test_int8_is_at_most_half_a_step_away_and_has_256_levels() -> None:
    x = maps()
    found = made("int8", x)

    for image, coded in zip(x.double(), found.double(), strict=True):
        low, high = image.min(), image.max()
        step = (high - low) / 255
        # The scale, the offset and the result are float32: half a step, and rounding.
        assert (coded - image).abs().max() <= step / 2 + 3e-7 * image.abs().max()
        assert coded.min() == low
        assert coded.max() == pytest.approx(float(high), rel=1e-6)
        assert len(torch.unique(coded)) <= 256
        levels = (coded - low) / step
        assert (levels - levels.round()).abs().max() < 0.01


def test_int8_keeps_a_constant_share_and_numbers_that_are_levels() -> None:
    constant = torch.full((2, 3, 4), 0.1)
    levels = torch.arange(256.0).reshape(1, 16, 16)

    assert torch.equal(made("int8", constant), constant)
    assert torch.equal(made("int8", levels), levels)


@pytest.mark.parametrize("text", ["topk:0.001", "topk:0.1", "topk:0.37", "topk:0.999"])
def test_top_k_keeps_exactly_so_many_and_none_that_is_smaller_than_what_goes(text: str) -> None:
    x = maps()
    x[1] = 2.5  # all numbers are equal: exactly the same count is kept
    found = made(text, x)
    kept = Transform.parse(text).kept(6 * 9 * 7)

    for image, left in zip(x, found, strict=True):
        there = left != 0
        assert int(there.sum()) == kept
        assert torch.equal(left[there], image[there])
        if kept < len(there.flatten()):
            assert image[there].abs().min() >= image[~there].abs().max()


def test_noise_has_the_deviation_that_is_asked_for_of_each_images_own() -> None:
    x = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(1)) * torch.tensor([[0.01], [1], [5], [100]])
    added = made("noise:0.5", x) - x

    ratio = added.std(1) / x.std(1)
    assert torch.allclose(ratio, torch.full((4,), 0.5), atol=0.01)
    assert (added.mean(1) / x.std(1)).abs().max() < 0.02
    # Gaussian: 68 % within one deviation, 95 % within 1.96.
    z = added / (0.5 * x.std(1, keepdim=True))
    assert float((z.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.01)
    assert float((z.abs() < 1.96).float().mean()) == pytest.approx(0.95, abs=0.01)
    assert float(torch.corrcoef(z).fill_diagonal_(0).abs().max()) < 0.03


def test_twice_the_noise_is_twice_as_far_away() -> None:
    x = maps().double().float()

    weak, strong = (made(text, x) - x for text in ("noise:0.25", "noise:0.5"))

    assert torch.allclose(strong, 2 * weak, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


def test_a_constant_share_has_no_deviation_and_gets_no_noise() -> None:
    assert torch.equal(made("noise:3", torch.full((2, 1), 7.0)), torch.full((2, 1), 7.0))


def test_dropout_makes_a_share_of_numbers_zero_and_leaves_the_others() -> None:
    x = torch.rand(3, 20_000) + 1
    found = made("dropout:0.3", x)
    gone = found == 0

    assert torch.allclose(gone.float().mean(1), torch.full((3,), 0.3), atol=0.01)
    assert torch.equal(found[~gone], x[~gone])
    assert not torch.equal(gone[0], gone[1])


# --- independence of images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ALL)
def test_an_image_is_transformed_alike_whatever_is_beside_it(text: str) -> None:
    number = IMAGES + 3
    x = maps(number)
    before = x.clone()
    transform, every = Transform.parse(text), seeds(number)

    together = apply(transform, x, every)

    assert torch.equal(x, before)
    assert torch.equal(together, apply(transform, x, every))
    order = torch.randperm(number, generator=torch.Generator().manual_seed(2)).tolist()
    assert torch.equal(together[order], apply(transform, x[order], [every[i] for i in order]))
    for i in (0, 1, IMAGES - 1, IMAGES, number - 1):
        assert torch.equal(together[i : i + 1], apply(transform, x[i : i + 1], [every[i]]))
    strided = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(together, apply(transform, strided, every))
    assert (together.shape, together.dtype) == (x.shape, torch.float32)


@pytest.mark.parametrize("text", ["noise:0.5", "dropout:0.3"])
def test_what_is_drawn_goes_by_the_value_the_share_and_the_images_number(text: str) -> None:
    x, transform = maps(2), Transform.parse(text)
    other = ((0, 6), (0, 9), (1, 8))
    ways = [seeds(2), seeds_of("value", other, range(2)), seeds_of("another", SHARE, range(2)),
            seeds_of("value", SHARE, range(2, 4))]  # fmt: skip

    found = [apply(transform, x, some) for some in ways]

    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])


def test_seeds_are_numbers_of_64_bits_that_do_not_change() -> None:
    assert seeds_of("value", SHARE, [4, 5]) == [seed_of("value 0:6, 0:9, 0:7", i) for i in (4, 5)]
    found = {seed_of("value", i) for i in range(1000)}
    assert len(found) == 1000
    assert 2**62 < max(found) < 2**64
    assert seed_of("value", 0) == 17484828778686369459


def test_seeds_for_other_images_are_an_error() -> None:
    with pytest.raises(ClovenError, match="got 3 seeds for 5 images; expected one for each"):
        apply(Transform("int8"), maps(), seeds(3))


@pytest.mark.parametrize("text", ALL)
def test_no_images_are_no_images(text: str) -> None:
    assert made(text, torch.zeros(0, 3, 2)).shape == (0, 3, 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("text", ALL)
def test_numbers_that_are_none_spoil_their_own_image_at_most(text: str, bad: float) -> None:
    x = maps()
    x[2, 1, 3, 4] = bad
    found = made(text, x)
    others = [0, 1, 3, 4]

    assert torch.equal(found[others], made(text, maps())[others])
    place = float(found[2, 1, 3, 4])
    if text == "float16":
        assert place == max(min(bad, 65504.0), -65504.0) if bad == bad else place != place
    elif text == "topk:0.1":
        assert str(place) == str(bad)
        assert int((found[2] != 0).sum()) == Transform.parse(text).kept(6 * 9 * 7)
    elif text == "dropout:0.3":
        assert str(place) in (str(bad), "0.0")
    else:
        assert bool(found[2].isnan().all())


# --- programs -------------------------------------------------------------------------------------------------


@cache
def lenet() -> Graph:
    torch.manual_seed(1)
    return capture(build("lenet5", shape=(1, 28, 28), classes=10), torch.zeros(1, 1, 28, 28))


def program(strategy: Strategy, text: str, devices: int | None = None, **more: str) -> Program:
    links = {name.replace("_", "-"): Transform.parse(word) for name, word in more.items()}
    return divide(lenet(), strategy, devices, transforms=Transforms(default=Transform.parse(text), links=links))


@pytest.mark.parametrize("text", ALL)
def test_what_crosses_is_what_a_listener_sees_and_the_receiver_computes_with(text: str) -> None:
    one = program(Vertical(("conv2",)), text)
    images, link = torch.rand(5, 1, 28, 28), ("edge0", "edge1")
    plain, tap = Recorder(link), Recorder(link)
    run(program(Vertical(("conv2",)), "none"), images, tap=plain)

    output = run(one, images, tap=tap)

    (seen,) = seen_on(one, link).seen
    (clean,), (heard,) = plain.tensors(), tap.tensors()
    assert torch.equal(heard, sent(seen, lenet(), clean))
    assert not torch.equal(heard, clean)
    # A tap and the batch size do not change the output; the rest of the model gives it from the tapped tensor.
    assert torch.equal(output, run(one, images))
    received: list[Tensor] = []
    run(one, images, tap=lambda _, tensor: received.append(tensor), batch=2)
    assert torch.allclose(torch.cat(received), heard, atol=1e-5)


def test_noise_in_a_run_goes_by_the_images_place_and_not_by_the_batch() -> None:
    one = program(Horizontal("rows"), "dropout:0.3", 3)
    images = torch.rand(7, 1, 28, 28)

    def gone(batch: int) -> Tensor:
        tap = Recorder(("edge0", "edge1"))
        run(one, images, tap=tap, batch=batch)
        return tap.tensors()[0] == 0

    assert torch.equal(gone(7), gone(2))
    assert not torch.equal(gone(7)[0], gone(7)[1])


@pytest.mark.parametrize(("strategy", "devices"), [(Vertical(), 3), (Horizontal(), 4), (Data((2, 2)), 4)])
def test_without_transforms_a_run_is_the_same_to_the_bit(strategy: Strategy, devices: int) -> None:
    images = torch.rand(3, 1, 28, 28)
    plain = divide(lenet(), strategy, devices)
    # A default that applies to no link.
    pairs = {f"{a}-{b}": NONE for i, a in enumerate(plain.devices) for b in plain.devices[:i]}
    none = divide(lenet(), strategy, devices, transforms=Transforms(default=Transform("int8"), links=pairs))

    assert none.exact
    assert torch.equal(run(plain, images), run(none, images))
    assert run(divide(lenet(), strategy, devices, transforms=UNCHANGED), images).equal(run(plain, images))


def test_a_star_transforms_what_it_passes_on_again() -> None:
    transforms = Transforms(default=Transform("noise", 0.5), links={"edge0-edge2": Transform("topk", 0.1)})
    star = divide(lenet(), Vertical(("conv2", "pool2")), routing="star", transforms=transforms)
    images, heard = torch.rand(2, 1, 28, 28), {}
    for link in star.links:
        tap = Recorder(link)
        run(star, images, tap=tap)
        (heard[link],) = tap.tensors()

    there, passed_on = heard["edge1", "edge0"], heard["edge0", "edge2"]

    assert torch.equal(passed_on, made("topk:0.1", there))
    assert (passed_on.flatten(1) != 0).sum(1).tolist() == [40, 40]


def test_a_program_with_transforms_is_counted_and_told_from_the_model() -> None:
    found = compare(program(Vertical(("conv2", "pool2")), "int8", edge1_edge2="topk:0.1"), lenet(),
                    torch.rand(6, 1, 28, 28))  # fmt: skip

    assert found.bytes_sent == 6 * found.bytes_an_image == 6 * (1608 + 160 + 50)
    assert not found.equal
    assert not found.exact_plan
    assert found.why().endswith("(its links carry int8, topk:0.1)")
    assert found.inexact == ("its links carry int8, topk:0.1",)
    assert not compare(program(Vertical(), "none"), lenet(), torch.rand(2, 1, 28, 28)).inexact


def test_a_bundle_of_such_a_program_is_refused(tmp_path: object) -> None:
    from pathlib import Path

    out = Path(str(tmp_path)) / "bundle"

    with pytest.raises(ClovenError, match=r"the plan transforms links with topk:0\.1, but workers send") as caught:
        write(program(Vertical(("conv2",)), "topk:0.1"), out, model="lenet5", plan="")

    assert len(caught.value.problems) == 1
    assert not out.exists()


# --- a trained CNN --------------------------------------------------------------------------------------------


def test_the_stronger_the_transform_the_lower_the_accuracy() -> None:
    training, _, test = split(load("digits", shape=(1, 28, 28)), seed=0)
    graph = capture(
        trained("lenet5", training, epochs=EPOCHS, seed=0, cache=cache_dir()), torch.zeros(1, 1, 28, 28)
    )

    def accuracy(text: str) -> float:
        transforms = Transforms(default=Transform.parse(text))
        found = compare(
            divide(graph, Vertical(("conv2",)), transforms=transforms), graph, test.tensor(), test.labels
        )
        assert found.accuracy is not None
        return found.accuracy

    whole = accuracy("none")

    assert whole >= 0.95
    assert accuracy("float16") == accuracy("int8") == whole
    ladders = (("noise:0.5", "noise:2", "noise:8"), ("dropout:0.2", "dropout:0.7", "dropout:0.95"),
               ("topk:0.3", "topk:0.02", "topk:0.002"))  # fmt: skip
    for ladder in ladders:
        found = [whole, *map(accuracy, ladder)]
        assert found == sorted(found, reverse=True), ladder
        assert found[1] > whole - 0.1
        assert found[-1] < whole - 0.2, ladder
