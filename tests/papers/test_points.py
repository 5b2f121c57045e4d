"""The papers' layer numbers against tables made by hand: shapes, bytes, work before and after, crossing tensors."""

from __future__ import annotations

from functools import cache
from math import prod

import pytest
import torch
from torch import nn

from cloven.errors import ClovenError
from cloven.graph.cuts import Cut, cuts
from cloven.graph.graph import Graph, Op
from cloven.graph.ops import macs
from cloven.papers.points import MOBILENETS, POINTS, points, resolve
from cloven.papers.s1 import setup
from cloven.runtime.capture import capture
from cloven.zoo.models import MODELS
from cloven.zoo.named import make, usual
from cloven.zoo.pixels import Shape

MNIST, CIFAR, PHOTO = (1, 28, 28), (3, 32, 32), (3, 224, 224)
LENET, MOBILENET = "lenet5", "mobilenet_v1"
VGG, RESNET = "torchvision:vgg16", "torchvision:resnet50"
EFFICIENTNET, TIMM = "torchvision:efficientnet_b0", "timm:efficientnet_b0"
LITE = "timm:tf_efficientnet_lite0"


def bare(model: str, shape: Shape) -> nn.Module:
    """Return a model without weights; these tests do not depend on them."""
    with torch.device("meta"):
        return make(model, shape=shape, classes=usual(model).classes)


@cache
def graph_of(model: str, shape: Shape) -> Graph:
    with torch.no_grad():
        return capture(bare(model, shape).to_empty(device="cpu"), torch.zeros(1, *shape))


@cache
def cuts_of(model: str, shape: Shape) -> dict[str, Cut]:
    return {cut.after: cut for cut in cuts(graph_of(model, shape))}


def layer(model: str, path: str, shape: Shape = PHOTO) -> Op:
    """Return the op of a layer."""
    graph = graph_of(model, shape)
    return graph.by_name[graph.find(path)]


def work(model: str, path: str, shape: Shape = PHOTO) -> tuple[int, int]:
    """Return the MACs before and after the cut behind a layer; all are before the end of the model."""
    graph, value = graph_of(model, shape), layer(model, path, shape).name
    if value == graph.output:
        return sum(macs(op, graph.input_shapes(op)) for op in graph.ops), 0
    cut = cuts_of(model, shape)[value]
    return cut.macs_before, cut.macs_after


def crossing(model: str, path: str, shape: Shape = PHOTO) -> dict[str, int]:
    """Return the number of elements of each tensor that crosses the cut behind a layer."""
    return {op.name: prod(op.shape) for op in cuts_of(model, shape)[layer(model, path, shape).name].tensors}


def until(model: str, path: str) -> list[Op]:
    """Return the ops before the cut behind a layer."""
    graph = graph_of(model, PHOTO)
    return list(graph.ops[: graph.position[layer(model, path).name] + 1])


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


