"""The strategy and devices of a plan from the options of a command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cloven.partition.division import device_names

Entries = dict[str, object]
"""Entries of a plan file, before they are checked."""

ENCLAVE = ("enclave", "accelerator")
"""The two devices of Rajasekar et al. (2024); the first is trusted."""


IMAGE = "image="
"""The begin of the option for the type of the images."""


@dataclass(frozen=True)
class Options:
    """The options: a strategy and its parameters, and what follows it (``then``) or divides a part (``inside``)."""

    strategy: str
    devices: int | None = None
    cuts: tuple[str, ...] = ()
    axis: str = "out_channels"
    exchange: str = "local"
    sums: str = "hub"
    shares: Sequence[float] | None = None
    grid: tuple[int, ...] | None = None
    halo: str = "exact"
    start: str = ""
    until: str = ""
    then: str = ""
    inside: str = ""


def document(options: Options) -> tuple[Entries, list[str]]:
    """Return the plan's entries ``strategy`` and ``devices``, and the problems of the combination of options."""
    if options.strategy == "enclave":
        return _enclave(options)
    found = _misplaced(options)
    if options.inside and options.strategy == "vertical" and not found:
        return _inside(options)
    if options.strategy == "vertical" and options.then:
        return _pipeline_then(options, found)
    first = _entries(options, options.strategy) | ({"until": options.until} if options.until else {})
    number = options.devices or _usual(options, options.strategy)
    stages: list[Entries] = [{"kind": "vertical", "on": ["edge0"], "until": options.start}] if options.start else []
    stages.append(first)
    if options.then:
        stages.append(_entries(options, options.then))
    return _made(stages, number), found


def protected(given: Sequence[str]) -> Entries:
    """Return the plan's entry ``protection`` for options such as ``ascon-128`` and ``edge0-edge1=none``."""
    return {"protection": _of_links(given)} if given else {}


def transformed(given: Sequence[str]) -> Entries:
    """Return the plan's entry ``transform`` for options such as ``int8``, ``A-B=topk:0.1`` and ``image=uint8``."""
    images = [text.removeprefix(IMAGE) for text in given if text.startswith(IMAGE)]
    entry = _of_links([text for text in given if not text.startswith(IMAGE)])
    if images:
        entry["image"] = images[-1]
    return {"transform": entry} if given else {}


def _of_links(given: Sequence[str]) -> Entries:
    """Return the value for all links, which is the last one given, and the values of single links."""
    words = [text.rpartition("=") for text in given]
    entry: Entries = {"links": {link: name for link, _, name in words if link}}
    if default := [name for link, _, name in words if not link]:
        entry["default"] = default[-1]
    return entry


def _made(stages: list[Entries], number: int) -> Entries:
    return {"strategy": stages if len(stages) > 1 else stages[0], "devices": list(device_names(number))}


def _entries(options: Options, kind: str) -> Entries:
    """Return the entries of one strategy."""
    if kind == "vertical":
        return {"kind": kind, "cuts": list(options.cuts)}
    shares: Entries = {} if options.shares is None else {"shares": list(options.shares)}
    if kind == "horizontal":
        return {"kind": kind, "axis": options.axis, "exchange": options.exchange, "sums": options.sums, **shares}
    if kind == "data":
        grid: Entries = {} if options.grid is None else {"grid": list(options.grid)}
        return {"kind": kind, "halo": options.halo, **grid, **shares}
    return {"kind": kind}


def _usual(options: Options, kind: str) -> int:
    """Return the default number of devices."""
    if kind == "data":
        if options.grid:
            return max(options.grid[0] * options.grid[1], 1)
        return len(options.shares) if options.shares is not None else 4
    if kind == "horizontal" and options.shares is not None:
        return len(options.shares)
    return len(options.cuts) + 1 if kind == "vertical" and options.cuts else 2


def _enclave(options: Options) -> tuple[Entries, list[str]]:
    """Return the division into an enclave, which runs the layers up to the cut, and an accelerator.

    The layers after ``until`` run in the enclave again.
    """
    found = _misplaced(replace(options, strategy="vertical", until=""))
    if len(options.cuts) > 1:
        found.append(f"an enclave plan takes one cut, or none to run all layers inside; got {len(options.cuts)}")
    if options.devices not in (None, 2):
        found.append(f"an enclave plan has two devices; got {options.devices}")
    if options.then or options.start:
        found.append(
            "--strategy enclave takes neither --then nor --from; --until runs the last layers in the enclave"
        )
    if options.until and not options.cuts:
        found.append(
            "--strategy enclave takes --until only with --cuts: without a cut, all layers run in the enclave"
        )
    until = {"until": options.until} if options.until else {}
    where: Entries = {"cuts": list(options.cuts[:1]), **until} if options.cuts else {"on": [ENCLAVE[0]]}
    return {"strategy": {"kind": "vertical", **where}, "devices": list(ENCLAVE)}, found


