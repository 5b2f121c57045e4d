"""The scale of leakage: a score between its no-information baseline and 1."""

from __future__ import annotations


def leakage(score: float, baseline: float) -> float:
    """Return the share of the possible gain over the baseline: 0 at the baseline and below, 1 for a score of 1.

    A baseline of 1 or more leaves nothing to learn: 0.0.
    """
    return 0.0 if baseline >= 1 else max(0.0, (score - baseline) / (1 - baseline))
