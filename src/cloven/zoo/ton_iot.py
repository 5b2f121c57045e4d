"""Read the seven telemetry files of TON_IoT, ``Train_Test_IoT_*.csv``, as UNSW Canberra publishes them.

Alsaedi et al., "TON_IoT Telemetry Dataset: A New Generation Dataset of IoT and IIoT for Data-Driven Intrusion
Detection Systems", IEEE Access 8, 2020. The files begin with a byte-order mark, their lines end with CRLF, some
fields have blanks around them, and days and hours are written with one digit or two. Blanks and the two spellings
of ``sphone_signal`` (``false`` and ``true`` in rows of type normal, ``0`` and ``1`` in all others) would tell the
type of a row, so they are removed, and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloven.documents import Document
from cloven.errors import ClovenError, one_line, tried
from cloven.files import read_text
from cloven.zoo.contents import recognised
from cloven.zoo.folder_errors import missing

TYPES = ("normal", "backdoor", "ddos", "injection", "password", "ransomware", "scanning", "xss")
"""The types of a row: normal operation, and seven attacks."""
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
LARGEST = 2**24
"""The most bytes of a file; the largest published one has 2.6 million."""
HUGE, DIGITS = 1e9, 12
"""Numbers from here on are not read as measurements, and digits after the point beyond these are not counted."""
DAY = re.compile(r"(\d{1,2})-([A-Za-z]{3})-(\d{2})", re.ASCII)
TIME = re.compile(r"(\d{1,2}):(\d{2}):(\d{2})", re.ASCII)
TOLD = 5
"""The number of columns that an error lists at most."""


class SensorColumn(NamedTuple):
    """A column of a sensor: a number, or one of some categories, of which some have a second spelling."""

    name: str
    categories: tuple[str, ...] = ()
    spellings: Mapping[str, str] = {}


class Sensor(NamedTuple):
    """The columns of a sensor, and the number of rows of its published file."""

    columns: tuple[SensorColumn, ...]
    published: int


SensorName = Literal["Fridge", "GPS_Tracker", "Garage_Door", "Modbus", "Motion_Light", "Thermostat", "Weather"]
BITS, TRUTH = ("0", "1"), {"false": "0", "true": "1"}
SENSORS: Mapping[SensorName, Sensor] = {
    "Fridge": Sensor((SensorColumn("fridge_temperature"), SensorColumn("temp_condition", ("low", "high"))), 39_944),
    "GPS_Tracker": Sensor((SensorColumn("latitude"), SensorColumn("longitude")), 38_960),
    "Garage_Door": Sensor(
        (SensorColumn("door_state", ("closed", "open")), SensorColumn("sphone_signal", BITS, TRUTH)), 39_587
    ),
    "Modbus": Sensor(
        (
            SensorColumn("FC1_Read_Input_Register"),
            SensorColumn("FC2_Read_Discrete_Value"),
            SensorColumn("FC3_Read_Holding_Register"),
            SensorColumn("FC4_Read_Coil"),
        ),
        31_106,
    ),
    "Motion_Light": Sensor(
        (SensorColumn("motion_status", BITS), SensorColumn("light_status", ("off", "on"))), 39_488
    ),
    "Thermostat": Sensor((SensorColumn("current_temperature"), SensorColumn("thermostat_status", BITS)), 32_774),
    "Weather": Sensor((SensorColumn("temperature"), SensorColumn("pressure"), SensorColumn("humidity")), 39_260),
}
"""The seven sensors by the end of their file's name."""


class OddRows(Document):
    """Rows of a file that are not as expected: dropped, or read all the same.

    Attributes:
        reason: what is odd about them.
        rows: their number.
        first_line: the line of the first one; the header is line 1.
        dropped: whether they were dropped.
    """

    reason: str
    rows: int
    first_line: int
    dropped: bool


class TypeRows(Document):
    """The number of rows of a type."""

    type: str
    rows: int


class FileReport(Document):
    """A file as it was read.

    Attributes:
        sensor: the name of the sensor.
        file: the name of the file.
        rows: the number of rows in the file, without the header.
        kept: the number of rows that were read.
        published: the number of rows of the published file.
        first: the earliest time of a row (ISO 8601, without a zone: the files name none).
        last: the latest time.
        types: the number of rows of each type that occurs.
        odd: the odd rows, dropped ones first; a row can be odd for several reasons.
    """

    sensor: SensorName
    file: str
    rows: int
    kept: int
    published: int
    first: str
    last: str
    types: tuple[TypeRows, ...]
    odd: tuple[OddRows, ...]


