"""Read MNIST from its four idx files, plain or gzipped. No more is read than a header announces."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.files import open_regular
from cloven.zoo.contents import recognised
from cloven.zoo.folder_errors import missing
from cloven.zoo.images import Images

# The third byte stands for uint8, the fourth is the number of dimensions.
IMAGES, LABELS = 0x00000803, 0x00000801
LARGEST = 2**30
"""The most bytes that a file may announce; MNIST's largest has 47 million."""
UNPACKED, TIMES = 2**26, 50
"""The largest content that a gzipped file may announce: in bytes, or as a multiple of its size (MNIST's: 5)."""


def read_mnist(folder: Path) -> Images:
    """Return all 70,000 images, train then t10k, from the folder with the files or from a torchvision root."""
    halves = [_half(_raw(folder), half) for half in ("train", "t10k")]
    sizes = {pixels.shape[1:] for pixels, _, _ in halves}
    if len(sizes) > 1:
        raise ClovenError(f"{folder}: train and t10k have images of different sizes, {sorted(sizes)}")
    pixels, labels, sources = zip(*halves, strict=True)
    return Images(
        "mnist",
        np.concatenate(pixels)[:, None],
        np.concatenate(labels).astype(np.int64),
        tuple("0123456789"),
        tuple(source for half in sources for source in half),
    )


def _half(raw: Path, half: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[str]]:
    pixels_file, labels_file = (
        _file(raw, f"{half}-images-idx3-ubyte"),
        _file(raw, f"{half}-labels-idx1-ubyte"),
    )
    pixels, labels = read_idx(pixels_file, IMAGES), read_idx(labels_file, LABELS)
    if len(pixels) != len(labels):
        raise ClovenError(
            f"{raw}: {pixels_file.name} has {len(pixels)} images, but {labels_file.name} has {len(labels)} labels"
        )
    if len(labels) and labels.max() > 9:
        at = int(labels.argmax())
        raise ClovenError(f"{labels_file}: label {at} is {labels[at]}, expected 0 to 9")
    return pixels, labels, [f"{pixels_file.name}[{i}]" for i in range(len(pixels))]


def read_idx(file: Path, magic: int) -> NDArray[np.uint8]:
    """Return the array of bytes in an idx file of this kind.

    Raises:
        ClovenError: if the file is of another kind, or has too few or too many bytes.
    """
    header = 4 * (1 + magic % 256)
    packed = file.suffix == ".gz"
    try:
        with open_regular(file) as opened, gzip.open(opened) if packed else opened as stream:
            start = _upto(stream, header)
            if len(start) < header:
                raise ClovenError(f"{file}: is truncated: expected a header of {header} bytes, got {len(start)}")
            found, *shape = (int(n) for n in np.frombuffer(start, ">u4"))
            if found != magic:
                raise ClovenError(
                    f"{file}: {recognised(file) or f'begins with magic number {found}, expected {magic}'}"
                )
            expected = math.prod(shape)
            largest = min(LARGEST, max(UNPACKED, TIMES * file.stat().st_size)) if packed else LARGEST
            if not 1 <= expected <= largest:
                raise ClovenError(f"{file}: announces {expected:,} bytes of content, expected 1 to {largest:,}")
            body = _upto(stream, expected + 1)
    except (OSError, zlib.error) as error:
        other = recognised(file) if "Not a gzipped file" in str(error) else None
        raise ClovenError(f"{file}: {other or f'is not an intact gzip file ({error}); fetch it again'}") from error
    if len(body) != expected:
        got = f"{header + len(body):,}" if len(body) < expected else "more"
        fault = "is truncated" if len(body) < expected else "is too long"
        raise ClovenError(f"{file}: {fault}: expected {header + expected:,} bytes, got {got}; fetch it again")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _upto(stream: Any, count: int) -> bytes:
    """Return the next bytes, at most ``count``, and fewer if the stream or its gzip data end before."""
    body = bytearray()
    try:
        while piece := stream.read1(min(count - len(body), 2**20)):
            body += piece
    except EOFError:
        pass  # raised by gzip if the stream ends too soon; the caller compares lengths
    return bytes(body)


def _raw(folder: Path) -> Path:
    """Return the folder with the idx files: this one, or torchvision's folder in it."""
    wanted = "train-images-idx3-ubyte"
    for place in (folder, folder / "MNIST" / "raw", folder / "raw"):
        if any((place / f"{wanted}{suffix}").is_file() for suffix in ("", ".gz")):
            return place
    raise missing(folder, f"{wanted} or {wanted}.gz (here, in MNIST/raw or in raw)")


def _file(raw: Path, name: str) -> Path:
    for file in (raw / name, raw / f"{name}.gz"):
        if file.is_file():
            return file
    raise missing(raw, f"{name} or {name}.gz")
