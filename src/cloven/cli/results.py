"""``cloven results``: the results of finished audits as a table, and in the formats of papers and notebooks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from cloven.cli.options import AsJson
from cloven.cli.printing import print_json
from cloven.collection import paused
from cloven.errors import ClovenError, printable

log = logging.getLogger("cloven")


def results(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders that `cloven audit` wrote, or folders that contain such folders.", metavar="RUN..."
        ),
    ],
    csv: Annotated[Path | None, typer.Option(help="Write a row for each finding as CSV.", metavar="FILE")] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Write a row for each finding as Parquet.", metavar="FILE")
    ] = None,
    latex: Annotated[
        Path | None,
        typer.Option(help="Write the strongest attacks as tables for LaTeX (booktabs).", metavar="FILE"),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            help="Write leakage by depth as PDF, SVG and PNG, for each model and strategy.", metavar="FOLDER"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the results of finished audits, or export them as CSV, Parquet, LaTeX, figures or JSON.

    Every audit and its cells are checked first; if one is damaged, nothing is written.
    """
    from cloven.auditing.finding_row import FindingTable, finding_rows
    from cloven.auditing.run_folders import read_runs
    from cloven.files import write_bytes
    from cloven.reporting import depth_figures, exports
    from cloven.reporting import latex as tables

    given = [path for path in (csv, parquet, latex) if path is not None]
    if len({path.resolve() for path in given}) < len(given):
        raise ClovenError("--csv, --parquet and --latex name one file twice; give each its own")
    with paused():
        runs = read_runs(folders)
        rows = [row for one in runs.finished for row in finding_rows(one.summary, str(one.store.folder))]
    summaries = [one.summary for one in runs.finished]
    files: dict[Path, bytes] = {}
    if csv is not None:
        files[csv] = exports.csv_text(rows).encode()
    if parquet is not None:
        files[parquet] = exports.parquet(rows)
    if latex is not None:
        files[latex] = tables.latex(summaries).encode()
    if figures is not None:
        files |= {figures / name: content for name, content in depth_figures.drawn(summaries).items()}
    for path, content in files.items():
        write_bytes(path, content)
        log.info("wrote %s", path)
    for folder in runs.unfinished:
        log.warning("%s is left out: the audit in it has not ended", folder)
    if as_json:
        print_json(FindingTable(rows=tuple(rows)).model_dump(mode="json"))
    elif not files:
        for one in runs.finished:
            typer.echo(printable(f"{one.store.folder}: {one.summary.model} on {one.summary.data}\n{one!r}\n"))
