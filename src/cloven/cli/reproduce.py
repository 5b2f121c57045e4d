"""``cloven reproduce``: the figures of the papers."""

from __future__ import annotations

import typer

from cloven.cli.help import Command, Group
from cloven.cli.reproduce_s1 import s1
from cloven.cli.reproduce_s2 import s2

papers = typer.Typer(cls=Group, help="Reproduce the papers' figures.", no_args_is_help=True)
papers.command(cls=Command)(s1)
papers.command(cls=Command)(s2)