def chw(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


def hwc(text: str) -> tuple[int, ...]:
    *sides, channels = chw(text)
    return (channels, *sides)


def whole(text: str) -> int:
    return int(text.replace(",", ""))


# --- Rajasekar et al. (2024) ----------------------------------------------------------------------------------

S2 = {
    VGG: """
        1 features.0 64x224x224 3,211,264 12,845,056 86.7 15383.6 0.6 0.01
        2 features.2 64x224x224 3,211,264 12,845,056 1936.4 13533.9 12.5 0.15
        3 features.5 128x112x112 1,605,632 6,422,528 2861.2 12609.0 18.5 0.45
        4 features.7 128x112x112 1,605,632 6,422,528 4710.9 10759.3 30.5 1.04
        5 features.10 256x56x56 802,816 3,211,264 5635.8 9834.5 36.4 2.22
        6 features.12 256x56x56 802,816 3,211,264 7485.5 7984.8 48.4 4.58
        7 features.14 256x56x56 802,816 3,211,264 9335.1 6135.1 60.3 6.94
        8 features.17 512x28x28 401,408 1,605,632 10260.0 5210.3 66.3 11.66
        9 features.19 512x28x28 401,408 1,605,632 12109.7 3360.6 78.3 21.10
        10 features.21 512x28x28 401,408 1,605,632 13959.4 1510.9 90.2 30.54
        11 features.24 512x14x14 100,352 401,408 14421.8 1048.5 93.2 39.98
        12 features.26 512x14x14 100,352 401,408 14884.2 586.1 96.2 49.42
        13 features.28 512x14x14 100,352 401,408 15346.6 123.6 99.2 58.86
        full classifier.6 1000 1,000 4,000 15470.3 0.0 100.0 553.43
        """,
    RESNET: """
        1 conv1 64x112x112 802,816 3,211,264 118.0 3971.2 2.9 0.04
        1' maxpool 64x56x56 200,704 802,816 118.0 3971.2 2.9 0.04
        2 layer1 256x56x56 802,816 3,211,264 786.0 3303.2 19.2 0.90
        3 layer2 512x28x28 401,408 1,605,632 1813.6 2275.6 44.4 5.78
        4 layer3 1024x14x14 200,704 802,816 3277.9 811.3 80.2 34.17
        5 layer4 2048x7x7 100,352 401,408 4087.1 2.0 99.9 94.03
        """,
    EFFICIENTNET: """
        1 features.0 32x112x112 401,408 1,605,632 10.8 375.0 2.8 0.00
        2 features.1 16x112x112 200,704 802,816 20.9 364.9 5.4 0.01
        3 features.2 24x56x56 75,264 301,056 75.8 310.0 19.7 0.08
        4 features.3 40x28x28 31,360 125,440 113.8 272.1 29.5 0.26
        5 features.4 80x14x14 15,680 62,720 157.3 228.5 40.8 1.23
        6 features.5 112x14x14 21,952 87,808 243.4 142.4 63.1 3.41
        7 features.6 192x7x7 9,408 37,632 334.9 50.9 86.8 11.51
        skipped features.7 320x7x7 15,680 62,720 364.5 21.4 94.5 14.38
        8 features.8 1280x7x7 62,720 250,880 384.5 1.3 99.7 16.03
        """,
    TIMM: """
        1 bn1 32x112x112 401,408 1,605,632 10.8 375.0 2.8 0.00
        2 blocks.0 16x112x112 200,704 802,816 20.9 364.9 5.4 0.01
        3 blocks.1 24x56x56 75,264 301,056 75.8 310.0 19.7 0.08
        4 blocks.2 40x28x28 31,360 125,440 113.8 272.1 29.5 0.26
        5 blocks.3 80x14x14 15,680 62,720 157.3 228.5 40.8 1.23
        6 blocks.4 112x14x14 21,952 87,808 243.4 142.4 63.1 3.41
        7 blocks.5 192x7x7 9,408 37,632 334.9 50.9 86.8 11.51
        skipped blocks.6 320x7x7 15,680 62,720 364.5 21.4 94.5 14.38
        8 bn2 1280x7x7 62,720 250,880 384.5 1.3 99.7 16.03
        """,
}
"""Layer number, module, CxHxW, values, bytes, MMAC before and after, percent before, MB of weights before."""

CAPTURED = [VGG, RESNET, *(pytest.param(name, marks=pytest.mark.slow) for name in (EFFICIENTNET, TIMM))]
"""Capturing the two EfficientNets takes as long as all other tests of this file."""


@pytest.mark.parametrize("model", S2)
def test_s2_layers_are_modules_of_the_librarys_model(model: str) -> None:
    """The modules have these names and output shapes before the model is captured."""
    made: dict[str, tuple[int, ...]] = {}
    module = bare(model, PHOTO)
    for path, part in module.named_modules():
        part.register_forward_hook(lambda _, __, out, path=path: made.update({path: tuple(out.shape[1:])}))
    module(torch.zeros(1, *PHOTO, device="meta"))

    listed = {number: (path, shape) for number, path, shape, *_ in rows(S2[model])}

    assert [str(point.number) for point in points(model, "s2")] == [n for n in listed if n.isdecimal()]
    assert all(resolve(model, f"s2:{n}") == path for n, (path, _) in listed.items() if n.isdecimal())
    assert {path: made[path] for path, _ in listed.values()} == {path: chw(s) for path, s in listed.values()}


@pytest.mark.parametrize("model", CAPTURED)
def test_table_of_each_s2_model(model: str) -> None:
    for _, path, shape, values, size, before, after, percent, weights in rows(S2[model]):
        op, (done, left) = layer(model, path), work(model, path)
        trained = sum(p.nbytes for o in until(model, path) for k, p in o.params.items() if k in ("weight", "bias"))

        assert (op.shape, prod(op.shape), op.bytes) == (chw(shape), whole(values), whole(size)), path
        assert (f"{done / 1e6:.1f}", f"{left / 1e6:.1f}") == (before, after), path
        assert f"{100 * done / (done + left):.1f}" == percent, path
        assert f"{trained / 1e6:.2f}" == weights, path


@pytest.mark.parametrize("model", CAPTURED)
def test_one_tensor_crosses_at_each_s2_layer(model: str) -> None:
    for point in points(model, "s2"):
        assert list(crossing(model, point.path)) == [layer(model, point.path).name]


@pytest.mark.slow
def test_efficientnet_lite0_is_cut_where_efficientnet_b0_is() -> None:
    """Its maps have the same shapes, and fewer MACs before them, since it has no squeeze-and-excite."""
    for ours, other in zip(points(LITE, "s2"), points(TIMM, "s2"), strict=True):
        assert (ours.number, ours.path) == (other.number, other.path)
        assert layer(LITE, ours.path).shape == layer(TIMM, other.path).shape
        assert list(crossing(LITE, ours.path)) == [layer(LITE, ours.path).name]
        assert work(LITE, ours.path)[0] <= work(TIMM, other.path)[0]


def test_vgg_is_cut_before_the_relu_and_before_the_pool() -> None:
    for point in points(VGG, "s2"):
        op = layer(VGG, point.path)
        (reader,) = (layer(VGG, name) for name in graph_of(VGG, PHOTO).users[op.name])
        assert (op.kind, reader.kind, reader.shape) == ("conv2d", "elementwise", op.shape)


def test_convolutions_before_each_s2_layer_of_resnet50() -> None:
    """The paper's Table I does not count the four projections."""
    counted = []
    for point in points(RESNET, "s2"):
        names = [op.name for op in until(RESNET, point.path) if op.kind == "conv2d"]
        counted.append((sum("downsample" not in name for name in names), len(names)))

    assert counted == [(1, 1), (10, 11), (22, 24), (40, 43), (49, 53)]


def test_the_layers_that_the_first_s2_layer_of_resnet50_may_mean() -> None:
    shapes = [layer(RESNET, path).shape for path in ("conv1", "bn1", "relu", "maxpool")]

    assert shapes == [(64, 112, 112)] * 3 + [(64, 56, 56)]
    assert "maxpool" in points(RESNET, "s2")[0].note


# --- Mehrafrooz et al. (2025) ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "size", "number", "path", "shape"),
    [
        (MOBILENET, PHOTO, 2, "conv1_bn", "112x112x32"),
        (MOBILENET, PHOTO, 33, "conv_pw_5", "28x28x256"),
        (MOBILENET, PHOTO, 72, "conv_pw_11_relu", "14x14x512"),
        (RESNET, PHOTO, 2, "conv1", "112x112x64"),
        (RESNET, PHOTO, 33, "layer1.2.bn2", "56x56x64"),
        (RESNET, PHOTO, 42, "layer2.0.conv2", "28x28x128"),
        (LENET, MNIST, 2, "conv2", "10x10x16"),
        (LENET, MNIST, 3, "pool2", "5x5x16"),
        (LENET, MNIST, 5, "flatten", "120"),
        (LENET, CIFAR, 2, "conv2", "12x12x16"),
        (LENET, CIFAR, 3, "pool2", "6x6x16"),
        (LENET, CIFAR, 5, "flatten", "480"),
    ],
)
def test_the_layers_at_which_s1_listens(model: str, size: Shape, number: int, path: str, shape: str) -> None:
    assert resolve(model, f"s1:{number}") == path
    assert setup.layers_of(model)[path] == f"Layer {number}"
    assert layer(model, path, size).shape == hwc(shape)


