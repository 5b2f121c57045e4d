"""``cloven data``: a data set in numbers, and a picture with samples of each class."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.options import AsJson, sizes
from cloven.cli.printing import by, print_json, print_text, table
from cloven.errors import ClovenError
from cloven.tables import counted

if TYPE_CHECKING:
    from cloven.zoo.data_description import ClassImages, DataSetDescription
    from cloven.zoo.telemetry import TelemetryReport

SAMPLES = 8
"""The number of images of a class in a preview."""
log = logging.getLogger("cloven")


def data(
    spec: Annotated[
        str,
        typer.Argument(
            help="Data set: digits, photos, mnist:DIR, cifar10:DIR, flowers102:DIR, ton-iot:DIR or folder:DIR.",
            metavar="SPEC",
        ),
    ],
    preview: Annotated[
        Path | None, typer.Option(help="Write a PNG with samples of each class.", metavar="FILE")
    ] = None,
    shape: Annotated[
        str,
        typer.Option(help="Convert the images to this size; default: the size that they have.", metavar="CxHxW"),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show a data set: its classes, its parts, what a pixel means, and samples of each class.

    For TON_IoT's telemetry it also shows the rows of each file, odd ones among them, and the range of each sensor.
    """
    from cloven.files import write_bytes
    from cloven.reporting.preview import SampledClass
    from cloven.reporting.preview import preview as drawn
    from cloven.zoo.data_description import class_samples, described
    from cloven.zoo.datasets import load

    if preview is not None and preview.suffix.lower() != ".png":
        raise ClovenError(f"--preview must name a .png file, got {preview}")
    size = sizes(shape, 3, "--shape", "1x64x64") if shape else None
    images = load(spec, shape=None if size is None else (size[0], size[1], size[2]))
    found = described(spec, images)
    if preview is not None:
        details = {one.name: _detail(one) for one in found.classes}
        rows = [
            SampledClass(name, details.get(name, counted(len(images), "image")), some)
            for name, some in class_samples(images, SAMPLES).items()
        ]
        write_bytes(preview, drawn(_title(found), rows, f"{found.pixel}{_numbers(found)}"))
        log.info("wrote %s", preview)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    _print_classes(found)
    print_text(found.pixel)
    if found.telemetry is not None:
        _print_telemetry(found.telemetry)


def _title(found: DataSetDescription) -> str:
    size = by((found.channels, found.height, found.width))
    return f"{found.name}: {counted(found.images, 'image')} of {size}; classes: {len(found.classes) or 'no labels'}"


def _detail(one: ClassImages) -> str:
    return " + ".join(f"{part.images:,}" for part in one.parts) or counted(one.images, "image")


def _numbers(found: DataSetDescription) -> str:
    """Return what the numbers beside a row of samples mean."""
    parts = [part.part for part in found.classes[0].parts] if found.classes else []
    return f" Numbers: {' + '.join(parts)} images; the samples are from {parts[0]}." if parts else ""


def _print_classes(found: DataSetDescription) -> None:
    parts = [part.part for part in found.classes[0].parts] if found.classes else []
    rows = [[one.name, one.images, *(part.images for part in one.parts)] for one in found.classes]
    print_text(_title(found))
    if rows:
        table("Classes", ["class", "images", *parts], rows)


def _print_telemetry(report: TelemetryReport) -> None:
    files = [
        [file.file, file.rows, file.kept, file.published, len(file.types), file.first, file.last]
        for file in report.files
    ]
    title = f"{report.rows:,} rows of {report.types} types"
    table(title, ["file", "rows", "read", "published", "types", "first", "last"], files)
    odd = [
        [file.sensor, one.reason, one.rows, one.first_line, "dropped" if one.dropped else "read"]
        for file in report.files
        for one in file.odd
    ]
    table("Odd rows", ["sensor", "what", "rows", "first line", "and were"], odd)
    features = [
        [
            one.name,
            ", ".join(one.categories),
            *("-" if end is None else f"{end:,.10g}" for end in (one.low, one.high)),
            one.outside_validation,
            one.outside_test,
        ]
        for one in report.features
    ]
    columns = ["feature", "categories", "lowest", "highest", "outside, validation", "outside, test"]
    table("Features: the range of the training part, and readings outside it", columns, features)
    print_text(_windows(report))
    for one in report.left_out:
        print_text(f"{one.type} is left out: {one.reason}.")


def _windows(report: TelemetryReport) -> str:
    settings = report.settings
    words = {
        "blocks": f"by blocks, with {settings.window} rows left out between parts",
        "time": f"by time, with {settings.window} rows left out between parts",
        "random": "at random, so that windows of different parts are neighbours",
    }
    unpaired = f" {report.unpaired:,} rows have no recent row of another sensor." if report.unpaired else ""
    copies = f" {report.copies:,} held-out windows that equal another were left out." if report.copies else ""
    return (
        f"{report.merged:,} rows of {' and '.join(settings.sensors)} are cut into windows of {settings.window} "
        f"rows, split {words[settings.split]}.{unpaired}{copies}"
    )
