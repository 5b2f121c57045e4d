"""Scores of reconstructions: similarity, agreement, their no-information baselines and their intervals.

This package works on tensors, and does not use plans, models or files.
"""

from __future__ import annotations

from cloven.leakage_scale import leakage
from cloven.score.agreement import agreement, kappa, modal_class
from cloven.score.baselines import Baseline, best, constant_guesses, guess_baselines, shuffled_baseline
from cloven.score.identification import CANDIDATES, identified
from cloven.score.inside import RegionScores, inside
from cloven.score.intervals import Interval, of_mean, of_share, paired, unpaired, wilson
from cloven.score.similarity import CONVENTION, psnr, quantise, ssim

__all__ = [
    "CANDIDATES",
    "CONVENTION",
    "Baseline",
    "Interval",
    "RegionScores",
    "agreement",
    "best",
    "constant_guesses",
    "guess_baselines",
    "identified",
    "inside",
    "kappa",
    "leakage",
    "modal_class",
    "of_mean",
    "of_share",
    "paired",
    "psnr",
    "quantise",
    "shuffled_baseline",
    "ssim",
    "unpaired",
    "wilson",
]
