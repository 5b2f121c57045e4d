"""What cloven raises when a person's input is wrong: one class, so that a caller can catch one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Made = TypeVar("Made")


class ClovenError(ValueError):
    """Input that cannot be used: every problem found, each saying what, got, expected and what to do.

    ``problems`` holds the sentences; ``str(error)`` joins them, one per line.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


def tried(make: Callable[[], Made], problems: list[str]) -> Made | None:
    """What is made; None where it cannot be, and why is added to problems."""
    try:
        return make()
    except ClovenError as error:
        problems += error.problems
        return None


def require(extra: str, error: ImportError) -> ClovenError:
    """The error for a missing optional dependency, which names the extra that brings it."""
    return ClovenError(
        f"{error.name or 'a package'} is not installed; it comes with an extra: pip install 'cloven[{extra}]'"
    )
