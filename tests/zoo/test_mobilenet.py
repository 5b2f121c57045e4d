"""MobileNet v1 as Keras has it: its layers, its padding, and what its trained weights recognise."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cloven.errors import ClovenError
from cloven.graph.cuts import cuts
from cloven.runtime.capture import capture
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.mobilenet import MobileNetV1
from cloven.zoo.models import MODELS, NORMALISATION, build
from cloven.zoo.weights import load_weights
from tests.models import logits_of

TABLE = """
conv1 112 32 10.84
conv_dw_1 112 32 14.45
conv_pw_1 112 64 40.14
conv_dw_2 56 64 41.95
conv_pw_2 56 128 67.64
conv_dw_3 56 128 71.25
conv_pw_3 56 128 122.63
conv_dw_4 28 128 123.53
conv_pw_4 28 256 149.22
conv_dw_5 28 256 151.03
conv_pw_5 28 256 202.41
conv_dw_6 14 256 202.86
conv_pw_6 14 512 228.55
conv_dw_7 14 512 229.45
conv_pw_7 14 512 280.84
conv_dw_8 14 512 281.74
conv_pw_8 14 512 333.12
conv_dw_9 14 512 334.02
conv_pw_9 14 512 385.40
conv_dw_10 14 512 386.31
conv_pw_10 14 512 437.69
conv_dw_11 14 512 438.59
conv_pw_11 14 512 489.97
conv_dw_12 7 512 490.19
conv_pw_12 7 1024 515.88
conv_dw_13 7 1024 516.34
conv_pw_13 7 1024 567.72
conv_preds 1 1000 568.74
"""
"""Each convolution of Keras' MobileNet at 224x224: name, side, channels, and MMAC up to and with it."""


@pytest.mark.parametrize(
    ("width", "numbers"), [(1.0, 4_253_864), (0.75, 2_601_976), (0.5, 1_342_536), (0.25, 475_544)]
)
def test_parameters(width: float, numbers: int) -> None:
    """Keras also counts the moving statistics: the whole state of the model except BatchNorm's counters."""
    kept = MobileNetV1(width).state_dict()

    assert sum(value.numel() for value in kept.values() if value.is_floating_point()) == numbers


def test_every_convolution_has_the_shape_and_the_cost_of_keras() -> None:
    graph = capture(MobileNetV1(), torch.rand(1, 3, 224, 224))
    before = {cut.after: cut.macs_before for cut in cuts(graph)}
    last = cuts(graph)[-1]

    rows = [line.split() for line in TABLE.split("\n") if line]
    assert [op.name for op in graph.ops if op.kind == "conv2d"] == [name for name, *_ in rows]
    for name, side, channels, mmac in rows:
        assert graph.by_name[name].shape == (int(channels), int(side), int(side)), name
        assert f"{before[name] / 1e6:.2f}" == mmac, name
    assert last.macs_before + last.macs_after == 568_740_352


def test_layers_are_named_and_ordered_as_in_keras() -> None:
    """Layers 2, 33 and 72 of the paper are these Keras layers, if the input takes conv1_pad's place."""
    names = [name for name, _ in MobileNetV1().named_children()]

    assert names[0] == "conv1_pad"
    assert [names[k] for k in (2, 33, 72)] == ["conv1_bn", "conv_pw_5", "conv_pw_11_relu"]
    assert [names[k] for k in (10, 23, 36, 73)] == ["conv_pad_2", "conv_pad_4", "conv_pad_6", "conv_pad_12"]
    assert names[86:] == ["global_average_pooling2d", "dropout", "conv_preds", "reshape_2"]


def test_batch_norms_are_those_of_keras() -> None:
    norms = [part for part in MobileNetV1(0.25).modules() if isinstance(part, nn.BatchNorm2d)]

    assert len(norms) == 27
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


