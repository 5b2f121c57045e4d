"""Read a folder of pictures, unlabelled or labelled by sub-folders."""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.files import open_regular
from cloven.row_files import StoredArray
from cloven.zoo.contents import HEAD, described
from cloven.zoo.folder_errors import missing, reading
from cloven.zoo.images import Images, new_pixels, put_pixels, spread
from cloven.zoo.notes import note
from cloven.zoo.pixels import SIDES, Shape, pillow, to_pixels

if TYPE_CHECKING:
    from PIL import Image

GREY = ("1", "L", "LA", "La")
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "PPM": (".pgm", ".ppm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""PIL's formats with their suffixes; HEIF can be read only with a plugin for PIL."""
CODECS = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}
"""The libraries, by PIL's names, that some formats require."""
DIVISION = re.compile(
    r"[\W\d_]*(train|training|trainval|val|valid|validation|test|tests|testing|dev|eval|evaluation|holdout)"
    r"[\W\d_]*(sets?|data|images?|imgs?|splits?|pictures|photos)?[\W\d_]*",
    re.IGNORECASE,
)
"""Names of sub-folders that are splits of a data set and not classes."""
SENT = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
"""The accepted formats of pictures from untrusted senders."""
LARGEST, LARGEST_SENT = 2**27, 2**24
"""The most pixels of a picture from a file and from a sender; a larger one is refused before it is decompressed."""
JPEG, SCANS, PASSED = b"\xff\xd8", 200, 2**28
"""The first bytes of a JPEG, the most scans that it may have, and the most pixels that all scans of a sent JPEG may
cover together, since a scan of 50 bytes can cover the whole picture."""
MARKER, END, SCAN = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]"), b"\xff\xd9", b"\xff\xda"
"""A JPEG's markers except those inside entropy-coded data, and the markers of its end and of a scan."""
READS = 20_000
"""The number of reads that a decoder may make from a sent picture; one in blocks of a byte would take seconds."""
PLAIN, TIMES = 2**24, 500
"""The pixels that any file may announce, and those per byte that a larger file may announce."""
AGAIN = "again"
"""The key under which links to folders that are already read are counted."""
TOLD = 10
"""The number of unusable files or folders that an error lists at most."""
ORIENTATION = 0x0112
"""EXIF's tag for the orientation of the camera; 1 is upright."""
IGNORED: dict[str, Callable[[Image.Image], bool]] = {
    "with transparent pixels (transparency is dropped: the colour beneath shows, often black)": lambda picture: (
        picture.has_transparency_data and bool((np.asarray(picture.convert("RGBA"))[..., 3] < 255).any())
    ),
    "with an orientation in EXIF (not applied)": lambda picture: picture.getexif().get(ORIENTATION) in range(2, 9),
    "with several frames or pages (the first is read)": lambda picture: getattr(picture, "is_animated", False),
}
"""Properties of a picture that are ignored, with the test for each."""
Read = TypeVar("Read")
UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    LookupError,
    RuntimeError,
    MemoryError,
    ArithmeticError,
    TypeError,
    AttributeError,
    struct.error,
    zlib.error,
)
"""Errors that PIL raises for files that are damaged or not pictures."""


def read_folder(folder: Path, shape: Shape | None, limit: int | None) -> Images:
    """Return the pictures in a folder: unlabelled directly in it, or labelled by its sub-folders.

    Files are read in the order of their names, after a limit is applied. Links are followed, also to folders.
    Hidden files are skipped; files without a suffix of a picture are skipped too, and the log counts them. As in
    torchvision's ``ImageFolder``, only the first frame of an animation is read, the EXIF orientation is not
    applied (except to TIFF, by PIL), and transparency is dropped; the log counts the pictures with these
    properties.

    Without ``shape``, all pictures must have the same size; they are grey if every picture is.
    """
    names, labels, classes = listed(folder)
    kept = spread(labels, len(names), limit)
    names = [names[i] for i in kept]
    pixels = decoded(folder, names, shape)
    name = f"folder:{folder.resolve().name}"
    return Images(name, pixels, None if labels is None else labels[kept], classes, tuple(names))


