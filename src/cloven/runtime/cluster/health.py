"""The health of a cluster, as `GET /health` of the service shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class DeviceHealth(BaseModel):
    """The state of a device, why it is down, and its links that are down, with the reasons."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    device: str
    state: Literal["up", "down"]
    reason: str
    links: dict[str, str]


class ClusterHealth(BaseModel):
    """The state of a cluster: whether images can be answered now, each device, and the images in flight."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    ready: bool
    devices: tuple[DeviceHealth, ...]
    in_flight: int
