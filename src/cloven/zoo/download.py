"""The data sets of S1 from the web, only when asked, through torchvision's downloader, which checks MD5 sums.

torchvision's classes are not made: they read pickles in their constructors. Its unpacking is not used either,
as it calls ``tarfile.extractall`` without a filter: members could lie outside the folder, or be links. Here only
regular files of the expected names are taken out of an archive.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cloven.errors import ClovenError, tried
from cloven.zoo import flowers
from cloven.zoo.cifar import BATCHES
from cloven.zoo.datasets import parsed
from cloven.zoo.libraries import torchvision

FAILURES = (OSError, RuntimeError, ValueError, HTTPException)
"""Errors that torchvision's downloader raises where the network, an address or a checksum fails."""
DAMAGED = (OSError, EOFError, ValueError, OverflowError, tarfile.TarError, zlib.error)
LARGEST = 2**30
"""Bytes that are taken out of an archive; the flowers have 347 million."""
UNFINISHED = ".download-"

FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
FLOWERS_SUMS = {
    "102flowers.tgz": "52808999861908f626f3c1f4e79d11fa",
    flowers.LABELS: flowers.LABELS_MD5,
    "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
}
"""As torchvision has them, under private names. The last is not read here, but torchvision looks for it."""


@dataclass(frozen=True)
class File:
    """A file on the web: its mirrors, and for an archive the names, in group 1, of the members to take."""

    name: str
    urls: tuple[str, ...]
    md5: str
    members: str = ""


@dataclass(frozen=True)
class Offer:
    """A kind that can be downloaded: its files, their place in a folder, and what is missing."""

    files: Callable[[Any], Sequence[File]]
    place: Callable[[Path], Path]
    lacks: Callable[[Path], Sequence[str]]


def download(spec: str) -> None:
    """Download a data set into the folder that its spec names, unless it is there, such that ``load`` finds it.

    Files are fetched and unpacked beside, and put into place when all are there. A set is recognised by the names
    of its files, and the flowers also by their labels; no image is read.

    Args:
        spec: ``mnist:DIR``, ``cifar10:DIR`` or ``flowers102:DIR``: 12, 170 and 345 MB.

    Raises:
        ClovenError: for kinds that cannot be downloaded, without torchvision, where the network fails or the
            folder cannot be written, and for a folder with an unfinished set that would hide the whole one.
    """
    kind, folder = parsed(spec)
    if kind not in OFFERS:
        raise ClovenError(f"{spec}: {kind} cannot be downloaded; those that can: {', '.join(sorted(OFFERS))}")
    offer = OFFERS[kind]
    place = offer.place(folder)
    if not offer.lacks(place):
        return
    datasets = torchvision().datasets
    files = offer.files(datasets)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=UNFINISHED, dir=folder) as beside:
            for file in files:
                _fetch(datasets.utils.download_url, file, Path(beside))
            _move(Path(beside), place)
    except ClovenError as error:
        raise ClovenError([*error.problems, _by_hand(files, place)]) from error
    except OSError as error:
        raise ClovenError(f"{place}: cannot be written ({error}); give another folder") from error
    if lacking := offer.lacks(place):
        raise ClovenError(["after the download the data set is still incomplete:", *lacking])


def _fetch(download_url: Callable[..., None], file: File, into: Path) -> None:
    """Download a file from the first mirror that has it; of an archive only the wanted members stay."""
    reasons = []
    for url in file.urls:
        try:
            download_url(url, str(into), filename=file.name, md5=file.md5)
        except FAILURES as error:
            reasons.append(f"{url}: {error}")
        else:
            break
    else:
        raise ClovenError(f"{file.name} cannot be downloaded ({'; '.join(reasons)})")
    if file.members:
        _unpack(into / file.name, re.compile(file.members), into)
        (into / file.name).unlink()


