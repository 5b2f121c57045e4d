"""The readings of sensors in windows of telemetry: how well reconstructions of these windows recover them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloven.rows import TensorRows, chunks
from cloven.zoo.datasets import windows_of
from cloven.zoo.images import Images
from cloven.zoo.telemetry import TRAINING, layout_of
from cloven.zoo.telemetry_encoder import Encoder, Layout

CHUNK = 64
"""The number of images that are decoded at once."""
Column = tuple[str, Literal["error", "accuracy"]]
"""The name of a column of readings, and its measure; see `cloven.auditing.finding.RecoveredReadings`."""


@dataclass(frozen=True, eq=False)
class Readings:
    """The readings in some windows, and what is needed to decode them from images.

    Attributes:
        encoder: the encoder of the windows.
        layout: the place of a window in an image.
        true: ``(n, rows, columns)``, the readings of each window.
        guess: ``(columns,)``, the best constant guess: the median of numbers, the most frequent category.
    """

    encoder: Encoder
    layout: Layout
    true: NDArray[np.float64]
    guess: NDArray[np.float64]

    @property
    def fingerprint(self) -> str:
        """A hash of everything that can change a score."""
        knots = [scale.knots for scale in self.encoder.scales if scale is not None]
        digest = hashlib.sha256(repr((self.layout, self.encoder.features, self.true.shape)).encode())
        for numbers in (self.true, self.guess, *knots):
            digest.update(np.ascontiguousarray(numbers).tobytes())
        return digest.hexdigest()

    def scores(self, images: TensorRows) -> Mapping[Column, Tensor]:
        """Return the scores ``(2, n)`` of each column: of the readings in images ``(n, C, H, W)``, and of a guess.

        The score of a window is the mean over its rows.
        """
        read = [
            self.encoder.decode(self.layout.reduced(some.double().cpu().numpy())) for some in chunks(images, CHUNK)
        ]
        found, guessed = self._compared(np.concatenate(read)), self._compared(self.guess)
        both = torch.tensor(np.stack([found, guessed]))
        return {
            (column.name, "accuracy" if column.categories else "error"): both[..., i]
            for i, column in enumerate(self.encoder.columns)
        }

    def _compared(self, readings: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the error or the accuracy of each window and column, ``(n, columns)``."""
        categories = [bool(column.categories) for column in self.encoder.columns]
        found: NDArray[np.float64] = np.where(
            categories, (self.true == readings).astype(np.float64), np.abs(self.true - readings)
        ).mean(1)
        return found


def readings_of(data: str, victims: Images) -> Readings | None:
    """Return the readings in the victim images of a data set, given by its spec; None if it has pictures.

    Raises:
        ClovenError: as `windows_of`.
    """
    windows = windows_of(data)
    if windows is None:
        return None
    training = windows.readings[windows.part == TRAINING].reshape(-1, len(windows.encoder.columns))
    guess = [
        float(np.bincount(values.astype(np.int64)).argmax()) if column.categories else float(np.median(values))
        for column, values in zip(windows.encoder.columns, training.T, strict=True)
    ]
    true = windows.readings[windows.places(victims.sources)]
    return Readings(windows.encoder, layout_of(windows.report, victims.shape), true, np.array(guess))
