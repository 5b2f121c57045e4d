"""``cloven report``: the report of a finished audit, once more."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

log = logging.getLogger("cloven")


def report(
    folder: Annotated[Path, typer.Argument(help="A folder that `cloven audit` wrote.", metavar="FOLDER")],
) -> None:
    """Write the report of a finished audit again."""
    from cloven.reporting.report_file import write

    log.info("report: %s", write(folder))
