"""The images that were sent through a divided model, with their numbers and outputs: ``images.safetensors``.

`cloven audit --pairs` joins them with the recorded observations by the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.files import replacing

SENT = "images.safetensors"
FORMAT = "1"


def write_sent(
    folder: Path,
    numbers: Sequence[int],
    pixels: NDArray[np.uint8],
    outputs: NDArray[np.float32],
    auxiliary: NDArray[np.bool_],
) -> Path:
    """Write ``images.safetensors`` into a folder, which is created; return the file's path.

    Args:
        folder: the folder.
        numbers: the number of each image, as the messages on the links carry it.
        pixels: the images ``(n, C, H, W)``.
        outputs: the output of the CNN for each, ``(n, classes)``.
        auxiliary: ``(n,)``, whether an image is the attacker's own.

    Raises:
        ClovenError: if the file cannot be written.
    """
    from safetensors.numpy import save_file

    path = folder / SENT
    tensors: dict[str, NDArray[Any]] = {
        "input": np.array(numbers, np.int64),
        "image": np.ascontiguousarray(pixels),
        "auxiliary": auxiliary,
        "logits": outputs,
    }
    with replacing(path) as part:
        save_file(tensors, part, metadata={"format": FORMAT})
    return path
