"""Enclave sizes: parse and write them, and estimate the size for a model."""

from __future__ import annotations

import re

from cloven.errors import ClovenError

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
SMALLEST, LARGEST = 2**30, 2**36
"""The smallest and the largest enclave, in bytes."""
RUNTIME = 2**30
"""Memory of the interpreter, PyTorch and Gramine: libtorch_cpu alone loads 0.4 GiB into the enclave."""
COPIES = 4
"""Simultaneous copies of the weights: decrypted, as tensors, in the model, and the rear that is sent out."""
WORKING = 4
"""Simultaneous copies of the largest value: input, output and work space of an op, and a value for later ops."""


def enclave_size(weight_bytes: int, largest_value_bytes: int, *, images: int = 1) -> int:
    """Estimate the size of an enclave for a model, in bytes.

    The size is ``RUNTIME + COPIES x weights + WORKING x images x largest value``, rounded up to a power of two,
    which SGX requires with or without EDMM, and at least `SMALLEST`.

    Args:
        weight_bytes: the size of the model's weights.
        largest_value_bytes: the size of the largest tensor inside for one image.
        images: the number of simultaneous images.

    Raises:
        ClovenError: if the size exceeds `LARGEST`.
    """
    needed = RUNTIME + COPIES * weight_bytes + WORKING * images * largest_value_bytes
    size = max(SMALLEST, 1 << (needed - 1).bit_length())
    if size > LARGEST:
        raise ClovenError(
            f"the enclave requires {needed / 2**30:.1f} GiB, for {weight_bytes / 2**30:.1f} GiB of weights and "
            f"values of {images} x {largest_value_bytes / 2**30:.1f} GiB; expected at most {size_text(LARGEST)}: "
            "use fewer images at once, or a smaller model"
        )
    return size


def size_text(size: int) -> str:
    """Format bytes in Gramine's notation, in the largest unit that fits: ``4G``."""
    letter = next(letter for letter in ("G", "M", "K", "") if size % UNITS[letter] == 0)
    return f"{size // UNITS[letter]}{letter}"


def bytes_of(text: str) -> int | None:
    """Parse a size such as ``4G``; return bytes, or None if the text is malformed."""
    found = re.fullmatch("([1-9][0-9]{0,14})([KMG]?)", text)
    return int(found[1]) * UNITS[found[2]] if found else None
