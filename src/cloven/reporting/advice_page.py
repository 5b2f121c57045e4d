"""The page of an advice: the recommended division, what it costs and leaks, and those that it was compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files

from cloven.advising.advice import AdviceReport, ComparedDivision, TapLeakage
from cloven.auditing.finding import AXES, Axis
from cloven.auditing.summary import ProgramPart, ProgramTransfer, Summary
from cloven.cost.estimate import Cost
from cloven.reporting import advice_charts, words
from cloven.reporting.advice_drawing import drawing
from cloven.reporting.digest import Family
from cloven.reporting.findings import Sample, albums, evidence, faces
from cloven.reporting.templates import environment

SCRIPT = "advice.js"


@dataclass(frozen=True)
class AdvisedPlan:
    """The recommended plan: what is known of it besides the advice.

    Attributes:
        parts: the layers of each device; None if they are unknown.
        transfers: the transfers between devices.
        cuts: the ops after which the model is cut.
        summary: the audit of the plan's taps; None if nothing was attacked, or if it is not at hand.
        samples: pictures of the audit, by the key of their finding.
    """

    parts: Sequence[ProgramPart] | None = None
    transfers: Sequence[ProgramTransfer] = ()
    cuts: tuple[str, ...] = ()
    summary: Summary | None = None
    samples: Mapping[str, Sequence[Sample]] | None = None


@dataclass(frozen=True)
class LimitedQuantity:
    """A number of the plan beside its limit.

    Attributes:
        name: such as ``Latency``.
        value: with its unit; ``unknown`` if it is.
        limit: such as ``limit 20 ms``; empty if there is none.
        filled: the value as a share of the limit (of leakage without a limit, of 1); None if there is no limit.
        detail: where the number comes from.
        minimised: whether the search minimised it.
    """

    name: str
    value: str
    limit: str
    filled: float | None
    detail: str
    minimised: bool = False


def render_advice(report: AdviceReport, plan: AdvisedPlan) -> str:
    """Return the whole page. Equal input gives equal bytes."""
    script = (files("cloven.reporting") / SCRIPT).read_text(encoding="utf-8")
    row = drawing(report, plan.parts, plan.transfers, plan.summary)
    samples = plan.samples or {}
    found = None if plan.summary is None else evidence(plan.summary)
    families = [] if found is None else found["families"]
    places = [Family(place, family.observations) for family in families for place in family.places]
    compared = _ordered(report.compared)
    fronts = [advice_charts.front(compared, axis, report.minimised, report.limits) for axis in AXES]
    return (
        environment()
        .get_template("advice.html.j2")
        .render(
            **dict(found or {}),
            report=report,
            script=script,
            version=version("cloven"),
            heading=_heading(report),
            sentence=_sentence(report),
            quantities=_quantities(report),
            divisions=(row,) if row is not None else (),
            faces=faces(samples),
            albums=albums(places, samples),
            compared=compared,
            letters=advice_charts.letters(compared),
            strategies=list(dict.fromkeys(one.kind.split(",", 1)[0] for one in compared)),
            strategy=advice_charts.strategy,
            fronts=[one for one in fronts if one is not None],
            depth=advice_charts.depth(report.cuts, report.limits, plan.cuts),
            written=advice_charts.WRITTEN,
            frame=advice_charts,
        )
    )


def _ordered(compared: Sequence[ComparedDivision]) -> list[ComparedDivision]:
    """Return the recommended division first, then the named ones, then the others in the order of the search."""
    return sorted(compared, key=lambda one: (not one.chosen, not one.names))


def _heading(report: AdviceReport) -> str:
    """Return the plan, or that there is none."""
    if report.plan is not None:
        return words.capital(report.plan)
    return report.reason.split(".", 1)[0]


def _sentence(report: AdviceReport) -> str:
    """Return what the plan costs and leaks; or, without one, the division that comes closest."""
    if report.cost is None or report.plan is None:
        if report.nearest is None:
            return ""
        return f"The division that comes closest is {report.nearest.division}."
    costs = words.capital(_costs(report, report.cost))
    if all(_worst(report, axis) is None for axis in AXES):
        return f"{costs}. Neither pixels nor labels leak: {_why(report)}."
    return f"{costs}. {' '.join(_leaks(report, axis) for axis in AXES)}"


def _costs(report: AdviceReport, cost: Cost) -> str:
    """Return the latency, and each other cost that is minimised or limited, as a clause."""
    limits = report.limits
    clauses = [f"an image takes {words.seconds(cost.latency)}{_within(limits.latency, words.seconds)}"]
    if limits.energy is not None or report.minimised == "energy":
        clauses.append(f"{words.joules(cost.energy)}{_within(limits.energy, words.joules)}")
    if limits.memory is not None:
        most = _largest_memory(cost)
        clauses.append(f"{words.octets(most)} of memory{_within(limits.memory, words.octets)}")
    if report.minimised == "traffic":
        clauses.append(f"{words.octets(cost.traffic)} of traffic")
    if limits.throughput is not None or report.minimised == "throughput":
        least = "" if limits.throughput is None else f" (at least {words.rate(limits.throughput)})"
        return f"{words.listed(clauses)}, at {words.rate(cost.throughput)}{least}"
    return words.listed(clauses)


def _within(limit: float | None, write: Callable[[float | None], str]) -> str:
    return "" if limit is None else f" (limit {write(limit)})"


def _leaks(report: AdviceReport, axis: Axis) -> str:
    """Return what the plan leaks on an axis, to whom, and by which attack."""
    limit, worst = report.limits.leakage.get(axis), _worst(report, axis)
    if worst is None:
        return f"{axis.capitalize()} do not leak: they do not cross any tap in clear."
    if worst.leakage is None:
        return f"What {axis} leak to {_listener(worst)} is unknown: nothing was attacked there."
    within = f" (limit {words.share(limit)})" if limit is not None else ""
    if round(100 * worst.leakage) == 0:
        return f"No leakage of {axis} was found{within}."
    return f"{axis.capitalize()} leak {_most(worst)}{within} to {_who(worst)}."


def _why(report: AdviceReport) -> str:
    """Return why no tap in clear leaks."""
    return (
        "every link that others can listen to is encrypted" if report.leakage else "others cannot listen anywhere"
    )


def _worst(report: AdviceReport, axis: Axis) -> TapLeakage | None:
    """Return the unprotected tap that leaks most on an axis; None if there is none.

    A tap that was not attacked counts as leaking everything, as in `Advice.leakage`.
    """
    clear = (one for one in report.leakage if one.axis == axis and not one.protected)
    return max(clear, key=lambda one: 1.0 if one.leakage is None else one.leakage, default=None)


def _most(tap: TapLeakage) -> str:
    """Return the leakage of a tap as the limit that it is; what needs no attack is certain."""
    if tap.leakage is None:
        return "unknown"
    shown = words.share(tap.leakage)
    is_certain = tap.attack is None and not tap.reason
    return shown if is_certain or not round(100 * tap.leakage) else f"at most {shown}"


def _listener(tap: TapLeakage) -> str:
    """Return who listens at a tap."""
    if tap.tap.startswith("device "):
        return f"whoever controls {words.clean(tap.tap.removeprefix('device '), 40)}"
    return f"a listener on {words.clean(tap.tap, 80).replace('->', ' → ')}"


def _who(tap: TapLeakage) -> str:
    """Return who listens at a tap, and by which attack."""
    if tap.leakage is None:
        return f"{_listener(tap)}, where nothing was attacked"
    if tap.attack is not None:
        return f"{_listener(tap)}, by {words.clean(tap.attack, 40)}"
    if tap.reason:
        return f"{_listener(tap)}, since nothing shows that they do not: {words.clean(tap.reason, 100)}"
    content = {"pixels": "the image" if tap.leakage >= 1 else "pixels of the image", "labels": "the answer"}
    return f"{_listener(tap)}, who gets {content[tap.axis]} without an attack"


def _largest_memory(cost: Cost) -> float | None:
    """Return the bytes on the device that needs the most; None if one is unknown."""
    memory = [device.memory for device in cost.devices]
    return None if None in memory else max((one for one in memory if one is not None), default=None)


def _quantities(report: AdviceReport) -> list[LimitedQuantity]:
    """Return the numbers of the plan, each beside its limit."""
    cost, limits = report.cost, report.limits
    if cost is None:
        return []
    chosen = next((one for one in report.compared if one.chosen), None)
    measured = None if chosen is None else chosen.measured_latency
    how = "estimated" if measured is None else f"estimated; {words.seconds(measured)} when it was executed"
    most = _largest_memory(cost)
    holders = [device.device for device in cost.devices if most is not None and device.memory == most]
    return [
        _quantity("latency", cost.latency, limits.latency, how, report),
        *(_leak(report, axis) for axis in AXES),
        LimitedQuantity(
            "Memory",
            words.octets(most) if most is not None else "unknown",
            "" if limits.memory is None else f"limit {words.octets(limits.memory)}",
            _filled(most, limits.memory),
            f"on {words.clean(holders[0], 32)}, the largest" if len(cost.devices) > 1 and holders else "",
        ),
        _quantity("throughput", cost.throughput, limits.throughput, f"{cost.window} images in flight", report),
        _quantity("energy", cost.energy, limits.energy, "of one image, on all devices and links", report),
        _quantity("traffic", cost.traffic, None, "of one image, on all links", report),
    ]


def _quantity(
    name: str, value: float | None, limit: float | None, detail: str, report: AdviceReport
) -> LimitedQuantity:
    """Return a cost beside its limit; a throughput's limit is its least."""
    write = advice_charts.WRITTEN[name]
    prefix = "at least" if name == "throughput" else "limit"
    return LimitedQuantity(
        name.capitalize(),
        "unknown" if value is None else write(value),
        "" if limit is None else f"{prefix} {write(limit)}",
        _filled(value, limit) if name != "throughput" else None,
        detail if value is not None else "a number of a profile is missing",
        minimised=name == report.minimised,
    )


def _leak(report: AdviceReport, axis: Axis) -> LimitedQuantity:
    """Return the leakage on an axis beside its limit."""
    limit, worst = report.limits.leakage.get(axis), _worst(report, axis)
    return LimitedQuantity(
        f"Leakage of {axis}",
        words.share(0.0) if worst is None else _most(worst),
        "" if limit is None else f"limit {words.share(limit)}",
        _filled(0.0 if worst is None else worst.leakage, 1.0 if limit is None else limit),
        "nobody else sees it in clear" if worst is None else f"to {_who(worst)}",
    )


def _filled(value: float | None, limit: float | None) -> float | None:
    """Return a value as a share of its limit, for a bar."""
    if value is None or limit is None:
        return None
    if limit == 0:
        return 0.0 if value == 0 else 1.0
    return round(min(1.0, value / limit), 3)