def test_s1_listens_at_three_layers_of_each_model() -> None:
    listened = {model: list(setup.layers_of(model).values()) for model in (LENET, *MOBILENETS, RESNET, VGG)}

    assert listened == {
        LENET: ["Layer 2", "Layer 3", "Layer 5"],
        **{name: ["Layer 2", "Layer 33", "Layer 72"] for name in MOBILENETS},
        RESNET: ["Layer 2", "Layer 33", "Layer 42"],
        VGG: [],
    }


KERAS_MOBILENET = """
conv1 1/2/3 112x112x32 401,408 1,605,632 10.84 557.90 1.9
conv_dw_1 4/5/6 112x112x32 401,408 1,605,632 14.45 554.29 2.5
conv_pw_1 7/8/9 112x112x64 802,816 3,211,264 40.14 528.60 7.1
conv_dw_2 11/12/13 56x56x64 200,704 802,816 41.95 526.79 7.4
conv_pw_2 14/15/16 56x56x128 401,408 1,605,632 67.64 501.10 11.9
conv_dw_3 17/18/19 56x56x128 401,408 1,605,632 71.25 497.49 12.5
conv_pw_3 20/21/22 56x56x128 401,408 1,605,632 122.63 446.11 21.6
conv_dw_4 24/25/26 28x28x128 100,352 401,408 123.53 445.21 21.7
conv_pw_4 27/28/29 28x28x256 200,704 802,816 149.22 419.52 26.2
conv_dw_5 30/31/32 28x28x256 200,704 802,816 151.03 417.71 26.6
conv_pw_5 33/34/35 28x28x256 200,704 802,816 202.41 366.33 35.6
conv_dw_6 37/38/39 14x14x256 50,176 200,704 202.86 365.88 35.7
conv_pw_6 40/41/42 14x14x512 100,352 401,408 228.55 340.19 40.2
conv_dw_7 43/44/45 14x14x512 100,352 401,408 229.45 339.29 40.3
conv_pw_7 46/47/48 14x14x512 100,352 401,408 280.84 287.91 49.4
conv_dw_8 49/50/51 14x14x512 100,352 401,408 281.74 287.00 49.5
conv_pw_8 52/53/54 14x14x512 100,352 401,408 333.12 235.62 58.6
conv_dw_9 55/56/57 14x14x512 100,352 401,408 334.02 234.72 58.7
conv_pw_9 58/59/60 14x14x512 100,352 401,408 385.40 183.34 67.8
conv_dw_10 61/62/63 14x14x512 100,352 401,408 386.31 182.44 67.9
conv_pw_10 64/65/66 14x14x512 100,352 401,408 437.69 131.06 77.0
conv_dw_11 67/68/69 14x14x512 100,352 401,408 438.59 130.15 77.1
conv_pw_11 70/71/72 14x14x512 100,352 401,408 489.97 78.77 86.1
conv_dw_12 74/75/76 7x7x512 25,088 100,352 490.19 78.55 86.2
conv_pw_12 77/78/79 7x7x1024 50,176 200,704 515.88 52.86 90.7
conv_dw_13 80/81/82 7x7x1024 50,176 200,704 516.34 52.40 90.8
conv_pw_13 83/84/85 7x7x1024 50,176 200,704 567.72 1.02 99.8
conv_preds 88 1x1x1000 1,000 4,000 568.74 0.00 100.0
"""
"""Convolution, Keras' indices (convolution, batch norm, ReLU6), HxWxC, values, bytes, MMAC, percent before."""