@dataclass(frozen=True, eq=False)
class SensorRows:
    """The rows of a sensor, in the order of the file.

    Attributes:
        sensor: the name of the sensor.
        columns: its columns.
        seconds: ``(n,)``, the time of each row since 1970; several rows can have the same.
        values: ``(n, columns)``: numbers, or indices into the categories of a column.
        types: ``(n,)``, indices into `TYPES`.
        decimals: the number of digits after the point with which each column is written; 0 for categories.
    """

    sensor: SensorName
    columns: tuple[SensorColumn, ...]
    seconds: NDArray[np.int64]
    values: NDArray[np.float64]
    types: NDArray[np.int64]
    decimals: tuple[int, ...]


def read_ton_iot(folder: Path) -> tuple[tuple[SensorRows, ...], tuple[FileReport, ...]]:
    """Return the rows of all seven sensors, and a report on each file.

    Raises:
        ClovenError: with every file that is missing, truncated, has other columns, or has no usable row.
    """
    if not folder.is_dir():
        raise missing(folder, f"{file_of('Weather')} and the files of the other sensors")
    problems: list[str] = []
    found = [tried(partial(read_sensor, folder, sensor), problems) for sensor in SENSORS]
    if problems:
        raise ClovenError(problems)
    read = [one for one in found if one is not None]
    return tuple(rows for rows, _ in read), tuple(report for _, report in read)


def file_of(sensor: SensorName) -> str:
    """Return the name of a sensor's file."""
    return f"Train_Test_IoT_{sensor}.csv"


def read_sensor(folder: Path, sensor: SensorName) -> tuple[SensorRows, FileReport]:
    """Return the rows of one sensor, and a report on its file.

    Raises:
        ClovenError: as `read_ton_iot`, for this file.
    """
    path, columns = folder / file_of(sensor), SENSORS[sensor].columns
    if not path.exists():
        packed = path.with_name(f"{path.name}.gz")
        todo = f"unpack {packed.name}" if packed.exists() else "fetch it again"
        raise ClovenError(f"{path}: is missing; {todo}, all {len(SENSORS)} files are read")
    *lines, rest = read_text(path, LARGEST).split("\n")
    header = lines[0] if lines else rest
    order = _order(path, [field.strip() for field in header.split(",")], columns)
    if rest := rest.strip():
        raise ClovenError(
            f"{path}: is truncated: line {len(lines) + 1} ({one_line(rest[:60])!r}) does not end; fetch it again"
        )
    rows = _Rows(columns)
    for number, line in enumerate(lines[1:], 2):
        rows.add(number, line.split(","), order)
    if not rows.types:
        raise ClovenError(
            f"{path}: none of its {len(lines) - 1:,} rows can be read ({_reasons(rows.dropped) or 'it has none'}); "
            "fetch it again"
        )
    found = SensorRows(
        sensor,
        columns,
        np.array(rows.seconds, np.int64),
        np.array(rows.values, np.float64).reshape(-1, len(columns)),
        np.array(rows.types, np.int64),
        tuple(rows.decimals),
    )
    return found, _report(path, found, len(lines) - 1, rows)


class _Rows:
    """The rows of a file while it is read."""

    def __init__(self, columns: Sequence[SensorColumn]) -> None:
        self.columns = columns
        self.indices = [{name: float(i) for i, name in enumerate(column.categories)} for column in columns]
        self.seconds: list[int] = []
        self.values: list[list[float]] = []
        self.types: list[int] = []
        self.decimals = [0] * len(columns)
        self.dropped, self.odd = Counter[str](), Counter[str]()
        self.lines: dict[str, int] = {}

    def add(self, line: int, given: Sequence[str], order: Sequence[int]) -> None:
        """Add a row by its fields, or count the reason why it cannot be read.

        Args:
            line: the number of the line.
            given: the fields, with the blanks around them.
            order: the place of each expected column among the fields.
        """
        if len(given) != len(order):
            blank = len(given) == 1 and not given[0].strip()
            self._count(self.dropped, "blank line" if blank else "wrong number of fields", line)
            return
        fields = [given[place].strip() for place in order]
        day, time, *readings, label, kind = fields
        seconds = (_midnight(day), _of_day(time))
        if seconds[0] is None or seconds[1] is None:
            self._count(self.dropped, "date or time that cannot be read", line)
            return
        if kind not in TYPES:
            self._count(self.dropped, "unknown type", line)
            return
        if label != ("0" if kind == TYPES[0] else "1"):
            self._count(self.dropped, "label that contradicts the type", line)
            return
        values, digits = self._values(line, readings)
        if values is None:
            return
        # The carriage return at the end of a line belongs to the file and not to the field.
        if any(len(given[place].rstrip("\r")) > len(field) for place, field in zip(order, fields, strict=True)):
            self._count(self.odd, "field with blanks around it", line)
        if day[1] == "-" or time[1] == ":":
            self._count(self.odd, "day or hour of one digit", line)
        self.decimals = [max(pair) for pair in zip(self.decimals, digits, strict=True)]
        self.seconds.append(seconds[0] + seconds[1])
        self.values.append(values)
        self.types.append(TYPES.index(kind))

    def _values(self, line: int, readings: Sequence[str]) -> tuple[list[float] | None, list[int]]:
        values, digits = [], []
        for column, index, text in zip(self.columns, self.indices, readings, strict=True):
            if column.categories:
                value = index.get(column.spellings.get(text, text))
                expected = f"is none of {', '.join(column.categories)}"
                if text in column.spellings:
                    self._count(self.odd, f"{column.name} spelled {' or '.join(column.spellings)}", line)
            else:
                value, expected = _number(text), f"is not a number below {HUGE:,.0f}"
            if value is None:
                self._count(self.dropped, f"{column.name} {expected}", line)
                return None, []
            values.append(value)
            digits.append(0 if column.categories else _digits(text))
        return values, digits

    def _count(self, counter: Counter[str], reason: str, line: int) -> None:
        counter[reason] += 1
        self.lines.setdefault(reason, line)


