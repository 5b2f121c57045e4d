"""Data partitioning (S1 Fig. 1c; fused tiles of DeepThings, S1's reference [7]): the image is shared out in a grid.

The output of one layer is shared out; shares of the earlier layers overlap (halo) and are computed twice, so
that nothing but pieces of the image crosses before that layer. What follows it runs on the first device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from cloven.errors import ClovenError
from cloven.graph.box import Box, Shape, bands, hull, whole
from cloven.graph.graph import Graph, Op, live_after
from cloven.graph.ops import KINDS, macs
from cloven.partition.division import Division, Owners, dealt, everything

GRIDS: Mapping[int, tuple[int, int]] = {1: (1, 1), 2: (1, 2), 4: (2, 2), 8: (2, 4)}
"""The grid for a number of devices where none is given (reference S1, Fig. 6)."""


@dataclass(frozen=True)
class Data:
    """A grid of tiles, rows x columns, one device each; the first device also holds the image and the rest.

    ``until`` names the last tiled layer; left out, the layer that gives the busiest device the fewest MACs.
    ``halo``: ``exact`` sends what each tile needs beyond its own share of the image; ``none`` (S1's view) puts
    zero there instead, so the result is not the model's.
    """

    grid: tuple[int, int] | list[int] | None = None
    until: str | None = None
    halo: Literal["exact", "none"] = "exact"

    def count(self, devices: int | None) -> int:
        """Rows times columns; without a grid as many as asked for (4 if left open)."""
        return self.grid[0] * self.grid[1] if self.grid else devices or 4

    def problems(self, graph: Graph, devices: int) -> list[str]:
        """No grid for so many devices, a grid finer than the tiled layer, a layer that cannot be tiled."""
        if self.grid is None and devices not in GRIDS:
            return [f"no grid is given and {devices} devices have no usual one; give --grid ROWSxCOLUMNS"]
        rows, columns = self._grid(devices)
        found = [] if min(rows, columns) >= 1 else [f"the grid is {rows}x{columns}; expected 1x1 or more"]
        if self.halo not in ("exact", "none"):
            found.append(f"halo is {self.halo!r}; expected 'exact' or 'none'")
        able = tileable(graph, (rows, columns))
        if self.until is None:
            if not able:
                size = "x".join(map(str, graph.input.shape[1:]))
                found.append(f"no layer of this model, on images of {size}, can be shared out {rows}x{columns}")
            return found
        try:
            value = graph.find(self.until)
        except ClovenError as error:
            return found + list(error.problems)
        if value not in able:
            found.append(
                f"{self.until!r} has shape {graph.by_name[value].shape} and cannot be shared out {rows}x{columns}: "
                "expected a map of at least that height and width that alone carries all that follows; "
                f"the last such layer is {able[-1] if able else 'none'}"
            )
        return found

    def divide(self, graph: Graph, devices: int) -> Division:
        """Tiles up to the named layer, the rest on the first device."""
        grid = self._grid(devices)
        until = graph.find(self.until) if self.until else deepest_that_pays(graph, grid)
        owners = _fused(graph, until, grid)
        if self.halo == "exact":
            return Division(graph, owners, devices, sink=0)
        return _without_halo(graph, until, owners, tiles(graph.input.shape, grid), devices)

    def _grid(self, devices: int) -> tuple[int, int]:
        return (self.grid[0], self.grid[1]) if self.grid else GRIDS[devices]


def tiles(shape: Shape, grid: tuple[int, int]) -> list[Box]:
    """The boxes of a grid over a map's height and width, row by row; all channels in each."""
    channels, height, width = shape
    return [
        ((0, channels), rows, columns) for rows, columns in product(bands(height, grid[0]), bands(width, grid[1]))
    ]


def tileable(graph: Graph, grid: tuple[int, int]) -> list[str]:
    """The values that a grid can share out.

    Those are maps at least as large as the grid that are a cut of the model by themselves, with nothing before
    them that needs the whole image.
    """
    able = []
    for i, op in enumerate(graph.ops[1:], start=1):
        if op.kind in ("opaque", "flatten", "linear", "adaptive_avg_pool2d"):
            break
        big = len(op.shape) == 3 and op.shape[1] >= grid[0] and op.shape[2] >= grid[1]
        if big and live_after(graph, i) == (op.name,):
            able.append(op.name)
    return able


def deepest_that_pays(graph: Graph, grid: tuple[int, int]) -> str:
    """The layer to tile up to: the one that leaves the busiest device the fewest MACs, the last among equals."""
    return min(reversed(tileable(graph, grid)), key=lambda until: busiest(graph, until, grid))


def busiest(graph: Graph, until: str, grid: tuple[int, int]) -> int:
    """MACs of the device that has the most when a grid is fused up to a layer."""
    owners = _fused(graph, until, grid)
    load = [
        sum(
            macs(op, graph.input_shapes(op), box) for op in graph.ops[1:] for box in owners[op.name].get(device, ())
        )
        for device in range(grid[0] * grid[1])
    ]
    return max(load)


def _fused(graph: Graph, until: str, grid: tuple[int, int]) -> dict[str, Owners]:
    """Ownership with tiles fused up to a layer: each earlier share is the hull of what the later ones need."""
    end = graph.position[until]
    owners: dict[str, Owners] = {until: dealt(tiles(graph.by_name[until].shape, grid))}
    for op in reversed(graph.ops[1:end]):
        owners[op.name] = {
            device: (hull(needs),)
            for device in range(grid[0] * grid[1])
            if (needs := list(_needed(graph, op.name, owners, device)))
        }
    for op in (graph.input, *graph.ops[end + 1 :]):
        owners[op.name] = everything(graph, op.name, 0)
    return owners


def _needed(graph: Graph, value: str, owners: Mapping[str, Owners], device: int) -> Iterator[Box]:
    """The boxes of a value that a device's shares of its readers need."""
    for reader in graph.users[value]:
        op = graph.by_name[reader]
        for box in owners.get(reader, {}).get(device, ()):
            for name, need in zip(op.inputs, KINDS[op.kind].needs(op, graph.input_shapes(op), box), strict=True):
                if name == value and need is not None:
                    yield need


def _without_halo(graph: Graph, until: str, owners: Mapping[str, Owners], own: list[Box], devices: int) -> Division:
    """The same shares on a rewritten graph: each device's ops read an image that is zero outside its own tile."""
    end = graph.position[until]
    ops: list[Op] = [graph.input]
    placed: dict[str, Owners] = {graph.input.name: everything(graph, graph.input.name, 0)}
    busy = sorted(owners[until])
    for device in busy:
        renamed = {graph.input.name: f"tile@{device}"}
        keep = own[device]
        ops.append(Op(f"tile@{device}", "mask", (graph.input.name,), graph.input.shape, attrs={"keep": keep}))
        needs = list(_needed(graph, graph.input.name, owners, device))
        placed[f"tile@{device}"] = {device: (hull(needs),)}
        for op in graph.ops[1 : end + 1]:
            name = f"{op.name}@{device}"
            ops.append(replace(op, name=name, inputs=tuple(renamed[i] for i in op.inputs)))
            placed[name] = {device: owners[op.name][device]}
            renamed[op.name] = name
    pieces = tuple(f"{until}@{device}" for device in busy)
    parts = tuple(owners[until][device][0] for device in busy)
    last = graph.by_name[until]
    ops.append(Op(until, "assemble", pieces, last.shape, last.module, {"parts": parts}))
    ops += graph.ops[end + 1 :]
    rewritten = Graph(tuple(ops), graph.output)
    for op in rewritten.ops:
        placed.setdefault(op.name, {0: (whole(op.shape),)})
    return Division(rewritten, placed, devices, sink=0, exact=False)
