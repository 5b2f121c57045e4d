"""Find the device or link that an overdue image waits for, from the states that all devices report."""

from __future__ import annotations

from collections.abc import Mapping

from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster.protocol import ImageState

SENT, COMPUTES, WAITS = range(3)
DONE = ImageState(doing="done", parties=[])


def culprit(states: Mapping[str, ImageState], sink: str) -> tuple[str, ...]:
    """Return a device that computes, or a link whose source has sent what its target waits for.

    Args:
        states: of the devices that reported any.
        sink: the device that sends the output.
    """
    seen, device = [COORDINATOR], sink
    while _reason(states, device) == WAITS:
        # What was sent and has not arrived is surely late; a party that waits may do so because of another.
        party = min(states[device].parties, key=lambda name: _reason(states, name))
        if party in seen or _reason(states, party) == SENT:
            return party, device
        seen.append(device)
        device = party
    return (device,) if _reason(states, device) == COMPUTES else (device, COORDINATOR)


def _reason(states: Mapping[str, ImageState], party: str) -> int:
    """Return why nothing comes from a party; one that reports nothing is taken to have sent."""
    state = states.get(party, DONE)
    if state.doing == "waits":
        return WAITS if state.parties else COMPUTES
    return COMPUTES if state.doing == "computes" else SENT
