"""Gradient-boosted trees on the raw rows of telemetry: a classifier that sees no window and no image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cloven.errors import require
from cloven.zoo.telemetry import TRAINING, Windows


def tree_classes(windows: Windows, places: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the classes ``(n,)`` that trees give to the windows at some places.

    The trees are trained on the single rows of the training windows, with class weights (scikit-learn's
    HistGradientBoostingClassifier with its own settings). The class of a window is the one with the highest mean
    probability of its rows.

    Raises:
        ClovenError: if scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError as error:
        raise require("audit", error) from error
    columns = windows.encoder.columns
    training = windows.part == TRAINING
    trees = HistGradientBoostingClassifier(
        class_weight="balanced",
        categorical_features=[bool(column.categories) for column in columns],
        random_state=seed,
    )
    rows, chosen = windows.readings[training], windows.readings[places]
    trees.fit(rows.reshape(-1, len(columns)), np.repeat(windows.labels[training], rows.shape[1]))
    likely = trees.predict_proba(chosen.reshape(-1, len(columns)))
    found: NDArray[np.int64] = likely.reshape(*chosen.shape[:2], -1).mean(1).argmax(1)
    return found