SUFFIXES = (("", "conv2d"), ("_bn", "batch_norm"), ("_relu", "elementwise"))


@pytest.mark.parametrize("row", rows(KERAS_MOBILENET), ids=lambda row: row[0])
def test_table_of_mobilenet(row: list[str]) -> None:
    name, indices, shape, values, size, before, after, percent = row
    for index, (suffix, kind) in zip(indices.split("/"), SUFFIXES, strict=False):
        path = resolve(MOBILENET, index)
        op, (done, left) = layer(MOBILENET, path), work(MOBILENET, path)

        assert (path, op.kind) == (name + suffix, kind)
        assert (op.shape, prod(op.shape), op.bytes) == (hwc(shape), whole(values), whole(size))
        assert (f"{done / 1e6:.2f}", f"{left / 1e6:.2f}") == (before, after)
        assert f"{100 * done / (done + left):.1f}" == percent
        assert crossing(MOBILENET, path) == {op.name: whole(values)}


def test_every_number_of_mobilenet_at_every_width() -> None:
    listed = [index for _, indices, *_ in rows(KERAS_MOBILENET) for index in indices.split("/")]
    pads = {resolve(MOBILENET, index) for index in ("10", "23", "36", "73")}

    assert pads == {"conv_pad_2", "conv_pad_4", "conv_pad_6", "conv_pad_12"}
    assert sorted({*map(int, listed), 10, 23, 36, 73, 86, 87}) == list(range(1, 89))
    assert set(MOBILENETS) == {name for name in MODELS if name.startswith(MOBILENET)}
    for model in MOBILENETS:
        modules = dict(bare(model, PHOTO).named_modules())
        assert [point.number for point in points(model)] == list(range(1, 89))
        assert all(point.path in modules for point in points(model))
        assert [point.path for point in points(model)] == [point.path for point in points(MOBILENET)]


