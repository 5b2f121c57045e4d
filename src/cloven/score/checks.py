"""Checks that all scores share: images, pairs of images, class indices."""

from __future__ import annotations

import torch
from torch import Tensor

from cloven.errors import ClovenError
from cloven.rows import TensorRows

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_images(name: str, images: TensorRows) -> None:
    """Refuse what is not a non-empty floating-point ``(n, C, H, W)``; the values are `check_range`'s."""
    if len(images.shape) != 4 or 0 in images.shape:
        raise ClovenError(
            f"{name} must be a non-empty batch of images (n, C, H, W), got the shape {tuple(images.shape)}; "
            "give one image as (1, C, H, W)"
        )
    if not images.dtype.is_floating_point:
        raise ClovenError(
            f"{name} must be floating point in [0, 1], got {images.dtype}; divide 8-bit pixels by 255"
        )


def check_pair(a: TensorRows, b: TensorRows) -> None:
    """Refuse two batches that are not images, or not of one shape: image i is compared with image i."""
    check_images("the first images", a)
    check_images("the second images", b)
    if a.shape != b.shape:
        raise ClovenError(
            f"images to compare must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}; "
            "resize the reconstructions, or expand a single image over the batch"
        )


def check_range(images: Tensor) -> None:
    """Refuse NaN and pixels outside [0, 1]. Reads a whole tensor: hand it a chunk."""
    low, high = (float(value) for value in images.aminmax())
    if not (low >= 0.0 and high <= 1.0):  # also true of NaN
        raise ClovenError(
            f"pixels must lie in [0, 1], got values from {low:g} to {high:g}; "
            "clip with quantise(), undo a normalisation, or look for the NaN in what made them"
        )


def check_classes(name: str, classes: Tensor) -> None:
    """Refuse what is not a non-empty ``(n,)`` of integers of 0 and more."""
    if classes.ndim != 1 or len(classes) == 0 or classes.dtype not in INTEGERS:
        raise ClovenError(
            f"{name} must be class indices (n,) of an integer type, at least one, got {classes.dtype} "
            f"of shape {tuple(classes.shape)}; take logits.argmax(dim=1)"
        )
    if int(classes.min()) < 0:
        raise ClovenError(f"{name} must be 0 or more, got {int(classes.min())}; leave out images without a class")


def check_lengths(first: str, a: TensorRows, second: str, b: TensorRows) -> None:
    """Refuse two tensors that do not speak of the same number of images."""
    if len(a) != len(b):
        raise ClovenError(
            f"{first} and {second} must speak of the same images, got {len(a)} and {len(b)}; "
            "score both on one set of victims"
        )
