"""The reader of TON_IoT's telemetry files: what it reads, drops, counts and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cloven.errors import ClovenError
from cloven.zoo.ton_iot import (
    SENSORS,
    TYPES,
    FileReport,
    SensorName,
    SensorRows,
    file_of,
    read_sensor,
    read_ton_iot,
)
from tests.fuzzing import Reader, counts, from_file, fuzz
from tests.zoo.ton_iot_files import ROWS, content, lines, types_of, write_ton_iot

WEATHER = file_of("Weather")


def read(folder: Path, sensor: SensorName, rows: list[str]) -> tuple[SensorRows, FileReport]:
    write_ton_iot(folder, {sensor: rows})
    return read_sensor(folder, sensor)


def said(folder: Path) -> list[str]:
    """Return the problems of a folder of files."""
    with pytest.raises(ClovenError) as caught:
        read_ton_iot(folder)
    return list(caught.value.problems)


def test_all_rows_of_the_seven_files_are_read(tmp_path: Path) -> None:
    rows, reports = read_ton_iot(write_ton_iot(tmp_path))

    assert [one.sensor for one in rows] == list(SENSORS)
    assert [one.kept for one in reports] == [ROWS * len(types_of(sensor)) for sensor in SENSORS]
    assert {one.type for report in reports for one in report.types} == set(TYPES)
    assert [one.type for one in reports[0].types] == types_of("Fridge")


def test_columns_are_typed(tmp_path: Path) -> None:
    rows, report = read(
        tmp_path,
        "Fridge",
        [lines("Fridge")[0], "1-Apr-19,8:59:02, 9.25 ,high  ,0,normal", "25-Apr-19, 19:19:40 ,-1e-3,low,1,ddos"],
    )

    assert rows.values.tolist() == [[9.25, 1.0], [-0.001, 0.0]]
    assert rows.decimals == (3, 0)
    assert [TYPES[i] for i in rows.types] == ["normal", "ddos"]
    assert np.diff(rows.seconds).tolist() == [24 * 86400 + 10 * 3600 + 20 * 60 + 38]
    assert (report.first, report.last) == ("2019-04-01T08:59:02", "2019-04-25T19:19:40")


def test_blanks_and_second_spellings_do_not_tell_the_type(tmp_path: Path) -> None:
    rows, report = read(tmp_path, "Garage_Door", lines("Garage_Door"))

    assert set(rows.values[:, 1]) == {0.0, 1.0}
    assert {one.reason: (one.rows, one.dropped) for one in report.odd} == {
        "field with blanks around it": (2 * ROWS, False),  # normal and ddos
        "sphone_signal spelled false or true": (ROWS, False),
        "day or hour of one digit": (2 * ROWS, False),  # normal and xss
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("", "blank line"),
        ("25-Apr-19,17:33:16,40.8,-0.1,38.3,1", "wrong number of fields"),
        ("25-Apr-19,17:33:16,40.8,-0.1,38.3,1,ddos,", "wrong number of fields"),
        ("31-Apr-19,17:33:16,40.8,-0.1,38.3,1,ddos", "date or time that cannot be read"),
        ("2019-04-25,17:33:16,40.8,-0.1,38.3,1,ddos", "date or time that cannot be read"),
        ("25-Apr-19,24:00:00,40.8,-0.1,38.3,1,ddos", "date or time that cannot be read"),
        ("25-Apr-19,17:33:16,40.8,-0.1,38.3,1,mitm", "unknown type"),
        ("25-Apr-19,17:33:16,40.8,-0.1,38.3,0,ddos", "label that contradicts the type"),
        ("25-Apr-19,17:33:16,40.8,,38.3,1,ddos", "pressure is not a number below 1,000,000,000"),
        ("25-Apr-19,17:33:16,40.8,nan,38.3,1,ddos", "pressure is not a number below 1,000,000,000"),
        ("25-Apr-19,17:33:16,40.8,1e10,38.3,1,ddos", "pressure is not a number below 1,000,000,000"),
        ("25-Apr-19,17:33:16,40.8,1_0,38.3,1,ddos", "pressure is not a number below 1,000,000,000"),
    ],
)
def test_an_odd_row_is_dropped_and_counted(tmp_path: Path, row: str, reason: str) -> None:
    given = lines("Weather")
    rows, report = read(tmp_path, "Weather", [*given[:3], row, *given[3:], row])

    dropped = [one for one in report.odd if one.dropped]
    assert [(one.reason, one.rows, one.first_line) for one in dropped] == [(reason, 2, 4)]
    assert report.rows - report.kept == 2
    assert len(rows.types) == len(given) - 1


def test_another_category_is_dropped(tmp_path: Path) -> None:
    _, report = read(tmp_path, "Fridge", [*lines("Fridge"), "25-Apr-19,17:33:16,4.5,medium,1,ddos"])

    assert next(one.reason for one in report.odd if one.dropped) == "temp_condition is none of low, high"


def test_columns_may_be_in_another_order(tmp_path: Path) -> None:
    own = lines("Weather")
    turned = [",".join(reversed(line.split(","))) for line in own]
    plain, _ = read(tmp_path, "Weather", own)
    other, _ = read(tmp_path, "Weather", turned)

    assert np.array_equal(plain.values, other.values)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    folder = write_ton_iot(tmp_path)
    (folder / file_of("Fridge")).unlink()
    cut = (folder / file_of("Modbus")).read_bytes()
    (folder / file_of("Modbus")).write_bytes(cut[: cut.rindex(b"xss") - 12])
    own = lines("Weather")
    (folder / WEATHER).write_bytes(content([own[0].replace("humidity", "rain,wind"), *own[1:]]))

    missing, truncated, foreign = said(folder)
    assert missing == f"{folder / file_of('Fridge')}: is missing; fetch it again, all 7 files are read"
    assert "is truncated: line 361 ('" in truncated
    assert foreign == (
        f"{folder / WEATHER}: its header lacks 'humidity' and has 'rain', 'wind'; expected date, time, "
        "temperature, pressure, humidity, label, type"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: b"", "is empty; fetch it again"),
        (
            lambda _: b"a\n",
            "its header lacks 'date', 'time', 'temperature', 'pressure', 'humidity' and 2 more and has 'a'",
        ),
        (lambda whole: whole[:40], "its header lacks 'humidity', 'label', 'type' and has 'humidi'"),
        (lambda whole: whole.split(b"\n")[0] + b"\n", "none of its 0 rows can be read (it has none)"),
        (lambda whole: whole.split(b"\n")[0] + b"\n\n\r\n", "none of its 2 rows can be read (blank line: 2)"),
        (lambda whole: whole[:-2], "is truncated"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (lambda _: b"\x1f\x8b\x08\x00", "UTF-8"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = write_ton_iot(tmp_path) / WEATHER
    path.write_bytes(damage(path.read_bytes()))

    (problem,) = said(tmp_path)
    assert problem.startswith((f"{path}: ", f"cannot read {path}: "))
    assert message in problem


def test_a_packed_file_is_to_be_unpacked(tmp_path: Path) -> None:
    path = write_ton_iot(tmp_path) / WEATHER
    path.rename(path.with_name(f"{WEATHER}.gz"))

    assert said(tmp_path) == [f"{path}: is missing; unpack {WEATHER}.gz, all 7 files are read"]


def test_a_folder_is_needed(tmp_path: Path) -> None:
    assert said(tmp_path / "none") == [f"{tmp_path / 'none'}: there is no such folder"]
    assert len(said(tmp_path)) == len(SENSORS)


@counts
@pytest.mark.parametrize("sensor", ["Garage_Door", "Weather"])
def test_damaged_files_give_rows_or_one_error(tmp_path: Path, sensor: SensorName, count: int) -> None:
    valid = [content(lines(sensor, rows=3)), content(lines(sensor, rows=1))]
    found = fuzz(
        Reader(sensor, valid, from_file(lambda _: read_sensor(tmp_path, sensor), tmp_path / file_of(sensor))), count
    )

    assert found["value"]
    assert found["own error"]


@pytest.mark.slow
def test_the_published_files(data: str) -> None:
    _, reports = read_ton_iot(Path(data) / "ton-iot")

    assert sum(report.kept for report in reports) == 261_119
    assert [report.kept for report in reports] == [sensor.published for sensor in SENSORS.values()]
    assert {one.type for report in reports for one in report.types} == set(TYPES)
    assert {report.sensor: [one.type for one in report.types] for report in reports} == {
        sensor: types_of(sensor) for sensor in SENSORS
    }
    assert not any(one.dropped for report in reports for one in report.odd)
    assert all({one.type: one.rows for one in report.types}["normal"] == 15_000 for report in reports)
