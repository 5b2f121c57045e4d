"""A folder of pictures of one's own: unlabelled, or labelled by its sub-folders."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.zoo.images import Images, spread
from cloven.zoo.pixels import SIDES, Shape, pillow, to_pixels
from cloven.zoo.places import missing

if TYPE_CHECKING:
    from PIL import Image

GREY = ("1", "L", "LA", "La")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
SENT = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
"""The formats of pictures that strangers send."""
LARGEST, LARGEST_SENT = 2**27, 2**24
"""Pixels of one picture; a larger one is refused before it is decompressed. The second is for what is sent."""
JPEG, SCAN, SCANS, PASSED = b"\xff\xd8", b"\xff\xda", 200, 2**28
"""What starts a JPEG and each of its scans, how many those may be, and how many pixels all of them may pass over: a
scan of 50 bytes can pass over all."""
READS = 20_000
"""How often a decoder may read from a picture that is sent: from blocks of a byte it reads for seconds."""
TOLD = 10
"""How many of the files, or folders, that cannot be used are told."""
Read = TypeVar("Read")
UNREADABLE = (OSError, EOFError, SyntaxError, ValueError, LookupError, struct.error, zlib.error)
"""What PIL raises on files that are damaged or no pictures."""


def read_folder(folder: Path, shape: Shape | None, limit: int | None) -> Images:
    """The pictures directly in the folder, unlabelled; or those below its sub-folders, labelled by these.

    Files are taken in the order of their names, and a limit is applied before any is opened. Hidden files,
    and those whose names do not end like a picture's, are passed over. Of an animation the first frame
    counts; an orientation noted in a photograph is not applied; transparency is dropped.

    Without ``shape`` all pictures must have one size; they are grey if all of them are.
    """
    names, labels, classes = listed(folder)
    kept = spread(labels, len(names), limit)
    names = [names[i] for i in kept]
    pixels = decoded(folder, names, shape)
    name = f"folder:{folder.resolve().name}"
    return Images(name, pixels, None if labels is None else labels[kept], classes, tuple(names))


def read_picture(file: Path, shape: Shape) -> Images:
    """One picture at a size; a file that is no picture is an error, as in a folder."""
    if not file.is_file():
        raise ClovenError(f"{file}: no such file; give a picture ({', '.join(SUFFIXES)})")
    return Images(file.name, decoded(file.parent, [file.name], shape), None, (), (file.name,))


def read_pictures(path: Path, shape: Shape) -> Images:
    """One picture, or the pictures of a folder, at a size."""
    return read_folder(path, shape, None) if path.is_dir() else read_picture(path, shape)


def decode_picture(content: bytes, shape: Shape, most: int = LARGEST_SENT) -> NDArray[np.uint8]:
    """The pixels ``(channels, height, width)`` that `read_picture` makes of a file with this content.

    For files that strangers send: fewer formats are tried, and less is decompressed: at most ``most`` pixels.

    Raises:
        ClovenError: for what is no picture, or none that is read here.
    """
    with _sent(content, most) as picture:
        return to_pixels(picture, shape)


def picture_size(content: bytes, most: int = LARGEST_SENT) -> int:
    """The pixels that a picture's header announces; nothing is decompressed.

    Raises:
        ClovenError: as `decode_picture`, for what its header shows.
    """
    with _sent(content, most) as picture:
        return picture.width * picture.height


@contextmanager
def _sent(content: bytes, most: int) -> Iterator[Image.Image]:
    """A picture that a stranger sent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _opened(_Fed(content), SENT, most) as picture:
                scans = content.count(SCAN) if content.startswith(JPEG) else 1
                if scans > min(SCANS, PASSED // (picture.width * picture.height)):
                    raise ClovenError(f"has {scans} scans, which could take minutes to decode; save it anew")
                yield picture
        except ClovenError as error:
            raise ClovenError(f"the picture {error}; what is read: {', '.join(SENT)}") from error


class _Fed(BytesIO):
    """A file from which a decoder reads only so often."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > READS:
            raise ClovenError("consists of too many small blocks; save it anew")
        return super().read(size)


def listed(folder: Path) -> tuple[list[str], NDArray[np.int64] | None, tuple[str, ...]]:
    """The pictures' names relative to the folder, their labels and the classes."""
    if not folder.is_dir():
        raise missing(folder, "pictures")
    visible = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    loose = [name for name in visible if _is_picture(name) and (folder / name).is_file()]
    below = {name: _below(folder, name) for name in visible if (folder / name).is_dir()}
    if not loose and not any(below.values()):
        raise missing(folder, f"pictures ({', '.join(SUFFIXES)}), or sub-folders of pictures, one for each class")
    if not any(below.values()):
        return loose, None, ()
    if loose:
        raise ClovenError(
            f"{folder}: has both pictures ({loose[0]}) and sub-folders of pictures "
            f"({next(filter(below.get, below))}); expected either: sub-folders are classes"
        )
    if empty := [name for name, names in below.items() if not names]:
        raise ClovenError(
            told([f"{folder / name}: class without pictures; add some or remove it" for name in empty])
        )
    labels = np.repeat(np.arange(len(below)), [len(names) for names in below.values()])
    return [name for names in below.values() for name in names], labels, tuple(below)


def _below(folder: Path, name: str) -> list[str]:
    """All pictures at any depth of a sub-folder, sorted, relative to the folder."""
    found = []
    for place, folders, files in os.walk(folder / name):
        folders[:] = [entry for entry in folders if not entry.startswith(".")]
        at = Path(place).relative_to(folder)
        found += [(at / file).as_posix() for file in files if _is_picture(file)]
    return sorted(found)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def decoded(folder: Path, names: Sequence[str], shape: Shape | None) -> NDArray[np.uint8]:
    """All pictures in this shape, or in the one that they have; or one error for all that cannot be used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's advice on odd files, and on large ones, which are refused here
        wanted = shape or _common_shape(folder, names)
        pixels = np.empty((len(names), *wanted), np.uint8)
        for i, one in enumerate(_each(folder, names, lambda picture: to_pixels(picture, wanted))):
            pixels[i] = one
    return pixels


def shapes(folder: Path, names: Sequence[str]) -> list[Shape]:
    """The shape of each picture by its header; or one error for all that cannot be opened. Nothing is decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(_each(folder, names, _shape))


def _each(folder: Path, names: Sequence[str], read: Callable[[Image.Image], Read]) -> Iterator[Read]:
    """What is read of each picture that can be; at the end, one error for all others."""
    bad = []
    for name in names:
        try:
            with _opened(folder / name) as picture:
                one = read(picture)
        except ClovenError as error:
            bad.append(f"{folder / name}: {error}")
        else:
            yield one
    if bad:
        raise ClovenError(told(bad))


def told(problems: list[str]) -> list[str]:
    """The first problems, and how many more there are."""
    return problems[:TOLD] + ([f"... and {len(problems) - TOLD} more"] if len(problems) > TOLD else [])


def _shape(picture: Image.Image) -> Shape:
    return 1 if picture.mode in GREY else 3, picture.height, picture.width


def _common_shape(folder: Path, names: Sequence[str]) -> Shape:
    """The shape that all pictures have, by their headers; grey ones may stand among coloured ones."""
    first: dict[tuple[int, int], str] = {}
    channels = 1
    for name in names:
        with suppress(ClovenError), _opened(folder / name) as picture:
            first.setdefault(picture.size, name)
            channels = max(channels, _shape(picture)[0])
    if len(first) > 1:
        sizes = ", ".join(f"{name} is {width} x {height}" for (width, height), name in list(first.items())[:2])
        raise ClovenError(
            f"{folder}: has pictures of {len(first)} sizes ({sizes}); give an input size: channels, height, width"
        )
    width, height = next(iter(first), (1, 1))  # where none can be read, decoding says so
    return channels, height, width


@contextmanager
def _opened(
    file: Path | IO[bytes], formats: Sequence[str] = FORMATS, largest: int = LARGEST
) -> Iterator[Image.Image]:
    """A picture whose header is sound; what goes wrong in it, then or later, is a ClovenError."""
    image = pillow()
    try:
        with image.open(file, formats=formats) as picture:
            _check(picture, largest)
            yield picture
    except ClovenError:
        raise
    except image.UnidentifiedImageError as error:
        raise ClovenError("is no picture that can be read; remove it or replace it") from error
    except image.DecompressionBombError as error:
        raise ClovenError(f"is too large to be opened safely ({error})") from error
    except UNREADABLE as error:
        raise ClovenError(f"cannot be decoded ({error}); remove it or replace it") from error


def _check(picture: Image.Image, largest: int) -> None:
    """Refuse what would be misread, or would take all memory, before anything is decompressed."""
    size = f"{picture.width} x {picture.height} pixels"
    if picture.width * picture.height > largest:
        raise ClovenError(f"is too large to be opened safely: {size}, expected at most {largest:,}")
    if min(picture.size) < SIDES[0]:
        raise ClovenError(f"is {size}, expected at least {SIDES[0]} x {SIDES[0]}")
    if picture.mode.startswith(("I", "F")):
        raise ClovenError(f"has pixels of more than 8 bits (mode {picture.mode}); save it with 8")
