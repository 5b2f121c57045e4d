"""What the service asks of the divided model, and what it tells its clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

Shape = tuple[int, int, int]
"""Channels, height, width."""
Read = Callable[[bytes, Shape], NDArray[np.uint8]]
"""From a picture's file to pixels ``(C, H, W)``, or a ClovenError; `cloven.zoo.folders.decode_picture` is one."""
Size = Callable[[bytes], int]
"""The pixels of a picture's file by its header, or a ClovenError; `cloven.zoo.folders.picture_size` is one."""


class Answer(Protocol):
    """What became of an image."""

    @property
    def output(self) -> NDArray[np.float32]:
        """The CNN's output ``(classes,)``, before softmax."""

    @property
    def seconds(self) -> float:
        """How long the divided model took."""


class Answering(Protocol):
    """The divided model."""

    @property
    def shape(self) -> Shape:
        """The shape of an image."""

    async def submit(self, image: NDArray[np.float32]) -> Answer:
        """Classify an image ``(C, H, W)`` in [0, 1]; it is cancelled when a request's deadline passes.

        Raises:
            FrameFailed: where a device or a link has failed.
        """

    def health(self) -> Mapping[str, Any]:
        """``{"ready": bool, "devices": [{"device", "state", "reason", ...}], "in_flight": int}``."""


class Guess(BaseModel):
    """A class, and how probable the CNN finds it (softmax)."""

    class_: int = Field(serialization_alias="class")
    name: str | None
    probability: float


class Classified(Guess):
    """An answer: the class that fits best, and the next ones."""

    best: list[Guess]
    logits: list[float] | None = Field(description="All of the CNN's output, with ?scores=all")
    seconds: float = Field(description="How long the divided model took, without reading the picture")
    input: list[int] = Field(description="What the picture was made: channels, height, width")


class Problem(BaseModel):
    """An error; the last three only where a device or a link has failed."""

    error: str
    device: str | None = None
    link: tuple[str, str] | None = None
    reason: str | None = None


class Refused(Exception):  # noqa: N818 - it is an outcome, one of two
    """A request that gets no class: its status, a sentence, and what else the answer's JSON holds."""

    def __init__(self, status: int, error: str, **more: Any) -> None:
        self.status, self.problem = status, {"error": error, **more}
        super().__init__(error)