def read_picture(file: Path, shape: Shape) -> Images:
    """Return one picture, resized.

    Raises:
        ClovenError: if the file does not exist or is not a picture.
    """
    if not file.exists():
        raise ClovenError(f"{file}: there is no such file; give a picture ({', '.join(readable())})")
    return Images(file.name, decoded(file.parent, [file.name], shape), None, (), (file.name,))


def read_pictures(path: Path, shape: Shape) -> Images:
    """Return one picture, or the pictures of a folder, resized."""
    with reading(str(path)):
        return read_folder(path, shape, None) if path.is_dir() else read_picture(path, shape)


def decode_picture(content: bytes, shape: Shape, most: int = LARGEST_SENT) -> NDArray[np.uint8]:
    """Return the pixels ``(channels, height, width)`` of a picture from an untrusted sender, like `read_picture`.

    Only the formats in `SENT` are tried, and at most ``most`` pixels are decompressed.

    Raises:
        ClovenError: if the content is not a picture in one of these formats.
    """
    with _sent(content, most) as picture:
        return to_pixels(picture, shape)


def picture_size(content: bytes, most: int = LARGEST_SENT) -> int:
    """Return the number of pixels that a picture's header announces, without decompressing it.

    Raises:
        ClovenError: as `decode_picture`, for problems of the header.
    """
    with _sent(content, most) as picture:
        return picture.width * picture.height


@contextmanager
def _sent(content: bytes, most: int) -> Iterator[Image.Image]:
    """Open a picture from an untrusted sender."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _opened(_Fed(content), SENT, most, PASSED) as picture:
                yield picture
        except ClovenError as error:
            raise ClovenError(f"the picture {error}; the supported formats are {', '.join(SENT)}") from error


class _Fed(BytesIO):
    """A file that limits the number of reads of a decoder."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > READS:
            raise ClovenError("consists of too many small blocks; save it again")
        return super().read(size)


@cache
def readable() -> dict[str, str]:
    """Return the formats of pictures that can be read here, by suffix."""
    image = pillow()
    image.init()
    from PIL import features

    suffixes: dict[str, str] = {}
    for name, ends in FORMATS.items():
        if name in image.OPEN and (name not in CODECS or features.check(CODECS[name])):
            suffixes |= dict.fromkeys(ends, name)
    return suffixes


def listed(folder: Path) -> tuple[list[str], NDArray[np.int64] | None, tuple[str, ...]]:
    """Return the pictures' names relative to the folder, their labels and the classes.

    Raises:
        ClovenError: if the folder has no pictures, both pictures and sub-folders of pictures, empty classes, or
            sub-folders that are splits of a data set.
    """
    if not folder.is_dir():
        raise missing(folder, "pictures")
    suffixes = tuple(readable())
    skipped: Counter[str] = Counter()
    visible = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    loose = _pictures([name for name in visible if not (folder / name).is_dir()], suffixes, skipped)
    below = {name: _below(folder, name, suffixes, skipped) for name in visible if (folder / name).is_dir()}
    _tell_skipped(folder, skipped)
    if not loose and not any(below.values()):
        raise missing(folder, f"pictures ({', '.join(suffixes)}), or sub-folders of pictures, one for each class")
    if not any(below.values()):
        return loose, None, ()
    divisions = _divisions(list(below))
    if len(divisions) > 1 or set(divisions) >= {name for name, names in below.items() if names}:
        raise ClovenError(
            f"{folder}: contains {', '.join(divisions)}, which are splits of a data set and not its classes; "
            f"give one of them, such as folder:{folder / divisions[0]}, or rename them if they are classes"
        )
    if loose:
        raise ClovenError(
            f"{folder}: has both pictures ({loose[0]}) and sub-folders of pictures "
            f"({next(filter(below.get, below))}); expected only one of the two, where sub-folders are classes"
        )
    if empty := [name for name, names in below.items() if not names]:
        raise ClovenError(
            first_problems([f"{folder / name}: class without pictures; add some or remove it" for name in empty])
        )
    found = [name for names in below.values() for name in names]
    if len(below) == 1 and any(name.count("/") > 1 for name in found):
        only = folder / next(iter(below))
        note(f"{folder}: {only.name} is the only class; if its own sub-folders are the classes, give folder:{only}")
    labels = np.repeat(np.arange(len(below)), [len(names) for names in below.values()])
    return found, labels, tuple(below)


