"""Fig. 3 as a cost model: seconds and joules of three edge devices, without and with Ascon on their links.

The paper did not measure boards for this figure: it combines a cipher's published speed with the data sheets of
processors (Sect. 2). Here, `cloven.estimate` combines the profiles of devices. The bars are the times for which a
device computes and encrypts, and the energy of these times. The time on the link is a separate number, since the
paper leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cloven.cost.cluster import Cluster, ClusterDevice, ClusterLink
from cloven.cost.estimate import Cost, estimate
from cloven.cost.profile import DeviceProfile, LinkProfile, MessageCost, Power, read_profile
from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.partition.program import Program
from cloven.partition.protection import Name, Protection

Reading = Literal["keras", "convolutions"]

READINGS: Mapping[Reading, tuple[str, str]] = {
    "keras": ("s1:5", "s1:20"),
    "convolutions": ("conv_pw_2", "conv_dw_10"),
}
"""The layers after which MobileNet is cut, under two readings of the paper's "Layer 5" and "Layer 20".

They count Keras' layers, as the paper's Sect. 5 does, or convolutions; only the second fits its "at least 3 times".
"""

FIRST = "ED1"
DEVICES = (FIRST, "ED2", "ED3")
CIPHER: Name = "ascon-128"
LINK = read_profile(LinkProfile, "ethernet-100", Path())
NO_HANDLING = MessageCost(
    origin="assumed", note="left out, as in the paper", send=0.0, receive=0.0, send_byte=0.0, receive_byte=0.0
)


@dataclass(frozen=True, eq=False)
class Scenario:
    """The paper's Fig. 2: a model cut after ``cuts`` over a chain of devices; ``reading`` is from `READINGS`."""

    reading: Reading
    model: str
    cuts: tuple[str, ...]
    program: Program

    @property
    def sent(self) -> int:
        """The bytes that the first device sends."""
        return sum(transfer.bytes for transfer in self.program.transfers if transfer.source == FIRST)


@dataclass(frozen=True)
class Preset:
    """A set of numbers for the cost model.

    Attributes:
        name: ``implied``, ``published`` or ``measured``.
        title: the title in charts.
        source: the source of the numbers.
        profiles: the profile of each processor, with the cipher and the power.
        assumed: assumptions that no source states, one sentence each.
    """

    name: str
    title: str
    source: str
    profiles: Mapping[str, DeviceProfile]
    assumed: tuple[str, ...]


class CostBar(Document):
    """A pair of bars of Fig. 3: a device with a processor, without and with the cipher, for one image.

    ``bytes`` are those that the cipher processes. ``ratio`` is the ratio of the times and, since the power is
    constant, of the energies. ``link_seconds`` is the time to send the device's messages; no other number includes
    it.
    """

    device: str
    processor: str
    macs: int
    bytes: int
    seconds_without: float
    seconds_with: float
    joules_without: float
    joules_with: float
    ratio: float
    link_seconds: float


def constant_power(power: float) -> Power:
    """Return an assumed power in W of a device that computes; waiting costs nothing, as in the paper."""
    return Power(origin="assumed", note="constant while it computes; waiting is left out", idle=0.0, busy=power)


def figure3(profiles: Mapping[str, DeviceProfile], scenario: Scenario) -> tuple[CostBar, ...]:
    """Return the bars of Fig. 3, one for each device and processor.

    Args:
        profiles: the profile of each processor.
        scenario: the divided model.

    Raises:
        ClovenError: if a profile has no power, or not the cipher; with everything that is missing.
    """
    costs = {name: _costs(profile, scenario.program) for name, profile in profiles.items()}
    return tuple(
        _bar(scenario.program, device, name, *costs[name]) for device in scenario.program.devices for name in costs
    )


def _costs(profile: DeviceProfile, program: Program) -> tuple[Cost, Cost]:
    """Return the costs on devices of one kind, without and with the cipher on the links between them."""
    board = ClusterDevice(profile.model_copy(update={"messages": NO_HANDLING}))
    cluster = Cluster(dict.fromkeys(program.devices, board), default=ClusterLink(LINK))
    links = dict.fromkeys((f"{source}-{target}" for source, target in program.links), CIPHER)
    secured = replace(program, protection=Protection(links=links))
    return estimate(program, cluster), estimate(secured, cluster)


def _bar(program: Program, device: str, processor: str, plain: Cost, secured: Cost) -> CostBar:
    without, both = (next(d for d in cost.devices if d.device == device) for cost in (plain, secured))
    if without.busy is None or both.busy is None or without.energy is None or both.energy is None:
        raise ClovenError(secured.unknown)
    links = [link for link in plain.links if {link.source, link.target} <= set(program.devices)]
    return CostBar(
        device=device,
        processor=processor,
        macs=program.macs(device),
        bytes=sum(link.bytes for link in links if device in (link.source, link.target)),
        seconds_without=without.busy,
        seconds_with=both.busy,
        joules_without=without.energy,
        joules_with=both.energy,
        ratio=both.busy / without.busy,
        link_seconds=sum(link.busy or 0.0 for link in links if link.source == device),
    )
