"""Oxford Flowers 102: torchvision's layout, labels from MATLAB, and what is said of sets that are not whole."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cloven.errors import ClovenError
from cloven.zoo.datasets import load
from cloven.zoo.mat import read_numbers

LABELS = [77, 1, 102, 77, 1, 77]
SHAPE = (3, 8, 8)


def write_labels(file: Path, labels: Any, **more: Any) -> None:
    """A MAT-file as Oxford's: one row of numbers."""
    import scipy.io

    scipy.io.savemat(file, {"labels": labels, **more})


def write_flowers(place: Path, labels: list[int] = LABELS) -> Path:
    """Images of several sizes; image i is grey of value 10 i."""
    (place / "jpg").mkdir(parents=True)
    for i in range(1, len(labels) + 1):
        Image.new("RGB", (20 + i, 16), (10 * i,) * 3).save(place / "jpg" / f"image_{i:05}.jpg")
    write_labels(place / "imagelabels.mat", np.array([labels], np.uint8))
    return place


def said(folder: Path, **options: Any) -> list[str]:
    """What loading complains of, a line each."""
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
        """cat_to_name.json names the classes; beside flowers-102 it is found too."""
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
            f"{tmp_path}/cat_to_name.json: has no name for 101 of the classes 1 to 102, 2 among them; "
            "complete it or remove it",
        ]

    def test_ten_are_told(self, tmp_path: Path) -> None:
        """Of many missing images the first are named, the others counted."""
        place = write_flowers(tmp_path, [1] * 30)
        for file in (place / "jpg").iterdir():
            file.unlink()
        problems = said(place)

        assert len(problems) == 11
        assert problems[1] == f"{place}/jpg/image_00001.jpg: is missing, but has a label; fetch it again"
        assert problems[-1] == "... and 21 more"

    def test_broken_images(self, tmp_path: Path) -> None:
        """All that cannot be decoded are told, as of a folder."""
        jpg = write_flowers(tmp_path) / "jpg"
        (jpg / "image_00002.jpg").write_bytes(b"no picture")
        whole = (jpg / "image_00005.jpg").read_bytes()
        (jpg / "image_00005.jpg").write_bytes(whole[: len(whole) - 40])
        no_picture, truncated = said(tmp_path)

        assert no_picture == f"{jpg}/image_00002.jpg: is not a picture that can be read; remove it or replace it"
        assert truncated.startswith(f"{jpg}/image_00005.jpg: cannot be decoded (")

    def test_not_unpacked(self, tmp_path: Path) -> None:
        """An archive is not read: what was looked for says so."""
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

    @pytest.mark.parametrize(
        "labels",
        [
            "letters",
            np.zeros((1, 0)),
            np.array([[1.5, 2]]),
            np.array([[np.nan, 1]]),
            np.array([[1e300, 1]]),
            np.array([[1j, 2]]),
            np.zeros((400, 400), np.uint8),
            {"a": 1},
            np.array([[True, False]], object),
        ],
    )
    def test_labels_of_another_kind(self, tmp_path: Path, labels: Any) -> None:
        """What are no whole numbers, or too many, is told with what was expected."""
        write_labels(write_flowers(tmp_path) / "imagelabels.mat", labels)
        (line,) = said(tmp_path)

        assert line.startswith(f"{tmp_path}/imagelabels.mat: ")
        assert line.endswith("expected 'labels', 1 to 99,999 whole numbers; fetch it again")

    def test_other_variables(self, tmp_path: Path) -> None:
        """A MAT-file of something else."""
        import scipy.io

        scipy.io.savemat(write_flowers(tmp_path) / "imagelabels.mat", {"trnid": [1, 2]})

        assert said(tmp_path)[0].startswith(f"{tmp_path}/imagelabels.mat: has no variable 'labels'; expected")

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"", "is empty"),
            (b"x", "is not a MAT-file of MATLAB 5 to 7.2; expected"),
            (b"MATLAB" * 40, "is not a MAT-file of MATLAB 5 to 7.2; expected"),
            (b"\x89HDF\r\n\x1a\n" * 40, "is an HDF5 file, as Keras and MATLAB 7.3 write them"),
        ],
    )
    def test_no_mat_file(self, tmp_path: Path, content: bytes, told: str) -> None:
        """A file that is none, or of the HDF kind of MATLAB 7.3."""
        (write_flowers(tmp_path) / "imagelabels.mat").write_bytes(content)

        assert said(tmp_path)[0].startswith(f"{tmp_path}/imagelabels.mat: {told}")

    @given(at=st.integers(0, 500), byte=st.integers(0, 255), cut=st.integers(0, 600))
    def test_damaged_mat_file(self, tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, cut: int) -> None:
        """Whatever a byte changes or a cut leaves, nothing but a ClovenError is raised."""
        place = write_flowers(tmp_path_factory.mktemp("damaged"))
        content = bytearray((place / "imagelabels.mat").read_bytes())
        content[at % len(content)] = byte
        (place / "imagelabels.mat").write_bytes(content[: max(cut, len(content) - cut)])
        with contextlib.suppress(ClovenError):
            load(f"flowers102:{place}", shape=SHAPE)

    @pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, "\ud800", '{"1": 1}'])
    def test_bad_names(self, tmp_path: Path, content: str) -> None:
        """A cat_to_name.json that names nothing is an error, not passed over."""
        (write_flowers(tmp_path) / "cat_to_name.json").write_bytes(content.encode("utf-8", "surrogatepass"))
        (line,) = said(tmp_path)

        assert f"{tmp_path}/cat_to_name.json" in line


class TestMatFiles:
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
    def test_every_type(self, tmp_path: Path, dtype: str, compressed: bool) -> None:
        """Numbers of every type come back as scipy wrote them, also behind another variable."""
        import scipy.io

        values = np.arange(1, 104).astype(dtype)
        content = {"note": "text", "other": np.ones((3, 3)), "labels": values[None]}
        scipy.io.savemat(tmp_path / "a.mat", content, do_compression=compressed)

        assert (read_numbers(tmp_path / "a.mat", "labels") == values).all()

    def test_as_matlab_wrote_them(self) -> None:
        """The files from MATLAB that scipy is tested with: packed doubles, and compressed ones."""
        import scipy.io

        folder = Path(scipy.io.matlab.__path__[0]) / "tests" / "data"
        own = sorted(folder.glob("testdouble_[67]*.mat"))
        if not own:
            pytest.skip("scipy was installed without its tests")
        for file in own:
            assert np.allclose(read_numbers(file, "testdouble"), np.arange(9) * np.pi / 4)

    def test_many_small_bombs(self, tmp_path: Path) -> None:
        """The bound is on all variables together."""
        import scipy.io

        names = ("a", "b", "c", "d", "labels")
        scipy.io.savemat(
            tmp_path / "a.mat", {name: np.zeros((1, 2**22), np.uint8) for name in names}, do_compression=True
        )
        with pytest.raises(ClovenError, match=r"a\.mat: unpacks to more than 16,777,216 bytes"):
            read_numbers(tmp_path / "a.mat", "labels")

    def test_a_bomb(self, tmp_path: Path) -> None:
        """A variable that decompresses to more than labels could be is not decompressed."""
        import scipy.io

        scipy.io.savemat(tmp_path / "a.mat", {"labels": np.zeros((1, 2**25), np.uint8)}, do_compression=True)
        with pytest.raises(ClovenError, match=r"a\.mat: unpacks to more than 16,777,216 bytes"):
            read_numbers(tmp_path / "a.mat", "labels")
