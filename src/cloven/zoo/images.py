"""A set of images as one record, with functions to split, hash and subsample it.

All other parts of cloven use this record. It does not depend on file formats or models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.files import cache_dir
from cloven.row_files import RowFile, StoredArray, stored, temporary

if TYPE_CHECKING:
    import torch

    from cloven.rows import TensorRows


PARTS = ("training", "validation", "test")
"""The parts of a data set."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size, with the source of each.

    Attributes:
        name: The kind of the set, such as "mnist" or "folder:photos"; never a full path.
        array: ``(n, channels, height, width)``, 0 to 255, read-only: in memory, or in a file if it is large.
        labels: ``(n,)``, indices into ``classes``; None if unlabelled.
        classes: The names of the classes; empty if unlabelled.
        sources: The file, or file and index, of each image.
        part: ``(n,)``, indices into `PARTS`, if the set says which part an image belongs to; else None.

    """

    name: str
    array: NDArray[np.uint8] | StoredArray
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    sources: tuple[str, ...]
    part: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if problems := list(_problems(self)):
            raise ClovenError(problems)
        for field in ("array", "labels", "part"):
            if isinstance(array := getattr(self, field), np.ndarray):
                view = array.view()
                view.flags.writeable = False
                object.__setattr__(self, field, view)

    def __len__(self) -> int:
        return len(self.array)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All pixels ``(n, channels, height, width)``, in memory."""
        return np.asarray(self.array)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The channels, height and width of one image."""
        channels, height, width = self.array.shape[1:]
        return channels, height, width

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Images:
        """Return the images at these indices, in this order; those in a file are not read."""
        chosen = np.asarray(indices, dtype=np.int64)
        labels = None if self.labels is None else self.labels[chosen]
        sources = tuple(self.sources[i] for i in chosen)
        pixels = self.array.take(chosen) if isinstance(self.array, StoredArray) else self.array[chosen]
        part = None if self.part is None else self.part[chosen]
        return Images(self.name, pixels, labels, self.classes, sources, part)

    def rows(self) -> TensorRows:
        """Return the images as float32 ``(n, channels, height, width)`` in [0, 1]; those in a file are not read."""
        from cloven.rows import StoredRows

        return StoredRows(self.array) if isinstance(self.array, StoredArray) else self.tensor()

    def tensor(self) -> torch.Tensor:
        """Return the images as float32 ``(n, channels, height, width)`` in [0, 1], all in memory."""
        import torch

        return torch.from_numpy(self.pixels.astype(np.float32)).div_(255)

    def digests(self) -> tuple[str, ...]:
        """Return the SHA-256 of each image's shape and pixels, in hexadecimal; it is computed only once."""
        return self._digests

    def fingerprint(self) -> str:
        """Return the SHA-256 of all pixels and labels, in order, without names and sources."""
        digest = hashlib.sha256(repr(self.array.shape).encode())
        for image in self.array:
            digest.update(image.tobytes())
        if self.labels is not None:
            digest.update(b"labels")
            digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    @cached_property
    def _digests(self) -> tuple[str, ...]:
        shape = repr(self.array.shape[1:]).encode()
        return tuple(hashlib.sha256(shape + image.tobytes()).hexdigest() for image in self.array)


LARGE = 2**25
"""The number of bytes from which pixels are kept in a file."""


def is_large(shape: Sequence[int]) -> bool:
    """Return whether images of a shape ``(n, channels, height, width)`` are kept in a file."""
    return prod(shape) >= LARGE


def new_pixels(count: int, shape: tuple[int, int, int]) -> NDArray[np.uint8] | RowFile:
    """Return a place for the pixels of images, to be filled with `put_pixels`: a file in the cache for many."""
    if not is_large((count, *shape)):
        return np.empty((count, *shape), np.uint8)
    return temporary((count, *shape), np.uint8, cache_dir())


def put_pixels(
    place: NDArray[np.uint8] | RowFile, images: Iterable[NDArray[np.uint8]]
) -> NDArray[np.uint8] | StoredArray:
    """Write images ``(channels, height, width)`` to a place for them, and return all of them."""
    for i, image in enumerate(images):
        if isinstance(place, RowFile):
            place.write(i, image[None])
        else:
            place[i] = image
    return stored(place) if isinstance(place, RowFile) else place


