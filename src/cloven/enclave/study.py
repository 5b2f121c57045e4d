"""The times of one model cut at several places, beside those of the model all inside (S2, Sect. V-C, Fig. 3)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloven.enclave.backends import Backend
from cloven.enclave.folder import memory_for, modelled
from cloven.enclave.handover import Way
from cloven.enclave.timing import machine, timed
from cloven.errors import ClovenError
from cloven.files import write_text
from cloven.partition.options import ENCLAVE

if TYPE_CHECKING:
    from cloven.partition.plan import Plan

FULL = "full"
"""The label of the model that is all inside: S2's "Full-Enclave"."""


@dataclass(frozen=True)
class How:
    """How the enclaves of a study are run; see `cloven.enclave.runner.Asked`."""

    backend: Backend
    device: str
    way: Way
    threads: int

    def words(self) -> dict[str, Any]:
        """For provenance."""
        return {"backend": self.backend.name, "accelerator": self.device, "handover": self.way} | {
            "trust": self.backend.words
        }


@dataclass(frozen=True, eq=False)
class Model:
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
    models: Sequence[Model],
    pictures: Callable[[Model], Sequence[bytes]],
    how: How,
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
        state, graph = modelled(model.plan(None))
        memory = memory_for(graph)
        for label, cut in [*model.cuts.items(), (FULL, None)]:
            about = {"model": model.name, "point": label, "cut": cut, "images": len(shown), **how.words()}
            about["machine"] = machine(how.threads)
            file = out / "rows" / f"{model.name.replace(':', '-')}-{label}.json"
            row = _kept(file, about)
            if row is None:
                say(f"{model.name}, {label}")
                found = timed(
                    model.plan(cut), state, shown, backend=how.backend, device=how.device, way=how.way,
                    threads=how.threads, memory=memory,
                )  # fmt: skip
                row = about | found.row()
                write_text(file, json.dumps(row, indent=2) + "\n")
            rows.append(row)
    return rows


def _kept(file: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ClovenError(f"{file} cannot be read ({error}); remove it") from error
    same = isinstance(found, dict) and {name: found.get(name) for name in about} == about
    return found if same else None


def summarised(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with by how much less time than all inside each takes (S2's speedup), and their ratio.

    Medians are compared: one slow image among ten changes a mean by more than most cuts do.
    """
    full = {row["model"]: row["median"] for row in rows if row["point"] == FULL}
    pairs = ((row, full[row["model"]]) for row in rows)
    return [
        {**row, "reduction_percent": 100 * (whole - row["median"]) / whole, "ratio": whole / row["median"]}
        for row, whole in pairs
    ]
