"""Random small CNNs and every strategy with all its parameters, for tests of equivalence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from cloven.graph.box import Shape, count
from cloven.graph.graph import Graph
from cloven.partition.data import Data, tileable
from cloven.partition.division import Stretch, everywhere
from cloven.partition.horizontal import AXES, Horizontal
from cloven.partition.stages import Stages
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical

IMAGE: Shape = (2, 14, 14)
"""The shape of the random networks' images."""

LARGEST = 1200
"""The most elements of a value in a random network; a block that makes more is left out."""


# --- blocks with branches -------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A block whose input is added to its output."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)) + x)


class Padded(nn.Module):
    """ResNet's option A: the shortcut takes every second row and column, and zero channels on both sides."""

    def __init__(self, channels: int, extra: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels + 2 * extra, 3, 2, padding=1)
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(self.conv(x) + short)


class Excited(nn.Module):
    """Squeeze and excite: channels are weighted by a function of their global means."""

    def __init__(self, channels: int, *, linear: bool) -> None:
        super().__init__()
        layer: Callable[[int, int], nn.Module] = nn.Linear if linear else _pointwise
        self.down, self.up, self.linear = layer(channels, 2), layer(2, channels), linear

    def forward(self, x: Tensor) -> Tensor:
        seen = x.mean((2, 3)) if self.linear else F.adaptive_avg_pool2d(x, 1)
        weight: Tensor = torch.sigmoid(self.up(F.relu(self.down(seen))))
        return x * (weight[:, :, None, None] if self.linear else weight)


class Dense(nn.Module):
    """DenseNet's block: each convolution reads all earlier outputs."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        inputs = [channels + growth * i for i in range(layers)]
        self.convs = nn.ModuleList(nn.Conv2d(n, growth, 3, padding=1) for n in inputs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in inputs)

    def forward(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return x


class Inception(nn.Module):
    """Branches of different windows side by side."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.one = _pointwise(channels, outputs)
        self.three = nn.Sequential(_pointwise(channels, 2), nn.ReLU(), nn.Conv2d(2, outputs, 3, padding=1))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), _pointwise(channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.pool(x)], 1)


class Halves(nn.Module):
    """ShuffleNet's block: half of the channels bypass a branch, then all are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Conv2d(half, half, 3, padding=1, groups=half)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        aside, taken = x.chunk(2, 1)
        shuffled: Tensor = self.shuffle(torch.cat([aside, self.branch(taken)], 1))
        return shuffled


class Next(nn.Module):
    """ConvNeXt's block: layer norm and linear layers over the channels, which are the last axis in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.deep = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y)))
        z: Tensor = x + y.permute(0, 3, 1, 2)
        return z


def _pointwise(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 1)


# --- random networks ------------------------------------------------------------------------------------------