def _unpack(archive: Path, wanted: re.Pattern[str], into: Path) -> None:
    """Take out the regular files whose whole names match, and nothing else."""
    left = LARGEST
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = wanted.fullmatch(member.name)
                if name and member.isfile() and (content := tar.extractfile(member)):
                    if (left := left - member.size) < 0:
                        raise ClovenError(f"{archive.name} unpacks to more than {LARGEST:,} bytes")
                    target = into / name[1]
                    target.parent.mkdir(exist_ok=True)
                    with content, target.open("wb") as out:
                        shutil.copyfileobj(content, out)
    except ClovenError:
        raise
    except DAMAGED as error:
        raise ClovenError(f"{archive.name} cannot be unpacked ({error})") from error


def _move(source: Path, place: Path) -> None:
    for file in (path for path in sorted(source.rglob("*")) if path.is_file()):
        target = place / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)


def _by_hand(files: Sequence[File], place: Path) -> str:
    archives = " and unpack the archive there" if any(file.members for file in files) else ""
    return f"Try again later, or fetch {', '.join(file.urls[0] for file in files)} into {place} by hand{archives}"


# --- MNIST: four gzipped files, read as they are ----------------------------------------------------------------

IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _mnist_files(datasets: Any) -> list[File]:
    files = []
    for name, md5 in datasets.MNIST.resources:
        files.append(File(name, tuple(f"{mirror}{name}" for mirror in datasets.MNIST.mirrors), md5))
    return files


def _mnist_place(folder: Path) -> Path:
    """Return the place where ``load`` looks first, if anything is there; else where torchvision puts it."""
    usual = folder / "MNIST" / "raw"
    return next((place for place in (folder, usual, folder / "raw") if _some(place, IDX, ("", ".gz"))), usual)


def _mnist_lacks(place: Path) -> list[str]:
    there = _some(place, IDX, ("", ".gz"))
    return [f"{place / name}.gz: is missing" for name in IDX if name not in there]


# --- CIFAR-10: the Python version, whose pickles are read without being run -------------------------------------

BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"


def _cifar_files(datasets: Any) -> list[File]:
    own = datasets.CIFAR10
    names = "|".join((*BATCHES, r"batches\.meta"))
    return [File(own.filename, (own.url,), own.tgz_md5, rf"(?:\./)?({PYTHON}/(?:{names}))")]


def _cifar_lacks(folder: Path) -> list[str]:
    """Return what is missing.

    Raises:
        ClovenError: where some batches are there, so that those downloaded would not be read.
    """
    for place in (folder, folder / BINARY, folder / PYTHON):
        for suffix in (".bin", ""):
            found = len(_some(place, BATCHES, (suffix,)))
            if found == len(BATCHES):
                return []
            if found and place != folder / PYTHON:
                raise ClovenError(
                    f"{place}: has {found} of CIFAR-10's {len(BATCHES)} batches, which hide those that would be "
                    "downloaded; remove them, complete them or give another folder"
                )
    return [f"{folder / PYTHON}: batches of CIFAR-10 are missing"]


# --- Oxford Flowers 102 -----------------------------------------------------------------------------------------


def _flowers_files(_: Any) -> list[File]:
    members = {"102flowers.tgz": r"(?:\./)?(jpg/image_[0-9]{5}\.jpg)"}
    return [File(name, (FLOWERS + name,), md5, members.get(name, "")) for name, md5 in FLOWERS_SUMS.items()]


def _flowers_lacks(place: Path) -> list[str]:
    problems: list[str] = []
    tried(lambda: flowers.listed(place), problems)
    return problems


def _some(place: Path, names: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Return the names of the files that are there, under any of the suffixes."""
    return [name for name in names if any((place / f"{name}{suffix}").is_file() for suffix in suffixes)]


OFFERS = {
    "cifar10": Offer(_cifar_files, lambda folder: folder, _cifar_lacks),
    "flowers102": Offer(
        _flowers_files, lambda folder: flowers.place_of(folder) or folder / flowers.BELOW, _flowers_lacks
    ),
    "mnist": Offer(_mnist_files, _mnist_place, _mnist_lacks),
}
