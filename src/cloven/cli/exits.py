"""The exit codes of ``cloven`` besides 0."""

from __future__ import annotations

MISSED = 1
"""A check that was asked for failed: a result differs, images were not answered."""

WRONG = 2
"""Wrong usage or input, or the system refused something."""

STOPPED = 130
"""The user stopped it."""
