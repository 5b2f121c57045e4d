"""What crosses the links of a program whose links transform it: recorded while it runs, for both sets of images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cloven.auditing.cases import Case
from cloven.auditing.features import Shelf
from cloven.auditing.material import SETS, recorded_names
from cloven.partition.observe import Seen, seen_of
from cloven.partition.program import Program, Transfer
from cloven.runtime.local import run
from cloven.threads import one_thread


def name_of(program: Program) -> str:
    """What a run of a program is called; empty where no link transforms anything: the graph then says it all."""
    if all(transfer.transform.exact for transfer in program.transfers):
        return ""
    prints = program.graph.fingerprints
    sent = [[prints[t.value], t.share, t.link, t.transform.name] for t in program.transfers]
    return hashlib.sha256(json.dumps(sent).encode()).hexdigest()[:16]


def record(cases: Sequence[Case], images: Sequence[Tensor], folder: Path) -> dict[str, Tensor]:
    """What the listeners of some cases get of the auxiliary images and the victims, by ``NAME/SET``.

    Each program is run once, on all images; what crosses is written to files as it comes.

    Args:
        cases: those of programs with transforms are recorded, the others left out.
        images: the auxiliary images and the victims, ``(n, C, H, W)`` each.
        folder: for the files.
    """
    found: dict[str, Tensor] = {}
    shelf, both = Shelf(folder), torch.cat(list(images))
    counts = [len(x) for x in images]
    for target in dict.fromkeys(case.target for case in cases if case.target.recorded):
        mine = [case.observation for case in cases if case.target is target]
        taken = _recorded(target.program, {s for seen in mine for s in seen.seen}, both, target.recorded, shelf)
        for seen in mine:
            for name, share in zip(recorded_names(seen, target.recorded), seen.seen, strict=True):
                parts = taken[share].split(counts)
                found |= {f"{name}/{of}": part for of, part in zip(SETS, parts, strict=True)}
    return found


def _recorded(program: Program, wanted: set[Seen], images: Tensor, name: str, shelf: Shelf) -> dict[Seen, Tensor]:
    """Each share as it arrives, ``(n, ...)``: of a share that is sent more than once, the first."""
    first: dict[Seen, int] = {}
    for transfer in program.transfers:
        first.setdefault(seen_of(transfer), transfer.id)
    kept = {
        seen: shelf.new(f"{name}/{i}", (len(images), *seen.shape), torch.float32)
        for i, seen in enumerate(sorted(wanted, key=first.__getitem__))
    }
    filled = dict.fromkeys(kept, 0)

    def tap(transfer: Transfer, tensor: Tensor) -> None:
        seen = seen_of(transfer)
        if seen in kept and first[seen] == transfer.id:
            kept[seen][filled[seen] : filled[seen] + len(tensor)] = tensor
            filled[seen] += len(tensor)

    with one_thread():
        run(program, images, tap=tap)
    return kept
