"""Common ops in models, as bundles: the same numbers as PyTorch, for any number of images and any plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cloven.errors import ClovenError
from cloven.graph.graph import Graph
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from cloven.runtime.bundle import engine, segment_check
from cloven.runtime.bundle.onnx import nodes
from cloven.runtime.bundle.onnx.builder import ModelBuilder, Value
from cloven.runtime.bundle.writer import write
from cloven.runtime.capture import capture
from cloven.zoo.named import make, usual

Function = Callable[[Tensor], Tensor]

SIZES = (1, 2, 5)
"""The batch sizes that a bundle is run with."""

COUNTED = torch.arange(4 * 8 * 6.0).reshape(1, 4, 8, 6) / 100

BATCH_SIZED: Mapping[str, Function] = {
    "repeat": lambda x: x + COUNTED.repeat(len(x), 1, 1, 1),
    "repeat along new axes": lambda x: x + COUNTED[0].repeat(len(x), 1, 1, 1),
    "repeat of rows": lambda x: COUNTED[0, 0].repeat(len(x), 1).reshape(len(x), -1)[:, :8],
    "tile": lambda x: x + COUNTED.tile((len(x), 1, 1, 1)),
    "expand": lambda x: torch.cat([COUNTED.expand(len(x), -1, -1, -1), x], 1),
    "expand along a new axis": lambda x: x * COUNTED[0].expand(len(x), 4, 8, 6),
    "expand along a later axis": lambda x: (
        x.transpose(0, 1) * COUNTED[0, :, None].expand(4, len(x), 8, 6)
    ).transpose(0, 1),
    "expand as": lambda x: torch.cat([COUNTED[:, :1].expand_as(x[:, :1]), x], 1),
    "broadcast": lambda x: torch.cat([COUNTED.broadcast_to(x.shape), x], 2),
    "full": lambda x: torch.cat([torch.full((len(x), 1, 8, 6), 3.0), x], 1),
    "zeros": lambda x: torch.cat([torch.zeros(len(x), 2, 8, 6), x], 1),
    "ones": lambda x: torch.cat([x, torch.ones(x.shape)], 3),
    "new_full": lambda x: torch.cat(
        [x.new_full((len(x), 1, 8, 6), 2), x, x.new_zeros(x.shape), x.new_ones(x.shape)], 1
    ),
    "full_like": lambda x: torch.cat([torch.zeros_like(x), torch.full_like(x, 2.0) * x, torch.ones_like(x)], 1),
    "a class token": lambda x: torch.cat(
        [COUNTED[:, :1, 0].expand(len(x), -1, -1), x.flatten(2).mT[..., :1] * COUNTED[0, 0, 0]], 1
    ),
    "reshape": lambda x: (
        x.reshape(len(x) * 4, 8, 6).softmax(1).view(len(x), 4, -1).transpose(1, 2).reshape(len(x), -1)
    ),
    "reshape to a batch that is counted": lambda x: (2 * x.reshape(-1, 4, 12)).relu().view(len(x), 4, 4, 12),
}
"""Lengths and repetitions that equal the batch size."""

VIEWS: Mapping[str, Function] = {
    "chunks of copies": lambda x: sum(torch.cat([x, x.flip(3)]).relu().chunk(2), torch.zeros(())),
    "lists of copies": lambda x: torch.cat([x, 2 * x, x * x]).split([len(x), 2 * len(x)])[1].chunk(2)[0],
    "slices of copies": lambda x: torch.cat([x, 2 * x])[len(x) :] - torch.cat([x, x * x])[-len(x) :],
    "copies as an axis": lambda x: torch.cat([x, 2 * x]).softmax(1).view(2, len(x), -1).mean(0),
}
"""Several rows per image along the batch axis, separated again."""

ANOTHER_AXIS: Mapping[str, Function] = {
    "softmax": lambda x: x.permute(1, 2, 0, 3).softmax(1).permute(2, 0, 1, 3),
    "unbind": lambda x: torch.stack(x.transpose(0, 1).unbind(0), 1).relu(),
    "layer norm": lambda x: F.layer_norm(x.permute(2, 3, 0, 1), (4,)).permute(2, 3, 0, 1),
    "linear": lambda x: F.linear(x.permute(1, 2, 0, 3), COUNTED[0, 0]).transpose(0, 2),
    "mean": lambda x: x.transpose(0, 2).mean((0, 3)).T,
    "stack": lambda x: torch.stack([x, -x, x * x]).amax(0),
    "select": lambda x: x.movedim(0, 1)[2],
    "heads": lambda x: (
        x.flatten(2).permute(2, 0, 1).reshape(48, len(x) * 2, 2).transpose(0, 1).cumsum(1).reshape(len(x), -1)
    ),
    "indices of axes that are apart": lambda x: x[:, [1, 2], :, [0, 1]].transpose(0, 1),
    "squeeze": lambda x: x[None].transpose(0, 1).squeeze(),
}
"""Values whose first axis is not the batch."""

MEMORY: Mapping[str, Function] = {
    "contiguous": lambda x: x.transpose(2, 3).contiguous(memory_format=torch.channels_last).transpose(2, 3),
    "to": lambda x: (
        x.to(memory_format=torch.channels_last) + x.to(torch.float32, memory_format=torch.preserve_format)
    ),
    "clone": lambda x: x.clone(memory_format=torch.channels_last) * x.clone(),
    "of booleans": lambda x: torch.where(
        (x > 0).contiguous(memory_format=torch.channels_last), x, torch.where((x < -1).clone(), x, -x)
    ),
    "like": lambda x: torch.cat([torch.zeros_like(x, memory_format=torch.channels_last), x], 1),
}

MODULES: Mapping[str, Function] = {
    "LRN": nn.LocalResponseNorm(3, alpha=0.5, beta=0.6, k=2.0),
    "LRN over an even number": nn.LocalResponseNorm(2, alpha=0.5),
    "GLU": nn.GLU(1),
    "Unfold": nn.Unfold((3, 2), dilation=(1, 2), padding=1, stride=(2, 1)),
    "Fold": lambda x: nn.Fold((8, 6), (2, 3), padding=(0, 1), stride=(2, 3))(
        F.unfold(x, (2, 3), padding=(0, 1), stride=(2, 3))
    ),
    "AdaptiveMaxPool that divides": nn.AdaptiveMaxPool2d((4, 3)),
    "AdaptiveMaxPool that does not": nn.AdaptiveMaxPool2d((3, 5)),
    "AdaptiveMaxPool of all": nn.AdaptiveMaxPool2d(1),
    "AdaptiveMaxPool to more": nn.AdaptiveMaxPool2d((11, 6)),
    "LPPool": nn.LPPool2d(2, 2),
    "pools of one axis": lambda x: F.avg_pool1d(F.max_pool1d(x[:, 0], 2, 1, ceil_mode=True), 3, 2, 1),
    "pools of three axes": lambda x: F.max_pool3d(F.avg_pool3d(x[:, None], 2, 1, 1), (1, 2, 2)).flatten(1),
    "adaptive pools of one axis": lambda x: F.adaptive_avg_pool1d(x[:, 0], 4) + F.adaptive_max_pool1d(x[:, 1], 4),
    "adaptive pools of three axes": lambda x: (
        F.adaptive_avg_pool3d(x[:, None], (3, 4, 5)) + F.adaptive_max_pool3d(x[:, None], (3, 4, 5))
    ),
    "a convolution of one axis": lambda x: F.conv1d(x[:, :, 0], COUNTED[0, :, :4, :3], padding=1),
    "norms": lambda x: (
        F.rms_norm(x, (6,))
        + F.normalize(x, dim=1)
        + F.instance_norm(x)
        + F.cosine_similarity(x, x.flip(1))[:, None]
    ),
    "moments": lambda x: (
        (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + x.std((1, 2), keepdim=True))
    ),
    "maximum and minimum of an axis": lambda x: x.max(1)[0] - x.min(1).values,
    "nearest-exact": lambda x: F.interpolate(x, scale_factor=(1.7, 0.6), mode="nearest-exact"),
    "bicubic": lambda x: (
        F.interpolate(x, (5, 9), mode="bicubic") + F.interpolate(x, (5, 9), mode="bicubic", align_corners=True)
    ),
    "bicubic by a factor": lambda x: F.interpolate(x, scale_factor=(1.7, 0.6), mode="bicubic"),
    "antialiased": lambda x: (
        F.interpolate(x, (5, 4), mode="bicubic", antialias=True)
        + F.interpolate(x, (5, 4), mode="bilinear", antialias=True)
    ),
    "resizing of one axis": lambda x: F.interpolate(x[:, :, 0], 9, mode="linear") + F.interpolate(x[:, :, 1], 9),
    "resizing of three axes": lambda x: (
        F.interpolate(x[:, None], (3, 9, 5), mode="trilinear") + F.interpolate(x[:, None], (3, 9, 5))
    ),
    "channels by a list": lambda x: x[:, [2, 0, 1]],
    "channels by a tensor": lambda x: x[:, torch.tensor([3, -1, 0])],
    "channels by index_select": lambda x: x.index_select(1, torch.tensor([2, 2, 0])),
    "rows and columns": lambda x: x[:, :, torch.arange(7, 0, -2)[:, None], torch.tensor([0, 5])],
    "take_along_dim": lambda x: x.take_along_dim(torch.tensor([2, 0])[None, :, None, None], 1),
    "flip": lambda x: x.flip((1, 3)),
    "roll": lambda x: x.roll((1, -2), (1, 3)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1).repeat_interleave(3, 3),
    "sliding windows": lambda x: x.unfold(2, 3, 2).unfold(3, 2, 2).flatten(1),
    "shrinking": lambda x: (
        F.softshrink(F.hardshrink(x, 0.3), 0.1) + F.threshold(x, 0.2, 5.0) + F.softsign(x) + F.tanhshrink(x)
    ),
    "small numbers": lambda x: 1e6 * ((1e-6 * x).log1p() + (1e-6 * x).expm1()) + (9 * x.abs()).log1p(),
    "masks": lambda x: x.masked_fill(((x > 0.5) & ~(x >= 1)) | (x != x), -1.0) + torch.where(x <= 0, 0.1, x),
    "attention": lambda x: (
        F.scaled_dot_product_attention(x, x, x, torch.ones(8, 8, dtype=torch.bool).tril())
        + F.scaled_dot_product_attention(x, x, x, is_causal=True)
    ),
    "arithmetic": lambda x: (
        torch.addcmul(x, x, x, value=0.5)
        + x.lerp(2 * x, 0.3)
        + torch.baddbmm(x[:, 0], x[:, 1], x[:, 2, :6])[:, None]
    ),
    "cubic and reflected places of a grid": lambda x: F.grid_sample(
        x, x.mean(1)[..., :2, None].expand(-1, 8, 2, 2), "bicubic", "reflection", True
    ),
    "a grid": lambda x: F.grid_sample(
        x,
        F.affine_grid(
            torch.tensor([[[1, 0.2, 0], [-0.1, 0.9, 0.1]]]).expand(len(x), 2, 3),
            [len(x), 4, 5, 7],
            align_corners=False,
        ),
        align_corners=False,
    ),
}

FUNCTIONS: Mapping[str, Function] = {**BATCH_SIZED, **VIEWS, **ANOTHER_AXIS, **MEMORY, **MODULES}


class After(nn.Module):
    """A convolution, a function of its output ``(n, 4, 8, 6)``, and a linear head."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(2, 4, 3, padding=1), function
        self.tail = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.cat([self.function(y).flatten(1), self.tail(y).flatten(1)], 1)


