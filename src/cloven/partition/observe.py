"""Observations: what a listener on one link, or on several, receives. They follow from the program alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Literal, get_args

from cloven.errors import ClovenError, check_type, shown, tried
from cloven.graph.box import Box, Shape, count, covers, extent, intersect, text, whole
from cloven.graph.graph import SIZES, Graph
from cloven.partition.program import Link, Program, Transfer, image_share
from cloven.partition.transform import NONE, Transform
from cloven.tables import Value, counted, html_table, text_table

View = Literal["full", "paper"]

LinkName = str | Link
"""A link in an argument: ``"edge0->edge1"``, ``("edge0", "edge1")`` or ``"edge0-edge1"``."""

LISTED = 8
"""The number of links that an error message lists at most."""


@dataclass(frozen=True)
class Seen:
    """One share of one value as a listener receives it.

    ``dtype`` is the element type after decoding, ``transform`` the sender's transform, and ``size`` the bytes of an
    element before it.
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


@dataclass(frozen=True, eq=False, repr=False)
class Observation:
    """The shares that a listener receives for one image, in order.

    ``view`` is ``full`` (everything that crosses the link in this direction) or ``paper`` (the one share of one
    value that Mehrafrooz et al. (2025) and Rajasekar et al. (2024) count). ``crosses`` is False if the program
    never sends it. ``links`` are the links of the tap; it has none if no link could carry the share, such as a
    tile that its device is already home of. ``graph`` is the graph of the values, and ``program`` the observed
    program, if known. ``device`` is the device that the listener controls, if the tap is a device instead of
    links.
    """

    seen: tuple[Seen, ...]
    view: View
    crosses: bool
    links: tuple[Link, ...]
    graph: Graph
    program: Program | None = None
    device: str | None = None

    @property
    def model(self) -> Graph | None:
        """The graph that was divided, before a strategy rewrote it; None if it is not known."""
        return self.program.model if self.program is not None else None

    @property
    def name(self) -> str:
        """The name of the tap: a link, several links together, or a device."""
        links = [f"{source}->{target}" for source, target in self.links]
        return f"device {self.device}" if self.device is not None else " + ".join(links) or "no link"

    @property
    def link(self) -> Link | None:
        """The link, if there is exactly one."""
        return self.links[0] if len(self.links) == 1 else None

    @property
    def protection(self) -> tuple[str, ...]:
        """The protection of each link, or ``none``; empty for a device, which decrypts what it receives."""
        if self.program is None or self.device is not None:
            return ()
        return tuple(self.program.protection.of(*link) for link in self.links)

    @property
    def bytes(self) -> int:
        """Bytes of one image."""
        return sum(s.bytes for s in self.seen)

    @property
    def raw_image(self) -> float:
        """The fraction of the image's pixels that the listener receives, original or normalised, in [0, 1].

        A transformed pixel counts as a pixel.
        """
        return image_share(self.graph, ((s.value, s.share) for s in self.seen))

    @property
    def fingerprint(self) -> str:
        """A hash of the observed shares: equal observations in different plans have equal fingerprints."""
        parts = [
            [self.graph.fingerprints[s.value], s.share, s.dtype, *([] if s.transform.exact else [s.transform.name])]
            for s in self.seen
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[str, tuple[str, ...], list[tuple[Value, ...]]]:
        shares = f"{counted(len(self.seen), 'share')}, {self.bytes:,} bytes per image"
        rows: list[tuple[Value, ...]] = [(str(s), s.bytes) for s in self.seen]
        names = ", ".join(dict.fromkeys(name for name in self.protection if name != "none"))
        hidden = f", before {names} encrypts it" if names else ""
        return f"Observation of {self.name} ({self.view} view{hidden}): {shares}", ("share", "bytes"), rows


def seen_of(transfer: Transfer) -> Seen:
    """Return what a listener sees of a transfer."""
    return Seen(transfer.value, transfer.share, transform=transfer.transform, size=SIZES[transfer.dtype])


def observe(
    program: Program,
    links: LinkName | Sequence[LinkName | Sequence[LinkName]] | None = None,
    *,
    device: str | None = None,
    view: View = "full",
    value: str | None = None,
) -> tuple[Observation, ...]:
    """Return what a listener receives at each tap of a program, as one observation for each tap.

    Args:
        program: the program that `cloven.divide` or `cloven.compile` returned.
        links: the links to listen on (default: each link that carries something, as a separate tap). A link is
            written ``"edge0->edge1"`` or ``("edge0", "edge1")``, or ``"edge0-edge1"`` if only one of its directions
            carries something. A list of links in place of a link, as in ``[["edge0->edge1", "edge1->edge2"]]``, is
            one listener on all of them: one observation.
        device: a device that the listener controls, instead of links. The observation has all that it receives,
            including the image if the coordinator sends it there. A standby of the plan can take any place: there
            is an observation for each device that receives something.
        view: ``full`` is everything that crosses; ``paper`` is one share of ``value``, as Mehrafrooz et al. (2025)
            and Rajasekar et al. (2024) count it.
        value: a layer or op, to observe only the shares of its value. The default ``links`` are then the links that
            carry some of it; in the ``paper`` view, one link out of each device that owns some of it.

    Raises:
        ClovenError: for a link that carries nothing or nothing of the value, an unknown device or layer, or a
            ``paper`` view without a value.
    """
    check_type(program, Program, "program", "the program that cloven.divide or cloven.compile returns")
    if view not in get_args(View):
        raise ClovenError(f"view is {shown(view)}; expected 'full' or 'paper'")
    if value is not None:
        check_type(value, str, "value", "the name of a layer or an op")
        if pieces := _pieces(program, value):
            raise ClovenError(f"this program computes {value} in pieces; expected one of {_some(pieces)}")
    if device is None and links is None and view == "paper" and value is not None:
        return tuple(slices_of(program, value))
    if device is None:
        taps = _taps(program, links)
        seen = [seen_on(program, *tap, view=view, value=value) for tap in taps]
        silent = [one.name for one in seen if not one.seen]
        if silent and (links is not None or len(silent) == len(seen)):
            crossing = list(dict.fromkeys(transfer.value for transfer in program.transfers))
            raise ClovenError(
                f"no share of {value} crosses {', '.join(silent[:LISTED])}; the program sends {_some(crossing)}"
            )
        return tuple(one for one in seen if one.seen)
    if links is not None or view == "paper":
        raise ClovenError(
            "device cannot be combined with links or view='paper': it observes everything that the device receives"
        )
    if device in program.standby:
        places = [_received(program, other, value) for other in program.devices if _receives(program, other, value)]
        return tuple(replace(one, device=f"{device} as {one.device}") for one in places)
    return (_received(program, device, value),)


def seen_on(
    program: Program, *links: Link, view: View = "full", value: str | None = None, share: Box | None = None
) -> Observation:
    """Return the observation of a listener on one link (source, target), or on several links together.

    With ``view = "full"``, it has every transfer in these directions, in order, each share once; with a ``value``,
    only transfers of that value. With ``view = "paper"``, it has the share of ``value`` (a layer or op) that the
    first link's source is home of, or the given ``share``, with the transform of the first link that carries it.

    Raises:
        ClovenError: for an unknown device or layer, or a paper view without a value.
    """
    problems = [
        f"no device is named {device!r}; the plan has {', '.join(program.devices)}"
        for device in dict.fromkeys(chain.from_iterable(links))
        if device not in program.devices
    ]
    if view == "paper" and value is None:
        problems.append("view='paper' requires a value, such as value='conv2'")
    if problems:
        raise ClovenError(problems)
    name = program.graph.find(value) if value is not None else None
    if view == "full":
        sent = (t for t in program.transfers if t.link in links and name in (None, t.value))
        seen = tuple(dict.fromkeys(seen_of(t) for t in sent))
        return Observation(seen, "full", bool(seen), links, program.graph, program)
    assert name is not None
    owned = share or _owned(program, name, links[0][0])
    carrying = [one for one in links if carried(program, one, name, owned)]
    transform = program.transforms.of(*(carrying or links)[0])
    seen = (Seen(name, owned, transform=transform, size=SIZES[program.graph.by_name[name].dtype]),)
    return Observation(seen, "paper", bool(carrying), links, program.graph, program)


def _receives(program: Program, device: str, value: str | None) -> bool:
    """Return whether a device receives the image, or a share (of a value) from another device."""
    image = device == program.source and value in (None, program.graph.input.name)
    name = None if value is None else program.graph.find(value)
    return image or any(t.link[1] == device and name in (None, t.value) for t in program.transfers)


def _received(program: Program, device: str, value: str | None) -> Observation:
    """Return what a device receives over its links, and the image if the coordinator sends it there."""
    if device not in program.devices:
        raise ClovenError(
            f"no device is named {shown(device)}; the program has {', '.join((*program.devices, *program.standby))}"
        )
    observed = seen_on(program, *(link for link in program.links if link[1] == device), value=value)
    image = program.graph.input
    if device == program.source and value in (None, image.name):
        seen = dict.fromkeys((Seen(image.name, whole(image.shape)), *observed.seen))
        observed = replace(observed, seen=tuple(seen), crosses=True)
    if not observed.seen:
        raise ClovenError(
            f"{device} receives nothing{f' of {value}' if value else ''}; the links that carry something are "
            f"{_listed(program)}"
        )
    return replace(observed, device=device)


def _taps(program: Program, given: object) -> list[tuple[Link, ...]]:
    """Return the links of each tap in the argument ``links``."""
    if given is None:
        return [(link,) for link in program.links]
    every = [given] if _is_link(program, given) else given
    if not isinstance(every, list | tuple):
        raise ClovenError(f"links is {shown(given)}; expected a list of links, of {_listed(program)}")
    problems: list[str] = [] if every else [f"links is empty; expected some of {_listed(program)}"]
    taps: list[tuple[Link, ...]] = []
    for tap in every:
        together = tap if isinstance(tap, list | tuple) and tap and not _is_link(program, tap) else [tap]
        links = [tried(partial(_link, program, name), problems) for name in together]
        taps.append(tuple(dict.fromkeys(link for link in links if link is not None)))
    if problems:
        raise ClovenError(problems)
    return taps


def _is_link(program: Program, given: object) -> bool:
    """Return whether an argument is one link: text, or a pair of device names."""
    if isinstance(given, tuple) and len(given) == 2:
        return all(name in program.devices for name in given)
    return isinstance(given, str)


def _link(program: Program, given: object) -> Link:
    """Return the link for a pair of devices or a text: ``A->B``, or ``A-B`` for either direction."""
    meant = [
        (source, target)
        for source, target in program.links
        if given in ((source, target), f"{source}->{target}", f"{source}-{target}", f"{target}-{source}")
    ]
    if len(meant) > 1:
        raise ClovenError(f"{given!r} carries shares in both directions; expected A->B, one of {_listed(program)}")
    if not meant:
        name = given if isinstance(given, tuple) else shown(given)
        raise ClovenError(f"{name} is not a link that carries anything; expected one of {_listed(program)}")
    return meant[0]


def _listed(program: Program) -> str:
    return _some([f"{source}->{target}" for source, target in program.links])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _pieces(program: Program, value: str) -> list[str]:
    """Return the values that replace one of the model's values after a rewrite, such as tiles without halo."""
    if program.model is None or value in program.graph.by_name:
        return []
    name = program.model.find(value)
    if name in program.graph.by_name:
        return []
    return [op.name for op in program.graph.ops if op.name.rpartition("@")[0] == name]


def carried(program: Program, link: Link, value: str, share: Box) -> bool:
    """Return whether a whole share of a value crosses a link."""
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
    """Yield the paper view of a layer: each owner's share of it, on a link out of that owner.

    The link is one that carries the share, if there is one, and else the first link to another device.
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
            yield Observation((whole_value,), "paper", False, (), program.graph, program)
        else:
            yield seen_on(program, link, view="paper", value=name, share=share)


def tiles_of(program: Program, tiles: Sequence[Box]) -> Iterator[Observation]:
    """Yield the paper view of data partitioning: each device's own tile of the image, without halo.

    This is how Mehrafrooz et al. (2025), Section 5.1, count it. The tile of the device that holds the image crosses
    no link.
    """
    image = program.graph.input.name
    for device, tile in zip(program.devices, tiles, strict=True):
        if intersect(tile, whole(program.graph.input.shape)) is None:
            continue
        if device == program.source:
            yield Observation((Seen(image, tile),), "paper", False, (), program.graph, program)
        else:
            yield seen_on(program, (program.source, device), view="paper", value=image, share=tile)