def _conv(draw: st.DrawFn, shape: Shape) -> nn.Module:
    channels, side = shape[0], min(shape[1:])
    kernel, dilation = draw(st.integers(1, min(4, side))), draw(st.integers(1, 2))
    dilation = dilation if dilation * (kernel - 1) < side else 1
    outputs = draw(st.sampled_from([3, 4, 8]))
    groups = 2 if channels % 2 == 0 and outputs % 2 == 0 and draw(st.booleans()) else 1
    stride, pad = draw(st.integers(1, 2)), draw(st.integers(0, kernel // 2))
    return nn.Conv2d(channels, outputs, kernel, stride, pad, dilation, groups, bias=draw(st.booleans()))


def _separable(draw: st.DrawFn, shape: Shape) -> nn.Module:
    """Depthwise, with one or two filters a channel, then pointwise."""
    channels, times = shape[0], draw(st.integers(1, 2))
    deep = nn.Conv2d(channels, channels * times, 3, draw(st.integers(1, 2)), padding=1, groups=channels)
    return nn.Sequential(deep, nn.ReLU6(), _pointwise(channels * times, 4))


def _pool(draw: st.DrawFn, shape: Shape) -> nn.Module:
    kernel, pad, ceil = draw(st.integers(2, 3)), draw(st.integers(0, 1)), draw(st.booleans())
    which = draw(st.sampled_from(["max", "average", "adaptive"]))
    if which == "adaptive":
        return nn.AdaptiveAvgPool2d(draw(st.integers(2, 6)))
    if which == "max":
        return nn.MaxPool2d(kernel, 2, pad, ceil_mode=ceil)
    return nn.AvgPool2d(kernel, 2, pad, ceil_mode=ceil, count_include_pad=draw(st.booleans()))


def _larger(draw: st.DrawFn, shape: Shape) -> nn.Module:
    channels, kernel = shape[0], draw(st.integers(2, 3))
    groups = 2 if channels % 2 == 0 and draw(st.booleans()) else 1
    transposed = nn.ConvTranspose2d(channels, 4, kernel, 2, padding=draw(st.integers(0, 1)), groups=groups)
    smooth = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=draw(st.booleans()))
    pixels = nn.Sequential(nn.Conv2d(channels, 8, 1), nn.PixelShuffle(2))
    return draw(st.sampled_from([transposed, smooth, nn.Upsample(scale_factor=2), pixels]))


def _normed(draw: st.DrawFn, shape: Shape) -> nn.Module:
    groups = [n for n in (1, 2, 4) if shape[0] % n == 0]
    several = nn.GroupNorm(draw(st.sampled_from(groups)), shape[0])
    return draw(st.sampled_from([nn.BatchNorm2d(shape[0]), several, nn.InstanceNorm2d(shape[0], affine=True)]))


def _bent(draw: st.DrawFn, shape: Shape) -> nn.Module:
    return draw(st.sampled_from([nn.ReLU(), nn.SiLU(), nn.Hardswish(), nn.PReLU(shape[0])]))


def _bordered(draw: st.DrawFn, shape: Shape) -> nn.Module:
    return nn.ZeroPad2d(tuple(draw(st.tuples(*[st.integers(0, 2)] * 4))))


BLOCKS: dict[str, Callable[[st.DrawFn, Shape], nn.Module]] = {
    "conv": _conv,
    "separable": _separable,
    "pool": _pool,
    "larger": _larger,
    "norm": _normed,
    "bent": _bent,
    "border": _bordered,
    "shuffle": lambda _, shape: nn.ChannelShuffle(2) if shape[0] % 2 == 0 else nn.ReLU(),
    "residual": lambda _, shape: Residual(shape[0]),
    "padded": lambda draw, shape: Padded(shape[0], draw(st.integers(1, 2))),
    "excited": lambda draw, shape: Excited(shape[0], linear=draw(st.booleans())),
    "dense": lambda draw, shape: Dense(shape[0], draw(st.integers(2, 3)), 2),
    "inception": lambda draw, shape: Inception(shape[0], draw(st.integers(2, 4))),
    "next": lambda _, shape: Next(shape[0]),
    "halves": lambda _, shape: Halves(shape[0]) if shape[0] % 2 == 0 else nn.ReLU(),
}
"""The blocks of random networks, each made from its input's shape."""


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """Random blocks one after another on 2x14x14 images, with a linear head, or a global mean and then one."""
    names = draw(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=2, max_size=5))
    layers: list[nn.Module] = [nn.Conv2d(IMAGE[0], draw(st.sampled_from([2, 3, 4, 6])), 3, padding=1)]
    shape = made_of(layers[0], IMAGE)
    for name in names:
        if min(shape[1:]) >= 4:
            block = BLOCKS[name](draw, shape)
            made = made_of(block, shape)
            if count(tuple((0, n) for n in made)) <= LARGEST:
                layers.append(block)
                shape = made
    if draw(st.booleans()):
        layers.append(nn.AdaptiveAvgPool2d(1))
        shape = (shape[0], 1, 1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 5)).eval()


def made_of(block: nn.Module, shape: Shape) -> Shape:
    """The shape that a block makes of one."""
    with torch.no_grad():
        return tuple(block.eval()(torch.zeros(1, *shape)).shape[1:])


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return the model with random weights, and batch norms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            nn.init.uniform_(buffer, 0.5, 1.5, generator=generator)
    return model


