"""Download the data sets of Mehrafrooz et al. (2025) with torchvision's downloader, which checks MD5 sums.

torchvision's data set classes are not used, because their constructors load pickles. Nor is its unpacking, because
it calls ``tarfile.extractall`` without a filter, so that members could lie outside the folder or be links. This
module extracts only regular files with the expected names.
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
"""Errors that torchvision's downloader raises if the network, an address or a checksum fails."""
DAMAGED = (OSError, EOFError, ValueError, OverflowError, tarfile.TarError, zlib.error)
LARGEST = 2**30
"""The largest number of bytes that is extracted from an archive; the flowers have 347 million."""
UNFINISHED = ".download-"

FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
FLOWERS_SUMS = {
    "102flowers.tgz": "52808999861908f626f3c1f4e79d11fa",
    flowers.LABELS: flowers.LABELS_MD5,
    "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
}
"""The MD5 sums, which torchvision has under private names. cloven does not read the last file; torchvision does."""


@dataclass(frozen=True)
class File:
    """A file on the web.

    ``urls`` are its mirrors. ``members`` is a regular expression for the members of an archive to extract; its
    group 1 is the name of the extracted file.
    """

    name: str
    urls: tuple[str, ...]
    md5: str
    members: str = ""


@dataclass(frozen=True)
class Offer:
    """A data set that can be downloaded: its files, their place in a folder, and a list of what is missing."""

    files: Callable[[Any], Sequence[File]]
    place: Callable[[Path], Path]
    lacks: Callable[[Path], Sequence[str]]


def download(spec: str) -> None:
    """Download a data set into the folder of its spec, where ``load`` finds it, unless it is already there.

    Files are downloaded and unpacked in a temporary folder, and moved into place when all are complete. An existing
    data set is recognised by the names of its files, and the flowers also by their labels; images are not read.

    Args:
        spec: ``mnist:DIR``, ``cifar10:DIR`` or ``flowers102:DIR``: 12, 170 and 345 MB.

    Raises:
        ClovenError: if the kind cannot be downloaded, torchvision is not installed, the network fails, the folder
            cannot be written, or it has an incomplete data set that ``load`` would find first.
    """
    kind, folder, _ = parsed(spec)
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
    """Download a file from the first mirror that has it; from an archive, keep only the wanted members."""
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
    """Extract the regular files whose full names match."""
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


# --- MNIST: four gzipped files, which stay packed ---------------------------------------------------------------

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
    """Return the first place where ``load`` finds a file of the set, or else torchvision's folder."""
    usual = folder / "MNIST" / "raw"
    return next((place for place in (folder, usual, folder / "raw") if _some(place, IDX, ("", ".gz"))), usual)


def _mnist_lacks(place: Path) -> list[str]:
    there = _some(place, IDX, ("", ".gz"))
    return [f"{place / name}.gz: is missing" for name in IDX if name not in there]


# --- CIFAR-10: the Python version, whose pickles are read without calling anything ------------------------------

BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"


def _cifar_files(datasets: Any) -> list[File]:
    own = datasets.CIFAR10
    names = "|".join((*BATCHES, r"batches\.meta"))
    return [File(own.filename, (own.url,), own.tgz_md5, rf"(?:\./)?({PYTHON}/(?:{names}))")]


def _cifar_lacks(folder: Path) -> list[str]:
    """Return what is missing.

    Raises:
        ClovenError: if there are some batches, so that ``load`` would read them instead of the downloaded ones.
    """
    for place in (folder, folder / BINARY, folder / PYTHON):
        for suffix in (".bin", ""):
            found = len(_some(place, BATCHES, (suffix,)))
            if found == len(BATCHES):
                return []
            if found and place != folder / PYTHON:
                raise ClovenError(
                    f"{place}: has {found} of CIFAR-10's {len(BATCHES)} batches, which would be read instead of "
                    "the downloaded ones; remove them, complete them or give another folder"
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
    """Return the names of the files that exist with any of the suffixes."""
    return [name for name in names if any((place / f"{name}{suffix}").is_file() for suffix in suffixes)]


OFFERS = {
    "cifar10": Offer(_cifar_files, lambda folder: folder, _cifar_lacks),
    "flowers102": Offer(
        _flowers_files, lambda folder: flowers.place_of(folder) or folder / flowers.BELOW, _flowers_lacks
    ),
    "mnist": Offer(_mnist_files, _mnist_place, _mnist_lacks),
}
