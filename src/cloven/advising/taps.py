"""The taps of a program on a cluster: exposed links, and devices that the owner of the images does not trust."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from cloven.auditing.finding import Axis
from cloven.cost.cluster import Cluster
from cloven.graph.cuts import cuts
from cloven.graph.graph import Graph
from cloven.partition.compiler import divide, problems
from cloven.partition.division import device_names
from cloven.partition.observe import Observation, observe
from cloven.partition.program import Program
from cloven.partition.protection import COORDINATOR
from cloven.partition.vertical import Vertical


@dataclass(frozen=True, eq=False)
class ExposedTap:
    """A place where someone else may listen.

    Attributes:
        name: such as ``edge0->edge1``, or ``device edge1``.
        pair: the two parties of a link, which encryption protects; None for a device.
        observation: what is observed there and must be attacked; None for the image or the answer itself.
        known: the axes that need no attack, since the image or the answer itself is there.
    """

    name: str
    pair: tuple[str, str] | None
    observation: Observation | None
    known: tuple[Axis, ...] = ()

    @cached_property
    def key(self) -> str:
        """The name under which an audit reports the observation; empty without one."""
        return "" if self.observation is None else key_of(self.observation)

    @cached_property
    def raw_image(self) -> float:
        """The fraction of the image's pixels that the listener receives as they are."""
        return 0.0 if self.observation is None else self.observation.raw_image


def key_of(observation: Observation) -> str:
    """Return the name under which an audit reports an observation."""
    return observation.fingerprint[:32]


def cut_observations(model: Graph) -> Iterator[Observation]:
    """Yield what crosses each vertical cut of a model in two parts, from the image to the answer."""
    devices = device_names(2)
    for cut in cuts(model):
        strategies = (Vertical(cuts=(cut.after,)),)
        if not problems(model, strategies, devices):
            yield from observe(divide(model, strategies, devices))


def taps(program: Program, cluster: Cluster) -> tuple[ExposedTap, ...]:
    """Return the taps of a program if none of its links were protected.

    The links with the coordinator carry the image and the answer. A device that is not trusted observes everything
    that it receives, and the last one computes the answer. A standby may take the place of the first one, which
    receives the image.
    """
    image, answer = (COORDINATOR, program.source), (program.sink, COORDINATOR)
    found = []
    if cluster.link(*image).exposed:
        found.append(ExposedTap("->".join(image), image, None, ("pixels", "labels")))
    if cluster.link(*answer).exposed:
        found.append(ExposedTap("->".join(answer), answer, None, ("labels",)))
    exposed = (link for link in program.links if cluster.link(*link).exposed)
    found += [ExposedTap("->".join(link), link, observe(program, [link])[0]) for link in exposed]
    for device in program.devices:
        if cluster.devices[device].trusted:
            continue
        known: tuple[Axis, ...] = ("labels",) if device == program.sink else ()
        if device == program.source:
            found.append(ExposedTap(f"device {device}", None, None, ("pixels", "labels")))
        elif any(link[1] == device for link in program.links):
            found.append(ExposedTap(f"device {device}", None, observe(program, device=device)[0], known))
    for device in program.standby:
        if device not in cluster.devices or not cluster.devices[device].trusted:
            found.append(ExposedTap(f"device {device}", None, None, ("pixels", "labels")))
    return tuple(found)
