"""``cloven profile``: measure this device, or the links of a cluster."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.exits import MISSED
from cloven.cli.options import AsJson, flag, given
from cloven.cli.printing import print_json, print_text, table
from cloven.errors import ClovenError
from cloven.progress import report_progress

if TYPE_CHECKING:
    from cloven.cost.cluster import Cluster
    from cloven.runtime.link_profile import LinkMeasurements

log = logging.getLogger("cloven")


def profile(
    context: typer.Context,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="One or more folders of devices in bundles.", metavar="BUNDLE/DEVICE..."),
    ] = None,
    links: Annotated[
        Path | None,
        typer.Option(
            help="Measure the links between the running workers in this TOML file instead.", metavar="FILE"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the profile (TOML) here; with --links, a folder of profiles.", metavar="FILE_OR_FOLDER"
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of this kind of device; default: the name of the processor.", metavar="NAME")
    ] = "",
    runs: Annotated[int, typer.Option(help="Number of runs of each segment.", min=3, metavar="N")] = 25,
    as_json: AsJson = False,
) -> None:
    """Measure the costs of this device: operators, messages, ciphers and memory.

    Run it on the device itself while nothing else runs there. It requires onnxruntime, but not PyTorch. Power is
    not measured: add a table [power] to the file.

    With --links, run it on the coordinator: the workers measure bandwidth and delay between each other, and this
    machine those to each of them. They must be free of runs. It exits with 1 if a link could not be measured.
    """
    if links is None:
        if not folders:
            raise ClovenError(
                "nothing to measure; expected folders of devices in bundles, or --links with a cluster file"
            )
        _profile_device(folders, out, name, runs, as_json=as_json)
        return
    problems = ["--links requires no BUNDLE/DEVICE; measure a device by itself"] if folders else []
    problems += [f"{flag(other)} requires BUNDLE/DEVICE" for other in ("name", "runs") if other in given(context)]
    if out is not None and out.exists() and not out.is_dir():
        problems.append(f"--out is {out}, which is not a folder; expected a new or an existing folder")
    if problems:
        raise ClovenError(problems)
    _profile_links(links, out, as_json=as_json)


def _profile_device(folders: list[Path], out: Path | None, name: str, runs: int, *, as_json: bool) -> None:
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


def _profile_links(cluster_file: Path, out: Path | None, *, as_json: bool) -> None:
    """Measure the links of a cluster, print them, and write their profiles; exit with 1 if one is missing."""
    from cloven.cost.cluster import Cluster
    from cloven.cost.profile import profile_toml
    from cloven.files import file_names, write_text
    from cloven.runtime.link_profile import measured

    cluster = Cluster.load(cluster_file)
    with report_progress() as progress:
        found = measured(cluster, progress)
    if as_json:
        print_json(found.model_dump(mode="json", exclude_none=True))
    else:
        _print_links(found)
    if out is not None:
        names = file_names([link.profile.name for link in found.measured])
        files = [out / f"{name}.toml" for name in names]
        for link, file in zip(found.measured, files, strict=True):
            write_text(file, profile_toml(link.profile))
        log.info("%d profiles written to %s", len(files), out)
        if not as_json:
            _print_entries(found, cluster, cluster_file, files)
    for failed in found.failed:
        log.warning("%s was not measured: %s", "-".join(failed.link), failed.reason)
    if found.failed:
        raise typer.Exit(MISSED)


def _print_links(found: LinkMeasurements) -> None:
    rows = []
    for link in found.measured:
        costs = link.profile.transmission
        rates = [f"{bandwidth / 1e6:,.4g}" for bandwidth in (costs.bandwidth, link.forth, link.back)]
        times = [f"{1e3 * seconds:.3f}" for seconds in (costs.delay, costs.message, link.round_trip)]
        rows.append(["-".join(link.link), *rates, *times])
    table("links", ["link", "Mbit/s", "forth", "back", "delay", "message", "round trip"], rows)
    print_text(
        "Mbit/s: the slower direction, forth (from the first party), and back. In ms: the delay, which is half of "
        "the round trip without the work of both ends; what each message costs besides its bytes; the round trip."
    )


def _print_entries(found: LinkMeasurements, cluster: Cluster, cluster_file: Path, files: list[Path]) -> None:
    """Print the entries of the cluster file that name the profiles."""
    from cloven.files import toml_value

    print_text(f"Put these lines into {cluster_file}, instead of those of the same links:")
    lines = ["[links]"]
    for link, file in zip(found.measured, files, strict=True):
        entry = cluster.link(*link.link)
        profile = Path(os.path.relpath(file, cluster_file.parent)).as_posix()
        words = [f"profile = {toml_value(profile)}"]
        words += [] if entry.exposed else ["exposed = false"]
        words += [] if entry.medium is None else [f"medium = {toml_value(entry.medium)}"]
        key = link.profile.name if re.fullmatch(r"[A-Za-z0-9_-]+", link.profile.name) else None
        lines.append(f"{key or toml_value(link.profile.name)} = {{ {', '.join(words)} }}")
    typer.echo("\n".join(lines))
