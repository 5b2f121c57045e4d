"""Sizes of an enclave: as text, and estimated for a model."""

from __future__ import annotations

import re

from cloven.errors import ClovenError

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
SMALLEST, LARGEST = 2**30, 2**36
"""Bytes of an enclave, at least and at most."""
RUNTIME = 2**30
"""Bytes for the interpreter, PyTorch and Gramine: libtorch_cpu alone is 0.4 GiB, read into the enclave whole."""
COPIES = 4
"""Of the weights at the same time: decrypted, as tensors, in the model, and the rear part on its way out."""
WORKING = 4
"""Of the largest value at the same time: what an operation reads, makes, unfolds, and what waits for later."""


def enclave_size(weight_bytes: int, largest_value_bytes: int, *, images: int = 1) -> int:
    """Estimate the bytes of an enclave that a model fits into.

    ``RUNTIME + COPIES x weights + WORKING x images x largest value``, rounded up to a power of two as SGX wants it,
    with or without EDMM, and at least `SMALLEST`.

    Args:
        weight_bytes: of the whole model.
        largest_value_bytes: of the largest tensor that one image makes inside.
        images: at once.

    Raises:
        ClovenError: where that is more than `LARGEST`.
    """
    needed = RUNTIME + COPIES * weight_bytes + WORKING * images * largest_value_bytes
    size = max(SMALLEST, 1 << (needed - 1).bit_length())
    if size > LARGEST:
        raise ClovenError(
            f"the enclave would need {needed / 2**30:.1f} GiB, for {weight_bytes / 2**30:.1f} GiB of weights and "
            f"values of {images} x {largest_value_bytes / 2**30:.1f} GiB; expected at most {size_text(LARGEST)}: "
            "give fewer images at once, or a smaller model"
        )
    return size


def size_text(size: int) -> str:
    """Write bytes as Gramine does, in the largest unit that fits: ``4G``."""
    letter = next(letter for letter in ("G", "M", "K", "") if size % UNITS[letter] == 0)
    return f"{size // UNITS[letter]}{letter}"


def bytes_of(text: str) -> int | None:
    """Return bytes of text such as ``4G``; None for anything else."""
    found = re.fullmatch("([1-9][0-9]{0,14})([KMG]?)", text)
    return int(found[1]) * UNITS[found[2]] if found else None
