"""``cloven data``: the table, JSON, the preview, and bad input."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cloven.reporting.preview import CLASSES, SampledClass, preview
from cloven.zoo.data_description import DataSetDescription
from cloven.zoo.ton_iot import file_of
from tests.cli.conftest import Run
from tests.zoo.ton_iot_files import ROWS, content, lines, types_of, write_ton_iot


def test_a_set_of_pictures(cloven: Run, tmp_path: Path) -> None:
    done = cloven("data", "digits", "--preview", tmp_path / "digits.png")

    assert done.code == 0
    assert "digits: 1,797 images of 1x28x28; classes: 10" in done.out
    assert "A pixel is a level of grey from 0 (black) to 255 (white)." in done.out
    assert "training" not in done.out
    with Image.open(tmp_path / "digits.png") as picture:
        assert picture.size[1] > 10 * 28


def test_a_set_without_labels(cloven: Run, tmp_path: Path) -> None:
    done = cloven("data", "photos", "--shape", "3x16x16", "--preview", tmp_path / "photos.png", "--json")

    found = DataSetDescription.model_validate_json(done.out)
    assert (found.images, found.classes, found.telemetry) == (2000, (), None)
    assert (tmp_path / "photos.png").read_bytes().startswith(b"\x89PNG")


def test_telemetry(cloven: Run, tmp_path: Path) -> None:
    folder = write_ton_iot(tmp_path / "ton-iot")
    fridge = folder / file_of("Fridge")
    fridge.write_bytes(content([*lines("Fridge"), "nothing"]))
    spec = f"ton-iot:{folder}:sensors=Weather+Fridge:window=4"
    done = cloven("data", spec, "--preview", tmp_path / "preview.png")
    found = DataSetDescription.model_validate_json(cloven("data", spec, "--json").out)

    assert done.code == 0
    shown = " ".join(done.out.split())
    assert "temperature, pressure, humidity, fridge_temperature, temp_condition=low, temp_condition=high" in shown
    assert "Fridge wrong number of fields 1 422 dropped" in shown
    assert "scanning is left out: no rows of Fridge." in shown
    assert found.telemetry is not None
    assert f"{found.telemetry.rows:,} rows of 8 types" in shown
    assert [one.name for one in found.classes] == types_of("Fridge")
    for one in found.classes:
        counts = [part.images for part in one.parts]
        assert [part.part for part in one.parts] == ["training", "validation", "test"]
        assert sum(counts) == one.images
        assert f"{one.name} {one.images} {' '.join(map(str, counts))}" in shown
    assert found.telemetry.merged == ROWS * len(found.classes)
    assert (tmp_path / "preview.png").exists()


def test_all_problems_of_the_files_are_one_message(cloven: Run, tmp_path: Path) -> None:
    folder = write_ton_iot(tmp_path / "ton-iot")
    (folder / file_of("Fridge")).unlink()
    cut = (folder / file_of("Modbus")).read_bytes()
    (folder / file_of("Modbus")).write_bytes(cut[:-9])
    own = lines("Weather")
    (folder / file_of("Weather")).write_bytes(content([f"{own[0]},wind", *own[1:]]))
    done = cloven("data", f"ton-iot:{folder}", "--preview", tmp_path / "preview.png")

    assert done.code == 2
    fridge, modbus, weather = done.err.splitlines()
    assert "Fridge.csv: is missing" in fridge
    assert "Modbus.csv: is truncated" in modbus
    assert "Weather.csv: its header has 'wind'" in weather
    assert not (tmp_path / "preview.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("ton-iot:there:window=40",), "fewer than two types have enough windows of 40 rows of Weather"),
        (("ton-iot:there:window=0",), "ton-iot: window is '0'; expected greater than or equal to 2"),
        (("ton-iot:none",), "there is no such folder"),
        (("ton-iot:there:window=4", "--shape", "1x2x2"), "got 2 x 2 pixels; expected at least 4 x 3"),
        (("digits", "--shape", "8x8"), "--shape is '8x8'; expected 3 numbers such as 1x64x64"),
        (("digits", "--preview", "digits.jpg"), "--preview must name a .png file, got digits.jpg"),
        (("digit",), "unknown data set 'digit'; did you mean digits?"),
    ],
)
def test_bad_input(cloven: Run, here: Path, options: tuple[str, ...], message: str) -> None:
    write_ton_iot(here / "there")
    done = cloven("data", *options, "--json")

    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_preview_that_cannot_be_written(cloven: Run, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    done = cloven("data", "digits", "--preview", tmp_path / "folder.png")

    assert done.code == 2
    assert "it is a folder" in done.err


def test_a_preview_shows_each_class_and_what_a_pixel_means() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 3, 10, 20), np.uint8)
    classes = [SampledClass(f"class {i}\n\x1b[2J\U0001f600" * 9, "3 images", images) for i in range(CLASSES + 1)]
    few, many = (
        Image.open(BytesIO(preview("a title", some, "A pixel is a level of something.")))
        for some in (classes[:2], classes)
    )

    assert few.mode == "RGB"
    assert few.width == many.width
    assert few.height < many.height / 4
    large = Image.fromarray(images[0].transpose(1, 2, 0)).resize((80, 40), Image.Resampling.NEAREST)
    assert any(
        np.array_equal(np.asarray(few)[top : top + 40, 190:270], np.asarray(large))
        for top in range(few.height - 40)
    )


def test_a_preview_of_large_images_is_reduced() -> None:
    (tall,) = np.zeros((1, 1, 1, 1000, 10), np.uint8)
    with Image.open(BytesIO(preview("", [SampledClass("a", "", tall)], ""))) as picture:
        assert picture.height < 400


def test_json_has_no_other_output(cloven: Run) -> None:
    assert json.loads(cloven("data", "digits", "--json").out)["images"] == 1797
