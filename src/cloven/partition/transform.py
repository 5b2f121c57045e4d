"""What a device does to a share before it sends it, so that fewer bytes or less of the image cross a link."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError

from cloven.errors import ClovenError
from cloven.partition.protection import wrong_links

SHARE = "a number between 0 and 1"
TAKES = {"none": "", "float16": "", "int8": "", "topk": SHARE, "noise": "a finite number above 0", "dropout": SHARE}
"""The kinds of transforms, and the amount that each takes, if any."""

USUAL = {"topk": "topk:0.1", "noise": "noise:0.5", "dropout": "dropout:0.3"}
"""An example of each kind that takes an amount."""

FLOAT, HALF, CODE, INDEX = 4, 2, 1, 4
"""Bytes of a number in float32 and in float16, of a level of int8, and of a place among the numbers of a share."""


@dataclass(frozen=True)
class Transform:
    """What happens to one image's share of a value before it crosses a link; the receiver has float32 again.

    ``none`` sends it as it is; ``float16`` rounds; ``int8`` rounds to 256 levels between the least and the
    largest number; ``topk`` keeps the largest magnitudes, ``amount`` of all numbers, and the others are 0;
    ``noise`` adds Gaussian noise, ``amount`` times the share's own standard deviation; ``dropout`` makes each
    number 0 with probability ``amount``.

    Raises:
        ClovenError: for another kind, or an amount that the kind does not take.
    """

    kind: str = "none"
    amount: float = 0.0

    def __post_init__(self) -> None:
        if wrong := _wrong(self.kind, self.amount):
            raise ClovenError(f"the transform {self.name!r} cannot be: {wrong}")

    @classmethod
    def parse(cls, text: str) -> Transform:
        """Return ``int8`` or ``topk:0.1`` as a transform.

        Raises:
            ClovenError: for any other text, with what is expected.
        """
        kind, amount = _read(text)
        if wrong := _wrong(kind, amount):
            raise ClovenError(f"{text!r} is no transform: {wrong}")
        return cls(kind, amount)

    @property
    def name(self) -> str:
        """The text that `parse` takes."""
        return f"{self.kind}:{str(float(self.amount)).removesuffix('.0')}" if self.amount else self.kind

    @property
    def exact(self) -> bool:
        """Whether the receiver has the numbers that the sender has."""
        return self.kind == "none"

    def kept(self, count: int) -> int:
        """Return how many of ``count`` numbers ``topk`` sends; all of them for other kinds."""
        return max(1, round(self.amount * count)) if self.kind == "topk" else count

    def bytes(self, count: int, size: int = FLOAT) -> int:
        """Return the bytes of one image's share of ``count`` numbers of ``size`` bytes, without framing."""
        if self.kind == "float16":
            return HALF * count
        if self.kind == "int8":  # and the scale and the offset
            return CODE * count + 2 * FLOAT
        if self.kind == "topk":  # and which they are, by their places or by a bit for each number
            kept = self.kept(count)
            return FLOAT * kept + min(INDEX * kept, math.ceil(count / 8))
        return size * count


def _read(text: str) -> tuple[str, float]:
    """Return the kind and the amount in a text; an amount that the kind does not take is NaN."""
    kind, colon, number = text.partition(":")
    if not colon:
        return kind, 0.0
    try:
        return kind, float(number) if TAKES.get(kind) else math.nan
    except ValueError:
        return kind, math.nan


def _wrong(kind: str, amount: float) -> str | None:
    """Return what is expected instead of a transform that cannot be."""
    if kind not in TAKES:
        return f"expected {', '.join(USUAL.get(name, name) for name in TAKES)}"
    if not TAKES[kind]:
        return f"{kind} takes no number" if amount != 0 else None
    right = 0 < amount < (1 if TAKES[kind] == SHARE else math.inf)
    return None if right else f"{kind} takes {TAKES[kind]}, such as {USUAL[kind]}"


NONE = Transform()
"""The share is sent as it is."""


def _entry(given: Any) -> Transform:
    """Return a plan file's entry, or what a caller gives."""
    if isinstance(given, Transform):
        return given
    kind, amount = _read(given) if isinstance(given, str) else ("", 0.0)
    if wrong := _wrong(kind, amount):
        raise PydanticCustomError("transform", "{wrong}", {"wrong": wrong})
    return Transform(kind, amount)


def _name(transform: Transform) -> str:
    return transform.name


Named = Annotated[Transform, PlainValidator(_entry), PlainSerializer(_name)]


class Transforms(BaseModel):
    """What devices do to what they send: ``default``, and ``links`` that differ, in both directions.

    A plan file says ``default = "float16"`` and ``"edge0-edge1" = "int8"``. The coordinator's links, which bring
    the images and take the outputs, are never transformed.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    default: Named = NONE
    links: dict[str, Named] = {}

    def of(self, source: str, target: str) -> Transform:
        """Return what is done to what one device sends another."""
        return self.links.get(f"{source}-{target}") or self.links.get(f"{target}-{source}") or self.default

    def problems(self, devices: Sequence[str]) -> Iterator[str]:
        """Yield what is wrong with them for these devices, one sentence each."""
        return wrong_links("transform.links", self.links, devices)

    def unsendable(self, devices: Sequence[str]) -> list[str]:
        """Return why workers, which send float32, cannot run a plan with these devices; nothing if they can."""
        every = (self.of(*link) for link in combinations(devices, 2))
        names = dict.fromkeys(transform.name for transform in every if not transform.exact)
        if not names:
            return []
        return [
            f"the plan's links carry {', '.join(names)}, but workers send float32 as it is; `cloven run` and "
            "`cloven audit` run such a plan in one process; for workers leave [transform] out of the plan"
        ]


UNCHANGED = Transforms()
"""Everything is sent as it is."""
