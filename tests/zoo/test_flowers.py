"""Oxford Flowers 102: torchvision's layout, labels from MATLAB, and the errors of incomplete data sets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from cloven.errors import ClovenError
from cloven.zoo import flowers
from cloven.zoo.datasets import load

LABELS = [77, 1, 102, 77, 1, 77]
SHAPE = (3, 8, 8)


def write_labels(file: Path, labels: Any, **more: Any) -> None:
    """Write a MAT-file like Oxford's, with one row of numbers, and replace the expected digest."""
    scipy.io.savemat(file, {"labels": labels, **more})
    flowers.LABELS_MD5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def write_flowers(place: Path, labels: list[int] = LABELS) -> Path:
    """Images of several sizes; image i is grey of value 10 i."""
    (place / "jpg").mkdir(parents=True)
    for i in range(1, len(labels) + 1):
        Image.new("RGB", (20 + i, 16), (10 * i,) * 3).save(place / "jpg" / f"image_{i:05}.jpg")
    write_labels(place / "imagelabels.mat", np.array([labels], np.uint8))
    return place


def said(folder: Path, **options: Any) -> list[str]:
    """Return the problems that loading reports."""
    with pytest.raises(ClovenError) as caught:
        load(f"flowers102:{folder}", **({"shape": SHAPE} | options))
    return list(caught.value.problems)


class TestLayout:
    @pytest.mark.parametrize("below", ["", "flowers-102"])
    def test_all(self, tmp_path: Path, below: str) -> None:
        """Images in the order of their numbers with the labels of the same place, from 0."""
        write_flowers(tmp_path / below)
        images = load(f"flowers102:{tmp_path}", shape=SHAPE)

        assert (images.name, images.shape, len(images)) == ("flowers102", SHAPE, 6)
        assert images.labels is not None
        assert images.labels.tolist() == [76, 0, 101, 76, 0, 76]
        assert images.classes == tuple(str(i) for i in range(1, 103))
        assert images.sources[2] == "jpg/image_00003.jpg"
        assert np.abs(images.pixels[:, 0, 4, 4].astype(int) - [10, 20, 30, 40, 50, 60]).max() <= 1

    def test_same_pixels_as_a_folder(self, tmp_path: Path) -> None:
        """They are converted as pictures of a folder are."""
        rng = np.random.default_rng(0)
        write_flowers(tmp_path)
        Image.fromarray(rng.integers(0, 256, (31, 17, 3), np.uint8)).save(tmp_path / "jpg" / "image_00004.jpg")
        ours, theirs = (load(spec, shape=SHAPE) for spec in (f"flowers102:{tmp_path}", f"folder:{tmp_path}/jpg"))

        assert (ours.pixels == theirs.pixels).all()

    @pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
    @pytest.mark.parametrize("column", [False, True])
    def test_labels_as_matlab_writes_them(self, tmp_path: Path, dtype: type, column: bool) -> None:
        """A row or a column, of bytes or of MATLAB's own doubles."""
        values: NDArray[Any] = np.array([LABELS], dtype)
        write_labels(write_flowers(tmp_path) / "imagelabels.mat", values.T if column else values)
        labels = load(f"flowers102:{tmp_path}", shape=SHAPE).labels

        assert labels is not None
        assert (labels + 1).tolist() == LABELS

    def test_names(self, tmp_path: Path) -> None:
        """cat_to_name.json names the classes; it may be next to flowers-102."""
        write_flowers(tmp_path / "flowers-102")
        (tmp_path / "cat_to_name.json").write_text(json.dumps({str(i): f"flower {i}" for i in range(1, 103)}))
        images = load(f"flowers102:{tmp_path}", shape=SHAPE)

        assert images.labels is not None
        assert [images.classes[i] for i in images.labels[:3]] == ["flower 77", "flower 1", "flower 102"]

    def test_limit_opens_no_more(self, tmp_path: Path) -> None:
        """A limit spreads over the classes; images beyond it are not opened."""
        write_flowers(tmp_path)
        kept = load(f"flowers102:{tmp_path}", shape=SHAPE, limit=3).sources
        for file in (tmp_path / "jpg").iterdir():
            if f"jpg/{file.name}" not in kept:
                file.write_bytes(b"broken")
        again = load(f"flowers102:{tmp_path}", shape=SHAPE, limit=3)

        assert again.sources == kept
        assert again.labels is not None
        assert sorted(again.labels.tolist()) == [0, 76, 101]

    def test_no_shape(self, tmp_path: Path) -> None:
        """Flowers have many sizes: one must be given."""
        (line,) = said(write_flowers(tmp_path), shape=None)

        assert "has pictures of 6 sizes (jpg/image_00001.jpg is 21 x 16, jpg/image_00002.jpg is 22 x 16)" in line
        assert line.endswith("give an input size: channels, height, width")


