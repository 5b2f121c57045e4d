"""Data partitioning: feature maps are divided into a grid of tiles.

It is Fig. 1c of Mehrafrooz et al. (2025), with the fused tiles of DeepThings (their reference [7]). The output of
one layer is divided among the devices. Their shares of the earlier layers overlap (halo), and the overlap is
computed more than once, so that before that layer only pieces of the image and sums of global means are sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from itertools import product
from math import inf
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cloven.graph.box import Box, Shape, bands, count, hull, whole
from cloven.graph.graph import Graph, Op
from cloven.graph.ops import KINDS, SPATIAL, Shapes, macs
from cloven.graph.views import kept_axis
from cloven.partition.division import Owners, Placed, Placement, Share, Stretch, dealt, everything
from cloven.partition.proportions import in_proportion, wrong_proportions
from cloven.partition.rewrite import partial_means, replaced
from cloven.partition.strategy import Strategy, checked

GRIDS: Mapping[int, tuple[int, int]] = {1: (1, 1), 2: (1, 2), 4: (2, 2), 8: (2, 4)}
"""The default grid for a number of devices (Mehrafrooz et al. (2025), Fig. 6)."""

Sides = tuple[int | Sequence[float], int | Sequence[float]]
"""The rows and the columns of a grid: their number if they are equal, or their proportions."""

Axes = tuple[int, int]
Layout = Mapping[str, Axes | None]
"""The axes of height and width of each value that is tiled; None for a value that belongs to the whole image."""


@checked
class Data(Strategy):
    """A grid of tiles, rows x columns, one for each device; the first device also runs the layers that follow.

    Without ``until``, the last tiled layer is the one that gives the busiest device the fewest MACs. With ``halo``
    ``exact``, each device receives the part of the image that its tile needs. With ``none`` (as in Mehrafrooz et
    al.), it receives its own tile only and uses zeros around it, so that the result differs from the model's. A
    global mean inside the tiles (squeeze-and-excite) becomes a sum of local sums; the first device computes what
    depends on such means alone. ``shares`` are the proportions of the tiles in a grid of one row or column.
    """

    kind: Literal["data"] = field(default="data", kw_only=True)
    grid: Annotated[tuple[int, int], Field(strict=False)] | None = None
    halo: Literal["exact", "none"] = "exact"
    shares: Annotated[Sequence[float], AfterValidator(tuple)] | None = None

    def title(self) -> str:
        """Return the parameters in a few words."""
        rows = "x".join(map(str, self.grid)) if self.grid else "usual"
        return f"data, {rows} grid{', no halo' if self.halo == 'none' else ''}"

    def count(self, devices: int | None) -> int:
        """Return rows times columns; without a grid, the number of shares or ``devices`` (default: 4)."""
        if self.grid:
            return self.grid[0] * self.grid[1]
        return len(self.shares) if self.shares else devices or 4

    def problems(self, stretch: Stretch) -> list[str]:
        """Return the problems: a missing grid, a grid finer than the tiled layer, a layer that cannot be tiled."""
        devices = len(stretch.devices)
        if self.shares is not None and (found := self._wrong_shares()):
            return found
        if self.grid is None and self.shares is None and devices not in GRIDS:
            return [f"there is no default grid for {devices} devices; give a grid, such as --grid 1x{devices}"]
        grid = self._grid(stretch)
        if min(map(_count, grid)) < 1:
            return [f"the grid is {_said(grid)}; expected 1x1 or more"]
        if stretch.ends_early or self.until is not None:
            return _untileable(stretch, self.until or stretch.ops[-1].name, stretch.ops[-1].name, grid)
        return [] if tileable(stretch, grid) else [_too_fine(stretch, grid)]

    def place(self, stretch: Stretch, before: Placement) -> Placed:
        """Return the owners: tiles up to the last tiled layer, and the first device for the layers after it."""
        graph, grid = stretch.graph, self._grid(stretch)
        ends = stretch.ends_early or self.until is not None
        until = stretch.ops[-1].name if ends else deepest_that_pays(stretch, grid)
        last = graph.ops[stretch.last].name
        fused = _fused(stretch, until, grid, _layout(stretch, graph.position[until]))
        if self.halo == "none":
            fused = _without_halo(stretch, fused, until, grid)
        end, stop = fused.graph.position[until], fused.graph.position[last]
        rest = {op.name: everything(graph, op.name, stretch.hub) for op in fused.graph.ops[end + 1 : stop + 1]}
        return Placed(fused.graph, {**before, **fused.owners, **rest}, stretch.hub, fused.exact)

    def _grid(self, stretch: Stretch) -> Sides:
        if self.shares is None:
            return self.grid or GRIDS[len(stretch.devices)]
        return (self.shares, 1) if self.grid and self.grid[1] == 1 else (1, self.shares)

    def _wrong_shares(self) -> list[str]:
        """Return the problems of shares: not proportions, more than one row and column, tiles without halo."""
        found = wrong_proportions(self.shares)
        if self.grid is not None and (min(self.grid) != 1 or len(self.shares or ()) != max(self.grid)):
            wanted = "expected one for each tile of a grid with a single row or column"
            found.append(f"got {len(self.shares or ())} shares for a grid of {_said(self.grid)}; {wanted}")
        if self.halo == "none":
            found.append("shares require halo exact; got none")
        return found


def tiles(shape: Shape, grid: Sides, axes: Axes = (1, 2)) -> list[Box]:
    """Return the boxes of a grid over a map's height and width, row by row; each has all channels."""
    rows, columns = (
        bands(shape[axis], side) if isinstance(side, int) else in_proportion(shape[axis], side)
        for axis, side in zip(axes, grid, strict=True)
    )
    found = []
    for row, column in product(rows, columns):
        box = list(whole(shape))
        box[axes[0]], box[axes[1]] = row, column
        found.append(tuple(box))
    return found


