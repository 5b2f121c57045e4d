"""The health of a cluster, as the service returns it for `GET /health`."""

from __future__ import annotations

from typing import Literal

from cloven.documents import Document


class DeviceHealth(Document):
    """The state of a device, the reason if it is down, and its links that are down, with their reasons.

    A ``standby`` is not in use, and can take the place of a lost device.
    """

    device: str
    state: Literal["up", "down", "standby"]
    reason: str
    links: dict[str, str]


class PlanHealth(Document):
    """A plan that a coordinator can use: in a few words, its devices, and whether it is used now or can be.

    ``reason`` says why it cannot be used, as far as that is known.
    """

    title: str
    devices: tuple[str, ...]
    state: Literal["used", "ready", "down"]
    reason: str


class ClusterHealth(Document):
    """The state of a cluster.

    Attributes:
        ready: whether it can answer images.
        devices: the state of each device.
        in_flight: the number of images in flight.
        plan: the hash of the bundle that answers new images.
        upgrade: why they do not use the plan to which the workers were upgraded; empty if they use it.
        plans: the plan, then its fallbacks.
    """

    ready: bool
    devices: tuple[DeviceHealth, ...]
    in_flight: int
    plan: str
    upgrade: str
    plans: tuple[PlanHealth, ...]
