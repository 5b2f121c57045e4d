"""The reasons why the training of an attack ends."""

from __future__ import annotations

from typing import Literal

Ended = Literal["schedule", "no improvement", "budget"]
