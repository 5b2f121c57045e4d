"""Transforms of a share before it is sent, so that fewer bytes or less information cross a link."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError

from cloven.errors import ClovenError
from cloven.partition.protection import wrong_links

SHARE = "a number between 0 and 1"
TAKES = {"none": "", "float16": "", "int8": "", "topk": SHARE, "noise": "a finite number above 0", "dropout": SHARE}
"""The kinds of transforms, with the amount that each takes, if any."""

USUAL = {"topk": "topk:0.1", "noise": "noise:0.5", "dropout": "dropout:0.3"}
"""An example of each kind that takes an amount."""

WireKind = Literal["none", "float16", "int8"]
"""The kinds that workers can send."""

WIRE: Mapping[str, WireKind] = {kind: kind for kind in get_args(WireKind)}
"""The kinds that workers can send, by their names."""

FLOAT, HALF, CODE, INDEX = 4, 2, 1, 4
"""Bytes of a float32 and a float16, of an int8 code, and of an element's index in a share."""


@dataclass(frozen=True)
class Transform:
    """A transform of one image's share of a value before it is sent; the receiver converts it back to float32.

    - ``none`` sends the share unchanged;
    - ``float16`` rounds it to float16;
    - ``int8`` rounds it to 256 levels between its minimum and maximum;
    - ``topk`` keeps the fraction ``amount`` of its elements with the largest magnitudes, and sets the others to 0;
    - ``noise`` adds Gaussian noise with ``amount`` times its standard deviation;
    - ``dropout`` sets each element to 0 with probability ``amount``.

    Raises:
        ClovenError: if the kind is unknown, or does not take the amount.
    """

    kind: str = "none"
    amount: float = 0.0

    def __post_init__(self) -> None:
        if wrong := _wrong(self.kind, self.amount):
            raise ClovenError(f"{self.name!r} is not a valid transform: {wrong}")

    @classmethod
    def parse(cls, text: str) -> Transform:
        """Return the transform for a text such as ``int8`` or ``topk:0.1``.

        Raises:
            ClovenError: if the text is not a valid transform.
        """
        kind, amount = _read(text)
        if wrong := _wrong(kind, amount):
            raise ClovenError(f"{text!r} is not a valid transform: {wrong}")
        return cls(kind, amount)

    @property
    def name(self) -> str:
        """The text that `parse` accepts."""
        return f"{self.kind}:{str(float(self.amount)).removesuffix('.0')}" if self.amount else self.kind

    @property
    def exact(self) -> bool:
        """True if the receiver gets the sender's exact values."""
        return self.kind == "none"

    def kept(self, count: int) -> int:
        """Return the number of elements that ``topk`` sends out of ``count``; other kinds send all."""
        return max(1, round(self.amount * count)) if self.kind == "topk" else count

    def bytes(self, count: int, size: int = FLOAT) -> int:
        """Return the bytes sent for a share of ``count`` elements of ``size`` bytes, without framing."""
        if self.kind == "float16":
            return HALF * count
        if self.kind == "int8":  # plus the scale and the offset
            return CODE * count + 2 * FLOAT
        if self.kind == "topk":  # plus their positions, as indices or as a bitmap
            kept = self.kept(count)
            return FLOAT * kept + min(INDEX * kept, math.ceil(count / 8))
        return size * count


def _read(text: str) -> tuple[str, float]:
    """Return the kind and the amount in a text; an invalid amount is NaN."""
    kind, colon, number = text.partition(":")
    if not colon:
        return kind, 0.0
    try:
        return kind, float(number) if TAKES.get(kind) else math.nan
    except ValueError:
        return kind, math.nan


def _wrong(kind: str, amount: float) -> str | None:
    """Return why a transform is not valid, or None if it is."""
    if kind not in TAKES:
        return f"expected {', '.join(USUAL.get(name, name) for name in TAKES)}"
    if not TAKES[kind]:
        return f"{kind} takes no number" if amount != 0 else None
    right = 0 < amount < (1 if TAKES[kind] == SHARE else math.inf)
    return None if right else f"{kind} takes {TAKES[kind]}, such as {USUAL[kind]}"


NONE = Transform()
"""The share is sent unchanged."""


def _entry(given: Any) -> Transform:
    """Return the transform for an entry of a plan file, or for an argument."""
    if isinstance(given, Transform):
        return given
    kind, amount = _read(given) if isinstance(given, str) else ("", 0.0)
    if wrong := _wrong(kind, amount):
        raise PydanticCustomError("transform", "{wrong}", {"wrong": wrong})
    return Transform(kind, amount)


def _name(transform: Transform) -> str:
    return transform.name


Named = Annotated[Transform, PlainValidator(_entry), PlainSerializer(_name)]


ImageType = Literal["float32", "uint8"]
"""The type of the numbers of an image that the coordinator sends."""


class Transforms(BaseModel):
    """The transforms of links: ``default``, and ``links`` that differ, for both directions.

    A plan file has, for example, ``default = "float16"`` and ``"edge0-edge1" = "int8"``. They do not apply to the
    coordinator's links, which carry the images and the outputs.

    With ``image`` ``uint8``, the coordinator sends the pixels of an image with 8 bits for each channel, a quarter
    of the bytes of float32. The first device converts them, so the outputs are the same, bit for bit. An image that
    does not consist of such pixels is refused.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    default: Named = NONE
    links: dict[str, Named] = {}
    image: ImageType = "float32"

    def of(self, source: str, target: str) -> Transform:
        """Return the transform of what one device sends to another."""
        if not self.links:
            return self.default
        return self.links.get(f"{source}-{target}") or self.links.get(f"{target}-{source}") or self.default

    def problems(self, devices: Sequence[str]) -> Iterator[str]:
        """Yield the problems for these devices, one sentence each."""
        return wrong_links("transform.links", self.links, devices)

    def unsendable(self, devices: Sequence[str]) -> list[str]:
        """Return why workers cannot run a plan with these devices, or nothing if they can."""
        names = [t.name for t in self._inexact(devices) if t.kind not in WIRE]
        if not names:
            return []
        return [
            f"the plan transforms links with {', '.join(names)}, but workers send only {', '.join(WIRE)}; change "
            "[transform] in the plan, or run it in one process with `cloven run` or `cloven audit`"
        ]

    def unstealable(self, devices: Sequence[str]) -> list[str]:
        """Return why ``--steal`` cannot run a plan with these devices, or nothing if it can."""
        names = [t.name for t in self._inexact(devices)]
        if not names:
            return []
        return [
            f"--steal cannot run a plan that transforms links with {', '.join(names)}: its workers exchange data "
            "only with the coordinator; remove [transform] from the plan, or leave out --steal"
        ]

    def _inexact(self, devices: Sequence[str]) -> list[Transform]:
        """Return the different transforms between these devices that change what they carry."""
        every = dict.fromkeys(self.of(*link) for link in combinations(devices, 2))
        return [transform for transform in every if not transform.exact]


UNCHANGED = Transforms()
"""Everything is sent unchanged."""
