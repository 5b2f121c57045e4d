"""Telemetry files like those of TON_IoT: byte-order mark, CRLF, padded fields, and days and hours of one digit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from cloven.zoo.ton_iot import SENSORS, TYPES, SensorColumn, SensorName, file_of

LACKING: Mapping[SensorName, set[str]] = {
    "Fridge": {"scanning"},
    "Modbus": {"ddos", "ransomware"},
    "Thermostat": {"ddos"},
}
"""The types that the published files lack."""
ROWS = 60
BEGIN = {kind: datetime(2019, 4, 1, 9, 0, 0) + timedelta(days=3 * i) for i, kind in enumerate(TYPES)}
"""The first moment of each type."""


def types_of(sensor: SensorName) -> list[str]:
    return [kind for kind in TYPES if kind not in LACKING.get(sensor, ())]


def lines(sensor: SensorName, rows: int = ROWS, seconds: int = 5) -> list[str]:
    """Return the lines of a file: the header, and the rows of each type, some seconds apart."""
    columns = SENSORS[sensor].columns
    made = [",".join(["date", "time", *(column.name for column in columns), "label", "type"])]
    random = np.random.default_rng(len(sensor))
    for kind in types_of(sensor):
        for i in range(rows):
            moment = BEGIN[kind] + timedelta(seconds=seconds * i)
            day, time = moment.strftime("%d-%b-%y"), moment.strftime("%H:%M:%S")
            if kind in ("normal", "xss"):
                day, time = day.lstrip("0"), time.lstrip("0")
            fields = [reading(column, kind, random) for column in columns]
            label = "0" if kind == "normal" else "1"
            made.append(",".join([day, f" {time} " if kind == "ddos" else time, *fields, label, kind]))
    return made


def reading(column: SensorColumn, kind: str, random: np.random.Generator) -> str:
    """Return a field; in normal rows, in its second spelling if it has one, and with blanks after it."""
    if not column.categories:
        return f"{random.normal(20, 5):.7f}"
    text = column.categories[int(random.integers(len(column.categories)))]
    other = {value: key for key, value in column.spellings.items()}
    return other.get(text, text) + "  " if kind == "normal" else text


def content(rows: list[str]) -> bytes:
    return ("\ufeff" + "".join(f"{line}\r\n" for line in rows)).encode()


def write_ton_iot(folder: Path, files: Mapping[SensorName, list[str]] | None = None) -> Path:
    """Write all seven files, some with other lines, and return the folder."""
    folder.mkdir(exist_ok=True)
    for sensor in SENSORS:
        own = (files or {}).get(sensor) or lines(sensor)
        (folder / file_of(sensor)).write_bytes(content(own))
    return folder
