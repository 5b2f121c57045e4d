"""Held-out pairs, by which the strongest of several attacks is chosen, never by the victims."""

from __future__ import annotations

from collections.abc import Sequence

from cloven.errors import ClovenError
from cloven.zoo.images import spread

SHARE, FEWEST, MOST = 10, 20, 500
"""One pair in ``SHARE`` is held out: at least ``FEWEST`` pairs, at most ``MOST``."""


def wanted(queries: int) -> int:
    """Return the number of pairs to hold out beside ``queries`` pairs for training."""
    return min(MOST, max(FEWEST, queries // SHARE))


def distinct(digests: Sequence[str]) -> list[int]:
    """Return the index of the first occurrence of each image, in order, from the digests of all images."""
    return sorted({digest: index for index, digest in reversed(list(enumerate(digests)))}.values())


def apart(auxiliary: Sequence[str], spare: Sequence[str], victims: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the images for training and those to hold out, as indices into the auxiliary and the spare images.

    Indices count the auxiliary images first. If there are enough spare images, these are held out; else a tenth of
    the auxiliary images is. They are spread evenly, so that of images in the order of their classes all classes are
    held out. A held-out image never equals one that is trained on or scored.

    Args:
        auxiliary: the digest of each auxiliary image.
        spare: the digests of further images of the attacker.
        victims: the digests of the images that are scored.

    Raises:
        ClovenError: if there are too few images.
    """
    count, known = wanted(len(auxiliary)), {*auxiliary, *victims}
    fresh = [i for i, digest in enumerate(spare, len(auxiliary)) if digest not in known]
    if len(fresh) >= FEWEST:
        return list(range(len(auxiliary))), [fresh[i] for i in spread(None, len(fresh), count)]
    chosen = set(spread(None, len(auxiliary), min(count, len(auxiliary) // SHARE)).tolist())
    kept = [i for i in range(len(auxiliary)) if i not in chosen]
    known = {*(auxiliary[i] for i in kept), *victims}
    held_back = [i for i in sorted(chosen) if auxiliary[i] not in known]
    if len(held_back) < 2:
        different = len(set(auxiliary))
        but = f", {different} of them different," if different < len(auxiliary) else ""
        raise ClovenError(
            f"{len(auxiliary)} auxiliary images{but} are too few to compare several attacks, since some of them "
            f"are held out to choose the strongest; give at least {2 * SHARE} different images, or one attack"
        )
    return kept, held_back
