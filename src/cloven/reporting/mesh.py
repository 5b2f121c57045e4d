"""Devices that do not form a chain: placed on an ellipse, with two lanes for each link."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Link = tuple[str, str]
Point = tuple[float, float]

RADII = 150.0, 92.0
"""Of the ellipse."""
BOX = 42.0, 17.0
"""Half the width and height of a device's box."""
LANES = 3.0, 7.0
"""The distances of a link's lanes from the line between its devices: opposite links lie on both sides of it."""
HEAD = 6.0
"""The length of an arrow's head."""


@dataclass(frozen=True)
class Arrow:
    """A link: the paths of its two lanes, each with a head, and the middle between them."""

    link: Link
    lanes: tuple[str, str]
    middle: Point


@dataclass(frozen=True)
class Mesh:
    """The places of devices and links in a drawing."""

    width: float
    height: float
    places: dict[str, Point]
    arrows: tuple[Arrow, ...]


def mesh(devices: Sequence[str], links: Iterable[Link]) -> Mesh:
    """Return the places of devices, clockwise from the upper left, and the lanes of their links."""
    width, height = (2 * (radius + half) + 4 for radius, half in zip(RADII, BOX, strict=True))
    turn = 2 * math.pi / len(devices)
    start = -math.pi / 2 - (turn / 2 if len(devices) % 2 == 0 else 0)
    places = {
        device: (
            round(width / 2 + RADII[0] * math.cos(start + i * turn), 1),
            round(height / 2 + RADII[1] * math.sin(start + i * turn), 1),
        )
        for i, device in enumerate(devices)
    }
    arrows = (
        Arrow(link, _lanes(places[link[0]], places[link[1]]), _middle(places[link[0]], places[link[1]]))
        for link in links
    )
    return Mesh(width, height, places, tuple(arrows))


def _middle(source: Point, target: Point) -> Point:
    """Return the point between the lanes of a link, nearer to its source, so that opposite links keep apart."""
    across, down = target[0] - source[0], target[1] - source[1]
    length = math.hypot(across, down)
    aside = sum(LANES) / 2
    x = source[0] + 0.42 * across - aside * down / length
    y = source[1] + 0.42 * down + aside * across / length
    return round(x, 1), round(y, 1)


def _lanes(source: Point, target: Point) -> tuple[str, str]:
    """Return two lanes from the edge of one box to that of another."""
    across, down = target[0] - source[0], target[1] - source[1]
    length = math.hypot(across, down)
    x, y = across / length, down / length
    edge = min(half / abs(part) for half, part in zip(BOX, (x, y), strict=True) if part) + 4
    lanes = []
    for offset in LANES:
        start = source[0] + edge * x - offset * y, source[1] + edge * y + offset * x
        end = target[0] - edge * x - offset * y, target[1] - edge * y + offset * x
        barb = end[0] - HEAD * x - 0.6 * HEAD * y, end[1] - HEAD * y + 0.6 * HEAD * x
        shaft = f"M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}"
        lanes.append(f"{shaft}L{barb[0]:.1f} {barb[1]:.1f}" if offset == max(LANES) else shaft)
    return lanes[0], lanes[1]
