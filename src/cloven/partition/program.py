"""The Program: the steps of each device, and every share that is sent over every link, in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from cloven.graph.box import Box, Shape, count, extent, whole, without
from cloven.graph.graph import SIZES, Graph
from cloven.graph.ops import KINDS, Local
from cloven.partition.protection import UNPROTECTED, Protection
from cloven.partition.transform import NONE, UNCHANGED, Transform, Transforms
from cloven.tables import Value, counted, html_table, text_table

BYTES = 4
"""Bytes of a float32 number."""

Link = tuple[str, str]
"""An ordered pair of devices: the link from the first to the second."""


@dataclass(frozen=True)
class Transfer:
    """A share of a value that is sent over a link, for each image.

    ``transform`` is applied by the sender. ``dtype`` is the element type, a key of `cloven.graph.graph.SIZES`.
    """

    id: int
    source: str
    target: str
    value: str
    share: Box
    step: int
    transform: Transform = NONE
    dtype: str = "float32"

    @property
    def link(self) -> Link:
        """The link that it crosses."""
        return self.source, self.target

    @property
    def shape(self) -> Shape:
        """The shape of the share for one image."""
        return extent(self.share)

    @property
    def bytes(self) -> int:
        """Bytes for one image, without framing."""
        return self.transform.bytes(count(self.share), SIZES[self.dtype])


@dataclass(frozen=True, eq=False)
class Compute:
    """A device computes a box of a value from boxes of values that it holds."""

    step: int
    value: str
    box: Box
    reads: tuple[tuple[str, Box], ...]
    local: Local = field(repr=False)
    macs: int


@dataclass(frozen=True)
class Send:
    """A device sends a transfer."""

    step: int
    transfer: Transfer


@dataclass(frozen=True)
class Receive:
    """A device receives a transfer; receivers match by id, never by arrival."""

    step: int
    transfer: Transfer


Step = Compute | Send | Receive


@dataclass(frozen=True, eq=False, repr=False)
class Program:
    """The steps of all devices for one batch, numbered in one global order.

    ``source`` holds the images at the start, ``sink`` the output at the end. ``halo`` is False if tiles are
    computed without their halo. ``transforms`` are applied to values before they are sent, and ``protection``
    encrypts them. Each device of ``standby`` may take the place of any other. ``graph`` is the graph that is
    computed, which a strategy may have rewritten; ``model`` is the original graph, if it is known.
    """

    graph: Graph
    devices: tuple[str, ...]
    parts: Mapping[str, tuple[Step, ...]]
    transfers: tuple[Transfer, ...]
    source: str
    sink: str
    owners: Mapping[str, Mapping[str, tuple[Box, ...]]]
    halo: bool = True
    transforms: Transforms = UNCHANGED
    protection: Protection = UNPROTECTED
    model: Graph | None = None
    standby: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """True if the program computes the same as the model; if not, `inexact` has the reasons."""
        return not self.inexact

    @cached_property
    def inexact(self) -> tuple[str, ...]:
        """The reasons why the results differ from the model's, a few words each; empty if the program is exact."""
        carried = ", ".join(dict.fromkeys(t.transform.name for t in self.transfers if not t.transform.exact))
        halo = () if self.halo else ("its tiles have no halo",)
        return (*halo, f"its links carry {carried}") if carried else halo

    @cached_property
    def steps(self) -> tuple[tuple[str, Step], ...]:
        """The steps of all devices in the global order, each with its device."""
        every = [(device, step) for device, part in self.parts.items() for step in part]
        # A send and its receive have the same number; the send comes first.
        return tuple(sorted(every, key=lambda entry: (entry[1].step, isinstance(entry[1], Receive))))

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """The links that carry anything, in order of first use."""
        return tuple(dict.fromkeys(t.link for t in self.transfers))

    @property
    def image_bytes(self) -> int:
        """Return the bytes of an image that the coordinator sends to ``source``, without framing."""
        return SIZES[self.transforms.image] * prod(self.graph.input.shape)

    def macs(self, device: str) -> int:
        """Return the multiply-accumulates of one device for one image."""
        return sum(step.macs for step in self.parts[device] if isinstance(step, Compute))

    def sent(self, link: Link) -> int:
        """Return the bytes that cross a link for one image, without framing."""
        return sum(t.bytes for t in self.transfers if t.link == link)

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[str, tuple[str, ...], list[tuple[Value, ...]]]:
        total = sum(t.bytes for t in self.transfers)
        title = f"Program of {counted(len(self.devices), 'device')}: {counted(len(self.transfers), 'transfer')}"
        rows: list[tuple[Value, ...]] = [(device, self.macs(device), None) for device in self.devices]
        rows += [(f"{source}->{target}", None, self.sent((source, target))) for source, target in self.links]
        return f"{title}, {total:,} bytes per image", ("device or link", "MACs", "bytes"), rows


IMAGE_KINDS = frozenset({"normalise", "pad", "mask", "join"})
"""Kinds that keep an image's pixels, possibly on another scale."""


def image_part(graph: Graph, value: str, box: Box) -> Box | None:
    """Return the box of the image that is visible in a value (normalised or padded), or None for other values."""
    op = graph.by_name[value]
    if op.kind == "input":
        return box
    (need,) = KINDS[op.kind].needs(op, graph.input_shapes(op), box) if op.kind in IMAGE_KINDS else (None,)
    return image_part(graph, op.inputs[0], need) if need is not None else None


def image_share(graph: Graph, held: Iterable[tuple[str, Box]]) -> float:
    """Return the fraction of the image's pixels that is visible in boxes of values, in [0, 1]."""
    everything = whole(graph.input.shape)
    shown = [part for value, box in held if (part := image_part(graph, value, box)) is not None]
    return 1 - sum(map(count, without([everything], shown))) / count(everything)