def _count(side: int | Sequence[float]) -> int:
    return side if isinstance(side, int) else len(side)


def _said(grid: Sides) -> str:
    return "x".join(str(_count(side)) for side in grid)


# --- what can be tiled ----------------------------------------------------------------------------------------


def _layout(stretch: Stretch, end: int) -> dict[str, Axes | None]:
    """Return the axes of height and width of each value up to an op or to the first that cannot be tiled."""
    graph = stretch.graph
    found: dict[str, Axes | None] = {}
    for op in graph.ops[: stretch.first]:
        found[op.name] = (1, 2) if len(op.shape) == 3 and op.shape[1:] != (1, 1) else None
    for op in graph.ops[stretch.first : end + 1]:
        axes = next((found[name] for name in op.inputs if found[name] is not None), None)
        if axes is None or KINDS[op.kind].averaged(op, graph.input_shapes(op)):
            found[op.name] = None
        else:
            moved = _moved(op, graph.input_shapes(op), axes)
            if moved is None:
                return found
            found[op.name] = moved
    return found


def _moved(op: Op, shapes: Shapes, axes: Axes) -> Axes | None:
    """Return the axes of height and width after an op, or None if a piece of a map is not enough to compute it."""
    if op.kind == "reshape":
        height, width = (kept_axis(shapes[0], op.shape, axis) for axis in axes)
        return None if height is None or width is None else (height, width)
    if op.kind == "permute":
        return op.attrs["order"].index(axes[0]), op.attrs["order"].index(axes[1])
    mixes = (op.kind == "linear" and len(op.shape) - 1 in axes) or (
        op.kind == "layer_norm" and max(axes) >= len(op.shape) - op.attrs["axes"]
    )
    return None if op.kind not in SPATIAL or mixes else axes


def _big_enough(op: Op, axes: Axes | None, grid: Sides) -> bool:
    return axes is not None and all(op.shape[axis] >= _count(side) for axis, side in zip(axes, grid, strict=True))


def tileable(stretch: Stretch, grid: Sides) -> list[str]:
    """Return the values that can be divided into a grid: maps at least as large that pieces of maps suffice for.

    The other values that are used after them must be at least as large too, or belong to the whole image.
    """
    graph, layout = stretch.graph, _layout(stretch, stretch.last)
    able = []
    for i, op in enumerate(graph.ops[stretch.first : stretch.last + 1], start=stretch.first):
        if op.name not in layout:
            break
        live = [graph.by_name[v] for v in graph.live[i]]
        beside = all(layout[v.name] is None or _big_enough(v, layout[v.name], grid) for v in live)
        if _big_enough(op, layout[op.name], grid) and beside:
            able.append(op.name)
    return able


def _too_fine(stretch: Stretch, grid: Sides) -> str:
    size = "x".join(map(str, stretch.graph.input.shape[1:]))
    return f"no layer of this model can be divided into a {_said(grid)} grid on images of {size}"


