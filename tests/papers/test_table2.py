"""Table 2 of Mehrafrooz et al. (2025) against the printed rows, torch, and the shapes of the models."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from math import prod

import pytest
import torch
from torch import nn

from cloven.attacks.layers import Chain, Conv, ConvT, ReLU, build, text
from cloven.papers.points import MOBILENETS
from cloven.papers.s1 import setup
from cloven.papers.s1.table2 import CORRECTION, TABLE_2, DecoderRow, decoder, doubled, made, row_for
from cloven.zoo.named import make, usual

MOBILENET, RESNET, LENET = "mobilenet_v1", "torchvision:resnet50", "lenet5"
QUARTER = "mobilenet_v1_0.25"

PRINTED = """
a mobilenet_v1 1 input 37632 112,112,3 224,224,3 883 43
b mobilenet_v1 2 conv1_bn 401408 112,112,32 224,224,3 37827 1893
c mobilenet_v1 33 conv_pw_5 200704 28,28,256 224,224,3 388163 737
d mobilenet_v1 72 conv_pw_11_relu 100352 14,14,512 224,224,3 1568067 968
e torchvision:resnet50 1 input 37632 112,112,3 224,224,3 883 43
f torchvision:resnet50 2 conv1 802816 112,112,64 224,224,3 19331 968
g torchvision:resnet50 33 layer1.2.bn2 200704 56,56,64 224,224,3 23523 137
h torchvision:resnet50 42 layer2.0.conv2 100352 28,28,128 224,224,3 97315 195
i lenet5 1 input 768 16,16,3 32,32,3 883 0.9
j lenet5 2 conv2 2304 12,12,16 32,32,3 1379 1.4
k lenet5 3 pool2 576 6,6,16 32,32,3 3699 1.5
l lenet5 5 flatten 480 2,2,120 32,32,3 86462 -
m lenet5 1 input 196 14,14,1 28,28,1 153 0.1
n lenet5 2 conv2 1600 10,10,16 28,28,1 1233 1.0
o lenet5 3 pool2 400 5,5,16 28,28,1 3553 1.0
p lenet5 5 flatten 120 1,1,120 28,28,1 147265 -
"""
"""Row, model, layer number, module, vector, input and output (H,W,C), parameters, MMAC per image."""

CHAINS = """
Up(224x224) Conv(3,16) ReLU Conv(16,3)
Up(224x224) Conv(32,64) ReLU Conv(64,32) ReLU Conv(32,3)
ConvT(256,128) ReLU ConvT(128,64) ReLU ConvT(64,32) ReLU Conv(32,3)
ConvT(512,256) ReLU ConvT(256,128) ReLU ConvT(128,64) ReLU ConvT(64,32) ReLU Conv(32,3)
Up(224x224) Conv(3,16) ReLU Conv(16,3)
Up(224x224) Conv(64,32) ReLU Conv(32,3)
ConvT(64,32) ReLU ConvT(32,16) ReLU Conv(16,3)
ConvT(128,64) ReLU ConvT(64,32) ReLU ConvT(32,16) ReLU Conv(16,3)
Up(32x32) Conv(3,16) ReLU Conv(16,3)
Up(32x32) Conv(16,8) ReLU Conv(8,3)
ConvT(16,16) ReLU Up(32x32) Conv(16,8) ReLU Conv(8,3)
ConvT(120,60) ReLU ConvT(60,30) ReLU ConvT(30,15) ReLU ConvT(15,8) ReLU Conv(8,3)
Up(28x28) Conv(1,8) ReLU Conv(8,1)
Up(28x28) Conv(16,8) ReLU Conv(8,1)
ConvT(16,16) ReLU Up(28x28) Conv(16,8) ReLU Conv(8,1)
ConvT(120,64,4,2,1,0) ReLU ConvT(64,32) ReLU ConvT(32,16) ReLU ConvT(16,8) ReLU Up(28x28) Conv(8,1)
"""

LETTERS = "abcdefghijklmnop"

ROWS = list(zip(TABLE_2, PRINTED.strip().splitlines(), strict=True))


def chw(hwc: str) -> tuple[int, ...]:
    *sides, channels = map(int, hwc.split(","))
    return (channels, *sides)


def row_of(letter: str) -> DecoderRow:
    return TABLE_2[LETTERS.index(letter)]


def row_name(row: DecoderRow) -> str:
    return f"{row.model}-{row.number}-{row.image[1]}"


def macs(network: nn.Module, given: torch.Tensor) -> int:
    """Count the multiplications of the convolutions; a transposed one applies its kernel at each input position."""
    counted = []

    def count(module: nn.Module, arguments: tuple[torch.Tensor], made: torch.Tensor) -> None:
        places = (arguments[0] if isinstance(module, nn.ConvTranspose2d) else made).shape[2:]
        counted.append(module.weight.numel() * places.numel())  # type: ignore[operator]

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(given)
    return sum(counted)


# --- as printed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "line"), ROWS, ids=LETTERS)
def test_rows(row: DecoderRow, line: str) -> None:
    _, model, number, path, vector, captured, image, parameters, mmac = line.split()
    network = build(row.chain(row.captured, row.image))
    given = torch.rand(1, *row.captured)
    work = macs(network, given) / 1e6

    assert (row.model, row.number, row.layer) == (model, int(number), path)
    assert (row.captured, row.image) == (chw(captured), chw(image))
    assert row.length == prod(row.captured) == int(vector)
    with torch.inference_mode():
        assert network(given).shape == (1, *row.image)
    assert sum(p.numel() for p in network.parameters()) == int(parameters)
    assert mmac in ("-", f"{work:.0f}", f"{work:.1f}")
    assert row_for(model, path, row.image) is row


def test_chains_are_those_of_the_paper() -> None:
    assert [text(row.layers) for row in TABLE_2] == CHAINS.strip().splitlines()


def test_one_row_does_not_run_as_printed_and_one_inserted_layer_corrects_it() -> None:
    first, last = doubled(120, 60, 30, 15), Conv(8, 3)
    assert made((*first, last), (120, 2, 2)) is None
    assert made(first, (120, 2, 2)) == (15, 16, 16)
    with (
        torch.inference_mode(),
        pytest.raises(RuntimeError, match=r"(8.*15|15.*8) channels"),
    ):
        build((*first, last))(torch.rand(1, 120, 2, 2))

    assert row_of("l").layers == (*first, ConvT(15, 8), ReLU(), last)
    assert [row.correction for row in TABLE_2 if row.correction] == [row_of("l").correction] == [CORRECTION]


def test_the_sizes_of_table_2_hold_for_no_other_padding_of_the_transposed_convolution() -> None:
    """The sides would be 231 without padding, and 217 with padding but without output padding."""
    channels = (256, 128, 64, 32)
    for padding, more, side in ((1, 1, 224), (0, 0, 231), (1, 0, 217)):
        chain: Chain = tuple(ConvT(a, b, 3, 2, padding, more) for a, b in pairwise(channels))
        assert made(chain, (256, 28, 28)) == (32, side, side)


# --- other shapes than printed --------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [row for row in TABLE_2 if row.number > 1], ids=row_name)
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_a_slice_takes_its_rows_chain_with_fewer_input_channels(row: DecoderRow, devices: int) -> None:
    channels = row.captured[0] // devices
    chain = decoder(row.model)(row.layer, (channels, *row.captured[1:]), row.image)

    assert chain is not None
    before, after = text(row.layers).split(), text(chain).split()
    assert [a for b, a in zip(before, after, strict=True) if b != a] == [_sliced(before, row.captured[0], channels)]
    assert made(chain, (channels, *row.captured[1:])) == row.image


def _sliced(words: list[str], channels: int, fewer: int) -> str:
    first = next(word for word in words if word.startswith("Conv"))
    return first.replace(f"({channels},", f"({fewer},")


def test_a_vector_is_given_the_height_and_width_of_its_rows_map() -> None:
    chain = decoder(LENET)("flatten", (120,), (3, 32, 32))

    assert chain is not None
    assert text(chain).startswith("View(30x2x2) ConvT(30,60) ReLU ConvT(60,30)")
    with torch.inference_mode():
        assert build(chain)(torch.rand(2, 120)).shape == (2, 3, 32, 32)
    smaller = decoder(QUARTER)("conv_pw_5", (64 * 64,), (3, 64, 64))
    assert smaller is not None
    assert text(smaller).startswith("View(64x8x8) ConvT(64,128)")


def test_there_is_no_decoder_for_shapes_that_do_not_fit_the_row() -> None:
    """For example some rows of a map, or a vector that is not a map of the row's height and width."""
    assert decoder(MOBILENET)("conv_pw_5", (256, 7, 28), (3, 224, 224)) is None
    assert decoder(MOBILENET)("conv1_bn", (32, 28, 112), (3, 224, 224)) is not None
    assert decoder(LENET)("flatten", (69,), (3, 32, 32)) is None
    assert decoder(LENET)("flatten", (3,), (3, 32, 32)) is None