def test_both_readings_of_s1_section_2() -> None:
    """Layers 5 and 20 are Keras' indices, or the fifth and the twentieth convolution."""
    notes = {point.number: point.note for point in points(MOBILENET)}

    assert [resolve(MOBILENET, f"s1:{k}") for k in (5, 20)] == ["conv_dw_1_bn", "conv_pw_3"]
    for k in (5, 20):
        assert rows(KERAS_MOBILENET)[k - 1][0] in notes[k]


LENET_TABLE = """
0 conv1 28x28x6 4,704 117.6 298.9 32x32x6 6,144 460.8 578.8
1 pool1 14x14x6 1,176 117.6 298.9 16x16x6 1,536 460.8 578.8
2 conv2 10x10x16 1,600 357.6 58.9 12x12x16 2,304 806.4 233.2
3 pool2 5x5x16 400 357.6 58.9 6x6x16 576 806.4 233.2
4 conv3 1x1x120 120 405.6 10.9 2x2x120 480 998.4 41.2
5 flatten 120 120 405.6 10.9 480 480 998.4 41.2
6 dense1 84 84 415.7 0.8 84 84 1038.7 0.8
7 dense2 10 10 416.5 0.0 10 10 1039.6 0.0
"""
"""Index, layer, then for MNIST and for CIFAR-10 HxWxC, values, kMAC before and after."""


@pytest.mark.parametrize(("size", "first"), [(MNIST, 2), (CIFAR, 6)])
def test_table_of_lenet5(size: Shape, first: int) -> None:
    for row in rows(LENET_TABLE):
        index, path, (shape, values, before, after) = row[0], row[1], row[first : first + 4]
        op, (done, left) = layer(LENET, path, size), work(LENET, path, size)

        assert resolve(LENET, index) == resolve(LENET, f"s1:{index}") == path
        assert (op.shape, prod(op.shape), op.bytes) == (hwc(shape), whole(values), 4 * whole(values))
        assert (f"{done / 1e3:.1f}", f"{left / 1e3:.1f}") == (before, after)


@pytest.mark.parametrize(
    ("number", "also", "values", "size"),
    [
        (2, {}, 802_816, "3.211"),
        (33, {"layer1.1.relu.relu_3": 802_816}, 1_003_520, "4.014"),  # Keras' conv2_block2_out
        (42, {"layer1.2.relu.relu_3": 802_816}, 903_168, "3.613"),  # Keras' conv2_block3_out
    ],
)
def test_the_skip_crosses_where_s1_cuts_resnet50(number: int, also: dict[str, int], values: int, size: str) -> None:
    op = layer(RESNET, resolve(RESNET, f"s1:{number}"))
    cut = cuts_of(RESNET, PHOTO)[op.name]

    assert crossing(RESNET, op.name) == {**also, op.name: prod(op.shape)}
    assert sum(prod(tensor.shape) for tensor in cut.tensors) == values
    assert f"{cut.bytes / 1e6:.3f}" == size


def test_the_projection_of_resnet50_is_smaller_than_the_skip_that_it_reads() -> None:
    """The front device could run the projection before Layer 42, but no cut in this order of ops does."""
    op, projection = layer(RESNET, resolve(RESNET, "s1:42")), layer(RESNET, "layer2.0.downsample.0")

    assert (op.bytes + projection.bytes) / 4 == 501_760
    assert graph_of(RESNET, PHOTO).position[projection.name] > graph_of(RESNET, PHOTO).position[op.name]


def test_one_tensor_crosses_resnet50_only_outside_its_blocks() -> None:
    """One tensor crosses before the blocks, after the sum and the last ReLU of each block, and after the blocks."""
    single = [value for value, cut in cuts_of(RESNET, PHOTO).items() if len(cut.tensors) == 1]
    blocks = [f"layer{stage}.{block}" for stage, n in enumerate((3, 4, 6, 3), 1) for block in range(n)]
    ends = [name for block in blocks for name in (f"{block}.add", f"{block}.relu.relu_3")]

    first = ["input", "conv1", "bn1", "relu", "maxpool"]
    assert single == [*first, *ends, "avgpool", "flatten"]