def _untileable(stretch: Stretch, named: str, value: str, grid: Sides) -> list[str]:
    graph, able = stretch.graph, tileable(stretch, grid)
    if value in able:
        return []
    op, layout = graph.by_name[value], _layout(stretch, stretch.last)
    last = f"the last layer that can be is {able[-1]}" if able else "no layer of this model can be"
    what = f"{named!r} has shape {op.shape} and cannot be divided into a {_said(grid)} grid"
    if stretch.holds(value) and value not in layout:
        stop = next(o for o in stretch.ops if o.name not in layout)
        name = stop.attrs.get("op", stop.kind)
        where = f"{name} ({stop.name}, in {stop.module or 'the model'})"
        return [f"{what}: {where} needs a whole map and has no rule to split it; {last}"]
    return [f"{what}: this value and all others used after it must be at least that high and wide; {last}"]


# --- the owners -----------------------------------------------------------------------------------------------


def deepest_that_pays(stretch: Stretch, grid: Sides) -> str:
    """Return the last layer to tile: the one with the fewest MACs on the busiest device, the last among equals.

    With shares, the MACs of a device are divided by its share, since a fast device has a large one. Of consecutive
    layers without MACs only the last is tried. The first device runs the layers after the tiles, so a layer is
    skipped if the MACs after it alone exceed the best result so far.
    """
    able, graph = set(tileable(stretch, grid)), stretch.graph
    layout = _layout(stretch, stretch.last)
    known: KnownLoads = {}
    speeds = _speeds(stretch, grid)
    best, chosen, rest, behind = inf, "", 0, True
    for op in reversed(stretch.ops):
        if op.name in able and behind and rest / speeds[stretch.hub] < best:
            loads = _loads(stretch, op.name, grid, layout, known)
            loads[stretch.hub] += rest
            load = max(loads[device] / speeds[device] for device in stretch.devices)
            if load < best:
                best, chosen = load, op.name
            behind = False
        cost = macs(op, graph.input_shapes(op))
        rest += cost
        behind = behind or cost > 0
    return chosen


def _speeds(stretch: Stretch, grid: Sides) -> dict[int, float]:
    """Return the relative speed of each device: its share, or the mean share if it has none."""
    tall, wide = ((1.0,) * side if isinstance(side, int) else side for side in grid)
    own = [height * width for height, width in product(tall, wide)]
    return {device: share or sum(own) / len(own) for device, share in zip(stretch.devices, own, strict=True)}


KnownLoads = dict[tuple[str, tuple[tuple[int, Share], ...]], Counter[int]]
"""The MACs of each device up to a value that alone is read later, given the shares of that value."""


def _loads(stretch: Stretch, until: str, grid: Sides, layout: Layout, known: KnownLoads) -> Counter[int]:
    """Return the MACs of each device on the tiles fused up to a layer.

    They are summed backwards until a value is reached for whose shares the MACs are ``known``; new ones are added.
    """
    graph, placed = _local_means(stretch, layout, until, grid)
    loads: Counter[int] = Counter()
    passed: KnownLoads = {}
    for op, owners in _fused_backwards(stretch, graph, placed, until, grid, layout):
        if op.name in stretch.graph.alone:
            key = op.name, tuple(owners.items())
            if key in known:
                loads += known[key]
                break
            passed[key] = loads.copy()
        if op.params:
            shapes = graph.input_shapes(op)
            for device, share in owners.items():
                loads[device] += sum(macs(op, shapes, box) for box in share)
    known |= {key: loads - behind for key, behind in passed.items()}
    return loads


def _fused(stretch: Stretch, until: str, grid: Sides, layout: Layout) -> Placed:
    """Return tiles fused up to a layer: each earlier share is the hull of what the later layers need of it."""
    graph, placed = _local_means(stretch, layout, until, grid)
    owners = {op.name: shares for op, shares in _fused_backwards(stretch, graph, placed, until, grid, layout)}
    return Placed(graph, placed | owners, stretch.hub)


def _fused_backwards(
    stretch: Stretch, graph: Graph, placed: Placement, until: str, grid: Sides, layout: Layout
) -> Iterator[tuple[Op, Owners]]:
    """Yield the ops up to a layer, the last one first, with the owners of its tiles; ``placed`` are given."""
    end = graph.position[until]
    followed = {value for op in graph.ops[end + 1 :] for value in op.inputs} | {until, graph.output}
    needed: dict[str, dict[int, Box]] = {}
    for op in reversed(graph.ops[stretch.first : end + 1]):
        axes = layout.get(op.name)
        if op.name in placed:
            owners = placed[op.name]
        else:
            own = tiles(op.shape, grid, axes) if axes and op.name in followed else ()
            for device, box in zip(stretch.devices, own, strict=False):
                if count(box):
                    _widen(needed, op.name, device, box)
            shares = {device: (box,) for device, box in sorted(needed.get(op.name, {}).items())}
            owners = shares if axes else everything(graph, op.name, stretch.hub)
        yield op, owners
        shapes = graph.input_shapes(op)
        for device, (box,) in owners.items():
            for value, need in zip(op.inputs, KINDS[op.kind].needs(op, shapes, box), strict=True):
                if need is not None:
                    _widen(needed, value, device, need)


