"""``cloven upgrade``: give running workers a new bundle."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.exits import MISSED
from cloven.cli.options import AsJson
from cloven.cli.printing import print_json, table
from cloven.errors import ClovenError, tried
from cloven.progress import report_progress

if TYPE_CHECKING:
    from cloven.runtime.cluster.upgrading import UpgradeSummary

log = logging.getLogger("cloven")


def upgrade(
    cluster: Annotated[Path, typer.Option(help="TOML file that lists the workers.", metavar="FILE")],
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle that `cloven bundle` wrote.", metavar="BUNDLE")
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Let the workers use the bundle before the last upgrade again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Give running workers a new bundle, without losing an image.

    Each worker must run with --upgrades. It receives its part and loads it while it computes images. When all are
    ready, new runs use the new bundle; images of earlier runs finish with theirs. If a worker is not ready, nothing
    changes, and the exit code is 1. A service with --follow-upgrades changes to the new plan by itself.
    """
    from cloven.cost.cluster import Cluster
    from cloven.partition.protection import COORDINATOR
    from cloven.runtime.bundle.reader import read_manifest
    from cloven.runtime.cluster.upgrading import ClusterUpgrade
    from cloven.runtime.link.identity import read

    problems: list[str] = []
    if (bundle is None) != rollback:
        problems.append("expected either a bundle to send, or --rollback")
    manifest = tried(lambda: read_manifest(bundle), problems) if bundle is not None else None
    devices = [device.name for device in manifest.devices] if manifest is not None else []
    found = tried(lambda: Cluster.load(cluster, devices), problems)
    if found is not None and not any(device.address for device in found.devices.values()):
        problems.append(f"{cluster}: no device has an address")
    keys = found.keys if found is not None else None
    identity = tried(lambda: read(Path(keys), COORDINATOR), problems) if keys is not None else None
    if problems or found is None:
        raise ClovenError(problems)
    with report_progress() as progress:
        work = ClusterUpgrade(found, identity, progress)
        summary = asyncio.run(work.roll_back() if bundle is None else work.upgrade(bundle))
    if as_json:
        print_json(summary.model_dump(mode="json"))
    else:
        print_upgrade(summary)
    if not summary.done:
        log.error("the workers were not upgraded")
        raise typer.Exit(MISSED)


def print_upgrade(summary: UpgradeSummary) -> None:
    """Print the outcome on each worker."""
    rows = [[one.worker, one.outcome, (one.plan or "unknown")[:12], one.reason] for one in summary.workers]
    title = f"Plan {summary.plan[:12]}" if summary.plan is not None else "No earlier plan"
    table(title, ["worker", "outcome", "uses now", "reason"], rows)
