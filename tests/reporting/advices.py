"""Made-up advice with the shape of a real one: LeNet-5 over the four devices of the summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloven.advising.advice import AdviceReport, ComparedDivision, CutPoint, Rejected, Relaxation, TapLeakage
from cloven.advising.limits import Limits
from cloven.cost.estimate import Cost, DeviceCost, LinkCost
from cloven.reporting.advice_page import AdvisedPlan, render_advice
from tests.reporting.summaries import document, samples, summary

PLAN = "vertical, cut after conv2, pool2 and conv3 on edge0, edge1, edge2, edge3"
LIMITS = Limits(latency=0.3, memory=200e6, pixel_leakage=0.8, label_leakage=0.9)
NAMED = {
    0: "everything on one device",
    4: "every link encrypted",
    7: "tiles, then channels (Mehrafrooz et al.)",
    8: "the rule p* (Rajasekar et al.)",
    9: "balanced MACs",
    10: "min-cut (DADS)",
    30: "proportional rows (CoEdge)",
}
KINDS = ("one device", "vertical", "vertical", "horizontal, rows", "data", "hybrid")


def advice(**changes: Any) -> AdviceReport:
    """Advice for a chain: edge0->edge1 in clear, edge1->edge2 encrypted, edge2->edge3 inside, edge3 not trusted."""
    entries: dict[str, Any] = {
        "plan": PLAN,
        "minimised": "latency",
        "limits": LIMITS,
        "reason": "Of 60 divisions, it has the best latency within the limits: 0.12 s.",
        "cost": chain_cost(),
        "leakage": (
            leak("coordinator->edge0", "pixels", 1.0, None, protected=True),
            leak("coordinator->edge0", "labels", 1.0, None, protected=True),
            leak("edge0->edge1", "pixels", 0.71, "residual"),
            leak("edge0->edge1", "labels", 0.86, "mlp-probe"),
            leak("edge1->edge2", "pixels", 0.95, "residual", protected=True),
            leak("edge1->edge2", "labels", 0.65, "mlp-probe", protected=True),
            leak("device edge3", "pixels", 0.03, "residual"),
            leak("device edge3", "labels", 1.0, None),
        ),
        "rejected": (
            Rejected(division="all of it on edge0", objective=0.41, reason="latency is 0.41 s, above the limit"),
            Rejected(division="data, 2x2 grid", objective=None, reason="its cost is unknown"),
        ),
        "untested": ("the budget ended before all divisions were attacked",),
        "assumptions": ("[compute] of Pi 4 is assumed: half of a Pi 5", "[power] of Pi 4 is taken from a source"),
        "divisions": 60,
        "attacked": 9,
        "compared": compared(),
        "cuts": cuts(),
        "nearest": None,
        "method": "All 60 divisions were compared.",
    }
    return AdviceReport(**entries | changes)


def refused() -> AdviceReport:
    """Advice that no plan meets the limits."""
    others = tuple(one.model_copy(update={"chosen": False}) for one in compared())
    nearest = Relaxation(division="all of it on edge0", limits=("latency: 0.41 s instead of 0.3 s",))
    return advice(
        plan=None, reason="No plan meets the limits.", cost=None, leakage=(), compared=others, nearest=nearest
    )


def alone() -> AdviceReport:
    """Advice to compute everything on one device, where nobody else can listen."""
    links = (link("coordinator", "edge0", exposed=False), link("edge0", "coordinator", exposed=False))
    cost = chain_cost().model_copy(update={"devices": chain_cost().devices[:1], "links": links})
    return advice(plan="all of it on edge0", cost=cost, leakage=(), cuts=(), assumptions=(), untested=())


def star() -> AdviceReport:
    """Advice for devices that do not form a chain."""
    cost = chain_cost()
    sealed = [link("edge0", f"edge{i}", protection="aes-128-gcm" if i == 2 else "none") for i in (1, 2, 3)]
    links = sealed + [link(f"edge{i}", "edge0") for i in (1, 2, 3)]
    leaks = [
        leak(f"{one.source}->{one.target}", axis, 0.1 * i + (0.4 if axis == "labels" else 0), "residual")
        for i, one in enumerate(links)
        for axis in ("pixels", "labels")
    ]
    return advice(
        plan="data, 2x2 grid on edge0, edge1, edge2, edge3",
        cost=cost.model_copy(update={"links": (cost.links[0], *links)}),
        leakage=tuple(leaks),
    )


def long_names() -> AdviceReport:
    """Advice in which every text is long."""
    text = "n" * 300
    many = tuple(
        one.model_copy(update={"division": text, "names": (text,) if one.names else (), "reason": text})
        for one in compared()
    )
    deep = tuple(one.model_copy(update={"after": f"{i}{text}"}) for i, one in enumerate(cuts()))
    return advice(
        plan=text, reason=text, method=text, compared=many, cuts=deep, untested=(text,), assumptions=(text,)
    )


def page(report: AdviceReport, *, attacked: bool = True) -> str:
    """The page of an advice, with the audit of the taps of the chain if they were attacked."""
    if not attacked:
        return render_advice(report, AdvisedPlan())
    given = summary()
    given["programs"] = given["programs"][:1]
    found = given["findings"][:2]
    given |= {"findings": found, "observations": given["observations"][:2]}
    given["curves"], shown = [], document(given)
    plan = shown.programs[0]
    return render_advice(report, AdvisedPlan(plan.parts, plan.transfers, ("pool2",), shown, samples(given)))


def chain_cost() -> Cost:
    """The cost of the chain."""
    devices = tuple(
        DeviceCost(
            device=f"edge{i}",
            busy=0.02 * (i + 1),
            energy=0.1,
            memory=60_000_000 + i * 10_000_000,
            available=10**9,
            trusted=i < 3,
        )
        for i in range(4)
    )
    links = (
        link("coordinator", "edge0", protection="aes-128-gcm"),
        link("edge0", "edge1"),
        link("edge1", "edge2", protection="aes-128-gcm"),
        link("edge2", "edge3", exposed=False),
        link("edge3", "coordinator", exposed=False),
    )
    return Cost(
        latency=0.12,
        throughput=14.2,
        energy=0.42,
        traffic=12_345,
        window=8,
        devices=devices,
        links=links,
        critical=(),
        unknown=(),
        assumptions=("[compute] of Pi 4 is assumed: half of a Pi 5",),
    )


def link(source: str, target: str, *, protection: str = "none", exposed: bool = True) -> LinkCost:
    """The cost of a link."""
    return LinkCost(
        source=source,
        target=target,
        bytes=3136,
        messages=1,
        busy=0.002,
        energy=0.01,
        protection=protection,
        exposed=exposed,
    )


def leak(tap: str, axis: Any, leakage: float, attack: str | None, *, protected: bool = False) -> TapLeakage:
    """The leakage of a tap."""
    return TapLeakage(tap=tap, axis=axis, leakage=leakage, attack=attack, protected=protected)


def compared(number: int = 60) -> tuple[ComparedDivision, ...]:
    """Divisions of every strategy; of some the cost, of many the leakage is unknown."""
    return tuple(division(i, chosen=i == 5) for i in range(number))


def division(index: int, *, chosen: bool = False, **changes: Any) -> ComparedDivision:
    """A compared division."""
    attacked = index < 24
    entries: dict[str, Any] = {
        "division": PLAN if chosen else f"division {index} on edge{index % 4}, edge{(index + 1) % 4}",
        "kind": KINDS[index % len(KINDS)],
        "names": (NAMED[index],) if index in NAMED else (),
        "devices": (f"edge{index % 4}", f"edge{(index + 1) % 4}"),
        "encrypted": (f"edge{index % 4}-edge{(index + 1) % 4}",) if index % 3 == 0 else (),
        "latency": None if index == 59 else 0.1 + 0.004 * index,
        "throughput": 20 - 0.2 * index,
        "energy": 0.4 if index % 2 else None,
        "memory": 70_000_000,
        "traffic": 10_000 + 500 * index,
        "measured_latency": 0.13 if chosen else None,
        "pixel_leakage": (index * 7 % 24) / 24 if attacked else None,
        "label_leakage": 1 - (index * 5 % 24) / 24 if attacked else None,
        "chosen": chosen,
        "reason": "is not better than the recommended division",
    }
    return ComparedDivision(**entries | changes)


def cuts(layers: Sequence[str] = ("conv1", "pool1", "conv2", "pool2", "conv3", "dense1")) -> tuple[CutPoint, ...]:
    """Cuts at which pixels fade while labels become easier to read; one was not attacked."""
    return tuple(
        CutPoint(
            after=layer,
            share=(i + 1) / (len(layers) + 1),
            bytes=20_000 // (i + 1),
            latency=0.2 - 0.01 * i,
            pixel_leakage=None if i == 2 else 0.95 - 0.15 * i,
            label_leakage=None if i == 2 else 0.2 + 0.12 * i,
        )
        for i, layer in enumerate(layers)
    )


PAGES: Mapping[str, AdviceReport] = {
    "advice.html": advice(),
    "refused.html": refused(),
    "alone.html": alone(),
    "star.html": star(),
}
