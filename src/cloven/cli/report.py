"""``cloven report``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

log = logging.getLogger("cloven")


def report(
    folder: Annotated[Path, typer.Argument(help="A folder that `cloven audit` wrote.", metavar="RUN")],
) -> None:
    """Write the report of a finished run again."""
    from cloven.reporting.writer import write

    log.info("report: %s", write(folder))