SMALLER = {
    (QUARTER, "input"): "Up(64x64) Conv(3,16) ReLU Conv(16,3)",
    (QUARTER, "conv1_bn"): "Up(64x64) Conv(8,64) ReLU Conv(64,32) ReLU Conv(32,3)",
    (QUARTER, "conv_pw_5"): "ConvT(64,128) ReLU ConvT(128,64) ReLU ConvT(64,32) ReLU Conv(32,3)",
    (QUARTER, "conv_pw_11_relu"): (
        "ConvT(128,256) ReLU ConvT(256,128) ReLU ConvT(128,64) ReLU ConvT(64,32) ReLU Conv(32,3)"
    ),
    (RESNET, "conv1"): "Up(64x64) Conv(64,32) ReLU Conv(32,3)",
    (RESNET, "layer1.2.bn2"): "ConvT(64,32) ReLU ConvT(32,16) ReLU Conv(16,3)",
    (RESNET, "layer2.0.conv2"): "ConvT(128,64) ReLU ConvT(64,32) ReLU ConvT(32,16) ReLU Conv(16,3)",
}


@cache
def shapes(model: str, image: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Return the output shapes of the model's modules for an image, by name."""
    found: dict[str, tuple[int, ...]] = {"input": (image[0], image[1] // 2, image[2] // 2)}
    with torch.device("meta"):
        module = make(model, shape=image, classes=usual(model).classes)
    for path, part in module.named_modules():
        part.register_forward_hook(lambda _, __, out, path=path: found.update({path: tuple(out.shape[1:])}))
    module(torch.zeros(1, *image, device="meta"))
    return found


@pytest.mark.parametrize(("model", "layer"), SMALLER)
def test_images_of_64x64(model: str, layer: str) -> None:
    image = (3, 64, 64)
    captured = shapes(model, image)[layer]
    chain = decoder(model)(layer, captured, image)

    assert chain is not None
    assert text(chain) == SMALLER[model, layer]
    with torch.inference_mode():
        assert build(chain)(torch.rand(2, *captured)).shape == (2, *image)


@pytest.mark.parametrize("side", [32, 64, 96, 99, 128, 224])
@pytest.mark.parametrize("model", [*MOBILENETS, RESNET])
def test_each_row_that_takes_an_image_size_maps_the_models_own_shapes_to_it(model: str, side: int) -> None:
    image = (3, side, side)
    for row in TABLE_2[:8]:
        if row.model == (RESNET if model == RESNET else MOBILENET):
            captured = shapes(model, image)[row.layer]
            chain = decoder(model)(row.layer, captured, image)
            assert (chain is None) == (row_for(model, row.layer, image) is None)
            assert (chain is None) == (side == 99 and row.number > 2)
            assert chain is None or made(chain, captured) == image
            assert side == 99 or captured[1:] == row.scaled(image)[1:]


@pytest.mark.parametrize("row", TABLE_2[8:], ids=row_name)
def test_lenet5_gives_what_its_rows_take(row: DecoderRow) -> None:
    channels, height, width = row.image
    assert prod(shapes(LENET, (channels, height, width))[row.layer]) == row.length


@pytest.mark.parametrize(
    ("model", "layer", "image"),
    [
        (MOBILENET, "conv_pw_5", (3, 100, 100)),  # 13x13 doubles to 104
        (MOBILENET, "conv_pw_11_relu", (3, 72, 72)),
        (MOBILENET, "conv_pw_5", (3, 256, 256)),
        (MOBILENET, "conv_pw_5", (1, 64, 64)),
        (MOBILENET, "conv1_bn", (3, 64, 96)),
        (MOBILENET, "conv_pw_6", (3, 224, 224)),
        (RESNET, "layer1", (3, 224, 224)),
        (LENET, "conv1", (1, 28, 28)),
        (LENET, "input", (3, 16, 16)),
        ("resnet20", "input", (3, 32, 32)),
        ("torchvision:vgg16", "input", (3, 224, 224)),
        ("timm:resnet50", "conv1", (3, 224, 224)),
        ("mobilenet_v2", "conv1_bn", (3, 224, 224)),
    ],
)
def test_there_is_no_row_for_other_layers_images_and_models(model: str, layer: str, image: tuple[int, ...]) -> None:
    assert row_for(model, layer, image) is None
    assert decoder(model)(layer, (16, 8, 8), image) is None


# --- notes ----------------------------------------------------------------------------------------------------


def test_notes_list_the_differences_from_the_paper() -> None:
    five = "Table 2's ConvT(120,64,4,2,1) is read in PyTorch's order: kernel 4, stride 2, padding 1."
    sized = "The paper's images are 224x224, these are 64x64: Table 2's decoders are used at this size."
    odd = (
        "The paper's images are 224x224, these are 100x100: Table 2's decoders are used at this size, except for "
        "Layer 33, 72, where they do not end at this size."
    )
    narrow = f"Table 2 has MobileNet at full width; {QUARTER} takes its decoders with fewer input channels."

    assert said(LENET, (3, 32, 32)) == (CORRECTION,)
    assert said(LENET, (1, 28, 28)) == (five,)
    assert said(MOBILENET, (3, 224, 224)) == said(RESNET, (3, 224, 224)) == ()
    assert said(RESNET, (3, 64, 64)) == (sized,)
    assert said(QUARTER, (3, 64, 64)) == (sized, narrow)
    assert said(MOBILENET, (3, 100, 100)) == (odd,)
    assert said(MOBILENET, (3, 256, 256)) == said("resnet20", (3, 32, 32)) == ()


def said(model: str, image: tuple[int, ...]) -> tuple[str, ...]:
    """Return the notes other than those of every audit."""
    notes = setup.notes(model, image)
    assert notes[len(notes) - len(setup.DECISIONS) :] == setup.DECISIONS
    return notes[: len(notes) - len(setup.DECISIONS)]
