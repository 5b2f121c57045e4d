"""``cloven keys``: certificates and link keys for devices."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.help import PanelCommand, PanelGroup

if TYPE_CHECKING:
    from cloven.runtime.link.authority import Copy

log = logging.getLogger("cloven")

keys = typer.Typer(cls=PanelGroup, help="Create certificates and link keys for devices.", no_args_is_help=True)

KeysFolder = Annotated[Path, typer.Argument(help="A folder that `cloven keys new` created.", metavar="KEYS")]
Names = Annotated[
    list[str], typer.Argument(help="Names of the new devices, e.g. edge0 edge1.", metavar="DEVICE...")
]
Days = Annotated[int, typer.Option(help="Number of days for which the certificates are valid.", metavar="N")]


@keys.command("new", cls=PanelCommand)
def new(
    devices: Names,
    out: Annotated[Path, typer.Option(help="A new folder.", metavar="FOLDER")],
    days: Days = 365,
) -> None:
    """Create a certificate authority, and keys for each device.

    Each device, and the coordinator, gets a folder with its certificate, its private key and its link keys.
    """
    from cloven.runtime.link import authority

    _log_copies(authority.new(tuple(devices), out, days))


@keys.command("add", cls=PanelCommand)
def add(folder: KeysFolder, devices: Names, days: Days = 365) -> None:
    """Create keys for more devices, and link keys between them and the others."""
    from cloven.runtime.link import authority

    _log_copies(authority.add(folder, tuple(devices), days))


@keys.command("renew", cls=PanelCommand)
def renew(
    folder: KeysFolder,
    devices: Annotated[
        list[str] | None,
        typer.Argument(help="Devices whose certificates are renewed; default: all.", metavar="[DEVICE...]"),
    ] = None,
    days: Days = 365,
) -> None:
    """Create new certificates; private keys and link keys stay."""
    from cloven.runtime.link import authority

    _log_copies(authority.renew(folder, tuple(devices) if devices else None, days))


def _log_copies(copies: Sequence[Copy]) -> None:
    for copy in copies:
        log.info("copy %s to the host of %s", copy.path, copy.party)
