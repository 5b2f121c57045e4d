"""``cloven report``: the report of a finished audit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

log = logging.getLogger("cloven")


def report(
    folder: Annotated[Path, typer.Argument(help="A folder that `cloven audit` wrote.", metavar="FOLDER")],
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Print the divided model and what leaks, and write nothing.")
    ] = False,
) -> None:
    """Write the report of a finished audit again, or print its first screen."""
    if terminal:
        from cloven.auditing.store import Store
        from cloven.cli.printing import show
        from cloven.reporting.terminal import text

        show(text(Store(folder).summary()))
        return
    from cloven.reporting.report_file import write

    log.info("report: %s", write(folder))
