"""Find the device or link that delays an image, from the states that the devices report."""

from __future__ import annotations

from collections.abc import Mapping

from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster.protocol import ImageState

SENT, COMPUTES, WAITS = range(3)
DONE = ImageState(doing="done", parties=[])


def culprit(states: Mapping[str, ImageState], sink: str) -> tuple[str, ...]:
    """Return the device that is still computing, or the link whose source has sent what its target waits for.

    Args:
        states: the state of each device that reported one.
        sink: the device that sends the output.
    """
    seen, device = [COORDINATOR], sink
    while _reason(states, device) == WAITS:
        # A message that was sent and has not arrived is late; a party that waits may be delayed by another one.
        party = min(states[device].parties, key=lambda name: _reason(states, name))
        if party in seen or _reason(states, party) == SENT:
            return party, device
        seen.append(device)
        device = party
    return (device,) if _reason(states, device) == COMPUTES else (device, COORDINATOR)


def _reason(states: Mapping[str, ImageState], party: str) -> int:
    """Return why no message comes from a party; one without a reported state is assumed to have sent it."""
    state = states.get(party, DONE)
    if state.doing == "waits":
        return WAITS if state.parties else COMPUTES
    return COMPUTES if state.doing == "computes" else SENT