def test_padding_is_tensorflows_same() -> None:
    """On a 4x4 image of ones, a 3x3 kernel of ones counts the pixels in its window.

    At stride 2 the first window begins at the first pixel, and only the last one sticks out; at stride 1 all
    windows at the border do.
    """
    model = MobileNetV1(1 / 32, channels=1)
    ones = torch.ones(1, 1, 4, 4)
    for name in ("conv1", "conv_dw_1", "conv_dw_2"):
        nn.init.ones_(model.get_submodule(name).weight)  # type: ignore[arg-type]

    wide = torch.ones(1, 2, 4, 4)
    strided = [[9.0, 6.0], [6.0, 4.0]]
    plain = [[4.0, 6.0, 6.0, 4.0], [6.0, 9.0, 9.0, 6.0], [6.0, 9.0, 9.0, 6.0], [4.0, 6.0, 6.0, 4.0]]
    run = model.get_submodule
    assert run("conv1")(run("conv1_pad")(ones))[0, 0].tolist() == strided
    assert run("conv_dw_1")(ones)[0, 0].tolist() == plain
    assert run("conv_dw_2")(run("conv_pad_2")(wide))[0, 1].tolist() == strided


@pytest.mark.parametrize(
    ("name", "first"),
    [("mobilenet_v1_0.25", 8), pytest.param("mobilenet_v1_0.5", 16, marks=pytest.mark.slow)],
)
def test_the_captured_graph_computes_the_model(name: str, first: int) -> None:
    model = build(name, shape=(3, 64, 32), classes=5)
    mean, std = NORMALISATION[name]
    images = torch.rand(3, 3, 64, 32)
    graph = capture(model, images[:1], mean=mean, std=std)

    result = evaluate(graph, images, [graph.output])[graph.output]

    assert graph.by_name["conv1"].shape == (first, 32, 16)
    assert result.shape == (3, 5)
    torch.testing.assert_close(result, logits_of(model, images * 2 - 1))


def test_the_normalisation_belongs_to_known_models() -> None:
    assert set(MODELS) - set(NORMALISATION) == {"lenet5", "small"}
    assert set(NORMALISATION) <= set(MODELS)


def test_all_problems_at_once() -> None:
    with pytest.raises(ClovenError) as caught:
        MobileNetV1(0, 1, 0)

    assert caught.value.problems == (
        "mobilenet_v1: got width 0, expected 0.03125 to 8, e.g. 0.25 or 1",
        "mobilenet_v1: got 1 classes, expected at least 2",
        "mobilenet_v1: got 0 channels, expected at least 1",
    )


def test_images_that_are_too_small() -> None:
    with pytest.raises(ClovenError, match=r"^mobilenet_v1_0\.5: got images of 28 x 28, expected at least 32 x 32"):
        build("mobilenet_v1_0.5", shape=(1, 28, 28), classes=10)


@pytest.mark.slow
def test_the_trained_weights_recognise_photographs() -> None:
    """83.7 and 95.9 % of one photograph a class: short side enlarged to 256 where smaller, 224 from the centre."""
    from PIL import Image

    if not (data := os.environ.get("CLOVEN_DATA")):
        pytest.skip("CLOVEN_DATA names no folder with imagenet-sample and weights")
    model = build("mobilenet_v1_0.75", shape=(3, 224, 224), classes=1000)
    load_weights(model, Path(data) / "weights" / "mobilenet_v1_0.75_224_imagenet_f32.npz")
    photographs = Path(data) / "imagenet-sample"
    entries = json.loads((photographs / "labels.json").read_text("utf-8"))

    def pixels(entry: dict[str, str]) -> torch.Tensor:
        with Image.open(photographs / entry["synset"] / entry["file"]) as opened:
            picture = opened.convert("RGB")
        if (short := min(picture.size)) < 256:
            width, height = (round(side * (256 / short)) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        left, top = ((side - 224) // 2 for side in picture.size)
        return torch.tensor(np.asarray(picture)[top : top + 224, left : left + 224]).permute(2, 0, 1)

    top1 = top5 = 0
    for start in range(0, len(entries), 50):
        some = entries[start : start + 50]
        images = torch.stack([pixels(entry) for entry in some]).float() / 127.5 - 1
        right = (
            logits_of(model, images).topk(5).indices == torch.tensor([entry["index"] for entry in some])[:, None]
        )
        top1, top5 = top1 + int(right[:, 0].sum()), top5 + int(right.sum())

    assert len(entries) == 1000
    assert abs(top1 - 837) <= 3  # decoders of JPEG differ in the last bit
    assert abs(top5 - 959) <= 3
