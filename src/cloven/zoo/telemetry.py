"""Windows of TON_IoT's telemetry as labelled images, with a training, a validation and a test part.

In these files nearly every type of row is one session: normal rows are from 31 March to 2 April 2019, attacks
from 23 to 29 April. So time is never a feature, and a window of one session is like its neighbours. The rows of a
type are therefore put in the order of time and cut into contiguous blocks; the parts consist of blocks, and between
blocks of different parts as many rows are left out as a window has. A window has rows of one type only.

Other sensors are merged with the first one on time: each of its rows gets the latest row of each other sensor that
is of the same type and at most a minute old. The files give seconds, and up to 114 rows have the same; the rows of
a sensor within a second are taken as evenly spaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from cloven.documents import Document, correction, wrong_entries
from cloven.errors import ClovenError
from cloven.zoo.images import PARTS, Images, new_pixels, put_pixels, spread
from cloven.zoo.notes import note
from cloven.zoo.pixels import Shape
from cloven.zoo.telemetry_encoder import LEVELS, Encoder, Layout, fitted_encoder, laid_out
from cloven.zoo.ton_iot import TYPES, FileReport, SensorName, SensorRows, read_ton_iot

RECENT = 60.0
"""The age in seconds up to which a row of another sensor is merged."""
BLOCK = 16
"""The length of a block in windows; blocks of a type with few rows are shorter."""
CYCLE = (0, 1, 0, 0, 2)
"""The parts of consecutive blocks, as indices into `PARTS`: 60 % for training, 20 % each for the others."""
FEWEST = 2
"""The number of windows of each part that a type needs."""
SIDE = 64
"""The side of an image whose shape is not given, unless the grid is larger."""
SEED = 0
"""The seed of the random split."""
TRAINING, VALIDATION, TEST = range(3)


class WindowSettings(Document):
    """The rules by which rows become windows.

    Attributes:
        sensors: the sensors whose readings are the features; all are merged with the first.
        window: the number of rows of a window.
        stride: the number of rows from a window to the next of the same block; None for windows without overlap.
        split: the parts consist of blocks; or the first 60 % of the rows of a type are for training and the last
            20 % for tests (time); or windows are drawn at random (random), so that a test window can lie between,
            or overlap, training windows.
    """

    sensors: tuple[SensorName, ...] = Field(default=("Weather",), min_length=1)
    window: int = Field(default=16, ge=2, le=1024)
    stride: int | None = Field(default=None, ge=1, le=1024)
    split: Literal["blocks", "time", "random"] = "blocks"


class LeftOut(Document):
    """A type that has no windows, and why."""

    type: str
    reason: str


class FeatureReport(Document):
    """A column of the readings.

    Attributes:
        name: its name.
        categories: its categories, each of which is a column of the grid; empty for a number.
        low: the lowest number of the training part; None for categories.
        high: the highest.
        outside_validation: the number of readings in windows for validation that are outside that range; they are
            encoded as its nearest end.
        outside_test: the same for tests.
    """

    name: str
    categories: tuple[str, ...]
    low: float | None
    high: float | None
    outside_validation: int
    outside_test: int


class TelemetryReport(Document):
    """The files that were read, and the windows that were made.

    Attributes:
        files: a report on each file.
        rows: the number of rows that were read, of all files.
        types: the number of types in them.
        settings: the rules by which rows became windows.
        merged: the number of rows of the chosen sensors after the merge, of the types that have windows.
        unpaired: the number of rows of the first sensor, of these types, without a recent row of another.
        copies: the number of windows for validation and tests that were left out because an earlier part has a
            window with the same pixels.
        left_out: the types without windows.
        features: the columns of the readings.
        grid: the names of the columns of a window: each number, and each category of each other column.
    """

    files: tuple[FileReport, ...]
    rows: int
    types: int
    settings: WindowSettings
    merged: int
    unpaired: int
    copies: int
    left_out: tuple[LeftOut, ...]
    features: tuple[FeatureReport, ...]
    grid: tuple[str, ...]


class Run(NamedTuple):
    """The rows of a type in the order of time.

    Attributes:
        readings: ``(n, columns)``.
        unpaired: the number of rows that were left out because another sensor has no recent one.
    """

    readings: NDArray[np.float64]
    unpaired: int


class WindowPlaces(NamedTuple):
    """The windows of all runs: labels, first rows and parts, each ``(n,)``."""

    labels: NDArray[np.int64]
    starts: NDArray[np.int64]
    part: NDArray[np.int64]


class Encoded(NamedTuple):
    """The windows of all runs: readings ``(n, rows, columns)``, pixels ``(n, rows, features)``, their encoder.

    ``copies`` is the number of windows that were left out as copies.
    """

    encoder: Encoder
    readings: NDArray[np.float64]
    grids: NDArray[np.uint8]
    cut: WindowPlaces
    copies: int


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of readings.

    Attributes:
        encoder: the encoder, fitted on the training part.
        readings: ``(n, rows, columns)``; `Encoder` says what they are.
        grids: ``(n, rows, features)``, the levels as pixels from 0 to 255.
        labels: ``(n,)``, indices into ``classes``.
        starts: ``(n,)``, the first row of each window among the rows of its type in the order of time.
        classes: the types that have windows.
        part: ``(n,)``, indices into `PARTS`.
        sources: the type and the rows of each window, in the order of time.
        report: how they were made.
    """

    encoder: Encoder
    readings: NDArray[np.float64]
    grids: NDArray[np.uint8]
    labels: NDArray[np.int64]
    starts: NDArray[np.int64]
    classes: tuple[str, ...]
    part: NDArray[np.int64]
    sources: tuple[str, ...]
    report: TelemetryReport

    @property
    def stretches(self) -> NDArray[np.int64]:
        """The stretch of time of each window, ``(n,)``: that of a type and of as many rows as a block has."""
        stretch = self.starts // (BLOCK * self.report.settings.window)
        return np.unique(np.stack([self.labels, stretch]), axis=1, return_inverse=True)[1].reshape(-1)

    def places(self, sources: Sequence[str]) -> NDArray[np.int64]:
        """Return the index of the window of each source."""
        index = {source: place for place, source in enumerate(self.sources)}
        return np.array([index[source] for source in sources], np.int64)

    def images(self, shape: Shape | None, limit: int | None = None) -> Images:
        """Return the windows as images, with their parts; at most ``limit``, spread evenly over types and parts.

        Raises:
            ClovenError: if the shape is smaller than a window.
        """
        layout = layout_of(self.report, shape)
        kept = spread(self.labels * len(PARTS) + self.part, len(self.labels), limit)
        return Images(
            f"ton-iot:{'+'.join(self.report.settings.sensors)}",
            put_pixels(new_pixels(len(kept), layout.shape), (layout.enlarged(self.grids[i]) for i in kept)),
            self.labels[kept],
            self.classes,
            tuple(self.sources[i] for i in kept),
            self.part[kept],
        )


