"""MkDocs hooks: pages of the documentation that are generated from the code and the changelog."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from cloven.cli import app

ROOT = Path(__file__).parent.parent

COMMANDS = """# Command line

Every command prints this help with `--help`. With `--json` the result is printed on standard output; progress and
messages go to standard error.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    files.append(File.generated(config, "reference/commands.md", content=command_page()))
    files.append(
        File.generated(config, "reference/changelog.md", content=(ROOT / "CHANGELOG.md").read_text("utf-8"))
    )
    return files


def command_page() -> str:
    """Return the page of the command line: all commands with their arguments and options."""
    program = typer.main.get_command(app)
    sections = [section(command, name) for name, command in leaves(program, "cloven")]
    return "\n\n".join([COMMANDS, *sections])


def leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the full name of each command that can be run, and the command."""
    groups = getattr(command, "commands", None)
    if groups is None:
        yield name, command
    else:
        for word, inner in groups.items():
            yield from leaves(inner, f"{name} {word}")


def section(command: Any, name: str) -> str:
    """Return the section of a command: its help, then a table for each group of options."""
    context = command.make_context(name, [], resilient_parsing=True)
    panels: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            argument = parameter.param_type_name == "argument"
            panel = "Arguments" if argument else parameter.rich_help_panel or "Options"
            panels.setdefault(panel, []).append(row(*record))
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    tables = (f"| {panel} | |\n|---|---|\n" + "\n".join(rows) for panel, rows in panels.items())
    return "\n\n".join([f"## {name}", command.help or "", f"```text\n{usage}\n```", *tables])


def row(option: str, text: str) -> str:
    """Return a row of a table: an option and its help."""
    return f"| <code>{escaped(option)}</code> | {escaped(text)} |"


def escaped(text: str) -> str:
    """Return text that Markdown and HTML show as it is, also in a cell of a table."""
    return escape(text).replace("|", "&#124;").replace("*", "&#42;").replace("_", "&#95;").replace("\n", " ")
