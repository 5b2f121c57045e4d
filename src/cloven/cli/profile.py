"""``cloven profile``: measure this device."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from cloven.cli.options import AsJson
from cloven.cli.printing import print_json
from cloven.errors import ClovenError

log = logging.getLogger("cloven")


def profile(
    folders: Annotated[
        list[Path],
        typer.Argument(help="One or more folders of devices in bundles.", metavar="BUNDLE/DEVICE..."),
    ],
    out: Annotated[Path | None, typer.Option(help="Write the profile (TOML) here.", metavar="FILE")] = None,
    name: Annotated[
        str, typer.Option(help="Name of this kind of device; default: the name of the processor.", metavar="NAME")
    ] = "",
    runs: Annotated[int, typer.Option(help="Number of runs of each segment.", min=3, metavar="N")] = 25,
    as_json: AsJson = False,
) -> None:
    """Measure the costs of this device: operators, messages, ciphers and memory.

    Run it on the device itself while nothing else runs there. It requires onnxruntime, but not PyTorch. Power is
    not measured: add a table [power] to the file.
    """
    from cloven.cost.profile import profile_toml
    from cloven.files import write_text
    from cloven.runtime.bundle.reader import read_device
    from cloven.runtime.device_profile import measured, processor

    problems: list[str] = []
    parts = []
    for folder in folders:
        try:
            parts.append((read_device(folder)[1], folder))
        except ClovenError as error:
            problems += error.problems
    if problems:
        raise ClovenError(problems)
    found = measured(parts, name or processor(), runs)
    if as_json or out is None:
        print_json(found.model_dump(mode="json", exclude_none=True))
    if out is not None:
        write_text(out, profile_toml(found))
        log.info("profile written to %s", out)
