"""Windows of telemetry: blocks, parts, merged sensors, what is left out, and the data set ``ton-iot:DIR``."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from cloven.errors import ClovenError
from cloven.zoo.datasets import DataSetSpec, load, parsed
from cloven.zoo.images import Images, split
from cloven.zoo.images import test_half as half_for_tests
from cloven.zoo.originals import originals
from cloven.zoo.telemetry import Windows, WindowSettings, layout_of, read_windows, window_settings
from cloven.zoo.ton_iot import TYPES, SensorName, file_of
from tests.zoo.ton_iot_files import ROWS, content, lines, types_of, write_ton_iot


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ton_iot(tmp_path_factory.mktemp("ton-iot"))


def windows(folder: Path, *options: str) -> Windows:
    return read_windows(folder, window_settings(parsed(f"ton-iot:{folder}:window=4" + "".join(options)).options))


def said(folder: Path, *options: str) -> list[str]:
    with pytest.raises(ClovenError) as caught:
        load(":".join([f"ton-iot:{folder}", *options]))
    return list(caught.value.problems)


def places(made: Windows) -> list[tuple[int, int, int, int]]:
    """Return the label, the first row, the last row and the part of each window."""
    found = []
    for source, label, part in zip(made.sources, made.labels.tolist(), made.part.tolist(), strict=True):
        match = re.fullmatch(r"(\w+) rows (\d+) to (\d+)", source)
        assert match is not None
        assert match[1] == made.classes[label]
        found.append((label, int(match[2]), int(match[3]), part))
    return found


class TestParts:
    @pytest.mark.parametrize(("way", "stride"), [("blocks", 4), ("blocks", 1), ("time", 4), ("time", 3)])
    def test_parts_are_a_window_apart(self, folder: Path, way: str, stride: int) -> None:
        """Between windows of different parts there are at least as many rows as a window has."""
        every = places(windows(folder, f":split={way}:stride={stride}"))

        for one, other in product(every, every):
            if one[0] == other[0] and one[3] != other[3] and one[1] < other[1]:
                assert other[1] - one[2] > 4, (one, other)

    def test_a_random_split_has_neighbours_in_different_parts(self, folder: Path) -> None:
        every = {(label, first): part for label, first, _, part in places(windows(folder, ":split=random"))}

        neighbours = [
            part != every[label, first + 4] for (label, first), part in every.items() if (label, first + 4) in every
        ]
        assert sum(neighbours) > len(neighbours) / 4

    def test_shares(self, tmp_path: Path) -> None:
        """About 60, 20 and 20 % of the windows of each type, less the rows between the parts."""
        folder = write_ton_iot(tmp_path, {"Weather": lines("Weather", rows=2000)})
        every = {way: windows(folder, f":split={way}") for way in ("blocks", "time", "random")}

        for way, label in product(("blocks", "time", "random"), range(len(TYPES))):
            made = every[way]
            shares = np.bincount(made.part[made.labels == label], minlength=3) / (2000 / 4)
            assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.06)

    def test_a_cut_in_time_is_in_the_order_of_time(self, folder: Path) -> None:
        for label in range(len(TYPES)):
            own = sorted(place for place in places(windows(folder, ":split=time")) if place[0] == label)

            assert [part for *_, part in own] == sorted(part for *_, part in own)

    def test_a_window_has_consecutive_rows_of_one_type(self, tmp_path: Path) -> None:
        """The order is that of time, not that of the file."""
        own = lines("Weather")
        shuffled = [own[0], *np.random.default_rng(0).permutation(own[1:]).tolist()]
        plain, other = (
            windows(write_ton_iot(tmp_path, {"Weather": given}), ":stride=1") for given in (own, shuffled)
        )

        assert plain.sources == other.sources
        assert np.array_equal(plain.readings, other.readings)
        for (label, first, last, _), reading in zip(places(plain), plain.readings, strict=True):
            rows = [line.split(",") for line in own if line.endswith(plain.classes[label])][first : last + 1]
            assert reading.tolist() == [[float(text) for text in row[2:5]] for row in rows]

    def test_held_out_copies_are_left_out(self, folder: Path) -> None:
        """A sensor with a door that is open or closed has few different windows of two rows."""
        problems = said(folder, "sensors=Garage_Door", "window=2")

        assert "fewer than two types have enough windows of 2 rows of Garage_Door" in problems[0]
        assert "copies of an earlier part left out" in "".join(problems)

    def test_no_held_out_window_equals_one_of_training(self, folder: Path) -> None:
        made = windows(folder, ":sensors=Motion_Light+Fridge")
        pixels = [{grid.tobytes() for grid in made.grids[made.part == part]} for part in range(3)]

        assert not pixels[0] & pixels[1]
        assert not (pixels[0] | pixels[1]) & pixels[2]


class TestFeatures:
    def test_time_is_not_a_feature(self, folder: Path, tmp_path: Path) -> None:
        """Other dates and other steps of time, in the same order, give the same images."""
        later = [line.replace("-19,", "-23,") for line in lines("Weather", seconds=11)]
        write_ton_iot(tmp_path, {"Weather": later})
        spec = "ton-iot:{}:window=4"

        assert load(spec.format(folder)).fingerprint() == load(spec.format(tmp_path)).fingerprint()

    def test_levels_are_those_of_the_training_part(self, folder: Path) -> None:
        made = windows(folder)
        training = made.readings[made.part == 0].reshape(-1, 3)
        report = made.report.features

        assert [one.name for one in report] == ["temperature", "pressure", "humidity"]
        assert [one.low for one in report] == training.min(0).tolist()
        assert [one.high for one in report] == training.max(0).tolist()
        back = made.encoder.decode(made.encoder.encode(made.readings))
        assert np.array_equal(back[made.part == 0], made.readings[made.part == 0])
        outside = sum(one.outside_validation + one.outside_test for one in report)
        assert int((back != made.readings).sum()) == outside > 0

    def test_images(self, folder: Path) -> None:
        """A cell is 16 x 21 pixels; the pixel column to the right of three cells is black."""
        made, images = windows(folder), load(f"ton-iot:{folder}:window=4")

        assert images.shape == (3, 64, 64)
        assert layout_of(made.report, None).cell == (16, 21)
        assert np.array_equal(images.pixels[:, 0, ::16, 0:63:21], made.grids)
        assert not images.pixels[..., 63].any()

    def test_shape(self, folder: Path) -> None:
        """Channels are equal; a window of 100 rows makes the default image larger."""
        images = load(f"ton-iot:{folder}:window=4", shape=(3, 32, 40))

        assert images.shape == (3, 32, 40)
        assert (images.pixels == images.pixels[:, :1]).all()
        assert layout_of(
            windows(folder).report.model_copy(update={"settings": WindowSettings(window=100)}), None
        ) == (
            100,
            3,
            (3, 100, 100),
        )


class TestMergedSensors:
    def test_types_that_a_sensor_lacks_are_named(self, folder: Path) -> None:
        made = windows(folder, ":sensors=Weather+Fridge+Modbus")

        assert made.classes == ("normal", "backdoor", "injection", "password", "xss")
        assert {one.type: one.reason for one in made.report.left_out} == {
            "ddos": "no rows of Modbus",
            "ransomware": "no rows of Modbus",
            "scanning": "no rows of Fridge",
        }
        assert made.report.grid[:5] == (
            "temperature",
            "pressure",
            "humidity",
            "fridge_temperature",
            "temp_condition=low",
        )
        assert made.report.merged == ROWS * 5

    def test_a_row_gets_the_latest_recent_row_of_the_others(self, tmp_path: Path) -> None:
        """GPS rows are 100 s apart and Weather rows 5 s: those more than a minute after one are left out."""
        weather, gps = lines("Weather", rows=400), lines("GPS_Tracker", rows=20, seconds=100)
        made = windows(
            write_ton_iot(tmp_path, {"Weather": weather, "GPS_Tracker": gps}), ":sensors=Weather+GPS_Tracker"
        )

        assert made.report.merged == 20 * 13 * len(TYPES)  # 0, 5, ..., 60 s after a GPS row
        assert made.report.unpaired == 20 * 7 * len(TYPES)
        _, first, _, _ = places(made)[0]
        normal = [line.split(",") for line in gps if line.endswith("normal")]
        assert made.readings[0, :, 3].tolist() == [float(normal[row // 13][2]) for row in range(first, first + 4)]

    def test_rows_of_one_second_are_evenly_spaced_in_it(self, tmp_path: Path) -> None:
        """Of two Weather rows in a second, the second one gets the second GPS row."""
        pairs: dict[SensorName, list[str]] = {}
        both: tuple[SensorName, ...] = ("Weather", "GPS_Tracker")
        for sensor in both:
            own = lines(sensor, rows=120)
            stamps = [",".join(line.split(",")[:2]) for line in own]
            pairs[sensor] = [
                own[0],
                *(",".join([stamps[i - (i - 1) % 2], *line.split(",")[2:]]) for i, line in enumerate(own[1:], 1)),
            ]
        made = windows(write_ton_iot(tmp_path, pairs), ":sensors=Weather+GPS_Tracker")

        normal = [line.split(",") for line in pairs["GPS_Tracker"] if line.endswith("normal")]
        assert made.report.unpaired == 0
        assert made.readings[0, :, 3].tolist() == [float(row[2]) for row in normal[:4]]


class TestRefusals:
    def test_types_with_too_few_windows_are_named(self, tmp_path: Path) -> None:
        own = lines("Weather")
        short = [line for i, line in enumerate(own) if not line.endswith("scanning") or i % 3]
        made = windows(write_ton_iot(tmp_path, {"Weather": short}))

        assert made.classes == tuple(kind for kind in TYPES if kind != "scanning")
        (one,) = made.report.left_out
        assert one.type == "scanning"
        assert re.fullmatch(
            r"\d, 1 and 1 windows for training, validation and tests, in 40 rows; expected at least 2 of each",
            one.reason,
        )

    def test_empty_windows(self, folder: Path) -> None:
        problems = said(folder, "window=60")

        assert problems[0] == (
            f"{folder}: fewer than two types have enough windows of 60 rows of Weather; choose other sensors or a "
            "smaller window"
        )
        assert problems[1] == (
            f"{folder}: normal: 0, 0 and 0 windows for training, validation and tests, in 60 rows; expected at "
            "least 2 of each"
        )
        assert len(problems) == 1 + len(TYPES)

    def test_options(self, folder: Path) -> None:
        """All wrong options are named at once."""
        problems = said(
            folder, "window=1", "stride=few", "split=halves", "sensors=Weather+Toaster", "colour=3", "window=2"
        )

        assert problems[0] == "ton-iot: window occurs 2 times; give it once"
        assert sorted(problems[1:]) == [
            "ton-iot: colour is not a known entry; correct its name, or remove it",
            "ton-iot: sensors.1 is 'Toaster'; expected 'Fridge', 'GPS_Tracker', 'Garage_Door', 'Modbus', "
            "'Motion_Light', 'Thermostat' or 'Weather'",
            "ton-iot: split is 'halves'; expected 'blocks', 'time' or 'random'",
            "ton-iot: stride is 'few'; expected a whole number",
        ]
        assert said(folder, "window=1") == ["ton-iot: window is '1'; expected greater than or equal to 2"]
        assert said(folder, "sensors=Weather+Weather") == [
            "ton-iot: sensors is Weather+Weather; name each sensor once"
        ]

    def test_a_shape_smaller_than_a_window(self, folder: Path) -> None:
        with pytest.raises(ClovenError, match="got 8 x 2 pixels; expected at least 4 x 3"):
            load(f"ton-iot:{folder}:window=4", shape=(1, 8, 2))

    def test_a_folder_is_needed(self) -> None:
        with pytest.raises(ClovenError, match="ton-iot needs a folder"):
            parsed("ton-iot::window=3")


class TestDataSet:
    def test_spec(self) -> None:
        """Options follow the folder, whose own name may have colons; other kinds have none."""
        assert parsed("ton-iot:a:b/c:window=3:split=time") == DataSetSpec(
            "ton-iot", Path("a:b/c"), (("window", "3"), ("split", "time"))
        )
        assert parsed("folder:a:window=3").folder == Path("a:window=3")

    def test_split_and_test_half_keep_the_parts(self, folder: Path) -> None:
        images = load(f"ton-iot:{folder}:window=4")
        parts = split(images, seed=3)

        assert [set(np.unique(part.part).tolist()) for part in parts if part.part is not None] == [{0}, {1}, {2}]
        assert sum(map(len, parts)) == len(images)
        assert set(half_for_tests(images).sources) == set(parts[2].sources)
        assert parts[0].sources != split(images, seed=4)[0].sources
        first = parts[2].take(range(8)).labels
        assert first is not None
        assert len(set(first.tolist())) > 2  # in random order

    def test_labels_and_classes(self, folder: Path) -> None:
        images = load(f"ton-iot:{folder}:window=4")

        assert images.classes == TYPES
        assert images.name == "ton-iot:Weather"
        assert images.labels is not None
        assert [images.classes[i] for i in images.labels] == [source.split()[0] for source in images.sources]
        assert load(f"ton-iot:{folder}:window=4:sensors=Fridge").classes == tuple(types_of("Fridge"))

    def test_a_limit_keeps_all_classes_and_parts(self, folder: Path) -> None:
        images = load(f"ton-iot:{folder}:window=4", limit=48)

        assert images.labels is not None
        assert images.part is not None
        assert len(set(zip(images.labels.tolist(), images.part.tolist(), strict=True))) == 3 * len(TYPES)

    def test_originals(self, folder: Path) -> None:
        images = load(f"ton-iot:{folder}:window=4")
        assert images.part is not None

        assert originals(f"ton-iot:{folder}:window=4").split == tuple(np.bincount(images.part).tolist())

    def test_missing_and_dropped_rows_are_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write_ton_iot(tmp_path)
        (tmp_path / file_of("Fridge")).write_bytes(content([*lines("Fridge"), "nothing"]))
        load(f"ton-iot:{tmp_path}:window=4")

        fewer, dropped = caplog.messages
        assert fewer.startswith(f"{tmp_path}: fewer rows than in the published files: {file_of('Fridge')}, ")
        assert dropped == f"{tmp_path}: rows that cannot be read were left out (1); cloven data lists them"


def test_parts_are_checked() -> None:
    pixels, none = np.zeros((2, 1, 2, 2), np.uint8), ("a", "b")
    with pytest.raises(ClovenError, match=r"part: got 0 to 3, expected 0 to 2"):
        Images("set", pixels, None, (), none, np.array([0, 3]))
    with pytest.raises(ClovenError, match=r"part: got int64 \(1,\), expected int64 \(2,\)"):
        Images("set", pixels, None, (), none, np.array([0]))


@pytest.mark.slow
def test_the_published_files(data: str) -> None:
    """Weather has all types; every reading of the training part is decoded exactly."""
    made = read_windows(Path(data) / "ton-iot", WindowSettings())

    assert made.classes == TYPES
    assert made.report.rows == 261_119
    assert made.report.merged == 39_260
    back = made.encoder.decode(made.encoder.encode(made.readings))
    outside = sum(one.outside_validation + one.outside_test for one in made.report.features)
    assert int((back != made.readings).sum()) == outside