def split(
    images: Images, *, seed: int, parts: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> tuple[Images, Images, Images]:
    """Split images into disjoint training, validation and test images, stratified by label and fixed by the seed.

    The default is the split of Mehrafrooz et al. (2025), "A Security Analysis of CNN Partitioning Strategies for
    Distributed Inference at the Edge", Section 5.1: 80, 10 and 10 % of the whole set, not the official parts.

    The sizes are rounded by the largest remainder; between equal remainders, the earlier part gets the image.
    MNIST gives 56,000, 7,000 and 7,000; CIFAR-10 48,000, 6,000 and 6,000; the 8,189 Oxford Flowers 6,551, 819 and
    819. The number of images of a class in a part deviates from its exact share by at most two.

    A set with parts of its own, such as one of time series, is split into these, whatever the shares.

    Each part is in random order, so that its first hundred images are a fair sample.
    """
    if images.part is not None:
        order = np.random.default_rng(seed).permutation(len(images))
        own = [images.take(order[images.part[order] == i]) for i in range(len(PARTS))]
        return own[0], own[1], own[2]
    sizes = _sizes(len(images), parts)
    random = np.random.default_rng(seed)
    left = random.permutation(len(images))
    if images.labels is not None:
        left = left[np.argsort(images.labels[left], kind="stable")]
    held_out = []
    for size in reversed(sizes[1:]):
        every = _every(len(left), size)
        held_out.append(random.permutation(left[every]))
        left = left[~every]
    test, validation = held_out
    return images.take(random.permutation(left)), images.take(validation), images.take(test)


def test_half(images: Images) -> Images:
    """Return the data set's own test images (t10k of MNIST, test_batch of CIFAR-10), or all if it has none."""
    if images.part is not None:
        return split(images, seed=0)[2]
    apart = [i for i, source in enumerate(images.sources) if source.startswith(("t10k", "test_batch"))]
    return images.take(apart) if apart else images


def with_mirrored(images: Images) -> Images:
    """Return each image followed by its mirror image, unless the two are equal."""
    places, mirrored = [], []
    for place, image in enumerate(images.array):
        for changed in (False,) if np.array_equal(image, image[..., ::-1]) else (False, True):
            places.append(place)
            mirrored.append(changed)
    each = zip(places, mirrored, strict=True)
    sources = tuple(images.sources[place] + " mirrored" * changed for place, changed in each)
    made = (
        images.array[place][..., ::-1] if changed else images.array[place]
        for place, changed in zip(places, mirrored, strict=True)
    )
    pixels = put_pixels(new_pixels(len(places), images.shape), made)
    labels = None if images.labels is None else images.labels[places]
    part = None if images.part is None else images.part[places]
    return Images(images.name, pixels, labels, images.classes, sources, part)


def spread(labels: NDArray[np.int64] | None, count: int, limit: int | None) -> NDArray[np.int64]:
    """Return the indices of at most ``limit`` of ``count`` images; the choice is not random.

    They are spread evenly over the images sorted by class, so that each class keeps its share to within one image,
    and the classes are interleaved. If there is no limit or it is not reached, they are all indices in order.
    """
    if limit is None or limit >= count:
        return np.arange(count)
    middles = (2 * np.arange(limit) + 1) * count // (2 * limit)
    if labels is None:
        return middles
    chosen = np.argsort(labels, kind="stable")[middles]
    _, class_of, sizes = np.unique(labels[chosen], return_inverse=True, return_counts=True)
    rank = np.arange(limit) - (np.cumsum(sizes) - sizes)[class_of]
    kept: NDArray[np.int64] = chosen[np.argsort((rank + 0.5) / sizes[class_of], kind="stable")]
    return kept


def _problems(images: Images) -> Iterator[str]:
    pixels, labels, count = images.array, images.labels, len(images.array)
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        yield f"pixels: got {pixels.dtype} {pixels.shape}, expected uint8 (n, channels, height, width)"
    if len(images.sources) != count:
        yield f"sources: got {len(images.sources)} for {count} images, expected one each"
    if (part := images.part) is not None:
        if part.dtype != np.int64 or part.shape != (count,):
            yield f"part: got {part.dtype} {part.shape}, expected int64 ({count},)"
        elif count and not 0 <= part.min() <= part.max() < len(PARTS):
            yield f"part: got {part.min()} to {part.max()}, expected 0 to {len(PARTS) - 1}"
    if labels is None:
        if images.classes:
            yield f"labels: got none, but {len(images.classes)} classes; give labels, or no classes"
        return
    if labels.dtype != np.int64 or labels.shape != (count,):
        yield f"labels: got {labels.dtype} {labels.shape}, expected int64 ({count},)"
    elif count and not 0 <= labels.min() <= labels.max() < len(images.classes):
        yield f"labels: got {labels.min()} to {labels.max()}, expected 0 to {len(images.classes) - 1}"


def _sizes(count: int, parts: tuple[float, float, float]) -> list[int]:
    """Return integer sizes that add up to ``count``, rounded by the largest remainder."""
    shares = [Fraction(part).limit_denominator(10**6) for part in parts if 0 <= part <= 1]
    if len(shares) != 3 or sum(shares) != 1:
        raise ClovenError(f"parts: got {parts}, expected three shares of at least 0 that add up to 1")
    sizes = [int(count * share) for share in shares]
    by_remainder = sorted(range(3), key=lambda i: sizes[i] - count * shares[i])
    for i in by_remainder[: count - sum(sizes)]:
        sizes[i] += 1
    return sizes


def _every(count: int, size: int) -> NDArray[np.bool_]:
    """Return a mask over ``count`` places that selects exactly ``size`` of them, evenly spread."""
    steps = np.arange(count + 1) * size // max(count, 1)
    mask: NDArray[np.bool_] = np.diff(steps) > 0
    return mask
