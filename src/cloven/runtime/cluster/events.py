"""The events that links and workers report to their owner, in the event loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloven.runtime.cluster.protocol import ImageFailure
from cloven.runtime.link.session import Opened


@dataclass(frozen=True, eq=False)
class FrameReceived:
    """A frame has arrived from a party."""

    party: str
    frame: Opened


@dataclass(frozen=True)
class LinkChanged:
    """The link with a party has come up, or has gone down for ``reason``."""

    party: str
    up: bool
    reason: str


@dataclass(frozen=True)
class WorkerChanged:
    """A worker has joined the run, or has reported its state."""

    device: str


@dataclass(frozen=True)
class WorkerLinkLost:
    """A worker has lost its link with another party."""

    device: str
    party: str
    reason: str


@dataclass(frozen=True)
class ImageGivenUp:
    """A worker has failed on an image and given it up."""

    device: str
    failure: ImageFailure


Event = FrameReceived | LinkChanged | WorkerChanged | WorkerLinkLost | ImageGivenUp
Emit = Callable[[Event], None]
