"""The interface of the model that is served, and the documents that clients get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from cloven.runtime.cluster.health import ClusterHealth

Shape = tuple[int, int, int]
"""Channels, height, width."""
Decode = Callable[[bytes, Shape], NDArray[np.uint8]]
"""Turns a picture's file into pixels ``(C, H, W)``, or raises ClovenError: `cloven.zoo.folders.decode_picture`."""
Measure = Callable[[bytes], int]
"""Returns the number of pixels by a file's header, or raises ClovenError: `cloven.zoo.folders.picture_size`."""


class ModelOutput(Protocol):
    """The output for an image."""

    @property
    def output(self) -> NDArray[np.float32]:
        """Return the CNN's output ``(classes,)``, before softmax."""

    @property
    def seconds(self) -> float:
        """Return the seconds that the divided model took."""


class ServedModel(Protocol):
    """The model that is served."""

    @property
    def shape(self) -> Shape:
        """Return the shape of an image."""

    async def submit(self, image: NDArray[np.float32]) -> ModelOutput:
        """Classify an image ``(C, H, W)`` in [0, 1]; it is cancelled when a request's deadline passes.

        Raises:
            FrameFailed: if a device or a link has failed.
        """

    def health(self) -> ClusterHealth:
        """Return the state of the devices."""


class ClassScore(BaseModel):
    """A class, and its probability (softmax)."""

    class_: int = Field(serialization_alias="class")
    name: str | None
    probability: float


class Classified(ClassScore):
    """An answer: the class that fits best, and the next ones."""

    best: list[ClassScore]
    logits: list[float] | None = Field(description="All of the CNN's output, with ?scores=all")
    seconds: float = Field(description="How long the divided model took, without reading the picture")
    input: list[int] = Field(description="What the picture was made: channels, height, width")


class ErrorBody(BaseModel):
    """An error; the last three fields are present if a device or a link has failed."""

    error: str
    device: str | None = None
    link: tuple[str, str] | None = None
    reason: str | None = None


class RequestRefused(Exception):  # noqa: N818 - it is an outcome, one of two
    """A request that gets no class: its status, and a sentence, or all of the answer's document."""

    def __init__(self, status: int, error: str | ErrorBody) -> None:
        self.status, self.body = status, error if isinstance(error, ErrorBody) else ErrorBody(error=error)
        super().__init__(self.body.error)
