"""``cloven reproduce``: the figures of the two papers."""

from __future__ import annotations

import typer

from cloven.cli.help import PanelCommand, PanelGroup
from cloven.cli.reproduce_s1 import s1
from cloven.cli.reproduce_s2 import s2

papers = typer.Typer(cls=PanelGroup, help="Reproduce the figures of two papers.", no_args_is_help=True)
papers.command(
    cls=PanelCommand, short_help="Mehrafrooz et al. (2025): figures, claims and the cost of encryption."
)(s1)
papers.command(
    cls=PanelCommand, short_help="Rajasekar et al. (2024): times of an enclave, and reconstructions at each cut."
)(s2)
