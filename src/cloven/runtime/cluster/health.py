"""The health of a cluster, as `GET /health` of the service shows it."""

from __future__ import annotations

from typing import Literal

from cloven.documents import Document


class DeviceHealth(Document):
    """The state of a device, why it is down, and its links that are down, with the reasons."""

    device: str
    state: Literal["up", "down"]
    reason: str
    links: dict[str, str]


class ClusterHealth(Document):
    """The state of a cluster: whether images can be answered now, each device, and the images in flight."""

    ready: bool
    devices: tuple[DeviceHealth, ...]
    in_flight: int
