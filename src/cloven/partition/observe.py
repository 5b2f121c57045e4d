"""What a listener sees on one link, or on several that collude: an Observation, from the program alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cloven.errors import ClovenError
from cloven.graph.box import Box, Shape, count, covers, extent, intersect, text, whole
from cloven.graph.graph import SIZES, Graph
from cloven.partition.program import Link, Program, Transfer, image_share
from cloven.partition.transform import NONE, Transform

View = Literal["full", "paper"]


@dataclass(frozen=True)
class Seen:
    """One share of one value as a listener gets it.

    ``dtype`` is that of its numbers once they are read; ``transform`` is what their sender did to them; ``size`` is
    the bytes of a number as it is.
    """

    value: str
    share: Box
    dtype: str = "float32"
    transform: Transform = NONE
    size: int = 4

    @property
    def shape(self) -> Shape:
        """The shape of one image's share."""
        return extent(self.share)

    @property
    def bytes(self) -> int:
        """Bytes for one image."""
        return self.transform.bytes(count(self.share), self.size)

    def __str__(self) -> str:
        return f"{self.value}[{text(self.share)}]{'' if self.transform.exact else f' as {self.transform.name}'}"


@dataclass(frozen=True, eq=False)
class Observation:
    """What a listener sees of one image, in order.

    ``view`` is ``full`` (all that crosses the link in this direction) or ``paper`` (the one share of one value
    that S1 or S2 counts). ``crosses`` is False where the program never sends it. ``links`` are those listened on;
    none where no link could carry it: a tile that its device is already home of. ``graph`` is the graph whose
    values are seen, and ``model`` the one that was compiled, where that is known: a strategy may rewrite it.
    """

    seen: tuple[Seen, ...]
    view: View
    crosses: bool
    links: tuple[Link, ...]
    graph: Graph = field(repr=False)
    model: Graph | None = field(default=None, repr=False)

    @property
    def link(self) -> Link | None:
        """The link, where it is one."""
        return self.links[0] if len(self.links) == 1 else None

    @property
    def bytes(self) -> int:
        """Bytes of one image."""
        return sum(s.bytes for s in self.seen)

    @property
    def raw_image(self) -> float:
        """The share of the image's own numbers that the listener gets, in [0, 1].

        As they are or normalised; what a transform leaves of them counts as all of them.
        """
        return image_share(self.graph, ((s.value, s.share) for s in self.seen))

    @property
    def fingerprint(self) -> str:
        """A hash of what is seen, whatever plan it occurs in: equal observations have equal fingerprints."""
        parts = [
            [self.graph.fingerprints[s.value], s.share, s.dtype, *([] if s.transform.exact else [s.transform.name])]
            for s in self.seen
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def seen_of(transfer: Transfer) -> Seen:
    """What a listener sees of a transfer."""
    return Seen(transfer.value, transfer.share, transform=transfer.transform, size=SIZES[transfer.dtype])


def observe(
    program: Program,
    link: Link | Sequence[Link],
    view: View = "full",
    *,
    value: str | None = None,
    share: Box | None = None,
) -> Observation:
    """What a listener on ``link`` (source, target) sees, or one on several links whose taps collude.

    With ``view = "full"``, every transfer of these directions, in order, each share once; of one ``value`` alone
    where it is named. With ``view = "paper"``, the share of one ``value`` (a layer's or op's name) that the first
    link's source is home of, or the given ``share`` of it, as the first link that carries it does.

    Raises:
        ClovenError: for an unknown device or layer, or a paper view without a value.
    """
    links = _links(link)
    problems = [
        f"no device is named {device!r}; the plan has {', '.join(program.devices)}"
        for device in dict.fromkeys(name for one in links for name in one)
        if device not in program.devices
    ]
    if view == "paper" and value is None:
        problems.append("the paper view counts one value; name it: value='conv2'")
    if problems:
        raise ClovenError(problems)
    name = program.graph.find(value) if value is not None else None
    if view == "full":
        sent = (t for t in program.transfers if t.link in links and name in (None, t.value))
        seen = tuple(dict.fromkeys(seen_of(t) for t in sent))
        return Observation(seen, "full", bool(seen), links, program.graph, program.model)
    assert name is not None
    counted = share or _owned(program, name, links[0][0])
    carrying = [one for one in links if carried(program, one, name, counted)]
    transform = program.transforms.of(*(carrying or links)[0])
    seen = (Seen(name, counted, transform=transform, size=SIZES[program.graph.by_name[name].dtype]),)
    return Observation(seen, "paper", bool(carrying), links, program.graph, program.model)


def _links(given: Link | Sequence[Link]) -> tuple[Link, ...]:
    one = [name for name in given if isinstance(name, str)]
    return ((one[0], one[1]),) if one else tuple(each for each in given if not isinstance(each, str))


def carried(program: Program, link: Link, value: str, share: Box) -> bool:
    """Whether all of a share of a value crosses a link."""
    sent = [t.share for t in program.transfers if t.link == link and t.value == value]
    return covers(sent, share)


def _owned(program: Program, value: str, device: str) -> Box:
    share = program.owners[value].get(device)
    if not share:
        raise ClovenError(
            f"{device} owns nothing of {value}; its owners are {', '.join(program.owners[value]) or 'none'}"
        )
    return share[0]


def slices_of(program: Program, value: str) -> Iterator[Observation]:
    """The paper's view of a layer: each owner's share of it, on a link out of that owner.

    A link that carries the share is taken where there is one, else the first link to another device.
    """
    name = program.graph.find(value)
    for device in program.devices:
        if device not in program.owners[name]:
            continue
        links = [(device, other) for other in program.devices if other != device]
        share = _owned(program, name, device)
        link = next((link for link in links if carried(program, link, name, share)), links[0] if links else None)
        if link is None:
            op = program.graph.by_name[name]
            whole_value = Seen(name, whole(op.shape), size=SIZES[op.dtype])
            yield Observation((whole_value,), "paper", False, (), program.graph, program.model)
        else:
            yield observe(program, link, "paper", value=name, share=share)


def tiles_of(program: Program, tiles: Sequence[Box]) -> Iterator[Observation]:
    """The paper's view of data partitioning: each device's own tile of the image, without halo (S1 Sect. 5.1).

    The tile of the device that holds the image crosses no link.
    """
    image = program.graph.input.name
    for device, tile in zip(program.devices, tiles, strict=True):
        if intersect(tile, whole(program.graph.input.shape)) is None:
            continue
        if device == program.source:
            yield Observation((Seen(image, tile),), "paper", False, (), program.graph, program.model)
        else:
            yield observe(program, (program.source, device), "paper", value=image, share=tile)