def _divisions(names: Sequence[str]) -> list[str]:
    """Return the sub-folders that are splits, by their names without a common prefix (such as seg_train)."""
    common = os.path.commonprefix(names) if len(names) > 1 else ""  # noqa: RUF071 - of characters
    begin = max(common.rfind(mark) for mark in "_- .") + 1
    return [name for name in names if DIVISION.fullmatch(name, begin)]


def _below(folder: Path, name: str, suffixes: tuple[str, ...], skipped: Counter[str]) -> list[str]:
    """Return all pictures at any depth of a sub-folder, relative to the folder, sorted; no folder is read twice."""
    found = []
    above = folder.resolve()
    seen = {_identity(place) for place in (above, *above.parents)}
    for place, folders, files in os.walk(folder / name, onerror=_raise, followlinks=True):
        identity = _identity(Path(place))
        if identity in seen:
            skipped[AGAIN] += 1
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        at = Path(place).relative_to(folder)
        visible = [file for file in files if not file.startswith(".")]
        found += [(at / file).as_posix() for file in _pictures(visible, suffixes, skipped)]
    return sorted(found)


def _pictures(names: Sequence[str], suffixes: tuple[str, ...], skipped: Counter[str]) -> list[str]:
    """Return the names with the suffix of a picture, and count the suffixes of the others."""
    skipped.update(
        Path(name).suffix.lower() or "no suffix" for name in names if not name.lower().endswith(suffixes)
    )
    return [name for name in names if name.lower().endswith(suffixes)]


def _identity(place: Path) -> tuple[int, int]:
    found = place.stat()
    return found.st_dev, found.st_ino


def _raise(error: OSError) -> NoReturn:
    raise error


def _tell_skipped(folder: Path, skipped: Counter[str]) -> None:
    if again := skipped.pop(AGAIN, 0):
        note(f"{folder}: links to folders that are already read were skipped ({again})")
    if count := skipped.total():
        kinds = ", ".join(f"{number} {kind}" for kind, number in skipped.most_common(TOLD))
        note(f"{folder}: files that are not pictures, or cannot be read here, were skipped ({count}: {kinds})")


def decoded(folder: Path, names: Sequence[str], shape: Shape | None) -> NDArray[np.uint8] | StoredArray:
    """Return all pictures ``(n, channels, height, width)`` in a shape, or by default in the one that they have.

    Raises:
        ClovenError: if pictures cannot be used; it lists the first of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's advice on unusual files, and on large ones, which are refused here
        wanted = shape or _common_shape(folder, names)
        ignored: Counter[str] = Counter()

        def read(picture: Image.Image) -> NDArray[np.uint8]:
            pixels = to_pixels(picture, wanted)
            ignored.update(_ignored(picture))
            return pixels

        pixels = put_pixels(new_pixels(len(names), wanted), _each(folder, names, read))
    if ignored:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(ignored.items()))
        note(f"{folder}: of {len(names)} pictures, {counts}; as in torchvision's ImageFolder")
    return pixels


def _ignored(picture: Image.Image) -> Iterator[str]:
    """Yield the names of the ignored properties that a decoded picture has."""
    for what, has in IGNORED.items():
        with suppress(*UNREADABLE):  # damage of unused parts is not reported
            if has(picture):
                yield what


def shapes(folder: Path, names: Sequence[str]) -> list[Shape]:
    """Return the shape of each picture from its header, without decoding it.

    Raises:
        ClovenError: if pictures cannot be opened; it lists the first of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(_each(folder, names, _shape))


def _each(folder: Path, names: Sequence[str], read: Callable[[Image.Image], Read]) -> Iterator[Read]:
    """Yield the result of ``read`` for each picture; raise one error at the end for all that cannot be read."""
    bad = []
    for name in names:
        try:
            with open_regular(folder / name) as file:
                try:
                    with _opened(file) as picture:
                        one = read(picture)
                except ClovenError as error:
                    file.seek(0)
                    raise ClovenError(described(file.read(HEAD)) or str(error)) from error
        except ClovenError as error:
            bad.append(f"{folder / name}: {str(error).removeprefix(f'cannot read {folder / name}: ')}")
        else:
            yield one
    if bad:
        raise ClovenError(first_problems(bad))


