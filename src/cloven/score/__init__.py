"""What a listener's reconstruction is worth: similarity, agreement, their floors and their intervals.

Knows tensors, and nothing of plans, models or files.
"""

from __future__ import annotations

from cloven.score.agreement import agreement, kappa, modal_class
from cloven.score.floors import Floor, above, best, constant_guesses, guess_floors, shuffled_floor
from cloven.score.inside import Inside, inside
from cloven.score.intervals import Interval, bootstrap, clustered, paired, wilson
from cloven.score.similarity import CONVENTION, psnr, quantise, ssim

__all__ = [
    "CONVENTION",
    "Floor",
    "Inside",
    "Interval",
    "above",
    "agreement",
    "best",
    "bootstrap",
    "clustered",
    "constant_guesses",
    "guess_floors",
    "inside",
    "kappa",
    "modal_class",
    "paired",
    "psnr",
    "quantise",
    "shuffled_floor",
    "ssim",
    "wilson",
]