def _widen(needed: dict[str, dict[int, Box]], value: str, device: int, box: Box) -> None:
    """Widen a device's share of a value to include a box."""
    shares = needed.setdefault(value, {})
    held = shares.get(device, box)
    shares[device] = held if held == box else hull((held, box))


def _local_means(stretch: Stretch, layout: Layout, until: str, grid: Sides) -> tuple[Graph, dict[str, Owners]]:
    """Return the graph with each mean over tiles rewritten as local sums, one for each device's tile."""
    graph = stretch.graph
    made: dict[str, list[Op]] = {}
    placed: dict[str, Owners] = {}
    for op in graph.ops[stretch.first : graph.position[until] + 1]:
        axes = layout[op.inputs[0]]
        shapes = graph.input_shapes(op)
        if axes is not None and KINDS[op.kind].averaged(op, shapes) == axes:
            boxes = zip(stretch.devices, tiles(shapes[0], grid, axes), strict=True)
            made[op.name], parts = partial_means(op, shapes[0], {d: box for d, box in boxes if count(box)})
            placed |= parts
    return (replaced(graph, made) if made else graph), placed


def _needed(graph: Graph, value: str, owners: Placement, device: int) -> Iterator[Box]:
    """Yield the boxes of a value that a device's shares of its readers need."""
    for reader in graph.users[value]:
        op = graph.by_name[reader]
        for box in owners.get(reader, {}).get(device, ()):
            for name, need in zip(op.inputs, KINDS[op.kind].needs(op, graph.input_shapes(op), box), strict=True):
                if name == value and need is not None:
                    yield need


def _without_halo(stretch: Stretch, fused: Placed, until: str, grid: Sides) -> Placed:
    """Return the same shares on a rewritten graph where each device reads an image that is zero outside its tile.

    After an earlier stage, the tiles are of that stage's maps instead of the image.
    """
    graph, end = fused.graph, fused.graph.position[until]
    layout = _layout(stretch, stretch.graph.position[until])
    region = graph.ops[stretch.first : end + 1]
    tiled = {op.name for op in region if layout.get(op.name) is not None}
    outside = {value for op in graph.ops[end + 1 :] for value in op.inputs} | {until}
    owners: dict[str, Owners] = {}
    ops = list(graph.ops[: stretch.first])
    read = dict.fromkeys(value for op in region for value in op.inputs)
    for value in (v for v in read if layout.get(v) is not None and v not in tiled):
        source = graph.by_name[value]
        for device, keep in zip(stretch.devices, tiles(source.shape, grid), strict=True):
            needs = list(_needed(graph, value, fused.owners, device))
            if needs:
                name = _copy(graph, value, device)
                ops.append(Op(name, "mask", (value,), source.shape, attrs={"keep": keep}, dtype=source.dtype))
                owners[name] = {device: (hull(needs),)}
    assembled = []
    for op in region:
        mine = fused.owners[op.name]
        if op.name not in tiled and op.kind != "partial":
            ops.append(op)
            owners[op.name] = mine
            continue
        for device in mine:
            name = _copy(graph, op.name, device) if op.name in tiled else op.name
            inputs = (v if layout.get(v) is None else _copy(graph, v, device) for v in op.inputs)
            ops.append(replace(op, name=name, inputs=tuple(inputs)))
            owners[name] = {device: mine[device]}
        if op.name in tiled & outside:
            axes = layout[op.name]
            assert axes is not None
            own = dealt(tiles(op.shape, grid, axes), stretch.devices)
            pieces = tuple(_copy(graph, op.name, device) for device in own)
            parts = tuple(share[0] for share in own.values())
            assembled.append(Op(op.name, "assemble", pieces, op.shape, op.module, {"parts": parts}, dtype=op.dtype))
            owners[op.name] = everything(graph, op.name, stretch.hub)
    # The named layer stays the last of its stretch in the rewritten graph.
    ops += sorted(assembled, key=lambda op: op.name == until)
    return Placed(Graph((*ops, *graph.ops[end + 1 :]), graph.output), owners, stretch.hub, exact=False)


def _copy(graph: Graph, value: str, device: int) -> str:
    """Return the name of one device's own version of a value."""
    return f"{'tile' if value == graph.input.name else value}@{device}"