def _order(path: Path, header: Sequence[str], columns: Sequence[SensorColumn]) -> list[int]:
    """Return the place of each expected column in a header.

    Raises:
        ClovenError: if it has other columns.
    """
    expected = ["date", "time", *(column.name for column in columns), "label", "type"]
    if sorted(header) == sorted(expected):
        return [header.index(name) for name in expected]
    if other := recognised(path):
        raise ClovenError(f"{path}: {other}")
    lacking = [name for name in expected if name not in header]
    foreign = [name for name, times in Counter(header).items() if name not in expected or times > 1]
    found = [f"{word} {_listed(names)}" for word, names in (("lacks", lacking), ("has", foreign)) if names]
    raise ClovenError(f"{path}: its header {' and '.join(found)}; expected {', '.join(expected)}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return one_line(", ".join(repr(name[:40]) for name in names[:TOLD]) + more)


def _reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count:,}" for reason, count in counts.most_common(TOLD))


@lru_cache(1000)
def _midnight(text: str) -> int | None:
    """Return the seconds from 1970 to a day such as ``25-Apr-19``; None if it is not a day."""
    found = DAY.fullmatch(text)
    if found is None or found[2].lower() not in MONTHS:
        return None
    try:
        day = date(2000 + int(found[3]), MONTHS.index(found[2].lower()) + 1, int(found[1]))
    except ValueError:
        return None
    return 86_400 * (day - date(1970, 1, 1)).days


@lru_cache(100_000)
def _of_day(text: str) -> int | None:
    """Return the seconds from midnight to a time such as ``8:59:02``; None if it is not a time."""
    found = TIME.fullmatch(text)
    if found is None:
        return None
    hours, minutes, seconds = map(int, found.groups())
    return 3600 * hours + 60 * minutes + seconds if hours < 24 and minutes < 60 and seconds < 60 else None


def _number(text: str) -> float | None:
    """Return a number; None for other text, and for numbers that no sensor measures."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < HUGE and text.isascii() and "_" not in text else None


def _digits(text: str) -> int:
    """Return the number of digits after the point of a number."""
    if "e" in text.lower():
        text = f"{Decimal(repr(float(text))):f}"
    return min(DIGITS, len(text.partition(".")[2]))


def _report(path: Path, found: SensorRows, rows: int, read: _Rows) -> FileReport:
    first, last = (
        datetime.fromtimestamp(int(moment), UTC).replace(tzinfo=None).isoformat()
        for moment in (found.seconds.min(), found.seconds.max())
    )
    counts = np.bincount(found.types, minlength=len(TYPES)).tolist()
    return FileReport(
        sensor=found.sensor,
        file=path.name,
        rows=rows,
        kept=len(found.types),
        published=SENSORS[found.sensor].published,
        first=first,
        last=last,
        types=tuple(TypeRows(type=name, rows=n) for name, n in zip(TYPES, counts, strict=True) if n),
        odd=tuple(
            OddRows(reason=reason, rows=count, first_line=read.lines[reason], dropped=dropped)
            for counter, dropped in ((read.dropped, True), (read.odd, False))
            for reason, count in counter.most_common()
        ),
    )
