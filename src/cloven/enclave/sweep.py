"""Time models that are cut at several places, beside the model all inside (S2, Sect. V-C, Fig. 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cloven.documents import Document, read_document
from cloven.enclave.sealed_folder import memory_for, modelled
from cloven.enclave.timing import (
    ExecutionOptions,
    InferenceTimes,
    MeasuredMachine,
    owned,
    ready,
    this_machine,
    timed,
)
from cloven.files import write_text
from cloven.partition.plan_options import ENCLAVE

if TYPE_CHECKING:
    from cloven.partition.plan import Plan

FULL = "full"
"""The label of the model that is all inside: S2's "Full-Enclave"."""


@dataclass(frozen=True, eq=False)
class SweepModel:
    """A model to be timed: its name, size and classes, and its cuts by their labels; `FULL` is added."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    cuts: Mapping[str, str]
    weights: Path | None = None

    def plan(self, cut: str | None) -> Plan:
        """Return the plan with this cut; None for all inside."""
        from cloven.partition.plan import ModelSpec, Plan
        from cloven.partition.vertical import Vertical

        spec = ModelSpec(
            name=self.name,
            input=self.shape,
            classes=self.classes,
            weights=str(self.weights) if self.weights else None,
        )
        inside = Vertical(on=ENCLAVE[:1])
        strategy = inside if cut is None else Vertical(cuts=(cut,))
        return Plan(model=spec, strategy=(strategy,), devices=ENCLAVE)

    def points(self) -> dict[str, str | None]:
        """Return the cuts by their labels, and `FULL` without one."""
        return {**self.cuts, FULL: None}


class CutConditions(Document):
    """The conditions under which a cut was timed.

    Attributes:
        model: its name.
        point: the label of the cut.
        cut: the last layer inside; None if all are.
        images: how many were run, the first to warm up.
        backend: how the trusted half was started.
        accelerator: of the rear: cpu, cuda, cuda:1.
        handover: memory, file or pipe.
        trust: how far the backend protects.
        machine: on which it was timed.
    """

    model: str
    point: str
    cut: str | None
    images: int
    backend: str
    accelerator: str
    handover: str
    trust: str
    machine: MeasuredMachine


class CutTimes(CutConditions, InferenceTimes):
    """The times of one cut, and their conditions."""

    format: Literal["cloven enclave times 1"] = "cloven enclave times 1"


class ComparedTimes(CutTimes):
    """The times of one cut, compared with those of the model all inside that ran in turns with it.

    Attributes:
        reduction_percent: by how much less time the cut takes (S2's speedup).
        ratio: of the medians.
    """

    reduction_percent: float
    ratio: float


def measured(
    models: Sequence[SweepModel],
    pictures: Callable[[SweepModel], Sequence[bytes]],
    how: ExecutionOptions,
    out: Path,
    say: Callable[[str], None],
) -> list[CutTimes]:
    """Return the times of every cut of every model; those that ``out`` has under the same conditions are reused.

    Args:
        models: with their cuts.
        pictures: gives the contents of the files that a model is run on.
        how: the halves are run.
        out: a folder for the times.
        say: is told what is measured next.

    Raises:
        ClovenError: as `timed`.
    """
    rows = []
    for model in models:
        shown = pictures(model)
        conditions = [
            CutConditions(
                model=model.name,
                point=point,
                cut=cut,
                images=len(shown),
                backend=how.backend.name,
                accelerator=how.device,
                handover=how.way,
                trust=how.backend.words,
                machine=this_machine(how.threads),
            )
            for point, cut in model.points().items()
        ]
        files = [out / "rows" / f"{model.name.replace(':', '-')}-{one.point}.json" for one in conditions]
        found = [_kept(file, one) for file, one in zip(files, conditions, strict=True)]
        if None in found:
            whole = model.plan(None)
            state, graph = modelled(whole)
            with owned(whole, state, shown, memory_for(graph)) as mine, ready(mine, whole, how) as full:
                for i, one in enumerate(conditions):
                    if found[i] is None:
                        say(f"{model.name}, {one.point}")
                        with nullcontext(full) if one.cut is None else ready(mine, model.plan(one.cut), how) as own:
                            times = timed(own, full)
                        made = CutTimes(**dict(one), **dict(times))
                        write_text(files[i], made.text())
                        found[i] = made
        rows += [row for row in found if row is not None]
    return rows


def _kept(file: Path, conditions: CutConditions) -> CutTimes | None:
    """Return the times in a file, if they were measured under these conditions."""
    if not file.exists():
        return None
    found = read_document(CutTimes, file)
    return found if all(getattr(found, name) == value for name, value in conditions) else None


def summarised(rows: Sequence[CutTimes]) -> list[ComparedTimes]:
    """Return the times beside those of the model all inside; medians of images that ran in turns are compared."""
    return [
        ComparedTimes(
            **dict(row),
            reduction_percent=100 * (row.beside - row.median) / row.beside,
            ratio=row.beside / row.median,
        )
        for row in rows
    ]