def window_settings(options: Sequence[tuple[str, str]]) -> WindowSettings:
    """Return the settings in the options of a spec, such as ``sensors=Weather+Fridge``.

    Raises:
        ClovenError: with each option that is unknown, given twice, or wrong.
    """
    names = [name for name, _ in options]
    given: dict[str, object] = {name: text.split("+") if name == "sensors" else text for name, text in options}
    problems = [
        f"ton-iot: {name} occurs {names.count(name)} times; give it once" for name in given if names.count(name) > 1
    ]
    try:
        found = WindowSettings.model_validate(given, strict=False)
    except ValidationError as error:
        raise ClovenError([*problems, *wrong_entries(error, "ton-iot", correction)]) from error
    if len(set(found.sensors)) < len(found.sensors):
        problems.append(f"ton-iot: sensors is {'+'.join(found.sensors)}; name each sensor once")
    if problems:
        raise ClovenError(problems)
    return found


def read_windows(folder: Path, settings: WindowSettings) -> Windows:
    """Return the windows of the telemetry files in a folder.

    Raises:
        ClovenError: as `read_ton_iot`, and if fewer than two types have enough windows.
    """
    rows, files = read_ton_iot(folder)
    by_name = {one.sensor: one for one in rows}
    chosen = [by_name[name] for name in settings.sensors]
    lacking = {name: [one.sensor for one in chosen if i not in one.types] for i, name in enumerate(TYPES)}
    left_out = {name: f"no rows of {' and '.join(none)}" for name, none in lacking.items() if none}
    runs = {name: _run(chosen, i) for i, name in enumerate(TYPES) if name not in left_out}
    while len(runs) > 1:
        made = _encoded(runs, chosen, settings)
        if isinstance(made, Encoded):
            return _windows(runs, made, _report(files, settings, runs, left_out, made))
        left_out |= made
        runs = {name: run for name, run in runs.items() if name not in made}
    raise ClovenError(
        [
            f"{folder}: fewer than two types have enough windows of {settings.window} rows of "
            f"{', '.join(settings.sensors)}; choose other sensors or a smaller window",
            *(f"{folder}: {name}: {reason}" for name, reason in left_out.items()),
        ]
    )