# --- every strategy -------------------------------------------------------------------------------------------


@st.composite
def strategies(draw: st.DrawFn, graph: Graph) -> tuple[Strategy | tuple[Strategy, ...], int]:
    """Any strategy that the graph allows with any of its parameters, and its number of devices."""
    number = draw(st.integers(1, 5))
    if draw(st.booleans()):
        return draw(hybrids(graph, number)), number
    return _placed(draw, everywhere(graph, number))


@st.composite
def hybrids(draw: st.DrawFn, graph: Graph, number: int) -> tuple[Strategy, ...]:
    """Two or three stages with any ends, each on any of the devices in any order."""
    inner = st.integers(1, len(graph.ops) - 2)
    ends = sorted(draw(st.lists(inner, min_size=1, max_size=2, unique=True)))
    # A last stage with an end leaves the rest of the model to the first device.
    last = None if draw(st.booleans()) or len(ends) < 2 else ends.pop()
    stages = []
    for first, end in zip([0, *ends], [*ends, last], strict=True):
        until = len(graph.ops) - 1 if end is None else end
        chosen = draw(st.lists(st.integers(0, number - 1), unique=True, min_size=1))
        strategy, taken = _placed(draw, Stretch(graph, first + 1, until, tuple(chosen)))
        on = [f"edge{device}" for device in chosen[:taken]]
        stages.append(_staged(strategy, until=graph.ops[end].name if end else strategy.until, on=on))
    return tuple(stages)


def _staged(strategy: Strategy, *, until: str | None, on: Sequence[str]) -> Strategy:
    assert isinstance(strategy, Vertical | Horizontal | Data)
    return replace(strategy, until=until, on=on)


def _placed(draw: st.DrawFn, stretch: Stretch) -> tuple[Strategy, int]:
    """A strategy that is not hybrid, for some ops, and the number of devices that it takes."""
    kinds = {"vertical": _vertical, "horizontal": _horizontal, "data": _data}
    made = kinds[draw(st.sampled_from(sorted(kinds)))](draw, stretch)
    if made is not None:
        strategy, taken = made
        if not Stages((strategy,), ()).problems(replace(stretch, devices=stretch.devices[:taken])):
            return made
    return Vertical(), 1


def _vertical(draw: st.DrawFn, stretch: Stretch) -> tuple[Strategy, int]:
    devices = len(stretch.devices)
    names = [op.name for op in stretch.ops[:-1]]
    if not names or draw(st.booleans()):
        return Vertical(), min(devices, len(stretch.ops))
    picked = draw(st.lists(st.sampled_from(names), unique=True, max_size=devices - 1))
    cuts = sorted(picked, key=lambda name: stretch.graph.position[name])
    return Vertical(tuple(cuts)), len(cuts) + 1 if cuts else devices


def _horizontal(draw: st.DrawFn, stretch: Stretch) -> tuple[Strategy, int]:
    devices = len(stretch.devices)
    weights = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0])
    proportions = st.lists(weights, min_size=devices, max_size=devices).map(tuple).filter(any)
    strategy = Horizontal(
        draw(st.sampled_from(AXES)),
        draw(st.none() | proportions),
        draw(st.sampled_from(["local", "layer"])),
        draw(st.sampled_from(["hub", "scatter"])),
    )
    return strategy, devices


def _data(draw: st.DrawFn, stretch: Stretch) -> tuple[Strategy, int] | None:
    devices = len(stretch.devices)
    grids = [(rows, columns) for rows in range(1, 5) for columns in range(1, 5) if rows * columns <= devices]
    grid = draw(st.sampled_from(grids))
    able = tileable(stretch, grid)
    if not able:
        return None
    if stretch.ends_early:  # another stage follows: all of this one is tiled
        return (Data(grid), grid[0] * grid[1]) if stretch.ops[-1].name in able else None
    return Data(grid, until=draw(st.sampled_from([None, *able]))), grid[0] * grid[1]


def values_of(graph: Graph, name: str) -> int:
    """Return the number of elements of a value for one image."""
    return count(tuple((0, n) for n in graph.by_name[name].shape))
