"""Scores of reconstructions: similarity, agreement, their no-information baselines and their intervals.

Knows tensors, and nothing of plans, models or files.
"""

from __future__ import annotations

from cloven.score.agreement import agreement, kappa, modal_class
from cloven.score.baselines import Baseline, best, constant_guesses, guess_baselines, leakage, shuffled_baseline
from cloven.score.inside import RegionScores, inside
from cloven.score.intervals import Interval, bootstrap, clustered, paired, wilson
from cloven.score.similarity import CONVENTION, psnr, quantise, ssim

__all__ = [
    "CONVENTION",
    "Baseline",
    "Interval",
    "RegionScores",
    "agreement",
    "best",
    "bootstrap",
    "clustered",
    "constant_guesses",
    "guess_baselines",
    "inside",
    "kappa",
    "leakage",
    "modal_class",
    "paired",
    "psnr",
    "quantise",
    "shuffled_baseline",
    "ssim",
    "wilson",
]
