"""The recommended plan as devices and links: what is encrypted, where others can listen, and what leaks there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from cloven.advising.advice import AdviceReport, TapLeakage
from cloven.auditing.finding import Axis, cut
from cloven.auditing.summary import ProgramPart, ProgramTransfer, Summary
from cloven.cost.estimate import LinkCost
from cloven.partition.protection import COORDINATOR
from cloven.reporting.levels import Leak, LeakLimit, learned
from cloven.reporting.overview import CARDS, Link, Row, Station, Tap, encryption, tapped


def drawing(
    report: AdviceReport,
    parts: Sequence[ProgramPart] | None,
    transfers: Sequence[ProgramTransfer],
    summary: Summary | None,
) -> Row | None:
    """Return the recommended plan as a row; None if there is no plan.

    Args:
        report: the advice.
        parts: the layers of each device; None if they are unknown.
        transfers: the transfers between devices.
        summary: the audit of the plan's taps; None if there is none.
    """
    if report.plan is None or report.cost is None:
        return None
    taps = _taps(report, transfers, summary)
    names = [device.device for device in report.cost.devices]
    links = {tap.links[0]: tap for tap in taps if tap.device is None}
    pairs = list(pairwise(names))
    is_chain = bool(pairs) and links.keys() == set(pairs)
    hops = tuple(links[pair] for pair in pairs) if is_chain else ()
    others = sorted((tap for tap in taps if tap not in hops), key=lambda tap: tap.worst, reverse=True)
    return Row(
        title="The recommended division",
        stations=_stations(report, parts),
        hops=hops,
        taps=tuple(others[:CARDS]),
        more=len(others[CARDS:]),
        links=links,
        remarks=_remarks(report),
    )


def _stations(report: AdviceReport, parts: Sequence[ProgramPart] | None) -> tuple[Station, ...]:
    """Return the devices; trust is shown where it differs."""
    assert report.cost is not None
    layers = {part.device: part.layers for part in parts or ()}
    differs = not all(device.trusted for device in report.cost.devices)
    return tuple(
        Station(
            device.device,
            trusted=differs and device.trusted,
            layers=None if parts is None else layers.get(device.device, ()),
            untrusted=not device.trusted,
        )
        for device in report.cost.devices
    )


def _taps(report: AdviceReport, transfers: Sequence[ProgramTransfer], summary: Summary | None) -> tuple[Tap, ...]:
    """Return each link between devices, and each device that is not trusted, with what leaks there."""
    assert report.cost is not None
    attacked: dict[Link | str, Tap] = {}
    if summary is not None and summary.programs:
        whole, _ = tapped(summary.programs[0], summary)
        attacked = {tap.device or tap.links[0]: tap for tap in whole}
    leaks: dict[str, dict[Axis, TapLeakage]] = {}
    for leak in report.leakage:
        leaks.setdefault(leak.tap, {})[leak.axis] = leak
    given = summary is None or summary.verdict.given
    found = []
    for one in report.cost.links:
        if COORDINATOR not in (one.source, one.target):
            tap = attacked.get((one.source, one.target)) or _unseen(one, transfers)
            protection = () if one.protection == "none" else (one.protection,)
            tap = replace(tap, bytes=one.bytes, protection=protection, exposed=one.exposed)
            found.append(_judged(tap, leaks.get(f"{one.source}->{one.target}", {}), given=given))
    for device in report.cost.devices:
        if f"device {device.device}" in leaks:
            received = sum(one.bytes for one in report.cost.links if one.target == device.device)
            tap = attacked.get(device.device) or Tap((), device.device, "", received)
            tap = replace(tap, bytes=received, protection=())
            found.append(_judged(tap, leaks[f"device {device.device}"], given=given))
    return tuple(found)


def _unseen(link: LinkCost, transfers: Sequence[ProgramTransfer]) -> Tap:
    """Return a link that the audit of the plan did not attack."""
    sent = [one.value for one in transfers if (one.source, one.target) == (link.source, link.target)]
    layers = tuple(dict.fromkeys(sent))
    return Tap(((link.source, link.target),), None, cut(layers) if layers else "", link.bytes)


def _judged(tap: Tap, leaks: Mapping[Axis, TapLeakage], *, given: bool) -> Tap:
    """Return a tap with the leakage that limits apply to, and with what a listener learns if a verdict is given."""
    pixels, labels = _limit(leaks.get("pixels"), tap.pixels), _limit(leaks.get("labels"), tap.labels)
    tap = replace(tap, pixels=pixels, labels=labels, attacked=pixels is not None or labels is not None)
    if tap.exposed and tap.encrypted:
        return replace(tap, learns=f"sees only ciphertext ({tap.protection[0]})")
    if not given or not tap.attacked:
        return replace(tap, learns="")
    return replace(tap, learns=learned(pixels, labels, tap.raw, labels_read=True))


def _limit(leak: TapLeakage | None, measured: Leak | LeakLimit | None) -> LeakLimit | None:
    """Return the leakage of a tap, None if it was not measured; what is sent as it is leaks for certain."""
    if leak is None or leak.leakage is None or leak.reason:
        return None
    low = measured.score.leakage.low if isinstance(measured, Leak) else 0.0
    return LeakLimit(leak.leakage, leak.attack, leak.leakage if leak.attack is None else min(low, leak.leakage))


def _remarks(report: AdviceReport) -> tuple[str, ...]:
    """Return a sentence about the link that brings the image in, and one about the link that returns the answer."""
    assert report.cost is not None
    found = []
    for link in report.cost.links:
        if link.source == COORDINATOR:
            found.append(f"The link that brings the image in is {_state(link, 'the image')}.")
        elif link.target == COORDINATOR:
            found.append(f"The link that returns the answer is {_state(link, 'the answer')}.")
    return tuple(found)


def _state(link: LinkCost, content: str) -> str:
    """Return whether others can listen to a link of the coordinator."""
    return encryption(link.protection, content) if link.exposed else "one that others cannot listen to"