def read_telemetry(folder: Path, settings: WindowSettings, shape: Shape | None, limit: int | None) -> Images:
    """Return the windows as images, with their parts.

    Raises:
        ClovenError: as `read_windows`, and if the shape is smaller than a window.
    """
    windows = read_windows(folder, settings)
    images = windows.images(shape, limit)
    _tell(folder, windows.report)
    return images


def layout_of(report: TelemetryReport, shape: Shape | None) -> Layout:
    """Return the place of a window in an image of a shape; None for a square of 64 pixels, or the window's side.

    Without a shape, an image has three equal channels, since most CNNs take images in colour.

    Raises:
        ClovenError: if the shape is smaller than a window.
    """
    rows, columns = report.settings.window, len(report.grid)
    side = max(SIDE, rows, columns)
    return laid_out(rows, columns, shape or (3, side, side))


def pixel_meaning(report: TelemetryReport, shape: Shape) -> str:
    """Return what a pixel of an image of a shape means."""
    layout = layout_of(report, shape)
    high, wide = layout.cell
    return (
        f"An image is a window of {layout.rows} consecutive rows of one type, from the top, by {layout.columns} "
        f"columns: {', '.join(report.grid)}. Each entry is enlarged to {high} x {wide} pixels; the rest of the "
        f"{shape[1]} x {shape[2]} is black. Level p of a number is the p/{LEVELS - 1} quantile of the training "
        "part; a category is white where it holds. Date and time are left out."
    )


def _run(chosen: Sequence[SensorRows], kind: int) -> Run:
    """Return the rows of a type of the first sensor, merged with those of the others."""
    (moments, readings), *others = (_ordered(one, kind) for one in chosen)
    kept = np.ones(len(moments), np.bool_)
    for times, theirs in others:
        latest = np.searchsorted(times, moments, "right") - 1
        kept &= (latest >= 0) & (moments - times[latest] <= RECENT)
        readings = np.concatenate([readings, theirs[latest]], axis=1)
    return Run(readings[kept], int((~kept).sum()))


