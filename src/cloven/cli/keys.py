"""``cloven keys``: certificates and link keys for devices."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.options import named

if TYPE_CHECKING:
    from cloven.runtime.link.authority import Copy

log = logging.getLogger("cloven")


keys = typer.Typer(help="Certificates and link keys for devices.", no_args_is_help=True)

KeysFolder = Annotated[Path, typer.Argument(help="The folder that `cloven keys new` made.", metavar="KEYS")]
Days = Annotated[int, typer.Option(help="For how many days the certificates are valid.")]


@keys.command("new")
def keys_new(
    devices: Annotated[str, typer.Option(help="Names of the devices, e.g. edge0,edge1,edge2.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    days: Days = 365,
) -> None:
    """Make a small authority, and for each device (and the coordinator) a certificate and link keys."""
    from cloven.runtime.link import authority

    _copies(authority.new(named(devices), out, days))


@keys.command("add")
def keys_add(
    folder: KeysFolder,
    devices: Annotated[str, typer.Option(help="Names of the new devices.")],
    days: Days = 365,
) -> None:
    """Make folders for more devices, and link keys with them for the others."""
    from cloven.runtime.link import authority

    _copies(authority.add(folder, named(devices), days))


@keys.command("renew")
def keys_renew(
    folder: KeysFolder,
    devices: Annotated[str, typer.Option(help="Whose certificates; left out, all.")] = "",
    days: Days = 365,
) -> None:
    """Make new certificates; private keys and link keys stay."""
    from cloven.runtime.link import authority

    _copies(authority.renew(folder, named(devices) or None, days))


def _copies(copies: Sequence[Copy]) -> None:
    for copy in copies:
        log.info("copy %s to the host of %s", copy.path, copy.party)
