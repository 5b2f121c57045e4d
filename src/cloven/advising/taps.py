"""The taps of a program on a cluster: exposed links, and devices that the owner of the images does not trust."""

from __future__ import annotations

from dataclasses import dataclass

from cloven.cost.cluster import Cluster
from cloven.partition.observe import Observation, observe
from cloven.partition.program import Program
from cloven.partition.protection import COORDINATOR


@dataclass(frozen=True, eq=False)
class ExposedTap:
    """A place where someone else may listen.

    Attributes:
        name: such as ``edge0->edge1``, or ``device edge1``.
        pair: the two parties of a link, which encryption protects; None for a device.
        observation: what is observed there; None for the image or the answer itself, which leaks everything.
    """

    name: str
    pair: tuple[str, str] | None
    observation: Observation | None


def taps(program: Program, cluster: Cluster) -> tuple[ExposedTap, ...]:
    """Return the taps of a program if none of its links were protected.

    A device that is not trusted observes everything that it receives. The links with the coordinator carry the
    image and the answer.
    """
    ends = ((COORDINATOR, program.source), (program.sink, COORDINATOR))
    found = [ExposedTap("->".join(link), link, None) for link in ends if cluster.link(*link).exposed]
    for link in program.links:
        if cluster.link(*link).exposed:
            (observation,) = observe(program, [link])
            found.append(ExposedTap("->".join(link), link, observation))
    for device in program.devices:
        if cluster.devices[device].trusted:
            continue
        if device == program.source:
            found.append(ExposedTap(f"device {device}", None, None))
        elif any(link[1] == device for link in program.links):
            found.append(ExposedTap(f"device {device}", None, observe(program, device=device)[0]))
    return tuple(found)
