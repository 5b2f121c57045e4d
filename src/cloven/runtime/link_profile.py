"""Measure the links between the running workers of a cluster, and of the coordinator with each of them."""

from __future__ import annotations

import asyncio
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.cost.cluster import Cluster
from cloven.cost.profile import LinkProfile, Transmission
from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.partition.program import Link
from cloven.partition.protection import COORDINATOR
from cloven.progress import Progress
from cloven.runtime.cluster import link_echo
from cloven.runtime.cluster.protocol import VERSION, LinkMeasurement, MeasureRequest, TransferTimes
from cloven.runtime.cluster.worker_client import describe, measure
from cloven.runtime.link.identity import read

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

LARGE = 0.75
"""The difference between the two sizes of a transfer, as a share of the larger one."""


class MeasuredLink(Document):
    """A link that was measured.

    Attributes:
        link: the two parties; the first one opened the connection.
        profile: the costs of the link, as `cloven estimate` uses them.
        round_trip: the median seconds from a small message to its reply, with the work of both ends.
        forth, back: the bits per second from the first party to the second, and from the second to the first.
    """

    link: Link
    profile: LinkProfile
    round_trip: float
    forth: float
    back: float


class UnmeasuredLink(Document):
    """A link that could not be measured, and the reason."""

    link: Link
    reason: str


class LinkMeasurements(Document):
    """The links of a cluster: those that were measured, and the others."""

    measured: tuple[MeasuredLink, ...]
    failed: tuple[UnmeasuredLink, ...]


def measured(cluster: Cluster, progress: Progress) -> LinkMeasurements:
    """Measure the links of all devices that have an address, one after another; each takes a few seconds.

    Args:
        cluster: the cluster; its workers must be running, and free.
        progress: called with "measuring links", the number of links so far, and the number of all links.

    Raises:
        ClovenError: if no device has an address, or with every reason why a worker cannot be used.
    """
    addresses = {name: device.address for name, device in cluster.devices.items() if device.address is not None}
    if not addresses:
        raise ClovenError('no device has an address: add lines such as edge0 = "HOST:PORT" to [devices]')
    tls = read(Path(cluster.keys), COORDINATOR) if cluster.keys is not None and not cluster.insecure else None
    return asyncio.run(_measured(addresses, tls, progress))


async def _measured(addresses: dict[str, str], tls: Identity | None, progress: Progress) -> LinkMeasurements:
    await _check_workers(addresses, tls)
    pairs = list(combinations([COORDINATOR, *addresses], 2))
    found: list[MeasuredLink] = []
    failed: list[UnmeasuredLink] = []
    progress("measuring links", 0, len(pairs))
    for one, other in pairs:
        try:
            if one == COORDINATOR:
                times = await link_echo.measured((one, other), addresses[other], tls, lambda: None)
            else:
                asked = MeasureRequest(cloven=VERSION, party=other, address=addresses[other])
                times = await measure(one, addresses[one], tls, asked)
            found.append(measured_link((one, other), times, tls=tls is not None))
        except ClovenError as error:
            failed.append(UnmeasuredLink(link=(one, other), reason="; ".join(error.problems)))
        progress("measuring links", len(found) + len(failed), len(pairs))
    return LinkMeasurements(measured=tuple(found), failed=tuple(failed))


async def _check_workers(addresses: dict[str, str], tls: Identity | None) -> None:
    """Check that each address is of the right worker, and that it takes part in no run.

    Raises:
        ClovenError: with every reason why a worker cannot be used.
    """
    asked = (describe(name, address, tls) for name, address in addresses.items())
    problems: list[str] = []
    for device, answer in zip(addresses, await asyncio.gather(*asked, return_exceptions=True), strict=True):
        at = f"{device} ({addresses[device]})"
        if isinstance(answer, ClovenError):
            problems += answer.problems
        elif isinstance(answer, BaseException):
            raise answer
        elif answer.device != device:
            problems.append(f"{at} is the worker of {answer.device}; expected {device}: correct the cluster file")
        elif answer.run is not None:
            problems.append(f"{at} is busy with run {answer.run}; measure links while nothing else runs")
    if problems:
        raise ClovenError(problems)


def measured_link(link: Link, times: LinkMeasurement, *, tls: bool) -> MeasuredLink:
    """Return the costs of a link from measured times.

    The bandwidth is that of the slower direction. The delay is half of a round trip, without the time in which both
    ends used their processors, since `cloven estimate` counts that for the devices. The time of a message is what
    one with a payload takes besides its bytes and a round trip.

    Raises:
        ClovenError: if a large transfer took no longer than a quarter of it.
    """
    forth, back = _bandwidth(times.forth), _bandwidth(times.back)
    bandwidth = min(forth, back)
    message = times.loaded_trip - times.round_trip - 8 * times.payload / forth
    trip, work = f"{1e3 * times.round_trip:.3f} ms", f"{1e3 * times.processor:.3f} ms"
    note = (
        f"{'mTLS' if tls else 'no TLS'}; {_rate(forth)} of payload from {link[0]}, {_rate(back)} from {link[1]}; "
        f"delay: half of the median round trip of {trip}, minus {work} of work at both ends"
    )
    transmission = Transmission(
        origin="measured",
        note=note,
        bandwidth=float(f"{bandwidth:.4g}"),
        delay=round(max(0.0, times.round_trip - times.processor) / 2, 6),
        message=round(max(0.0, message), 6),
    )
    profile = LinkProfile(name="-".join(link), transmission=transmission)
    return MeasuredLink(link=link, profile=profile, round_trip=times.round_trip, forth=forth, back=back)


def _bandwidth(transfer: TransferTimes) -> float:
    """Return the bits per second of a transfer, from the difference between its two sizes."""
    seconds = transfer.seconds - transfer.quarter_seconds
    if seconds <= 0:
        raise ClovenError("its times vary too much; measure again while nothing else runs")
    return 8 * LARGE * transfer.bytes / seconds


def _rate(bandwidth: float) -> str:
    return f"{bandwidth / 1e6:.4g} Mbit/s"
