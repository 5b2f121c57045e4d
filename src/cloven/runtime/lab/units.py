"""Parse bandwidths, delays and losses such as ``100mbit``, ``1.5ms`` and ``1%``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from cloven.errors import ClovenError

AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)", re.ASCII)
RATES = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
"""In bits per second."""
TIMES = {"us": 1, "ms": 10**3, "s": 10**6}
"""In microseconds."""
SLOWEST, FASTEST = 8 * 10**3, 40 * 10**9
LONGEST = 10 * 10**6
LOSSIEST = 0.5


def bandwidth(text: str) -> int:
    """Convert a bandwidth such as ``512kbit``, ``100mbit`` or ``1gbit`` to bits per second.

    Raises:
        ClovenError: if it is not a bandwidth, or not between 8 kbit and 40 gbit per second.
    """
    found = _amount(text, RATES)
    if found is None or not SLOWEST <= found <= FASTEST:
        raise ClovenError(
            f"the bandwidth is {text!r}; expected a number and bit, kbit, mbit or gbit (per second), from 8kbit "
            "to 40gbit, such as 100mbit; omit it for links as fast as the machine"
        )
    return int(found)


def delay(text: str) -> float:
    """Convert a delay such as ``2ms``, ``1.5ms``, ``100us`` or ``0`` to seconds, one way.

    Raises:
        ClovenError: if it is not a delay, or above 10 s.
    """
    found = Decimal(0) if text.strip() == "0" else _amount(text, TIMES)
    if found is None or found > LONGEST:
        raise ClovenError(
            f"the delay is {text!r}; expected 0, or a number and us, ms or s, up to 10s, such as 2ms: the delay "
            "in one direction"
        )
    return float(found) / 10**6


def loss(text: str) -> float:
    """Convert a loss such as ``1%`` or ``0.01`` to the probability with which a packet is lost.

    Raises:
        ClovenError: if it is not a loss, or not from 0 to 50 %.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip(), re.ASCII)
    found = float(match[1]) / (100 if match[2] else 1) if match else None
    if found is None or found > LOSSIEST:
        raise ClovenError(f"the loss is {text!r}; expected 0 to {LOSSIEST:.0%} of the packets, such as 1% or 0.01")
    return found


def _amount(text: str, units: Mapping[str, int]) -> Decimal | None:
    match = AMOUNT.fullmatch(text.strip().lower())
    return Decimal(match[1]) * units[match[2]] if match and match[2] in units else None
