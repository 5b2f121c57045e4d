"""Audits: cells (observation x attack x seed), run side by side, kept in a folder, resumed where they stopped."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """The package is also the verb ``cloven.audit(...)``: one name for the room and for what it does."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `cloven.audit.single.audit`."""
        from cloven.audit.single import audit

        return audit(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
