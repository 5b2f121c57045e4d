"""Pairs that train nothing: the strongest of several attacks is chosen by them, never by the victims."""

from __future__ import annotations

from collections.abc import Sequence

from cloven.errors import ClovenError

SHARE, FEWEST, MOST = 10, 20, 500
"""One pair in ten chooses, at least and at most so many."""


def wanted(queries: int) -> int:
    """Return how many pairs choose beside so many that train."""
    return min(MOST, max(FEWEST, queries // SHARE))


def distinct(digests: Sequence[str]) -> list[int]:
    """Return where each image occurs first, by the digests of all."""
    return sorted({digest: index for index, digest in reversed(list(enumerate(digests)))}.values())


def apart(auxiliary: Sequence[str], spare: Sequence[str], victims: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return which images train and which choose: indices into the auxiliary images followed by the spare ones.

    All auxiliary images train where there are enough spare ones; else the last tenth of them is held back. No image
    that chooses is equal to one that trains or is scored.

    Args:
        auxiliary: the digest of each auxiliary image.
        spare: those of more images of the attacker's.
        victims: those of the images that are scored.

    Raises:
        ClovenError: for too few images.
    """
    count, known = wanted(len(auxiliary)), {*auxiliary, *victims}
    fresh = [i for i, digest in enumerate(spare, len(auxiliary)) if digest not in known]
    if len(fresh) >= FEWEST:
        return list(range(len(auxiliary))), fresh[:count]
    kept = len(auxiliary) - min(count, len(auxiliary) // SHARE)
    known = {*auxiliary[:kept], *victims}
    held_back = [i for i in range(kept, len(auxiliary)) if auxiliary[i] not in known]
    if len(held_back) < 2:
        different = len(set(auxiliary))
        but = f", {different} of them different," if different < len(auxiliary) else ""
        raise ClovenError(
            f"{len(auxiliary)} auxiliary images{but} are too few to compare several attacks, which takes images "
            f"that train none of them; give at least {2 * SHARE} different images, or one attack"
        )
    return list(range(kept)), held_back
