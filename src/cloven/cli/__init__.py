"""The command line: parsing and printing, nothing else. Heavy imports happen inside the commands."""

from cloven.cli.application import app, main

__all__ = ["app", "main"]
