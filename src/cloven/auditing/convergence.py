"""State what learning curves show about an attack: whether it would score higher with more pairs or training."""

from __future__ import annotations

from collections.abc import Sequence

from cloven.auditing.finding import Finding, Metric
from cloven.auditing.summary import Convergence, LearningCurve, Over, RiseShows


def convergence(every: Sequence[LearningCurve], found: Finding, metric: Metric) -> Convergence:
    """Return what the learning curves of an attack on an observation show about a score."""
    if every and not found.pairs and found.training is None:
        return "uses no pairs and no training"
    shown: dict[Over, RiseShows] = {}
    for curve in every:
        mine = (curve.observation, curve.attack) == (found.observation, found.attack)
        if mine and (rise := curve.rise(metric)) is not None:
            shown[curve.over] = rise.shows
    return said(shown.get("pairs"), shown.get("training"))


def said(pairs: RiseShows | None, training: RiseShows | None) -> Convergence:
    """Return what the curves of an attack over pairs and over training show together; None is not tested."""
    match pairs, training:
        case "rises", "rises":
            return "still rises with more pairs and training"
        case "rises", _:
            return "still rises with more pairs"
        case _, "rises":
            return "still rises with more training"
        case ("undecided", _) | (_, "undecided"):
            return "too few seeds or images to tell"
        case "none", "none":
            return "converged"
        case "none", None:
            return "no rise with more pairs; training not tested"
        case None, "none":
            return "no rise with more training; pairs not tested"
        case _:
            return "not tested"
