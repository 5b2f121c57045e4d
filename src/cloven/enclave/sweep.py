"""The times of one model cut at several places, beside those of the model all inside (S2, Sect. V-C, Fig. 3)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloven.enclave.sealed_folder import memory_for, modelled
from cloven.enclave.timing import ExecutionOptions, machine, owned, ready, timed
from cloven.files import read_json, write_text
from cloven.partition.options import ENCLAVE

if TYPE_CHECKING:
    from cloven.partition.plan import Plan

FULL = "full"
"""The label of the model that is all inside: S2's "Full-Enclave"."""


@dataclass(frozen=True, eq=False)
class SweepModel:
    """A model of a study: its name, size and classes, and where it is cut, by a label; `FULL` is added."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    cuts: Mapping[str, str]
    weights: Path | None = None

    def plan(self, cut: str | None) -> Plan:
        """The plan with this cut; None for all inside."""
        from cloven.partition.plan import ModelSpec, Plan, VerticalSpec

        spec = ModelSpec(
            name=self.name,
            input=self.shape,
            classes=self.classes,
            weights=str(self.weights) if self.weights else None,
        )
        inside = VerticalSpec(kind="vertical", on=ENCLAVE[:1])
        strategy = inside if cut is None else VerticalSpec(kind="vertical", cuts=(cut,))
        return Plan(model=spec, strategy=(strategy,), devices=ENCLAVE)


def measured(
    models: Sequence[SweepModel],
    pictures: Callable[[SweepModel], Sequence[bytes]],
    how: ExecutionOptions,
    out: Path,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A row for every cut of every model; those that ``out`` holds from before, measured alike, are taken from it.

    Args:
        models: what is cut where.
        pictures: gives the files' contents that a model is run on.
        how: they are run.
        out: a folder for the rows.
        say: is told what is measured next.

    Raises:
        ClovenError: as `timed`.
    """
    rows = []
    for model in models:
        shown = pictures(model)
        files = {label: out / "rows" / f"{model.name.replace(':', '-')}-{label}.json" for label in points(model)}
        abouts = {
            label: {"model": model.name, "point": label, "cut": cut, "images": len(shown)}
            | how.words()
            | {"machine": machine(how.threads)}
            for label, cut in points(model).items()
        }
        found = {label: _kept(files[label], abouts[label]) for label in files}
        if None in found.values():
            whole = model.plan(None)
            state, graph = modelled(whole)
            with owned(whole, state, shown, memory_for(graph)) as mine, ready(mine, whole, how) as full:
                for label, about in abouts.items():
                    if found[label] is None:
                        say(f"{model.name}, {label}")
                        cut = model.plan(about["cut"])
                        with nullcontext(full) if label == FULL else ready(mine, cut, how) as own:
                            found[label] = about | timed(own, full).row()
                        write_text(files[label], json.dumps(found[label], indent=2) + "\n")
        rows += [row for row in found.values() if row is not None]
    return rows


def points(model: SweepModel) -> dict[str, str | None]:
    """Where a model is cut, by a label, and not at all."""
    return {**model.cuts, FULL: None}


def _kept(file: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    if not file.exists():
        return None
    found = read_json(file)
    return found if {name: found.get(name) for name in about} == about else None


def summarised(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with by how much less time than all inside each takes (S2's speedup), and their ratio.

    Medians of images that ran in turns are compared.
    """
    return [
        {
            **row,
            "reduction_percent": 100 * (row["beside"] - row["median"]) / row["beside"],
            "ratio": row["beside"] / row["median"],
        }
        for row in rows
    ]
