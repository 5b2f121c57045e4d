"""Readers of data sets, pictures and weights: damaged files give a value or a ClovenError, and quickly."""

from __future__ import annotations

import gzip
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from cloven.zoo import download, idx
from cloven.zoo.cifar import read_cifar10
from cloven.zoo.folders import decode_picture, read_folder
from cloven.zoo.weights import load_weights
from tests.fuzzing import Reader, counts, from_file, fuzz

SHAPE = (3, 8, 8)
PICTURES = ("jpg", "png", "gif", "bmp", "ppm", "tiff", "webp", "jp2", "avif")
Make = Callable[[Path], Reader]


def encoded(suffix: str) -> list[bytes]:
    """Noise, a plain picture, and transparency, orientation and several frames if the format supports them."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    pictures: list[tuple[Image.Image, dict[str, Any]]] = [(noise, {}), (Image.new("L", (9, 5), 7), {})]
    exif = Image.Exif()
    exif[0x0112] = 6
    if suffix in ("jpg", "png", "tiff", "webp", "avif"):
        pictures.append((noise, {"exif": exif}))
    if suffix in ("png", "tiff", "webp", "avif", "jp2"):
        pictures.append((noise.convert("RGBA"), {}))
    if suffix in ("gif", "png", "tiff", "webp"):
        pictures.append((noise, {"save_all": True, "append_images": [noise.rotate(90)]}))
    if suffix == "tiff":
        pictures += [(noise, {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")]
    return [saved(picture, suffix, **options) for picture, options in pictures]


def saved(picture: Image.Image, suffix: str, **options: Any) -> bytes:
    picture.save(out := BytesIO(), Image.registered_extensions()[f".{suffix}"], **options)
    return out.getvalue()


def pictures(suffix: str) -> Make:
    def make(folder: Path) -> Reader:
        return Reader(
            suffix, encoded(suffix), from_file(lambda _: read_folder(folder, SHAPE, None), folder / f"a.{suffix}")
        )

    return make


def sent_pictures(_: Path) -> Reader:
    valid = [content for suffix in ("jpg", "png", "gif", "bmp", "webp") for content in encoded(suffix)]
    return Reader("sent", valid, lambda content: decode_picture(content, SHAPE))


def idx_files(suffix: str) -> Make:
    """The content of a file; gzipped after it was damaged where the suffix asks for it."""

    def make(folder: Path) -> Reader:
        content = struct.pack(">4I", idx.IMAGES, 3, 4, 5) + bytes(60)
        read = from_file(lambda file: idx.read_idx(file, idx.IMAGES), folder / f"images{suffix}")
        return Reader("idx", [content], lambda damaged: read(gzip.compress(damaged, 1) if suffix else damaged))

    return make


def gzipped(folder: Path) -> Reader:
    content = struct.pack(">4I", idx.IMAGES, 3, 4, 5) + bytes(60)
    return Reader(
        "gzip",
        [gzip.compress(content)],
        from_file(lambda file: idx.read_idx(file, idx.IMAGES), folder / "images.gz"),
    )


def cifar_records(folder: Path) -> Reader:
    return Reader(
        "cifar", [bytes(3073 * 2)], from_file(lambda _: read_cifar10(folder), folder / "data_batch_1.bin")
    )


def cifar_pickles(folder: Path) -> Reader:
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2], b"names": ["a", ("b", 1.5, None, 2**40)]}
    valid = [pickle.dumps(batch, protocol) for protocol in (0, 2, 4, 5)]
    return Reader("cifar", valid, from_file(lambda _: read_cifar10(folder), folder / "data_batch_1"))


def tar_files(folder: Path) -> Reader:
    with tarfile.open(fileobj=(out := BytesIO()), mode="w:") as archive:
        for name in ("jpg/image_00001.jpg", "./jpg/image_00002.jpg", "../away", "jpg/ümlaut" + "x" * 120):
            archive.addfile(member := tarfile.TarInfo(name), BytesIO(bytes(member.size)))
    wanted = re.compile(download._flowers_files(None)[0].members)
    (folder / "in").mkdir()
    return Reader(
        "tar",
        [out.getvalue()],
        from_file(lambda file: download._unpack(file, wanted, folder / "in"), folder / "a.tar"),
    )


# --- weights --------------------------------------------------------------------------------------------------


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def state() -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in small().state_dict().items()}


def checkpoints(*, zipped: bool) -> list[bytes]:
    found = []
    beside: dict[str, Any] = {"best": np.float64(1), "optimizer": {"state": {0: torch.ones(2).to_sparse()}}}
    for content in (state(), {"epoch": 3, "model": {f"module.{n}": v for n, v in state().items()}, **beside}):
        torch.save(content, out := BytesIO(), _use_new_zipfile_serialization=zipped)
        found.append(out.getvalue())
    return found


def arrays() -> bytes:
    np.savez(out := BytesIO(), **{name: value.numpy() for name, value in state().items()})  # type: ignore[arg-type]
    return out.getvalue()


def weights(make: Callable[[], Sequence[bytes]]) -> Make:
    """Files of weights as they are."""
    return lambda folder: Reader(
        "weights", make(), from_file(lambda file: load_weights(small(), file), folder / "w")
    )


def members(make: Callable[[], Sequence[bytes]], name: str) -> Make:
    """One member of an archive, which is packed again with valid checksums after it was damaged."""

    def reader(folder: Path) -> Reader:
        read = from_file(lambda file: load_weights(small(), file), folder / "w")
        unpacked = []
        for content in make():
            with zipfile.ZipFile(BytesIO(content)) as archive:
                unpacked.append({member: archive.read(member) for member in archive.namelist()})
        key = next(member for member in unpacked[0] if member.endswith(name))

        def repacked(damaged: bytes) -> object:
            with zipfile.ZipFile(out := BytesIO(), "w") as archive:
                for member, content in {**unpacked[-1], key: damaged}.items():
                    archive.writestr(member, content)
            return read(out.getvalue())

        return Reader(name, [one[key] for one in unpacked[-1:]], repacked)

    return reader


READERS: dict[str, Make] = {
    **{f"pictures: {suffix}": pictures(suffix) for suffix in PICTURES},
    "pictures: sent": sent_pictures,
    "MNIST: idx": idx_files(""),
    "MNIST: idx in gzip": idx_files(".gz"),
    "MNIST: gzip": gzipped,
    "CIFAR-10: binary": cifar_records,
    "CIFAR-10: pickle": cifar_pickles,
    "flowers: tar": tar_files,
    "weights: torch": weights(lambda: checkpoints(zipped=True)),
    "weights: torch before 1.6": weights(lambda: checkpoints(zipped=False)),
    "weights: pickle in torch": members(lambda: checkpoints(zipped=True), "data.pkl"),
    "weights: npz": weights(lambda: [arrays()]),
    "weights: npy in npz": members(lambda: [arrays()], "0.weight.npy"),
    "weights: safetensors": weights(lambda: [save(state())]),
}


@counts
@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name: str, count: int, tmp_path: Path) -> None:
    found = fuzz(READERS[name](tmp_path), count)

    assert found["own error"] > 0