def _ordered(rows: SensorRows, kind: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the moments ``(n,)`` and the readings ``(n, columns)`` of a type, in the order of time."""
    own = np.flatnonzero(rows.types == kind)
    own = own[np.argsort(rows.seconds[own], kind="stable")]
    _, first, of, count = np.unique(rows.seconds[own], return_index=True, return_inverse=True, return_counts=True)
    return rows.seconds[own] + (np.arange(len(own)) - first[of]) / count[of], rows.values[own]


def _encoded(
    runs: Mapping[str, Run], chosen: Sequence[SensorRows], settings: WindowSettings
) -> Encoded | dict[str, str]:
    """Return the windows of all runs; or, if types have too few, these with the reasons."""
    cut = _cut(runs, settings)
    if few := _few(runs, cut, ""):
        return few
    columns = tuple(column for one in chosen for column in one.columns)
    decimals = [digits for one in chosen for digits in one.decimals]
    places = cut.starts[:, None] + np.arange(settings.window)
    each = (run.readings[places[cut.labels == label]] for label, run in enumerate(runs.values()))
    readings = np.concatenate(tuple(each))
    encoder = fitted_encoder(columns, decimals, readings[cut.part == TRAINING].reshape(-1, len(columns)))
    grids = np.rint(encoder.encode(readings) * (LEVELS - 1)).astype(np.uint8)
    kept = _without_copies(grids, cut.part)
    cut = WindowPlaces(cut.labels[kept], cut.starts[kept], cut.part[kept])
    few = _few(runs, cut, ", copies of an earlier part left out")
    return few or Encoded(encoder, readings[kept], grids[kept], cut, len(grids) - len(kept))


def _cut(runs: Mapping[str, Run], settings: WindowSettings) -> WindowPlaces:
    """Return the windows of all runs."""
    found = [_places(len(run.readings), settings) for run in runs.values()]
    labels = [np.full(len(starts), label) for label, (starts, _) in enumerate(found)]
    starts, part = ([each[i] for each in found] for i in range(2))
    return WindowPlaces(*(np.concatenate(each) for each in (labels, starts, part)))


def _places(rows: int, settings: WindowSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first row and the part of each window of a run."""
    window, stride = settings.window, settings.stride or settings.window
    if settings.split == "random":
        starts = np.arange(0, rows - window + 1, stride)
        order = np.random.default_rng(SEED).permutation(len(starts))
        return starts, np.sort(np.array(CYCLE))[order * len(CYCLE) // max(len(starts), 1)]
    blocks = [(np.arange(low, high - window + 1, stride), part) for low, high, part in _blocks(rows, settings)]
    parts = [np.full(len(starts), part) for starts, part in blocks]
    return np.concatenate([starts for starts, _ in blocks]), np.concatenate(parts)


def _blocks(rows: int, settings: WindowSettings) -> Iterator[tuple[int, int, int]]:
    """Yield the first row, the row after the last, and the part of each block of a run."""
    in_time = settings.split == "time"
    cycles = 1 if in_time else max(1, rows // (len(CYCLE) * BLOCK * settings.window))
    parts = sorted(CYCLE) if in_time else CYCLE * cycles
    for i, part in enumerate(parts):
        gap = settings.window if i and parts[i - 1] != part else 0
        yield rows * i // len(parts) + gap, rows * (i + 1) // len(parts), part


def _few(runs: Mapping[str, Run], cut: WindowPlaces, which: str) -> dict[str, str]:
    """Return the types with too few windows, each with the reason."""
    counts = np.zeros((len(runs), len(PARTS)), np.int64)
    np.add.at(counts, (cut.labels, cut.part), 1)
    return {
        name: f"{count[0]}, {count[1]} and {count[2]} windows for training, validation and tests{which}, in "
        f"{len(run.readings):,} rows; expected at least {FEWEST} of each"
        for (name, run), count in zip(runs.items(), counts.tolist(), strict=True)
        if min(count) < FEWEST
    }


def _without_copies(grids: NDArray[np.uint8], part: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of all windows but those that equal one of an earlier part."""
    first: dict[bytes, int] = {}
    for i in np.argsort(part, kind="stable").tolist():
        first.setdefault(grids[i].tobytes(), int(part[i]))
    return np.array([i for i, grid in enumerate(grids) if first[grid.tobytes()] == part[i]], np.int64)


def _windows(runs: Mapping[str, Run], made: Encoded, report: TelemetryReport) -> Windows:
    names, last = tuple(runs), report.settings.window - 1
    places = zip(made.cut.labels.tolist(), made.cut.starts.tolist(), strict=True)
    sources = tuple(f"{names[label]} rows {start} to {start + last}" for label, start in places)
    cut = made.cut
    return Windows(
        made.encoder, made.readings, made.grids, cut.labels, cut.starts, names, cut.part, sources, report
    )


def _report(
    files: tuple[FileReport, ...],
    settings: WindowSettings,
    runs: Mapping[str, Run],
    left_out: Mapping[str, str],
    made: Encoded,
) -> TelemetryReport:
    return TelemetryReport(
        files=files,
        rows=sum(file.kept for file in files),
        types=len({one.type for file in files for one in file.types}),
        settings=settings,
        merged=sum(len(run.readings) for run in runs.values()),
        unpaired=sum(run.unpaired for run in runs.values()),
        copies=made.copies,
        left_out=tuple(LeftOut(type=name, reason=reason) for name, reason in left_out.items()),
        features=_features(made.encoder, made.readings, made.cut.part),
        grid=made.encoder.features,
    )


def _features(
    encoder: Encoder, readings: NDArray[np.float64], part: NDArray[np.int64]
) -> tuple[FeatureReport, ...]:
    outside = [encoder.outside(readings[part == which]) for which in (VALIDATION, TEST)]
    return tuple(
        FeatureReport(
            name=column.name,
            categories=column.categories,
            low=None if scale is None else scale.low,
            high=None if scale is None else scale.high,
            outside_validation=outside[0][i],
            outside_test=outside[1][i],
        )
        for i, (column, scale) in enumerate(zip(encoder.columns, encoder.scales, strict=True))
    )


def _tell(folder: Path, report: TelemetryReport) -> None:
    """Log the rows and the types that are missing or were left out, once."""
    if cut := [file.file for file in report.files if file.rows < file.published]:
        note(
            f"{folder}: fewer rows than in the published files: {', '.join(cut)}; fetch them again if they were cut"
        )
    if dropped := sum(file.rows - file.kept for file in report.files):
        note(f"{folder}: rows that cannot be read were left out ({dropped:,}); cloven data lists them")
    for one in report.left_out:
        note(f"{folder}: {one.type} was left out: {one.reason}")
