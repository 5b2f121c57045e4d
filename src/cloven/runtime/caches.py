"""Fill the processor's caches with other data, as a worker does between two computations of a single image."""

from __future__ import annotations

import numpy as np

BYTES = 4 * 2**20
"""More than the private caches of a core have, so that little of an earlier computation is left in them."""

_other = np.zeros(BYTES // 4, np.float32)


def fill() -> None:
    """Replace what is in the caches of this core."""
    np.add(_other, 1, out=_other)