def _pipeline_then(options: Options, found: list[str]) -> tuple[Entries, list[str]]:
    """Return a pipeline up to the last cut, and another strategy on all devices after it."""
    if not options.cuts:
        return _made([_entries(options, options.strategy)], 1), [*found, "--then requires --cuts"]
    if options.devices is not None and options.devices < len(options.cuts):
        found.append(
            f"a pipeline of {len(options.cuts)} parts needs as many devices or more; got {options.devices}"
        )
    names = device_names(max(options.devices or _usual(options, options.then), len(options.cuts)))
    before: Entries = {"kind": "vertical", "cuts": list(options.cuts[:-1]), "until": options.cuts[-1]}
    stages = [before | {"on": list(names[: len(options.cuts)])}, _entries(options, options.then)]
    return _made(stages, len(names)), found


def _inside(options: Options) -> tuple[Entries, list[str]]:
    """Return a pipeline with one part divided horizontally among several devices."""
    parts = len(options.cuts) + 1
    found = re.fullmatch(r"(\d+):(\d+)", options.inside)
    part, among = (int(n) for n in found.groups()) if found else (0, 0)
    if not 1 <= part <= parts or among < 2 or not options.cuts:
        wanted = f"PART:DEVICES with a part from 1 to {parts} (as made by --cuts) and 2 or more devices"
        return _made([_entries(options, "vertical")], parts), [f"--inside is {options.inside!r}; expected {wanted}"]
    devices = parts - 1 + among
    fits = options.devices in (None, devices)
    wrong = [] if fits else [f"--inside {options.inside} makes {devices} devices; got {options.devices}"]
    names = iter(device_names(devices))
    stages: list[Entries] = []
    for number, until in enumerate((*options.cuts, None), start=1):
        kind, many = ("horizontal", among) if number == part else ("vertical", 1)
        entries = _entries(options, kind) | ({"cuts": []} if kind == "vertical" else {})
        on = [next(names) for _ in range(many)]
        stages.append(entries | {"on": on} | ({"until": until} if until else {}))
    return _made(stages, devices), wrong


def _misplaced(options: Options) -> list[str]:
    """Return the options that do not fit the plan's strategies, one sentence each."""
    kinds = {options.strategy, options.then, "horizontal" if options.inside else ""}
    given = (
        ("--cuts", bool(options.cuts), "vertical"),
        ("--grid", options.grid is not None, "data"),
        ("--halo", options.halo != "exact", "data"),
        ("--axis", options.axis != "out_channels", "horizontal"),
        ("--exchange", options.exchange != "local", "horizontal"),
        ("--sums", options.sums != "hub", "horizontal"),
    )
    found = [
        f"{option} requires --strategy {owner}; got {options.strategy}"
        for option, is_given, owner in given
        if is_given and owner not in kinds
    ]
    if options.shares is not None and not kinds & {"horizontal", "data"}:
        found.append(f"--shares requires --strategy horizontal or data; got {options.strategy}")
    if options.inside and options.strategy != "vertical":
        found.append(f"--inside requires --strategy vertical; got {options.strategy}")
    if options.then and options.then not in ("vertical", "horizontal"):
        found.append(f"--then is {options.then!r}; choose vertical or horizontal")
    if options.then == options.strategy == "vertical":
        found.append("--then vertical is not needed after --strategy vertical; name all cuts with --cuts")
    for other, is_given in (("--then", options.then), ("--from", options.start)):
        if options.inside and is_given:
            found.append(
                f"--inside and {other} cannot be combined; --inside divides one of the parts made by --cuts"
            )
    if options.strategy == "vertical" and options.then and options.start:
        found.append("--from and --then cannot be combined with --strategy vertical; name the layers with --cuts")
    if options.then and options.strategy != "vertical" and not options.until:
        found.append("--then requires --until, the layer after which the next strategy begins")
    if options.until and options.strategy == "vertical":
        found.append("--until requires --strategy data or horizontal; a vertical plan takes --cuts")
    return found