class TestProblems:
    def test_all_at_once(self, tmp_path: Path) -> None:
        """Counts, labels out of range, missing images, images without a label, and the names, in one error."""
        write_flowers(tmp_path, [1, 0, 103, 4])
        (tmp_path / "jpg" / "image_00002.jpg").unlink()
        for number in (5, 9):
            Image.new("RGB", (4, 4)).save(tmp_path / "jpg" / f"image_{number:05}.jpg")
        (tmp_path / "cat_to_name.json").write_text('{"1": "rose"}')

        assert said(tmp_path) == [
            f"{tmp_path}: imagelabels.mat has 4 labels, but jpg has 5 images; fetch both again",
            f"{tmp_path}/imagelabels.mat: the label of image_00002.jpg is 0, expected 1 to 102",
            f"{tmp_path}/imagelabels.mat: the label of image_00003.jpg is 103, expected 1 to 102",
            f"{tmp_path}/jpg/image_00002.jpg: is missing, but has a label; fetch it again",
            f"{tmp_path}/jpg/image_00005.jpg: has no label; remove it",
            f"{tmp_path}/jpg/image_00009.jpg: has no label; remove it",
            f"{tmp_path}/cat_to_name.json: has no name for 101 of the classes 1 to 102, such as 2; "
            "complete it or remove it",
        ]

    def test_ten_are_told(self, tmp_path: Path) -> None:
        """If many images are missing, the error names the first and counts the others."""
        place = write_flowers(tmp_path, [1] * 30)
        for file in (place / "jpg").iterdir():
            file.unlink()
        problems = said(place)

        assert len(problems) == 11
        assert problems[1] == f"{place}/jpg/image_00001.jpg: is missing, but has a label; fetch it again"
        assert problems[-1] == "... and 21 more"

    def test_broken_images(self, tmp_path: Path) -> None:
        """All files that cannot be decoded are listed, as for a folder of pictures."""
        jpg = write_flowers(tmp_path) / "jpg"
        (jpg / "image_00002.jpg").write_bytes(b"no picture")
        whole = (jpg / "image_00005.jpg").read_bytes()
        (jpg / "image_00005.jpg").write_bytes(whole[: len(whole) - 40])
        no_picture, truncated = said(tmp_path)

        assert no_picture == f"{jpg}/image_00002.jpg: is not a picture that can be read; remove it or replace it"
        assert truncated.startswith(f"{jpg}/image_00005.jpg: cannot be decoded (")

    def test_not_unpacked(self, tmp_path: Path) -> None:
        """An archive is not unpacked: the error says which files were expected."""
        (tmp_path / "102flowers.tgz").touch()

        assert said(tmp_path) == [
            f"{tmp_path}: looked for jpg (102flowers.tgz, unpacked) and imagelabels.mat (here or in flowers-102); "
            "found 102flowers.tgz"
        ]

    def test_half_of_the_layout(self, tmp_path: Path) -> None:
        """Images without labels, and labels without images."""
        place = write_flowers(tmp_path / "a")
        (place / "imagelabels.mat").rename(tmp_path / "imagelabels.mat")

        assert said(place) == [f"{place}: looked for imagelabels.mat; found jpg"]
        assert said(tmp_path) == [f"{tmp_path}: looked for jpg; found a, imagelabels.mat"]

    @pytest.mark.parametrize("content", [b"", b"x", b"MATLAB" * 40, b"\x89HDF\r\n\x1a\n" * 40])
    def test_another_file_of_labels_is_refused_before_it_is_parsed(self, tmp_path: Path, content: bytes) -> None:
        """A damaged MAT-file can crash scipy, and with it Python."""
        (write_flowers(tmp_path) / "imagelabels.mat").write_bytes(content)

        assert said(tmp_path) == [
            f"{tmp_path}/imagelabels.mat: is not the file that Oxford distributes (its MD5 differs); fetch it "
            "again, or give your own pictures as folder:DIR with one folder per class"
        ]

    def test_one_wrong_byte_is_enough(self, tmp_path: Path) -> None:
        """A file of labels that someone else wrote is refused too."""
        file = write_flowers(tmp_path) / "imagelabels.mat"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)

        assert "its MD5 differs" in said(tmp_path)[0]

    @pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, "\ud800", '{"1": 1}'])
    def test_bad_names(self, tmp_path: Path, content: str) -> None:
        """A cat_to_name.json without names is an error, and is not ignored."""
        (write_flowers(tmp_path) / "cat_to_name.json").write_bytes(content.encode("utf-8", "surrogatepass"))
        (line,) = said(tmp_path)

        assert f"{tmp_path}/cat_to_name.json" in line
