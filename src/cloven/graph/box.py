"""Boxes: half-open intervals over the axes of one image's value (the batch axis is left out), of any rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod

Interval = tuple[int, int]
Box = tuple[Interval, ...]
Shape = tuple[int, ...]

REMEMBERED = 2**12
"""The number of results that a function here remembers: many layers of a model have equal shapes and shares."""


@lru_cache(REMEMBERED)
def whole(shape: Shape) -> Box:
    """Return the box of a whole value."""
    return tuple([(0, n) for n in shape])


def extent(box: Box) -> Shape:
    """Return the lengths of a box along its axes."""
    return tuple([hi - lo for lo, hi in box])


@lru_cache(REMEMBERED)
def count(box: Box) -> int:
    """Return the number of elements in a box."""
    return prod([hi - lo for lo, hi in box])


@lru_cache(REMEMBERED)
def intersect(a: Box, b: Box) -> Box | None:
    """Return the intersection of two boxes, or None if they are disjoint."""
    both = []
    for (p, q), (r, s) in zip(a, b, strict=True):
        lo, hi = p if p > r else r, q if q < s else s  # faster than max and min, which matters here
        if lo >= hi:
            return None
        both.append((lo, hi))
    return tuple(both)


@lru_cache(REMEMBERED)
def contains(a: Box, b: Box) -> bool:
    """Return whether ``a`` contains ``b``."""
    for (p, q), (r, s) in zip(a, b, strict=True):  # noqa: SIM110 - faster than all, which matters here
        if r < p or q < s:
            return False
    return True


@lru_cache(REMEMBERED)
def subtract(a: Box, b: Box) -> tuple[Box, ...]:
    """Return the disjoint boxes that cover ``a`` without ``b``."""
    inner = intersect(a, b)
    if inner is None:
        return (a,)
    if inner == a:
        return ()
    pieces: list[Box] = []
    rest = list(a)
    for axis, (lo, hi) in enumerate(inner):
        before, after = (rest[axis][0], lo), (hi, rest[axis][1])
        pieces += [(*rest[:axis], side, *rest[axis + 1 :]) for side in (before, after) if side[0] < side[1]]
        rest[axis] = (lo, hi)
    return tuple(pieces)


def without(boxes: Iterable[Box], held: Iterable[Box]) -> list[Box]:
    """Return the disjoint boxes that cover ``boxes`` without any of ``held``."""
    left = list(boxes)
    for taken in held:
        left = [piece for box in left for piece in subtract(box, taken)]
    return left


def covers(boxes: Iterable[Box], box: Box) -> bool:
    """Return whether the union of ``boxes`` contains ``box``."""
    return not without([box], boxes)


def hull(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around all of ``boxes`` (at least one)."""
    made = []
    for axis in zip(*boxes, strict=True):
        starts, stops = zip(*axis, strict=True)
        made.append((min(starts), max(stops)))
    return tuple(made)


def relative(box: Box, origin: Box) -> Box:
    """Return ``box`` in coordinates that start at the corner of ``origin``."""
    return tuple((lo - o, hi - o) for (lo, hi), (o, _) in zip(box, origin, strict=True))


def slices(box: Box) -> tuple[slice, ...]:
    """Return the index of a box in an array with a batch axis in front."""
    return (slice(None), *(slice(lo, hi) for lo, hi in box))


def shares(n: int, parts: int) -> list[Interval]:
    """Divide ``n`` indices among ``parts`` devices: ``n // parts`` each, and the remainder to the last.

    This is the rule of Stahl et al., reference [10] of Mehrafrooz et al. (2025). With fewer indices than devices,
    the first ``n`` devices get one each and the others an empty interval.
    """
    if n < parts:
        return [(min(i, n), min(i + 1, n)) for i in range(parts)]
    size = n // parts
    return [(i * size, n if i == parts - 1 else (i + 1) * size) for i in range(parts)]


def bands(n: int, parts: int) -> list[Interval]:
    """Divide ``n`` rows among ``parts`` as evenly as whole rows allow.

    The boundaries scale with the height: at half the height, each even boundary is exactly halved.
    """
    return [(i * n // parts, (i + 1) * n // parts) for i in range(parts)]


def text(box: Box) -> str:
    """Return a box as text, such as ``0:4, 0:10, 0:10``."""
    return ", ".join(f"{lo}:{hi}" for lo, hi in box)
