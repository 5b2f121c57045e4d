"""Time models at several cuts, alternating with the whole model inside (Rajasekar et al., 2024, Fig. 3)."""

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
"""The label of the whole model inside: "Full-Enclave" of Rajasekar et al. (2024)."""


@dataclass(frozen=True, eq=False)
class SweepModel:
    """A model to time: its name, input shape and classes, and its cuts by label; `FULL` is added."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    cuts: Mapping[str, str]
    weights: Path | None = None

    def plan(self, cut: str | None) -> Plan:
        """Return the plan with this cut; None for the whole model inside."""
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
        """Return the cuts by label; `FULL` has None."""
        return {**self.cuts, FULL: None}


class CutConditions(Document):
    """The conditions under which a cut was timed.

    Attributes:
        model: the model's name.
        point: the label of the cut.
        cut: the last layer inside; None if all are.
        images: the number of images, of which the first warms up.
        backend: the backend of the trusted half.
        accelerator: the device of the rear: cpu, cuda, cuda:1.
        handover: memory, file or pipe.
        trust: how far the backend protects.
        machine: the machine that was timed.
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
    """The times of one cut with their conditions."""

    format: Literal["cloven enclave times 1"] = "cloven enclave times 1"


class ComparedTimes(CutTimes):
    """The times of one cut, compared with the whole model inside, which ran alternately.

    Attributes:
        reduction_percent: the reduction of the time (the speedup of Rajasekar et al. 2024).
        ratio: the ratio of the medians.
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
    """Return the times of every cut of every model; those in ``out`` under the same conditions are reused.

    Args:
        models: the models with their cuts.
        pictures: returns the content of the picture files for a model.
        how: the options of both halves.
        out: a folder for the times.
        say: called with the name of each measurement before it starts.

    Raises:
        ClovenError: as in `timed`.
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
    """Compare the times with those of the whole model inside, by the medians of images that ran alternately."""
    return [
        ComparedTimes(
            **dict(row),
            reduction_percent=100 * (row.beside - row.median) / row.beside,
            ratio=row.beside / row.median,
        )
        for row in rows
    ]
