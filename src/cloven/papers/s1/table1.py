"""Table 1: the properties of a data set as found on disk, beside those in the paper."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cloven.documents import Document
from cloven.graph.box import Shape


class PrintedDataSet(Document):
    """A row as in the paper: ``size`` is "28x28" or "variable", ``colours`` is "grey" or "colour"."""

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
"""The three rows, by the kinds of `cloven.zoo.datasets` (Sect. 5.1)."""


class DataSetRow(Document):
    """A data set as found on disk.

    Attributes:
        name: its kind: "mnist", "folder:photos".
        images: the number of images.
        size: "WIDTHxHEIGHT" if all images have the same size, else "variable".
        classes: the number of classes with images; 0 for a set without labels.
        colours: "grey" if all images are grey, else "colour".
        split: the images for training, validation and tests: 80, 10 and 10 % of the pooled set, as in the paper.
        printed: the paper's row; None for a set that the paper does not use.
        differs: the differences from the paper's row, as text.
        agrees: whether there is no difference; None for a set that the paper does not use.
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
    """Return the row of a data set from its name, number of images, shapes (C, H, W), classes and split.

    The arguments are the fields of `cloven.zoo.originals.Originals`, in order.
    """
    sizes = {(width, height) for _, height, width in shapes}
    size = "{}x{}".format(*min(sizes)) if len(sizes) == 1 else "variable"
    colours = "colour" if any(channels > 1 for channels, _, _ in shapes) else "grey"
    printed = TABLE_1.get(name)
    differs = []
    if printed is not None:
        if images != printed.images:
            differs.append(f"images: {images:,} (paper: {printed.images:,})")
        if size != printed.size:
            differs.append(f"size: {size} (paper: {printed.size})")
        if classes != printed.classes:
            differs.append(f"classes: {classes:,} (paper: {printed.classes:,})")
        if colours != printed.colours:
            differs.append(f"colours: {colours} (paper: {printed.colours})")
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
