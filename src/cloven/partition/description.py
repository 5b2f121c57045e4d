"""The description of a divided model that ``cloven plan`` prints: its links, devices and transfers."""

from __future__ import annotations

from typing import Literal

from cloven.documents import Document
from cloven.graph.box import text
from cloven.partition.plan import Plan
from cloven.partition.program import Link, Program
from cloven.partition.protection import COORDINATOR
from cloven.partition.transform import UNCHANGED
from cloven.partition.usage import Usage, usage


class LinkDescription(Document):
    """The traffic of a link, for one image, without framing.

    Attributes:
        link: source and target; the coordinator sends the image and receives the output.
        shares: the number of transfers.
        bytes: their total size.
        seconds: the time that they take at the given bandwidth.
        protection: the link's protection.
        transforms: the transforms that are applied before sending.
    """

    link: Link
    shares: int
    bytes: int
    seconds: float | None
    protection: str
    transforms: tuple[str, ...]


class TransferDescription(Document):
    """A transfer, for one image: the share of a value that one device sends to another."""

    step: int
    source: str
    target: str
    value: str
    share: str
    shape: tuple[int, ...]
    bytes: int
    transform: str = "none"
    dtype: str = "float32"


class PlanDescription(Document):
    """A divided model.

    Attributes:
        plan: the plan in a few words.
        exact: whether the program computes the same as the model; if not, ``inexact`` has the reasons.
        bytes: the bytes that the devices send each other for one image.
        links: the traffic of each link, including those of the coordinator.
        devices: what each device computes and holds.
        transfers: the transfers between devices.
        standby: the devices that can take the place of any other, and then receive what it receives.
    """

    version: Literal[1] = 1
    plan: str
    exact: bool
    inexact: tuple[str, ...]
    bytes: int
    links: tuple[LinkDescription, ...]
    devices: tuple[Usage, ...]
    transfers: tuple[TransferDescription, ...]
    standby: tuple[str, ...] = ()


def described(plan: Plan, program: Program, bandwidth: int | None = None) -> PlanDescription:
    """Return the description of a plan and its program; ``bandwidth`` is that of each link, in bits per second."""
    return PlanDescription(
        plan=plan.title(),
        exact=program.exact,
        inexact=program.inexact,
        bytes=sum(transfer.bytes for transfer in program.transfers),
        links=described_links(program, bandwidth),
        devices=tuple(usage(program)),
        transfers=described_transfers(program),
        standby=program.standby,
    )


def described_links(program: Program, bandwidth: int | None = None) -> tuple[LinkDescription, ...]:
    """Return the links of a program, those of the coordinator too; ``bandwidth`` of each is in bits per second."""
    graph = program.graph
    traffic: dict[Link, list[int]] = {(COORDINATOR, program.source): [program.image_bytes]}
    for transfer in program.transfers:
        traffic.setdefault(transfer.link, []).append(transfer.bytes)
    traffic[program.sink, COORDINATOR] = [graph.by_name[graph.output].bytes]
    links = []
    for link, sizes in traffic.items():
        transforms = {t.transform.name: None for t in program.transfers if t.link == link and not t.transform.exact}
        if link[0] == COORDINATOR and program.transforms.image != UNCHANGED.image:
            transforms[program.transforms.image] = None
        links.append(
            LinkDescription(
                link=link,
                shares=len(sizes),
                bytes=sum(sizes),
                seconds=None if bandwidth is None else 8 * sum(sizes) / bandwidth,
                protection=program.protection.of(*link),
                transforms=tuple(transforms),
            )
        )
    return tuple(links)


def described_transfers(program: Program) -> tuple[TransferDescription, ...]:
    """Return the transfers of a program, in order."""
    return tuple(
        TransferDescription(
            step=transfer.step,
            source=transfer.source,
            target=transfer.target,
            value=transfer.value,
            share=text(transfer.share),
            shape=transfer.shape,
            bytes=transfer.bytes,
            transform=transfer.transform.name,
            dtype=transfer.dtype,
        )
        for transfer in program.transfers
    )
