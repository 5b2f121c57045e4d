"""The throughput that is measured is that of full windows."""

from __future__ import annotations

import pytest

from cloven.runtime.cost_comparison import _compared, _rates


def test_the_rate_leaves_out_the_first_and_the_last_window() -> None:
    """One answer every 0.5 s, but bursts at both ends."""
    answered = [0.0, 0.01, 1.0, 1.5, 2.0, 2.5, 3.0, 3.01]

    assert _rates(answered, 2) == pytest.approx([2 / 1.49, 2, 2])


def test_a_single_measurement_has_no_interval() -> None:
    found = _compared(2.0, [3.0])

    assert (found.measured, found.low, found.high, found.ratio) == (3.0, None, None, 1.5)
    assert _compared(None, []).measured is None
