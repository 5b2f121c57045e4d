"""S1's Table 1 from the data themselves: what a data set has, beside what S1 prints of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cloven.documents import Document
from cloven.graph.box import Shape


class PrintedDataSet(Document):
    """A row as S1 prints it: ``size`` is "28x28" or "variable", ``colours`` is "grey" or "colour"."""

    title: str
    images: int
    size: str
    classes: int
    colours: str


TABLE_1: Mapping[str, PrintedDataSet] = {
    "mnist": PrintedDataSet(title="MNIST", images=70_000, size="28x28", classes=10, colours="grey"),
    "cifar10": PrintedDataSet(title="CIFAR-10", images=60_000, size="32x32", classes=10, colours="colour"),
    "flowers102": PrintedDataSet(
        title="Oxford Flowers", images=8_189, size="variable", classes=102, colours="colour"
    ),
}
"""The three rows, by the kinds of `cloven.zoo.datasets` (S1, Sect. 5.1)."""


class DataSetRow(Document):
    """A data set as it is found.

    Attributes:
        name: Its kind: "mnist", "folder:photos".
        images: How many there are.
        size: "WIDTHxHEIGHT" where all have one, else "variable".
        classes: How many have images; 0 for a set without labels.
        colours: "grey" where all images are, else "colour".
        split: Images for training, validation and tests: S1's 80, 10 and 10 % of all, pooled.
        printed: S1's row; None for a set that is not in S1.
        differs: The differences from what S1 prints, a sentence each.
        agrees: Whether there is none; None where S1 has no such set.
    """

    name: str
    images: int
    size: str
    classes: int
    colours: str
    split: tuple[int, int, int]
    printed: PrintedDataSet | None
    differs: tuple[str, ...]
    agrees: bool | None


def describe(
    name: str, images: int, shapes: Collection[Shape], classes: int, split: tuple[int, int, int]
) -> DataSetRow:
    """Return the row of a data set: its name, number of images, their shapes (C, H, W), classes and split.

    These are the fields of `cloven.zoo.originals.Originals`, in order.
    """
    sizes = {(width, height) for _, height, width in shapes}
    size = "{}x{}".format(*min(sizes)) if len(sizes) == 1 else "variable"
    colours = "colour" if any(channels > 1 for channels, _, _ in shapes) else "grey"
    printed = TABLE_1.get(name)
    differs = []
    if printed is not None:
        if images != printed.images:
            differs.append(f"images: {images:,}, S1 prints {printed.images:,}")
        if size != printed.size:
            differs.append(f"size: {size}, S1 prints {printed.size}")
        if classes != printed.classes:
            differs.append(f"classes: {classes:,}, S1 prints {printed.classes:,}")
        if colours != printed.colours:
            differs.append(f"colours: {colours}, S1 prints {printed.colours}")
    return DataSetRow(
        name=name,
        images=images,
        size=size,
        classes=classes,
        colours=colours,
        split=split,
        printed=printed,
        differs=tuple(differs),
        agrees=None if printed is None else not differs,
    )
