"""The exit codes of ``cloven`` other than 0."""

from __future__ import annotations

MISSED = 1
"""A requested check failed: for example, a result differs, or images were not answered."""

WRONG = 2
"""The usage or the input is wrong, or the system refused an operation."""

STOPPED = 130
"""The user interrupted the command."""
