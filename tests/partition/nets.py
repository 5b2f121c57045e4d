"""Random small CNNs and every strategy, for tests of equivalence."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import Tensor, nn

from cloven.graph.box import count
from cloven.graph.graph import Graph
from cloven.partition.data import Data, tileable
from cloven.partition.division import Strategy, everywhere
from cloven.partition.horizontal import Horizontal
from cloven.partition.vertical import Vertical


class Residual(nn.Module):
    """A block whose input is added to its output: its ops have no split rule, or several inputs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = nn.functional.relu(self.norm(self.conv(x)) + x)
        return y


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """A random chain of convolutions, pools and activations on 2x14x14 images, with a linear head."""
    layers: list[nn.Module] = []
    channels, side = 2, 14
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "conv", "max", "avg", "norm", "relu", "residual"]))
        if kind == "conv":
            kernel, stride = draw(st.integers(1, min(4, side))), draw(st.integers(1, 2))
            pad, outputs = draw(st.integers(0, kernel // 2)), draw(st.sampled_from([3, 4, 8]))
            groups = 2 if channels % 2 == 0 and outputs % 2 == 0 and draw(st.booleans()) else 1
            layers.append(nn.Conv2d(channels, outputs, kernel, stride, pad, groups=groups))
            channels, side = outputs, (side + 2 * pad - kernel) // stride + 1
        elif kind in ("max", "avg") and side >= 4:
            pad, ceil = draw(st.integers(0, 1)), draw(st.booleans())
            pool = nn.MaxPool2d if kind == "max" else nn.AvgPool2d
            layers.append(pool(3, 2, pad, ceil_mode=ceil))
            whole, rest = divmod(side + 2 * pad - 3, 2)
            bigger = whole + 1 + (1 if ceil and rest else 0)
            side = bigger - 1 if (bigger - 1) * 2 >= side + pad else bigger
        elif kind == "norm":
            layers.append(nn.BatchNorm2d(channels))
        elif kind == "residual":
            layers.append(Residual(channels))
        else:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, 5))


@st.composite
def strategies(draw: st.DrawFn, graph: Graph) -> tuple[Strategy, int]:
    """Any strategy that the graph allows, with its number of devices."""
    kind = draw(st.sampled_from(["vertical", "horizontal", "data"]))
    grid = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    if kind == "data" and (able := tileable(everywhere(graph, grid[0] * grid[1]), grid)):
        return Data(grid, until=draw(st.sampled_from([None, *able]))), grid[0] * grid[1]
    if kind == "vertical":
        names = [op.name for op in graph.ops[:-1]]
        picked = draw(st.lists(st.sampled_from(names), unique=True, max_size=4))
        cuts = sorted(picked, key=lambda name: graph.position[name])
        devices = len(cuts) + 1 if cuts else draw(st.integers(1, min(4, len(graph.ops) - 1)))
        return Vertical(tuple(cuts)), devices
    return Horizontal(), draw(st.integers(1, 5))


def values_of(graph: Graph, name: str) -> int:
    """How many numbers one image's value holds."""
    return count(tuple((0, n) for n in graph.by_name[name].shape))
