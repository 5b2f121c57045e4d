"""The observations of audits by the position of their cut, from the image to the output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cloven.auditing.finding import cut
from cloven.auditing.summary import ObservationSummary, Summary


@dataclass(frozen=True)
class CutObservation:
    """An observation of an audit.

    Attributes:
        summary: the audit.
        observation: what was observed.
        cut: its position in the model in words: ``after conv2``, ``a share of conv2``.
        depth: the step of the program in which the first of its values is sent; one that is never sent has the
            depth of the observation before it. Depths of one strategy can be compared.
    """

    summary: Summary
    observation: ObservationSummary
    cut: str
    depth: int


def observed(summaries: Sequence[Summary]) -> list[CutObservation]:
    """Return the observations of audits, in the order in which they were made."""
    found = []
    for summary in summaries:
        steps: dict[tuple[str, str], int] = {}
        for program in summary.programs:
            for transfer in reversed(program.transfers):
                steps[program.strategy, transfer.value] = transfer.step
        seen = {finding.observation: finding.seen for finding in summary.findings}
        depths: dict[str, int] = {}
        for one in summary.observations:
            sent = (steps.get((one.strategy, value)) for value in seen.get(one.observation, ()))
            depth = min((step for step in sent if step is not None), default=depths.get(one.strategy, 0))
            depths[one.strategy] = depth
            found.append(CutObservation(summary, one, cut(one.layers, share=one.view == "paper"), depth))
    return found


def by_cut(found: Iterable[CutObservation]) -> dict[str, list[CutObservation]]:
    """Return observations of one strategy by their cuts, by increasing depth."""
    groups: dict[str, list[CutObservation]] = {}
    for one in found:
        groups.setdefault(one.cut, []).append(one)
    return dict(sorted(groups.items(), key=lambda group: min(one.depth for one in group[1])))
