"""Data sets by name: specs, MNIST's and CIFAR-10's files, the digits and the photographs."""

from __future__ import annotations

import contextlib
import gzip
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.zoo import idx, photos
from cloven.zoo.cifar import CLASSES
from cloven.zoo.datasets import load
from cloven.zoo.images import split
from cloven.zoo.pixels import to_pixels

PROPERTY = settings(deadline=None, derandomize=True, max_examples=50)
COUNTS = {"train": 20, "t10k": 10}


def random_pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


def write_mnist(raw: Path, *, zipped: bool = False) -> Path:
    """Write the four files with few images; all pixels of image i of a half are i, and its label is i % 10."""
    raw.mkdir(parents=True, exist_ok=True)
    for half, count in COUNTS.items():
        numbers = np.arange(count, dtype=np.uint8)
        pixels = np.broadcast_to(numbers[:, None, None], (count, 28, 28))
        for name, values in (("images-idx3", pixels), ("labels-idx1", numbers % 10)):
            content = idx_bytes(values)
            file = raw / f"{half}-{name}-ubyte"
            if zipped:
                file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(content))
            else:
                file.write_bytes(content)
    return raw


def write_cifar(folder: Path, *names: str, count: int = 10) -> Path:
    """Write binary batches; the label of record i is i % 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        records = random_pixels(count, 3073)
        records[:, 0] = np.arange(count) % 10
        (folder / name).write_bytes(records.tobytes())
    return folder


def write_pickle(file: Path, batch: Any, protocol: int = 2) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(batch, protocol))


def said(spec: str, **options: Any) -> str:
    """Return the error message of loading."""
    with pytest.raises(ClovenError) as caught:
        load(spec, **options)
    return str(caught.value)


class TestSpecs:
    def test_unknown(self) -> None:
        """An unknown kind lists the known ones."""
        known = "choose from cifar10:DIR, digits, flowers102:DIR, folder:DIR, mnist:DIR, photos, ton-iot:DIR"

        assert said("imagenet:x") == f"unknown data set 'imagenet'; {known}"
        assert said("minst:x") == f"unknown data set 'minst'; did you mean mnist? {known}"

    @pytest.mark.parametrize("kind", ["mnist", "cifar10", "folder"])
    @pytest.mark.parametrize("colon", ["", ":"])
    def test_folder_is_missing_from_the_spec(self, kind: str, colon: str) -> None:
        """A kind that lies in a folder shows how to name it."""
        assert said(kind + colon) == f"{kind}{colon}: {kind} needs a folder, e.g. {kind}:data/{kind}"

    @pytest.mark.parametrize("kind", ["digits", "photos"])
    def test_folder_is_not_wanted(self, kind: str) -> None:
        """A kind that is built in takes no folder."""
        assert said(f"{kind}:x") == f"{kind}:x: {kind} takes no folder; write {kind}"

    @pytest.mark.parametrize("limit", [0, -1])
    def test_limit(self, limit: int) -> None:
        """A limit of 0 is refused."""
        assert said("digits", limit=limit) == f"limit: got {limit}, expected at least 1"

    @pytest.mark.parametrize("shape", [(2, 28, 28), (1, 1, 28), (1, 28, 5000), (28, 28), (1, 28.0, 0)])
    def test_shape(self, shape: Any) -> None:
        """A shape that no image can have is refused."""
        message = (
            f"shape: got {shape}, expected (channels, height, width) with 1 or 3 channels and sides of 2 to 4096"
        )

        assert said("digits", shape=shape) == message

    @pytest.mark.parametrize("kind", ["mnist", "cifar10", "folder"])
    def test_no_such_folder(self, kind: str, tmp_path: Path) -> None:
        """A folder that does not exist is named in the error."""
        assert said(f"{kind}:{tmp_path / 'gone'}") == f"{tmp_path / 'gone'}: there is no such folder"

    @pytest.mark.parametrize("kind", ["mnist", "cifar10", "flowers102", "folder"])
    def test_what_the_system_refuses(self, kind: str) -> None:
        """A name that is too long, a folder without permission: the system's reason, not a traceback."""
        assert said(f"{kind}:{'x' * 300}").endswith("cannot be read (File name too long)")

    @pytest.mark.parametrize("kind", ["mnist", "cifar10", "folder"])
    def test_file_for_a_folder(self, kind: str, tmp_path: Path) -> None:
        """A file is given instead of a folder."""
        (tmp_path / "data.zip").write_bytes(b"")

        assert said(f"{kind}:{tmp_path}/data.zip").startswith(
            f"{tmp_path}/data.zip: is a file, expected a folder with"
        )

    def test_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tilde is the home folder, also if no shell has expanded it."""
        monkeypatch.setenv("HOME", str(tmp_path))
        write_mnist(tmp_path / "data")

        assert len(load("mnist:~/data")) == 30


class TestMnist:
    @pytest.mark.parametrize("below", ["", "MNIST/raw", "raw"])
    @pytest.mark.parametrize("zipped", [False, True])
    def test_layouts(self, tmp_path: Path, below: str, zipped: bool) -> None:
        """Plain or gzipped, in the folder or in torchvision's: train and t10k are pooled in this order."""
        write_mnist(tmp_path / below, zipped=zipped)
        images = load(f"mnist:{tmp_path}")
        end = ".gz" if zipped else ""

        assert (images.name, images.classes) == ("mnist", tuple("0123456789"))
        assert images.pixels.shape == (30, 1, 28, 28)
        assert images.pixels[:, 0, 5, 5].tolist() == [*range(20), *range(10)]
        assert images.labels is not None
        assert images.labels.tolist() == [i % 10 for i in range(30)]
        assert images.sources[19] == f"train-images-idx3-ubyte{end}[19]"
        assert images.sources[20] == f"t10k-images-idx3-ubyte{end}[0]"

    def test_limit(self, tmp_path: Path) -> None:
        """A limit keeps the classes in balance, interleaved."""
        images = load(f"mnist:{write_mnist(tmp_path)}", limit=10)

        assert images.labels is not None
        assert images.labels.tolist() == list(range(10))

    def test_shape(self, tmp_path: Path) -> None:
        """Grey becomes colour by repetition, and sizes change."""
        images = load(f"mnist:{write_mnist(tmp_path)}", shape=(3, 32, 16))

        assert images.pixels.shape == (30, 3, 32, 16)
        assert (images.pixels[7] == 7).all()

    @pytest.mark.parametrize("zipped", [False, True])
    def test_truncated(self, tmp_path: Path, zipped: bool) -> None:
        """The error for a truncated file has the numbers of bytes that were expected and got."""
        file = write_mnist(tmp_path, zipped=zipped) / f"t10k-images-idx3-ubyte{'.gz' if zipped else ''}"
        content = idx_bytes(random_pixels(10, 28, 28))
        file.write_bytes(gzip.compress(content)[:-3000] if zipped else content[:-1])
        message = said(f"mnist:{tmp_path}")

        assert message.startswith(f"{file}: is truncated: expected 7,856 bytes, got ")
        got = int(message.split("got ")[1].split(";")[0].replace(",", ""))
        assert 4000 < got < 5500 if zipped else got == 7855

    @pytest.mark.parametrize("zipped", [False, True])
    def test_too_long(self, tmp_path: Path, zipped: bool) -> None:
        """A file that is too long is not read to its end."""
        file = write_mnist(tmp_path, zipped=zipped) / f"train-labels-idx1-ubyte{'.gz' if zipped else ''}"
        content = idx_bytes(np.zeros(20, np.uint8)) + bytes(10**6)
        file.write_bytes(gzip.compress(content) if zipped else content)

        assert said(f"mnist:{tmp_path}") == f"{file}: is too long: expected 28 bytes, got more; fetch it again"

    def test_nothing_beyond_the_announced_is_decompressed(self, tmp_path: Path) -> None:
        """A small gzip file that unpacks to a gigabyte costs what its header announces."""
        file = write_mnist(tmp_path, zipped=True) / "train-labels-idx1-ubyte.gz"
        with gzip.open(file, "wb", compresslevel=1) as stream:
            stream.write(idx_bytes(np.zeros(20, np.uint8)))
            for _ in range(64):
                stream.write(bytes(2**20))
        read = []
        original = gzip.GzipFile.read1

        def counted(self: gzip.GzipFile, size: int = -1) -> bytes:
            piece = original(self, size)
            read.append(len(piece))
            return piece

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gzip.GzipFile, "read1", counted)
            said(f"mnist:{tmp_path}")

        assert sum(read) < 20_000

    def test_short_header(self, tmp_path: Path) -> None:
        """An empty file is truncated too."""
        file = write_mnist(tmp_path) / "train-images-idx3-ubyte"
        file.write_bytes(b"\0\0\x08")

        assert said(f"mnist:{tmp_path}") == f"{file}: is truncated: expected a header of 16 bytes, got 3"

    def test_magic(self, tmp_path: Path) -> None:
        """Labels in place of images are detected."""
        raw = write_mnist(tmp_path)
        labels = (raw / "train-labels-idx1-ubyte").read_bytes()
        (raw / "train-images-idx3-ubyte").write_bytes(labels)

        assert said(f"mnist:{tmp_path}") == (
            f"{raw}/train-images-idx3-ubyte: begins with magic number 2049, expected 2051"
        )

    @pytest.mark.parametrize("shape", [(2**31, 28, 28), (2**32 - 1, 0, 28)])
    def test_absurd_header(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        """A header that announces more than any memory holds, or nothing, is refused unread."""
        file = write_mnist(tmp_path) / "train-images-idx3-ubyte"
        file.write_bytes(struct.pack(">4I", idx.IMAGES, *shape))

        assert "bytes of content, expected 1 to 1,073,741,824" in said(f"mnist:{tmp_path}")

    @pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
    def test_a_pointer(self, tmp_path: Path, name: str) -> None:
        """A clone without Git LFS leaves a pointer in place of the file."""
        raw = write_mnist(tmp_path, zipped=name.endswith(".gz"))
        (raw / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")

        assert (
            said(f"mnist:{tmp_path}")
            == f"{raw / name}: is a Git LFS pointer, not the file itself; run: git lfs pull"
        )

    def test_counts_disagree(self, tmp_path: Path) -> None:
        """The numbers of labels and images must be equal."""
        raw = write_mnist(tmp_path)
        (raw / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(9, np.uint8)))

        assert said(f"mnist:{tmp_path}") == (
            f"{raw}: t10k-images-idx3-ubyte has 10 images, but t10k-labels-idx1-ubyte has 9 labels"
        )

    def test_label_out_of_range(self, tmp_path: Path) -> None:
        """The error for a label above 9 has its place."""
        raw = write_mnist(tmp_path)
        (raw / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.array([1] * 9 + [10], np.uint8)))

        assert said(f"mnist:{tmp_path}") == f"{raw}/t10k-labels-idx1-ubyte: label 9 is 10, expected 0 to 9"

    def test_sizes_disagree(self, tmp_path: Path) -> None:
        """Both halves have images of one size."""
        raw = write_mnist(tmp_path)
        (raw / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(random_pixels(10, 20, 28)))

        assert "train and t10k have images of different sizes, [(20, 28), (28, 28)]" in said(f"mnist:{tmp_path}")

    def test_half_is_missing(self, tmp_path: Path) -> None:
        """All four files are needed; the error lists the files in the folder."""
        (write_mnist(tmp_path) / "t10k-labels-idx1-ubyte").unlink()

        assert said(f"mnist:{tmp_path}") == (
            f"{tmp_path}: looked for t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz; "
            "found t10k-images-idx3-ubyte, train-images-idx3-ubyte, train-labels-idx1-ubyte"
        )

    def test_wrong_folder(self, tmp_path: Path) -> None:
        """The error for a folder of other files has the expected names, the folder and a few of its files."""
        for name in "gfedcba":
            (tmp_path / name).mkdir()

        assert said(f"mnist:{tmp_path}") == (
            f"{tmp_path}: looked for train-images-idx3-ubyte or train-images-idx3-ubyte.gz "
            "(here, in MNIST/raw or in raw); found a, b, c, d, e and 2 more"
        )

    def test_no_gzip(self, tmp_path: Path) -> None:
        """A web page saved as .gz is not taken for data."""
        file = write_mnist(tmp_path, zipped=True) / "train-images-idx3-ubyte.gz"
        file.write_bytes(b"<!DOCTYPE html>")

        assert said(f"mnist:{tmp_path}").startswith(f"{file}: is a web page or an XML document")

    def test_damaged_gzip(self, tmp_path: Path) -> None:
        """A flipped bit fails gzip's own checks."""
        file = write_mnist(tmp_path, zipped=True) / "train-images-idx3-ubyte.gz"
        content = bytearray(gzip.compress(idx_bytes(random_pixels(20, 28, 28))))
        content[5000] ^= 1
        file.write_bytes(content)

        assert said(f"mnist:{tmp_path}").startswith(f"{file}: is not an intact gzip file (")

    def test_a_bomb(self, tmp_path: Path) -> None:
        """A small gzip file unpacks to as much as its header announces, which no such data set could be."""
        file = write_mnist(tmp_path, zipped=True) / "train-images-idx3-ubyte.gz"
        with gzip.open(file, "wb", compresslevel=1) as stream:
            stream.write(struct.pack(">4I", idx.IMAGES, 2**20, 28, 28))
            stream.write(bytes(2**20))

        assert said(f"mnist:{tmp_path}") == (
            f"{file}: announces 822,083,584 bytes of content, expected 1 to 67,108,864"
        )

    @PROPERTY
    @given(content=st.binary(max_size=60))
    def test_any_bytes(self, content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Whatever the files contain, only a ClovenError is raised."""
        raw = write_mnist(tmp_path_factory.mktemp("any"), zipped=True)
        (raw / "train-images-idx3-ubyte.gz").write_bytes(content)

        said(f"mnist:{raw}")


class Run:
    """An object that creates a folder if the standard unpickler loads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


class TestCifar10:
    @pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
    def test_binary(self, tmp_path: Path, below: str) -> None:
        """Existing batches are pooled in order; a record has the label, then red, green and blue."""
        folder = write_cifar(tmp_path / below, "test_batch.bin", "data_batch_2.bin")
        images = load(f"cifar10:{tmp_path}")
        records = np.fromfile(folder / "test_batch.bin", np.uint8).reshape(10, 3073)

        assert (images.name, images.classes) == ("cifar10", CLASSES)
        assert images.pixels.shape == (20, 3, 32, 32)
        assert images.labels is not None
        assert images.labels.tolist() == [*range(10), *range(10)]
        assert images.sources[0] == "data_batch_2.bin[0]"
        assert images.sources[10] == "test_batch.bin[0]"
        assert np.array_equal(images.pixels[13, 1, 2], records[3, 1 + 1024 + 64 :][:32])

    @pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
    @pytest.mark.parametrize("protocol", range(2, 6))
    @pytest.mark.parametrize("of_bytes", [True, False])
    def test_python(self, tmp_path: Path, below: str, protocol: int, of_bytes: bool) -> None:
        """Pickles of every protocol that a dict with an array can be written in, keys bytes or text."""
        values = random_pixels(5, 3072)
        batch: dict[str, Any] = {"batch_label": b"one of 5", "data": values, "labels": [3, 1, 4, 1, 5]}
        if of_bytes:
            write_pickle(tmp_path / below / "data_batch_1", {k.encode(): v for k, v in batch.items()}, protocol)
        else:
            write_pickle(tmp_path / below / "data_batch_1", batch, protocol)
        images = load(f"cifar10:{tmp_path}")

        assert np.array_equal(images.pixels.reshape(5, 3072), values)
        assert images.labels is not None
        assert images.labels.tolist() == [3, 1, 4, 1, 5]
        assert images.sources[4] == "data_batch_1[4]"

    def test_python_2(self, tmp_path: Path) -> None:
        """The pickles that are published were written by Python 2, with byte strings and numpy's old names."""
        raw = random_pixels(1, 3072)
        (tmp_path / "test_batch").write_bytes(
            b"\x80\x02}(U\x04dataqU"[:-2]
            + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            + b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
            + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
            + struct.pack("<i", 3072)
            + raw.tobytes()
            + b"tbU\x06labels](K\x07eu."
        )
        images = load(f"cifar10:{tmp_path}")

        assert np.array_equal(images.pixels.reshape(1, 3072), raw)
        assert images.labels is not None
        assert images.labels.tolist() == [7]

    @pytest.mark.parametrize("protocol", range(6))
    def test_malicious_pickle_is_not_run(self, tmp_path: Path, protocol: int) -> None:
        """A global that arrays do not need is refused by name, and its code is not run."""
        victim = tmp_path / "made by the pickle"
        write_pickle(tmp_path / "data_batch_1", {"data": Run(victim), "labels": [1]}, protocol)

        message = said(f"cifar10:{tmp_path}")

        assert message.startswith(
            f"{tmp_path}/data_batch_1: names the global '{os.mkdir.__module__}.mkdir', which no"
        )
        assert "nothing was run" in message
        assert not victim.exists()
        pickle.loads((tmp_path / "data_batch_1").read_bytes())
        assert victim.exists(), "the pickle of this test does what it should not"

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("builtins.eval", b"cbuiltins\neval\n(S'1'\ntR."),
            ("__builtin__.eval", b"c__builtin__\neval\n(S'1'\ntR."),
            ("numpy.load", b"cnumpy\nload\n(S'x'\ntR."),
            ("numpy.core.multiarray.scalar", b"cnumpy.core.multiarray\nscalar\n."),
            ("numpy.ndarray.tofile", b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."),
            ("_codecs.lookup", b"c_codecs\nlookup\n."),
            ("cloven.zoo.cifar._Record", b"ccloven.zoo.cifar\n_Record\n."),
        ],
    )
    def test_globals_are_refused(self, tmp_path: Path, name: str, content: bytes) -> None:
        """Neighbours and attributes of admitted globals, and cloven's own names, are refused."""
        (tmp_path / "data_batch_1").write_bytes(content)

        assert f"names the global {name!r}, which" in said(f"cifar10:{tmp_path}")

    @pytest.mark.parametrize(
        "content",
        [
            b"cnumpy\nndarray\n(L99999999999L\ntR.",
            b"cnumpy\ndtype\n(S'O'\ntR}S'kind'\nS'encode'\nsb.",
            b"cnumpy\ndtype\n}S'kind'\nS'x'\nsb.",
            b"\x80\x02cnumpy\nndarray\n)\x81.",
            b"\x80\x02N}U\x04kindU\x01xs\x86cnumpy\ndtype\nq\x01h\x010b.",
            b"c_codecs\nencode\n(S'x'\nS'utf-16'\ntR.",
        ],
    )
    def test_admitted_names_do_nothing(self, tmp_path: Path, content: bytes) -> None:
        """Admitted globals are not called either, and cannot be changed for the next file."""
        bad, good = tmp_path / "bad", tmp_path / "good"
        bad.mkdir()
        (bad / "data_batch_1").write_bytes(content)
        write_pickle(good / "data_batch_1", {"data": random_pixels(1, 3072), "labels": [1]})

        said(f"cifar10:{bad}")
        assert len(load(f"cifar10:{good}")) == 1

    @pytest.mark.parametrize(
        "batch",
        [
            [],
            {"data": np.zeros((1, 3072), np.uint8)},
            {"labels": [1]},
            {"data": np.zeros((1, 3072), np.float32), "labels": [1]},
            {"data": np.zeros((1, 3072), np.int8), "labels": [1]},
            {"data": np.zeros((1, 3071), np.uint8), "labels": [1]},
            {"data": np.zeros((0, 3072), np.uint8), "labels": []},
            {"data": np.zeros(3072, np.uint8), "labels": [1]},
            {"data": b"0" * 3072, "labels": [1]},
            {"data": np.zeros((1, 3072), np.uint8), "labels": (1,)},
            {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [1]},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("protocol", [2, 5])
    def test_other_content(self, tmp_path: Path, batch: Any, protocol: int) -> None:
        """The error for a harmless pickle of another object says what was expected."""
        write_pickle(tmp_path / "data_batch_1", batch, protocol)

        assert said(f"cifar10:{tmp_path}") == (
            f"{tmp_path}/data_batch_1: expected a dict with 'data', a uint8 array (n, 3072), and a list 'labels'"
        )

    @pytest.mark.parametrize(
        ("label", "told"),
        [
            (10, "10"),
            (-1, "-1"),
            (2**70, "of type int"),
            (10**5000, "of type int"),
            (1.0, "of type float"),
            (True, "of type bool"),
            ("1", "of type str"),
        ],
        ids=range(7),
    )
    def test_label_out_of_range(self, tmp_path: Path, label: Any, told: str) -> None:
        """Labels are whole numbers from 0 to 9 in either version."""
        batch = {"data": random_pixels(2, 3072), "labels": [9, label]}
        write_pickle(tmp_path / "data_batch_1", batch)

        assert said(f"cifar10:{tmp_path}") == f"{tmp_path}/data_batch_1: label 1 is {told}, expected 0 to 9"

    def test_label_that_would_fill_the_memory(self, tmp_path: Path) -> None:
        """A list of the same list of the same list is small in a pickle, but not when it is written out."""
        label: list[Any] = []
        for _ in range(60):
            label = [label] * 10
        write_pickle(tmp_path / "data_batch_1", {"data": random_pixels(1, 3072), "labels": [label]})

        assert "label 0 is of type list" in said(f"cifar10:{tmp_path}")

    def test_shape_of_floats(self, tmp_path: Path) -> None:
        """A shape that only compares equal to an expected one gives the same error as others."""
        content = pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1]}, 2)
        changed = content.replace(b"K\x01M\x00\x0c\x86", b"G" + struct.pack(">d", 1.0) + b"M\x00\x0c\x86")
        assert changed != content
        (tmp_path / "data_batch_1").write_bytes(changed)

        assert len(load(f"cifar10:{tmp_path}")) == 1

    def test_names_are_quoted(self, tmp_path: Path) -> None:
        """A pickle cannot write to the terminal through the error that it causes."""
        (tmp_path / "data_batch_1").write_bytes(b"cos\n\x1b[2J" + b"x" * 1000 + b"\n.")
        message = said(f"cifar10:{tmp_path}")

        assert "\x1b" not in message
        assert len(message) < 400

    def test_label_out_of_range_in_binary(self, tmp_path: Path) -> None:
        """The error for a label byte above 9 has its place."""
        file = write_cifar(tmp_path, "data_batch_1.bin") / "data_batch_1.bin"
        content = bytearray(file.read_bytes())
        content[3 * 3073] = 10
        file.write_bytes(content)

        assert said(f"cifar10:{tmp_path}") == f"{file}: label 3 is 10, expected 0 to 9"

    @pytest.mark.parametrize("size", [1, 3072, 3073 * 2 + 1])
    def test_record_length(self, tmp_path: Path, size: int) -> None:
        """A binary batch is a whole number of records."""
        (tmp_path / "data_batch_1.bin").write_bytes(bytes(size))

        assert said(f"cifar10:{tmp_path}") == (
            f"{tmp_path}/data_batch_1.bin: got {size:,} bytes, expected whole records of 3073 bytes; fetch it again"
        )

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"\x80\x02}" + b")" + b"\x85" * 10**6 + b"K\1s.", "holds values nested deeper than 100"),
            (b"\x80\x02}r\xff\xff\xff\x1f.", "has a memo index larger than its number of steps"),
            (b"", "is empty; fetch it again"),
            (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ],
    )
    def test_pickles_that_would_end_the_process(self, tmp_path: Path, content: bytes, told: str) -> None:
        """Deep tuples overflow the stack when they are hashed; a memo index reserves memory."""
        (tmp_path / "data_batch_1").write_bytes(content)

        assert said(f"cifar10:{tmp_path}").startswith(f"{tmp_path}/data_batch_1: {told}")

    def test_counts_disagree(self, tmp_path: Path) -> None:
        """The numbers of labels and images must be equal."""
        write_pickle(tmp_path / "data_batch_1", {"data": random_pixels(3, 3072), "labels": [1, 2]})

        assert said(f"cifar10:{tmp_path}") == f"{tmp_path}/data_batch_1: has 3 images, but 2 labels"

    def test_wrong_folder(self, tmp_path: Path) -> None:
        """A folder without batches says where they were looked for."""
        assert said(f"cifar10:{tmp_path}") == (
            f"{tmp_path}: looked for data_batch_1.bin or data_batch_1 (here, in cifar-10-batches-bin or -py); "
            "found nothing"
        )

    @PROPERTY
    @given(content=st.binary(max_size=60))
    def test_any_bytes(self, content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Whatever a batch contains, only a ClovenError is raised."""
        folder = tmp_path_factory.mktemp("any")
        (folder / "data_batch_1").write_bytes(content)

        said(f"cifar10:{folder}")

    @PROPERTY
    @given(at=st.integers(0, 400), value=st.integers(0, 255))
    def test_any_byte_changed(self, at: int, value: int, tmp_path_factory: pytest.TempPathFactory) -> None:
        """A damaged batch is read or refused; nothing but a ClovenError is raised."""
        folder = tmp_path_factory.mktemp("any")
        content = bytearray(pickle.dumps({"labels": [1], "data": np.zeros((1, 3072), np.uint8)}, 2))
        content[at] = value
        (folder / "data_batch_1").write_bytes(content)

        with contextlib.suppress(ClovenError):
            assert len(load(f"cifar10:{folder}")) == 1

    def test_grey(self, tmp_path: Path) -> None:
        """Colour becomes grey by the weights of ITU-R 601."""
        images = load(f"cifar10:{write_cifar(tmp_path, 'data_batch_1.bin')}")
        grey = load(f"cifar10:{tmp_path}", shape=(1, 32, 32))
        red, green, blue = images.pixels.astype(float).transpose(1, 0, 2, 3)

        assert np.abs(grey.pixels[:, 0] - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 0.51


class TestDigits:
    def test_digits(self) -> None:
        """All 1,797, enlarged to MNIST's size, labelled, each different."""
        images = load("digits")

        assert (images.name, images.pixels.shape) == ("digits", (1797, 1, 28, 28))
        assert images.classes == tuple("0123456789")
        assert images.sources[5] == "digits[5]"
        assert len(set(images.digests())) == 1797

    def test_values(self) -> None:
        """0 to 16 become 0 to 255; without resizing, pixels are unchanged otherwise."""
        from sklearn.datasets import load_digits

        bunch, images = load_digits(), load("digits", shape=(1, 8, 8))

        assert np.abs(images.pixels[:, 0] - bunch.images * 255 / 16).max() <= 0.5
        assert images.labels is not None
        assert np.array_equal(images.labels, bunch.target)

    def test_bilinear(self) -> None:
        """Enlarging interpolates between neighbours like PyTorch, up to rounding."""
        from torch import from_numpy
        from torch.nn.functional import interpolate

        small, large = (load("digits", shape=(1, side, side), limit=50) for side in (8, 28))
        expected = interpolate(from_numpy(small.pixels.astype(np.float32)), size=(28, 28), mode="bilinear")

        assert np.abs(large.pixels - expected.numpy()).max() <= 1

    def test_limit(self) -> None:
        """A limit returns the same images each time."""
        once, again = load("digits", limit=100), load("digits", limit=100)

        assert once.sources == again.sources
        assert once.labels is not None
        assert np.bincount(once.labels).tolist() == [10] * 10
        assert sorted(once.labels[:10].tolist()) == list(range(10))


class TestPhotos:
    def test_photos(self) -> None:
        """Unlabelled crops of both photographs, no two alike, the same each time."""
        images, again = load("photos", limit=300), load("photos", limit=300)

        assert (images.name, images.pixels.shape, images.labels) == ("photos", (300, 3, 64, 64), None)
        assert images.fingerprint() == again.fingerprint()
        assert images.sources == again.sources
        assert len(set(images.digests())) == 300
        assert {source.split("@")[0] for source in images.sources} == {"china.jpg", "flower.jpg"}

    def test_default_count(self) -> None:
        """The default is two thousand crops."""
        images = load("photos", shape=(1, 8, 8))

        assert images.pixels.shape == (photos.COUNT, 1, 8, 8)
        assert len(set(images.digests())) == photos.COUNT == 2000

    def test_limit_gives_a_prefix(self) -> None:
        """Fewer crops are the first of more."""
        few, many = (load("photos", shape=(1, 16, 16), limit=limit) for limit in (20, 60))

        assert few.sources == many.sources[:20]

    def test_sources_tell_the_crop(self) -> None:
        """A source names the crop: photograph, corner, size, and whether it is mirrored."""
        from PIL import Image
        from sklearn.datasets import load_sample_image

        images = load("photos", shape=(3, 20, 20), limit=40)
        sizes = []
        for source, pixels in zip(images.sources, images.pixels, strict=True):
            name, crop = source.split("@")
            x, y, size, *mirrored = crop.split(",")
            left, top, sizes_of = int(x), int(y), int(size)
            sizes.append(sizes_of)
            picture = Image.fromarray(load_sample_image(name))
            cut = to_pixels(picture, (3, 20, 20), box=(left, top, left + sizes_of, top + sizes_of))
            assert np.array_equal(pixels, cut[:, :, ::-1] if mirrored else cut)
            assert left + sizes_of <= 640
            assert top + sizes_of <= 427

        assert 35 <= min(sizes) < 70
        assert 250 < max(sizes) <= 427
        assert 10 <= sum(source.endswith(",mirrored") for source in images.sources) <= 30

    def test_too_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If there are not enough different crops, none is returned twice: a black picture has one."""
        from PIL import Image

        monkeypatch.setattr(photos, "_photographs", lambda: [("black.jpg", Image.new("RGB", (90, 60)))])

        assert said("photos", limit=3) == (
            "photos: only 1 different crops of shape (3, 64, 64) were found, expected 3; "
            "give a lower limit or a larger shape"
        )


@pytest.mark.slow
class TestRealData:
    def test_mnist(self, data: str) -> None:
        """MNIST has 70,000 images with the known histogram, and the parts of its split share no image."""
        images = load(f"mnist:{data}")
        assert images.labels is not None
        parts = split(images, seed=0)

        assert len(images) == 70_000
        assert np.bincount(images.labels).tolist() == [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958]
        assert [len(part) for part in parts] == [56_000, 7_000, 7_000]
        training, validation, tests = (set(part.digests()) for part in parts)
        assert not (training | validation) & tests

    def test_cifar10(self, data: str) -> None:
        """The batches that are there, in balance."""
        images = load(f"cifar10:{data}")

        assert images.labels is not None
        assert images.pixels.shape == (len(images), 3, 32, 32)
        assert np.bincount(images.labels).tolist() == [len(images) // 10] * 10
