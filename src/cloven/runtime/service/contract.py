"""The interface of the served model, and the documents that clients receive."""

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
"""Decodes a picture into pixels ``(C, H, W)``, or raises ClovenError: `cloven.zoo.folders.decode_picture`."""
Measure = Callable[[bytes], int]
"""Returns the number of pixels in a file's header, or raises ClovenError: `cloven.zoo.folders.picture_size`."""


class ModelOutput(Protocol):
    """The output for an image."""

    @property
    def number(self) -> int:
        """Return the number of the image, as the messages on the links carry it."""

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
        """Return the output for an image ``(C, H, W)`` in [0, 1]; the call is cancelled at the request's deadline.

        Raises:
            ImageRefused: if the plan cannot take the image.
            FrameFailed: if a device or a link has failed.
        """

    def health(self) -> ClusterHealth:
        """Return the state of the devices."""


class ClassScore(BaseModel):
    """A class and its probability (softmax)."""

    class_: int = Field(serialization_alias="class")
    name: str | None
    probability: float


class Classified(ClassScore):
    """A response: the most probable class, and the next ones."""

    image: int = Field(description="The number of the image, as the messages on the links carry it")
    best: list[ClassScore]
    logits: list[float] | None = Field(description="The complete output of the CNN, with ?scores=all")
    seconds: float = Field(description="Seconds that the divided model took, without reading the picture")
    input: list[int] = Field(description="The size that the picture was converted to: channels, height, width")


class ModelInfo(BaseModel):
    """The served model: the shape of its images, and whether a user must reserve the service."""

    input: Shape = Field(description="Channels, height, width")
    slots: bool


class ErrorBody(BaseModel):
    """An error; the last three fields are present if a device or a link has failed."""

    error: str
    device: str | None = None
    link: tuple[str, str] | None = None
    reason: str | None = None


class RequestRefused(Exception):  # noqa: N818 - it is an outcome, one of two
    """A request that is not answered with a class: its status, and the message or the whole error document."""

    def __init__(self, status: int, error: str | ErrorBody) -> None:
        self.status, self.body = status, error if isinstance(error, ErrorBody) else ErrorBody(error=error)
        super().__init__(self.body.error)