def images(graph: Graph, number: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).random((number, *graph.input.shape), np.float32)


def check(model: nn.Module, graph: Graph, strategy: Strategy, devices: int, folder: Path) -> None:
    """Check that a bundle computes what the model does, within rounding, for every number of images."""
    given = images(graph, max(SIZES))
    write(divide(graph, strategy, devices), folder / "bundle", model="model", plan="plan")
    with torch.inference_mode():
        expected = model(torch.from_numpy(given)).numpy()
    for number in SIZES:
        made = engine.run(folder / "bundle", given[:number], batch=number)
        assert made.shape == expected[:number].shape
        assert np.abs(made - expected[:number]).max() <= 1e-5 * max(1, np.abs(expected).max())


@cache
def after(name: str) -> tuple[nn.Module, Graph]:
    torch.manual_seed(0)
    model = After(FUNCTIONS[name]).eval()
    return model, capture(model, torch.rand(1, 2, 8, 6))


@pytest.mark.slow  # half a second each; the tests below combine them
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_a_map(name: str, tmp_path: Path) -> None:
    check(*after(name), Vertical(), 2, tmp_path)


@cache
def together() -> tuple[nn.Module, Graph]:
    """Return one model of all functions except those of booleans, which links cannot carry."""
    torch.manual_seed(0)
    functions = [function for name, function in FUNCTIONS.items() if name not in ("of booleans", "masks")]
    model = After(lambda x: torch.cat([function(x).flatten(1) for function in functions], 1)).eval()
    return model, capture(model, torch.rand(1, 2, 8, 6))


