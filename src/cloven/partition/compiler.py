"""The compiler: it derives from the owners of each value what each device computes and sends.

To compute what it owns, a device needs a box of each input. What it needs and does not hold is transferred. The
compiler works on boxes and does not depend on the strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Literal, get_args

from cloven.errors import ClovenError, check_type, shown, whole_number
from cloven.graph.box import Box, intersect, whole, without
from cloven.graph.box import count as elements
from cloven.graph.graph import Graph, Op
from cloven.graph.ops import piece
from cloven.partition.division import Division, Share, device_names, everything, everywhere, home, wrong_names
from cloven.partition.program import Compute, Program, Receive, Send, Step, Transfer
from cloven.partition.rewrite import joined
from cloven.partition.stages import Stages, count, named_devices
from cloven.partition.strategy import Strategy
from cloven.partition.transform import UNCHANGED, Transforms

Routing = Literal["direct", "star"]
HUB = 0
"""The device through which star routing sends everything."""

GRAPH = "the graph that cloven.capture(model, example) returns"
"""The description of a graph in error messages."""


def divide(
    model: Graph,
    strategy: Strategy | Sequence[Strategy],
    devices: int | Sequence[str] | None = None,
    *,
    routing: Routing = "direct",
    reuse: bool = True,
    transforms: Transforms = UNCHANGED,
) -> Program:
    """Return the program of a model that a strategy divides over devices.

    Args:
        model: the graph that `cloven.capture` returned.
        strategy: `Vertical`, `Horizontal` or `Data`; or a list of them, each but the last with its end ``until``.
        devices: the number of devices or their names (default: as many as the strategy's parameters need).
        routing: ``direct`` sends a value from its home device; ``star`` sends everything through the first device.
        reuse: False sends all values whole through the first device, even back to the device that computed them
            (the star of Stahl et al.).
        transforms: the transforms of values before they are sent; the hub of a star applies them again.

    Raises:
        ClovenError: with all problems of the strategy for this model.
    """
    check_type(model, Graph, "model", GRAPH)
    strategies = tuple(strategy) if isinstance(strategy, list | tuple) else (strategy,)
    for one in strategies:
        check_type(one, Strategy, "strategy", "a strategy such as cloven.Vertical(cuts=['layer1'])")
    if isinstance(devices, bool | str) or not (
        hasattr(devices, "__index__") or isinstance(devices, Sequence | None)
    ):
        raise ClovenError(f"devices is {shown(devices)}; expected a number, or a list of names")
    check_type(reuse, bool, "reuse", "True or False")
    check_type(transforms, Transforms, "transforms", "cloven.partition.transform.Transforms")
    names = _names(strategies, devices)
    found = problems(model, strategies, names, routing=routing, reuse=reuse, transforms=transforms)
    if found:
        raise ClovenError(found)
    image = model.input.name
    stages = Stages(strategies, names)
    placed = stages.place(everywhere(model, len(names)), {image: everything(model, image, 0)})
    division = Division(placed.graph, placed.owners, len(names), placed.sink, placed.exact)
    assembled = assemble(division if reuse else joined(division, HUB), names, routing, transforms)
    return replace(assembled, model=model)


def problems(
    model: Graph,
    strategies: Sequence[Strategy],
    names: Sequence[str],
    *,
    routing: Routing = "direct",
    reuse: bool = True,
    transforms: Transforms = UNCHANGED,
) -> list[str]:
    """Return all problems of a division of a model over devices with ``names``, one sentence each."""
    number = count(strategies, len(names))
    found = [] if number == len(names) else [f"the strategy takes {number} devices; got {len(names)}"]
    found += Stages(tuple(strategies), tuple(names)).problems(everywhere(model, number))
    found += wrong_routing(routing, reuse=reuse)
    return [*found, *wrong_names(names), *transforms.problems(names)]


def _names(strategies: Sequence[Strategy], devices: int | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the devices; by default as many as the strategies take."""
    if not isinstance(devices, Sequence | None):
        return device_names(whole_number(devices, "devices", 1))
    named = named_devices(strategies)
    if devices is None and named:
        return named
    return device_names(count(strategies, None)) if devices is None else tuple(devices)


def wrong_routing(routing: Routing, *, reuse: bool) -> list[str]:
    """Return the problems of a routing."""
    if routing not in get_args(Routing):
        return [f"routing is {shown(routing)}; expected 'direct' or 'star'"]
    return [] if reuse or routing == "star" else ["reuse is false, which requires routing 'star'; got 'direct'"]


def assemble(
    division: Division, names: Sequence[str], routing: Routing = "direct", transforms: Transforms = UNCHANGED
) -> Program:
    """Return the program of a division over devices with ``names``."""
    compiler = _Compiler(division, names, routing, transforms)
    for op in division.graph.ops[1:]:
        compiler.compute(op)
    output = division.graph.by_name[division.graph.output]
    compiler.fetch(division.sink, output.name, whole(output.shape))
    return compiler.program()


class _Compiler:
    """The steps so far, and the boxes of each value that each device holds."""

    def __init__(self, division: Division, names: Sequence[str], routing: Routing, transforms: Transforms) -> None:
        self.division, self.names, self.routing = division, tuple(names), routing
        self.transforms = transforms
        self.held: dict[tuple[int, str], list[Box]] = {}
        self.homes: dict[str, dict[int, list[Box]]] = {}
        self.parts: dict[str, list[Step]] = {name: [] for name in names}
        self.transfers: list[Transfer] = []
        self.clock = 0
        image = division.graph.input.name
        for device, share in division.owners[image].items():
            self.held[device, image] = list(share)

    def tick(self) -> int:
        self.clock += 1
        return self.clock - 1

    def compute(self, op: Op) -> None:
        """Fetch the inputs of an op for all its devices, then compute it.

        So a device sends what the others read before it computes its own share.
        """
        shapes, owners = self.division.graph.input_shapes(op), self.division.owners[op.name]
        pieces = [(device, box, piece(op, shapes, box)) for device in sorted(owners) for box in owners[device]]
        for device, _, (reads, _, _) in pieces:
            for value, need in reads:
                self.fetch(device, value, need)
        for device, box, (reads, local, macs) in pieces:
            self.parts[self.names[device]].append(Compute(self.tick(), op.name, box, reads, local, macs))
            self.held.setdefault((device, op.name), []).append(box)

    def fetch(self, device: int, value: str, need: Box) -> None:
        """Ensure that a device holds a box of a value: each missing piece is sent once, by its home or the hub."""
        held = self.held.setdefault((device, value), [])
        missing = [] if need in held else without([need], held)
        if not missing:
            return
        if self.routing == "star" and device != HUB:
            for piece in missing:
                self.fetch(HUB, value, piece)
            senders = {HUB: missing}
        else:
            if value not in self.homes:
                self.homes[value] = home(self.division.owners[value])
            senders = {}
            for owner, boxes in self.homes[value].items():
                shared = [intersect(piece, box) for piece in missing for box in boxes]
                senders[owner] = [piece for piece in shared if piece is not None]
        # Pieces are disjoint: they cover what is missing if they have as many elements.
        sent = sum(map(elements, chain.from_iterable(senders.values())))
        assert sent == sum(map(elements, missing)), f"nobody owns all of {value} {need}"
        for sender in sorted(senders):
            for piece in senders[sender]:
                self.send(sender, device, value, piece)

    def send(self, source: int, target: int, value: str, box: Box) -> None:
        step = self.tick()
        link = self.names[source], self.names[target]
        transform, dtype = self.transforms.of(*link), self.division.graph.by_name[value].dtype
        if dtype != "float32" and not transform.exact:
            raise ClovenError(
                f"{transform.name} on {link[0]}->{link[1]} requires float32, but {value} is {dtype}; cut before or "
                "after the cast, or remove the transform of this link"
            )
        transfer = Transfer(len(self.transfers), *link, value, box, step, transform, dtype)
        self.transfers.append(transfer)
        self.parts[transfer.source].append(Send(step, transfer))
        self.parts[transfer.target].append(Receive(step, transfer))
        self.held.setdefault((target, value), []).append(box)

    def program(self) -> Program:
        owners: dict[str, dict[str, Share]] = {}
        for value, shares in self.division.owners.items():
            owners[value] = {self.names[device]: share for device, share in shares.items()}
        (source,) = self.division.owners[self.division.graph.input.name]
        return Program(
            graph=self.division.graph,
            devices=self.names,
            parts={device: tuple(steps) for device, steps in self.parts.items()},
            transfers=tuple(self.transfers),
            source=self.names[source],
            sink=self.names[self.division.sink],
            owners=owners,
            halo=self.division.exact,
            transforms=self.transforms,
        )