def test_torchvision_s_resnet50_does_more_than_keras_s() -> None:
    """Keras' model has 3,858.0 MMAC; 118.0 / 3740.0, 734.6 / 3123.4 and 927.3 / 2930.7 around the three layers.

    In torchvision's model, the first 1x1 convolution of the second, third and fourth stage runs at four times as
    many positions, which adds 77.07 MMAC each; none of these is before Layer 33, one is before Layer 42.
    """
    keras = {2: (118.0, 3740.0), 33: (734.6, 3123.4), 42: (927.3, 2930.7)}
    ours = {2: (118.0, 3971.2), 33: (734.6, 3354.6), 42: (1004.3, 3084.9)}
    more = 256 * 128 * (56 * 56 - 28 * 28) / 1e6
    for number, (before, after) in keras.items():
        done, left = (n / 1e6 for n in work(RESNET, resolve(RESNET, f"s1:{number}")))
        stages = 1 if number == 42 else 0

        assert (round(done, 1), round(left, 1)) == ours[number]
        assert done - stages * more == pytest.approx(before, abs=0.05)
        assert left - (3 - stages) * more == pytest.approx(after, abs=0.05)


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name", "path"),
    [
        (LENET, "conv2", "conv2"),
        (LENET, "0", "conv1"),
        (LENET, "S1:3", "pool2"),
        (MOBILENET, "88", "conv_preds"),
        (VGG, "8", "features.17"),
        (VGG, "s2:8", "features.17"),
        (VGG, "features.17", "features.17"),
        (RESNET, "33", "layer1.2.bn2"),
        (RESNET, "3", "layer2"),
        (RESNET, "s1:2", "conv1"),
        (RESNET, "s2:2", "layer1"),
        (TIMM, "1", "bn1"),
        ("package.module:factory", "1", "1"),
        ("torchvision:densenet121", "features.1", "features.1"),
        (LENET, "s3:1", "s3:1"),
    ],
)
def test_names(model: str, name: str, path: str) -> None:
    assert resolve(model, name) == path


@pytest.mark.parametrize(
    ("model", "name", "problem"),
    [
        (
            RESNET,
            "2",
            "layer 2 of torchvision:resnet50 is conv1 in Mehrafrooz et al. (2025) and layer1 in Rajasekar et al. "
            "(2024); write s1:2 or s2:2",
        ),
        (
            RESNET,
            "7",
            "torchvision:resnet50 has no layer 7: Mehrafrooz et al. (2025) number its layers 2, 33, 42, "
            "Rajasekar et al. (2024) number its layers 1 to 5; give one of these or the layer's path",
        ),
        (
            RESNET,
            "s1:3",
            "torchvision:resnet50 has no layer s1:3: Mehrafrooz et al. (2025) number its layers 2, 33, 42; "
            "give one of these or the layer's path",
        ),
        (
            LENET,
            "9",
            "lenet5 has no layer 9: Mehrafrooz et al. (2025) number its layers 0 to 7; "
            "give one of these or the layer's path",
        ),
        (
            LENET,
            "s1:x",
            "lenet5 has no layer s1:x: Mehrafrooz et al. (2025) number its layers 0 to 7; "
            "give one of these or the layer's path",
        ),
        (
            LENET,
            "s2:2",
            "s2:2: Rajasekar et al. (2024) number the layers of torchvision:vgg16, torchvision:resnet50, "
            "torchvision:efficientnet_b0, timm:efficientnet_b0, timm:tf_efficientnet_lite0, not of lenet5; "
            "give the layer's path",
        ),
    ],
)
def test_unknown_and_ambiguous_numbers_are_refused(model: str, name: str, problem: str) -> None:
    with pytest.raises(ClovenError) as error:
        resolve(model, name)

    assert error.value.problems == (problem,)


def test_each_number_of_a_paper_is_listed_once() -> None:
    assert len({(point.paper, point.model, point.number) for point in POINTS}) == len(POINTS)
    assert all(resolve(point.model, point.name) == point.path for point in POINTS)
    assert points("timm:resnet50") == ()
