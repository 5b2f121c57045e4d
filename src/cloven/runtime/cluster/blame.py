"""Which device or link an image that is overdue waits for, by what all devices say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cloven.partition.protection import COORDINATOR

Doing = Literal["waits", "computes", "sends", "done"]


@dataclass(frozen=True)
class State:
    """What a device does about an image; ``parties`` are those that it waits for.

    One that waits for nobody has just got all that it needs, and computes next.
    """

    doing: Doing
    parties: tuple[str, ...] = ()


def culprit(states: Mapping[str, State], sink: str) -> tuple[str, ...]:
    """A device that computes, or a link whose source has sent what its target waits for.

    Args:
        states: of the devices that said anything.
        sink: the device that sends the output.
    """
    seen, device = [COORDINATOR], sink
    while _reason(states, device) == WAITS:
        # What was sent and has not come is surely late; who waits as well may do so because of another.
        party = min(states[device].parties, key=lambda name: _reason(states, name))
        if party in seen or _reason(states, party) == SENT:
            return party, device
        seen.append(device)
        device = party
    return (device,) if _reason(states, device) == COMPUTES else (device, COORDINATOR)


SENT, COMPUTES, WAITS = range(3)


def _reason(states: Mapping[str, State], party: str) -> int:
    """Why nothing comes from a party; one that says nothing is taken to have sent."""
    state = states.get(party, State("done"))
    if state.doing == "waits":
        return WAITS if state.parties else COMPUTES
    return COMPUTES if state.doing == "computes" else SENT
