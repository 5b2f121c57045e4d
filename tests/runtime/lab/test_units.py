from __future__ import annotations

import pytest

from cloven.errors import ClovenError
from cloven.runtime.lab.units import bandwidth, delay, loss


@pytest.mark.parametrize(
    ("text", "bits"),
    [("100mbit", 10**8), ("1gbit", 10**9), ("512kbit", 512_000), ("1.5Mbit", 1_500_000), (" 9600 bit ", 9600)],
)
def test_bandwidths_are_bits_per_second(text: str, bits: int) -> None:
    assert bandwidth(text) == bits


@pytest.mark.parametrize(
    ("text", "seconds"), [("2ms", 2e-3), ("1.5ms", 1.5e-3), ("100us", 1e-4), ("1s", 1.0), ("0", 0.0), ("0ms", 0.0)]
)
def test_delays_are_seconds(text: str, seconds: float) -> None:
    assert delay(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "100", "0", "0mbit", "-1mbit", "100mb", "1e3mbit", "mbit", "1kbit", "41gbit", "٣mbit"]
)
def test_other_bandwidths_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ClovenError, match=r"expected a number and .* such as 100mbit") as refused:
        bandwidth(text)

    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("text", ["", "2", "-2ms", "2 mins", "1e-3s", "11s", ".ms"])
def test_other_delays_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ClovenError, match=r"expected 0, or a number and .* such as 2ms") as refused:
        delay(text)

    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(("text", "probability"), [("1%", 0.01), ("0.01", 0.01), ("0", 0.0), ("2.5 %", 0.025)])
def test_losses_are_probabilities(text: str, probability: float) -> None:
    assert loss(text) == pytest.approx(probability)


@pytest.mark.parametrize("text", ["", "-1%", "1", "51%", "1e-3", "%", "1ms"])
def test_other_losses_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ClovenError, match=r"expected 0 to 50% of the packets, such as 1% or 0.01") as refused:
        loss(text)

    assert repr(text) in str(refused.value)