@pytest.mark.parametrize("strategy", [Vertical(), Horizontal(), Horizontal("rows"), Data((2, 2))])
def test_all_functions_of_a_map_at_once_however_it_is_divided(strategy: Strategy, tmp_path: Path) -> None:
    check(*together(), strategy, 4 if strategy != Vertical() else 2, tmp_path)


@pytest.mark.parametrize("name", ["of booleans", "masks"])
def test_booleans_within_a_device(name: str, tmp_path: Path) -> None:
    check(*after(name), Vertical(), 2, tmp_path)


class Tokens(nn.Module):
    """A small vision transformer as timm and torchvision write them: 2x16x12 to 5."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.patch = nn.Conv2d(2, 8, 4, 4)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 13, 8))
        self.norm, self.head, self.batch_first = nn.LayerNorm(8), nn.Linear(8, 5), batch_first
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.place
        y = self.norm(tokens) if self.batch_first else self.norm(tokens).transpose(0, 1)
        y = self.attention(y, y, y, need_weights=False)[0]
        made: Tensor = self.head((tokens + (y if self.batch_first else y.transpose(0, 1)))[:, 0])
        return made


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_class_token_and_attention_over_all_tokens(batch_first: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tokens(batch_first).eval()

    check(model, capture(model, torch.rand(1, 2, 16, 12)), Vertical(), 2, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "torchvision:vit_b_16",
        "torchvision:swin_t",
        *(f"timm:{n}" for n in "xcit_nano_12_p16_224 deit_tiny_patch16_224 levit_128s cait_xxs24_224".split()),
        *(f"timm:{n}" for n in "mobilevit_xxs efficientformer_l1 coat_tiny halonet26t twins_pcpvt_small".split()),
    ],
)
def test_transformers_that_people_use(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = usual(name).shape
    model = make(name, shape=shape, classes=10)
    for weight in model.parameters():
        if not weight.any():  # torchvision initialises the head with zeros
            nn.init.normal_(weight, std=0.02)

    check(model, capture(model, torch.rand(1, *shape)), Vertical(), 2, tmp_path)


def test_gather_by_places_that_are_the_same_for_all_images(tmp_path: Path) -> None:
    model = After(lambda x: x.gather(1, torch.tensor([2, 0])[None, :, None, None].expand(len(x), 2, 8, 6))).eval()

    check(model, capture(model, torch.rand(1, 2, 8, 6)), Vertical(), 1, tmp_path)


# --- unsupported ops --------------------------------------------------------------------------------------------


def written(function: Function, tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = capture(After(function).eval(), torch.rand(1, 2, 8, 6))
    write(divide(graph, Vertical(), 2), tmp_path / "bundle", model="model", plan="plan")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (
            lambda x: torch.fft.fft2(x).real,
            r"aten\.fft_fft2\.default, in the model itself\) cannot be written",
        ),
        (
            lambda x: F.max_pool2d(x, 2, return_indices=True)[1].float(),
            "the indices of its maxima are used",
        ),
        (lambda x: x.take_along_dim(x.argsort(1), 1), r"argsort\.default, in the model itself\) cannot be written"),
    ],
)
def test_an_op_without_a_node_is_refused_by_its_name(function: Function, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ClovenError, match=reason):
        written(function, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unforeseen_argument_is_refused_by_the_ops_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> Value:
        raise TypeError("int() argument must be a string")

    monkeypatch.setitem(nodes.NODES, "call", failing)

    with pytest.raises(ClovenError, match=r"sinh.*there is no node for these arguments \(TypeError: int\(\)"):
        written(torch.sinh, tmp_path)


def test_a_node_that_is_wrong_for_one_image_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulates a node that treats the number of images as a constant."""

    def call(model: ModelBuilder, attrs: object, inputs: Sequence[Value], params: object) -> Value:
        number = model.add("Cast", [model.batch()], to=onnx.TensorProto.FLOAT)
        off = model.add("Sub", [number, model.number(segment_check.FEWEST)])
        return model.add("Add", [model.add("Sinh", [inputs[0]]), off])

    monkeypatch.setitem(nodes.NODES, "call", call)

    with pytest.raises(ClovenError, match=r"differs from PyTorch by .* for 1 image "):
        written(torch.sinh, tmp_path)
