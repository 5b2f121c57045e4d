"""S1's Table 1 from the data themselves: what a data set has, beside what S1 prints of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cloven.graph.box import Shape


@dataclass(frozen=True)
class Printed:
    """A row as S1 prints it: ``size`` is "28x28" or "variable", ``colours`` is "grey" or "colour"."""

    title: str
    images: int
    size: str
    classes: int
    colours: str


TABLE_1: Mapping[str, Printed] = {
    "mnist": Printed("MNIST", 70_000, "28x28", 10, "grey"),
    "cifar10": Printed("CIFAR-10", 60_000, "32x32", 10, "colour"),
    "flowers102": Printed("Oxford Flowers", 8_189, "variable", 102, "colour"),
}
"""The three rows, by the kinds of `cloven.zoo.datasets` (S1, Sect. 5.1)."""


@dataclass(frozen=True)
class DataSetRow:
    """A data set as it is found.

    Attributes:
        name: Its kind: "mnist", "folder:photos".
        images: How many there are.
        size: "WIDTHxHEIGHT" where all have one, else "variable".
        classes: How many have images; 0 for a set without labels.
        colours: "grey" where all images are, else "colour".
        split: Images for training, validation and tests: S1's 80, 10 and 10 % of all, pooled.
        printed: S1's row; None for a set that is not in S1.
        differs: What is otherwise than S1 prints it, a sentence each.

    """

    name: str
    images: int
    size: str
    classes: int
    colours: str
    split: tuple[int, int, int]
    printed: Printed | None
    differs: tuple[str, ...]

    @property
    def agrees(self) -> bool | None:
        """Whether the set is as S1 prints it; None where S1 has no such set."""
        return None if self.printed is None else not self.differs

    def to_json(self) -> dict[str, Any]:
        """The row in plain values."""
        plain = asdict(self)
        return plain | {"split": list(self.split), "differs": list(self.differs), "agrees": self.agrees}


def describe(
    name: str, images: int, shapes: Collection[Shape], classes: int, split: tuple[int, int, int]
) -> DataSetRow:
    """The row of a data set: its name, number of images, their shapes (C, H, W), classes and split.

    These are the fields of `cloven.zoo.originals.Originals`, in order.
    """
    sizes = {(width, height) for _, height, width in shapes}
    size = "{}x{}".format(*min(sizes)) if len(sizes) == 1 else "variable"
    colours = "colour" if any(channels > 1 for channels, _, _ in shapes) else "grey"
    printed = TABLE_1.get(name)
    found: dict[str, int | str] = {"images": images, "size": size, "classes": classes, "colours": colours}
    differs = () if printed is None else _differences(found, printed)
    return DataSetRow(name, images, size, classes, colours, split, printed, differs)


def _differences(found: Mapping[str, int | str], printed: Printed) -> tuple[str, ...]:
    pairs = ((field, value, getattr(printed, field)) for field, value in found.items())
    return tuple(f"{field}: {_told(value)}, S1 prints {_told(own)}" for field, value, own in pairs if value != own)


def _told(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value
