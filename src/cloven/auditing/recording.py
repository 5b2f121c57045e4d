"""Record the transfers of programs whose links transform what they carry, while the programs run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cloven.auditing.cases import Case
from cloven.auditing.features import BATCH, Shelf
from cloven.auditing.material import recorded_names
from cloven.graph.box import slices
from cloven.partition.observe import Observation, Seen, seen_of
from cloven.partition.program import Program, Transfer
from cloven.rows import Concatenated, TensorRows, chunks
from cloven.runtime.local import run
from cloven.threads import one_thread


def name_of(program: Program) -> str:
    """Return the name of a run of a program; empty if no link transforms anything, so that no run is needed."""
    if all(transfer.transform.exact for transfer in program.transfers):
        return ""
    prints = program.graph.fingerprints
    sent = [[prints[t.value], t.share, t.link, t.transform.name] for t in program.transfers]
    return hashlib.sha256(json.dumps(sent).encode()).hexdigest()[:16]


def record(cases: Sequence[Case], images: Mapping[str, TensorRows], folder: Path) -> dict[str, TensorRows]:
    """Return the shares that the listeners of some cases receive for each set of images, by ``NAME/SET``.

    Each program is run once, on all images; the transfers are written to files as they arrive.

    Args:
        cases: the cases; those of programs without transforms are skipped.
        images: the sets of images, ``(n, C, H, W)`` each.
        folder: the folder for the files.
    """
    found: dict[str, TensorRows] = {}
    shelf = Shelf(folder)
    for target in dict.fromkeys(case.target for case in cases if case.target.recorded):
        observed = (case.observation for case in cases if case.target is target)
        mine = [seen for seen in observed if isinstance(seen, Observation)]
        assert target.program is not None
        shares = {share for seen in mine for share in seen.seen}
        every = Concatenated(list(images.values()))
        taken = _recorded(target.program, shares, every, target.recorded, shelf)
        for seen in mine:
            for name, share in zip(recorded_names(seen, target.recorded), seen.seen, strict=True):
                first = 0
                for of, some in images.items():
                    found[f"{name}/{of}"] = taken[share][first : first + len(some)]
                    first += len(some)
    return found


def _recorded(
    program: Program, wanted: set[Seen], images: TensorRows, name: str, shelf: Shelf
) -> dict[Seen, TensorRows]:
    """Return each share as it arrives, ``(n, ...)``; of a share that is sent repeatedly, the first transfer."""
    first: dict[Seen, int] = {}
    for transfer in program.transfers:
        first.setdefault(seen_of(transfer), transfer.id)
    named = {seen: f"{name}/{i}" for i, seen in enumerate(sorted(wanted, key=lambda seen: first.get(seen, -1)))}
    writers = {seen: shelf.new(file, (len(images), *seen.shape), torch.float32) for seen, file in named.items()}
    filled = dict.fromkeys(writers, 0)

    def keep(seen: Seen, tensor: Tensor) -> None:
        writers[seen](filled[seen], tensor)
        filled[seen] += len(tensor)

    for chunk in chunks(images, BATCH) if wanted - first.keys() else ():
        for seen in wanted - first.keys():  # the image, which the coordinator sends
            keep(seen, chunk[slices(seen.share)])

    def tap(transfer: Transfer, tensor: Tensor) -> None:
        seen = seen_of(transfer)
        if seen in writers and first[seen] == transfer.id:
            keep(seen, tensor)

    with one_thread():
        run(program, images, tap=tap)
    return {seen: shelf[file] for seen, file in named.items()}
