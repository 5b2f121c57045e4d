"""The help of commands as plain text, with options and commands in titled groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer._click.formatting import HelpFormatter

USUAL = "Options"
"""The group of options without a named group; it comes last."""

COMMANDS = "Commands"
"""The group of commands without a named group."""


class PanelCommand(TyperCommand):
    """A command whose help groups its options by ``rich_help_panel``."""

    def format_options(self, ctx: Any, formatter: HelpFormatter) -> None:
        """Write all arguments and options."""
        records = ((parameter, parameter.get_help_record(ctx)) for parameter in self.get_params(ctx))
        _write(formatter, ((_panel(parameter), record) for parameter, record in records if record is not None))


class PanelGroup(TyperGroup):
    """Commands that the help groups by ``rich_help_panel``."""

    def format_commands(self, ctx: Any, formatter: HelpFormatter) -> None:
        """Write the names of all commands, each with one sentence."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        width = formatter.width - 6 - max(len(name) for name, _ in commands)
        found = [(name, command) for name, command in commands if command is not None]
        _write(
            formatter,
            ((_panel(command, COMMANDS), (name, command.get_short_help_str(width))) for name, command in found),
        )


def _panel(thing: Any, usual: str = USUAL) -> str:
    if getattr(thing, "param_type_name", "") == "argument":
        return "Arguments"
    return getattr(thing, "rich_help_panel", None) or usual


def _write(formatter: HelpFormatter, records: Iterable[tuple[str, tuple[str, str]]]) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for panel, record in records:
        groups.setdefault(panel, []).append(record)
    for panel in sorted(groups, key=lambda panel: panel == USUAL):
        with formatter.section(panel):
            formatter.write_dl(groups[panel])
