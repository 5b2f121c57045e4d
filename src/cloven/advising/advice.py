"""The result of a search: the recommended plan, its cost and leakage, and the reasons for rejecting others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cloven.advising.limits import Limits
from cloven.auditing.finding import AXES, Axis
from cloven.auditing.results import Results
from cloven.cost.estimate import Cost
from cloven.documents import Document
from cloven.partition.plan import Plan
from cloven.partition.program import Program
from cloven.quantities import written
from cloven.tables import Value, html_table, text_table

UNITS = {"latency": "s", "throughput": "images/s", "energy": "J", "traffic": "bytes"}


def amount(value: float | None, minimised: str) -> str:
    """Return a latency, throughput, energy or traffic with its unit."""
    return "unknown" if value is None else written(value, UNITS[minimised], 4)


class TapLeakage(Document):
    """The leakage of a tap on one axis: the upper 95 % limit of the leakage by its strongest attack.

    ``protected`` is true for an encrypted link; ``leakage`` is then what would leak without the encryption, None if
    that was not attacked. ``attack`` is None if the image or the answer itself is sent, or if the tap counts as
    leaking everything for a ``reason``, such as ``no attack that reads labels``; it is empty otherwise.
    """

    tap: str
    axis: Axis
    leakage: float | None
    attack: str | None
    protected: bool
    reason: str = ""

    @property
    def origin(self) -> str:
        """The attack, or why there is none; empty if the tap was not attacked."""
        if self.leakage is None or self.attack is not None:
            return self.attack or ""
        return f"counted in full: {self.reason}" if self.reason else "none needed: it is sent as it is"


class Rejected(Document):
    """A division that was not chosen, with the reason; ``objective`` is None if it is unknown."""

    division: str
    objective: float | None
    reason: str

    def shown(self, minimised: str) -> str:
        """Return the objective with its unit."""
        return amount(self.objective, minimised)


class ComparedDivision(Document):
    """A division that was compared: its estimated cost, and what its taps leak if they were attacked.

    Attributes:
        division: the division in words, as in `Rejected`.
        kind: its strategy: ``one device``, ``vertical``, ``horizontal, rows``, ``data``, ``hybrid``.
        names: the named candidates and baselines that are this division, such as ``min-cut (DADS)``.
        devices: the devices, in the order of their parts.
        encrypted: the encrypted links, each as ``A-B``.
        latency: the estimated seconds of one image; None if unknown.
        throughput: the estimated images per second; None if unknown.
        energy: the estimated joules of one image; None if unknown.
        memory: the bytes on the device that needs the most; None if unknown.
        traffic: the bytes on all links for one image.
        measured_latency: the seconds of one image when it was executed; None if it was not.
        pixel_leakage, label_leakage: the largest leakage at its taps in clear; None if one was not attacked.
        chosen: whether it is the recommended division.
        reason: why it was chosen or not.
    """

    division: str
    kind: str
    names: tuple[str, ...]
    devices: tuple[str, ...]
    encrypted: tuple[str, ...]
    latency: float | None
    throughput: float | None
    energy: float | None
    memory: int | None
    traffic: int
    measured_latency: float | None
    pixel_leakage: float | None
    label_leakage: float | None
    chosen: bool
    reason: str


class CutPoint(Document):
    """A vertical cut in two parts: what its link leaks in clear, and what the division costs.

    Attributes:
        after: the op before the cut.
        share: the multiply-accumulates before the cut, as a share of the model's.
        bytes: the bytes of the tensors that cross the cut, for one image.
        latency: the seconds of the fastest division in two with this cut; None if unknown.
        pixel_leakage, label_leakage: the leakage on its link; None if it was not attacked.
    """

    after: str
    share: float
    bytes: int
    latency: float | None
    pixel_leakage: float | None
    label_leakage: float | None


class Relaxation(Document):
    """The division that comes closest to the limits, and the limits to relax for it.

    ``limits`` has a sentence for each limit, such as ``latency: 0.45 s instead of 0.3 s``.
    """

    division: str
    limits: tuple[str, ...]


class AdviceReport(Document):
    """The advice as a document, ``advice.json``.

    Attributes:
        plan: the recommended division in words; None if there is none.
        minimised: the quantity that the search minimised; ``throughput`` is maximised.
        limits: the limits that the plan must meet.
        reason: why the plan was chosen, or why there is none.
        cost: the cost of the plan.
        leakage: the leakage of each tap of the plan.
        rejected: the best division of each other strategy.
        untested: what was not tested, a sentence each.
        assumptions: numbers of the cost model that were not measured.
        divisions: the number of divisions that were compared by cost.
        attacked: the number of observations that were attacked.
        compared: the divisions that were compared, the cheapest first; of many, the cheapest.
        cuts: the vertical cuts in two parts, from the image to the answer.
        nearest: without a plan, the division that comes closest to the limits; None if there is a plan, or if no
            cost is known.
        method: how the divisions were searched, in a sentence.
    """

    version: Literal[1] = 1
    plan: str | None
    minimised: str
    limits: Limits
    reason: str
    cost: Cost | None
    leakage: tuple[TapLeakage, ...]
    rejected: tuple[Rejected, ...]
    untested: tuple[str, ...]
    assumptions: tuple[str, ...]
    divisions: int
    attacked: int
    compared: tuple[ComparedDivision, ...]
    cuts: tuple[CutPoint, ...]
    nearest: Relaxation | None
    method: str

    @property
    def executed(self) -> tuple[ComparedDivision, ...]:
        """The divisions that were executed, the fastest first."""
        timed = [(one.measured_latency, one) for one in self.compared if one.measured_latency is not None]
        return tuple(one for _, one in sorted(timed, key=lambda pair: pair[0]))


@dataclass(frozen=True, eq=False, repr=False)
class Advice:
    """The recommended division of a model over a cluster.

    Attributes:
        report: the advice as a document.
        plan: the plan to save and deploy; None if no plan meets the limits.
        program: the plan, compiled.
        results: the audit of its taps with fresh seeds and victims; None if no tap observes a tensor in clear.
    """

    report: AdviceReport
    plan: Plan | None = None
    program: Program | None = None
    results: Results | None = None

    @property
    def cost(self) -> Cost | None:
        """The cost of the plan."""
        return self.report.cost

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """The divisions that were not chosen, each with the reason."""
        return self.report.rejected

    def leakage(self, axis: Axis) -> float:
        """Return the leakage of the plan on an axis: the largest of any unprotected tap, 0 if there is none.

        A tap in clear that was not attacked counts as leaking everything.
        """
        clear = (one for one in self.report.leakage if one.axis == axis and not one.protected)
        return max((1.0 if one.leakage is None else one.leakage for one in clear), default=0.0)

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[str, tuple[str, ...], list[tuple[Value, ...]]]:
        title = f"Advice: {self.report.plan or 'no plan'}\n{self.report.reason}"
        if self.plan is not None:
            title += "\n" + ", ".join(f"{axis} leak up to {self.leakage(axis):.0%}" for axis in AXES)
        rows: list[tuple[Value, ...]] = [
            (one.division, one.shown(self.report.minimised), one.reason) for one in self.rejected
        ]
        return title, ("not chosen", self.report.minimised, "reason"), rows