def first_problems(problems: list[str]) -> list[str]:
    """Return the first problems, and the number of the others."""
    return problems[:TOLD] + ([f"... and {len(problems) - TOLD} more"] if len(problems) > TOLD else [])


def _shape(picture: Image.Image) -> Shape:
    return 1 if picture.mode in GREY else 3, picture.height, picture.width


def _common_shape(folder: Path, names: Sequence[str]) -> Shape:
    """Return the common shape of all pictures from their headers; grey and colour may be mixed."""
    first: dict[tuple[int, int], str] = {}
    channels = 1
    for name in names:
        with suppress(ClovenError), open_regular(folder / name) as file, _opened(file) as picture:
            first.setdefault(picture.size, name)
            channels = max(channels, _shape(picture)[0])
    if len(first) > 1:
        sizes = ", ".join(f"{name} is {width} x {height}" for (width, height), name in list(first.items())[:2])
        raise ClovenError(
            f"{folder}: has pictures of {len(first)} sizes ({sizes}); give an input size: channels, height, width"
        )
    width, height = next(iter(first), (1, 1))  # if none can be read, decoding reports it
    return channels, height, width


@contextmanager
def _opened(
    file: BinaryIO, formats: Collection[str] = (), largest: int = LARGEST, passed: int = SCANS * LARGEST
) -> Iterator[Image.Image]:
    """Open a picture and check its header; errors while it is open become a ClovenError.

    ``largest`` is the most pixels that it may have, and ``passed`` the most that its scans may cover together.
    """
    image = pillow()
    try:
        size, scans = file.seek(0, os.SEEK_END), _scans(file)
        file.seek(0)
        with image.open(file, formats=tuple(formats or dict.fromkeys(readable().values()))) as picture:
            _check(picture, min(largest, max(PLAIN, TIMES * size)))
            if scans > (most := min(SCANS, passed // (picture.width * picture.height))):
                raise ClovenError(
                    f"has {scans} scans, expected at most {most} at its size: more could take hours to decode; "
                    "save it again"
                )
            yield picture
    except ClovenError:
        raise
    except image.UnidentifiedImageError as error:
        raise ClovenError("is not a picture that can be read; remove it or replace it") from error
    except image.DecompressionBombError as error:
        raise ClovenError(f"is too large to be opened safely ({error})") from error
    except UNREADABLE as error:
        raise ClovenError(f"cannot be decoded ({error}); remove it or replace it") from error


def _scans(file: BinaryIO) -> int:
    """Return the number of scans of a JPEG that libjpeg finds, without those of thumbnails; 1 for other files."""
    file.seek(0)
    if file.read(len(JPEG)) != JPEG:
        return 1
    at, scans = len(JPEG), 0
    while len(piece := file.read(2**14)) > 1:
        if (marker := MARKER.search(piece)) is None:
            at += len(piece) - 1  # a marker may begin with the last byte
        elif marker.group() == END:
            break
        else:
            scans += marker.group() == SCAN
            file.seek(at + marker.end())
            at += marker.end() + max(2, int.from_bytes(file.read(2)))  # a block's length counts itself
        file.seek(at)
    return scans


def _check(picture: Image.Image, largest: int) -> None:
    """Refuse pictures that would be misread or exhaust the memory, before anything is decompressed."""
    size = f"{picture.width} x {picture.height} pixels"
    if picture.width * picture.height > largest:
        raise ClovenError(f"is too large to be opened safely: {size}, expected at most {largest:,} for this file")
    if min(picture.size) < SIDES[0]:
        raise ClovenError(f"is {size}, expected at least {SIDES[0]} x {SIDES[0]}")
    if picture.mode.startswith(("I", "F")):
        raise ClovenError(f"has pixels of more than 8 bits (mode {picture.mode}); save it with 8")
