"""The compiler: from who owns what to what is computed and sent. It knows boxes and no strategy.

A device needs, for what it owns, some box of each input; what it needs and does not hold is a transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product, starmap
from typing import Literal, get_args

from cloven.errors import ClovenError, check_type, shown, whole_number
from cloven.graph.box import Box, covers, intersect, whole, without
from cloven.graph.graph import Graph, Op
from cloven.graph.ops import KINDS, macs
from cloven.partition.division import Division, Share, device_names, everything, everywhere, home, wrong_names
from cloven.partition.program import Compute, Program, Receive, Send, Step, Transfer
from cloven.partition.rewrite import joined
from cloven.partition.stages import Stages, count, named_devices
from cloven.partition.strategy import Strategy
from cloven.partition.transform import UNCHANGED, Transforms

Routing = Literal["direct", "star"]
HUB = 0
"""The device through which a star routes everything."""

GRAPH = "the graph that cloven.capture(model, example) returns"
"""What a caller who gives something else is told to give."""


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
        devices: how many, or their names; left out, as many as the strategy's parameters ask for.
        routing: ``direct`` sends from the value's home; ``star`` sends everything through the first device.
        reuse: False sends everything whole through the first device, also what a device made itself: Stahl's star.
        transforms: what devices do to what they send; a star's hub does it again to what it passes on.

    Raises:
        ClovenError: with all that is wrong with the strategy for this model.
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
    """Return all that is wrong with a division of a model over devices with ``names``, one sentence each."""
    number = count(strategies, len(names))
    found = [] if number == len(names) else [f"the strategy takes {number} devices; got {len(names)}"]
    found += Stages(tuple(strategies), tuple(names)).problems(everywhere(model, number))
    found += wrong_routing(routing, reuse=reuse)
    return [*found, *wrong_names(names), *transforms.problems(names)]


def _names(strategies: Sequence[Strategy], devices: int | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of devices, as many as the strategies take if that is left open."""
    if not isinstance(devices, Sequence | None):
        return device_names(whole_number(devices, "devices", 1))
    named = named_devices(strategies)
    if devices is None and named:
        return named
    return device_names(count(strategies, None)) if devices is None else tuple(devices)


def wrong_routing(routing: Routing, *, reuse: bool) -> list[str]:
    """Return what is wrong with a way to route."""
    if routing not in get_args(Routing):
        return [f"routing is {shown(routing)}; expected 'direct' or 'star'"]
    return [] if reuse or routing == "star" else ["reuse = false is a star's: a device is sent its own share back"]


def assemble(
    division: Division, names: Sequence[str], routing: Routing = "direct", transforms: Transforms = UNCHANGED
) -> Program:
    """Return the program of a division; ``names`` are those of its devices."""
    compiler = _Compiler(division, names, routing, transforms)
    for op in division.graph.ops[1:]:
        for device in sorted(division.owners[op.name]):
            for box in division.owners[op.name][device]:
                compiler.compute(device, op, box)
    output = division.graph.by_name[division.graph.output]
    compiler.fetch(division.sink, output.name, whole(output.shape))
    return compiler.program()


class _Compiler:
    """The steps so far, and what each device holds of each value."""

    def __init__(self, division: Division, names: Sequence[str], routing: Routing, transforms: Transforms) -> None:
        self.division, self.names, self.routing = division, tuple(names), routing
        self.transforms = transforms
        self.homes = {value: home(owners) for value, owners in division.owners.items()}
        self.held: dict[tuple[int, str], list[Box]] = {}
        self.parts: dict[str, list[Step]] = {name: [] for name in names}
        self.transfers: list[Transfer] = []
        self.clock = 0
        image = division.graph.input.name
        for device, share in division.owners[image].items():
            self.held[device, image] = list(share)

    def tick(self) -> int:
        self.clock += 1
        return self.clock - 1

    def compute(self, device: int, op: Op, box: Box) -> None:
        """Fetch what a box of an op needs, then compute it."""
        graph, kind = self.division.graph, KINDS[op.kind]
        shapes = graph.input_shapes(op)
        needs = kind.needs(op, shapes, box)
        reads = tuple((v, need) for v, need in zip(op.inputs, needs, strict=True) if need is not None)
        for value, need in reads:
            self.fetch(device, value, need)
        local, cost = kind.localise(op, shapes, box), macs(op, shapes, box)
        self.parts[self.names[device]].append(Compute(self.tick(), op.name, box, reads, local, cost))
        self.held.setdefault((device, op.name), []).append(box)

    def fetch(self, device: int, value: str, need: Box) -> None:
        """See that a device holds a box of a value: each missing piece is sent once, by its home or the hub."""
        held = self.held.setdefault((device, value), [])
        missing = without([need], held)
        if not missing:
            return
        if self.routing == "star" and device != HUB:
            for piece in missing:
                self.fetch(HUB, value, piece)
            senders = {HUB: missing}
        else:
            senders = {}
            for owner, boxes in self.homes[value].items():
                shared = starmap(intersect, product(missing, boxes))
                senders[owner] = [piece for piece in shared if piece is not None]
        for sender in sorted(senders):
            for piece in senders[sender]:
                self.send(sender, device, value, piece)
        assert covers(self.held[device, value], need), f"nobody owns all of {value} {need}"

    def send(self, source: int, target: int, value: str, box: Box) -> None:
        step = self.tick()
        link = self.names[source], self.names[target]
        transform, dtype = self.transforms.of(*link), self.division.graph.by_name[value].dtype
        if dtype != "float32" and not transform.exact:
            raise ClovenError(
                f"{value} crosses {link[0]}->{link[1]} as {dtype}, and {transform.name} takes float32 numbers; cut "
                "before or behind the cast, or leave the transform of this link out"
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
