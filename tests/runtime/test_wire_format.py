"""Encode shares for a link and decode them: the receiver has the numbers of the definition, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from torch import Tensor

from cloven.partition.transform import WIRE, Transform, WireKind
from cloven.runtime.transmission import apply
from cloven.runtime.wire_format import decode, encode, received, size

Shares = NDArray[np.float32]

NUMBERS = st.one_of(
    st.floats(width=32),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 65504.0, 65520.0, 1e5, 3.4028235e38, -3.4028235e38, np.nan, np.inf]),
    st.floats(-4, 4, width=32),
)
shares = arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=5), elements=NUMBERS, fill=st.just(0.5))


def as_defined(kind: WireKind, x: Tensor) -> Tensor:
    """Return the shares ``(n, ...)`` as the receiver has them, by the definition of each transform in PyTorch."""
    if kind == "none":
        return x
    if kind == "float16":
        return x.clamp(-65504.0, 65504.0).half().float()
    rows = x.flatten(1).double()
    low, high = rows.aminmax(dim=1, keepdim=True)
    step = ((high - low) / 255).float().double()
    levels = ((rows - low) / step.where(step != 0, 1)).round().clamp(0, 255)
    return (levels * step + low).float().reshape(x.shape)


def same_bits(one: Shares, other: Shares) -> bool:
    """Return whether all numbers have the same bits; any NaN is the same as any other."""
    missing = np.isnan(one)
    return np.array_equal(missing, np.isnan(other)) and np.array_equal(
        np.where(missing, 0, one).astype(np.float32).view(np.uint32),
        np.where(missing, 0, other).astype(np.float32).view(np.uint32),
    )


@pytest.mark.parametrize("kind", WIRE)
@given(x=shares)
def test_the_receiver_has_the_numbers_of_the_definition(kind: WireKind, x: Shares) -> None:
    before = x.tobytes()

    sent = encode(kind, x)
    made = decode(kind, sent, x.shape[1:])

    assert sent.shape[1] == size(kind, x[0].size)
    assert sent.shape == (len(x), Transform(kind).bytes(x[0].size))
    assert (made.shape, made.dtype) == (x.shape, x.dtype)
    assert same_bits(made, as_defined(kind, torch.from_numpy(x)).numpy())
    assert same_bits(made, received(kind, x))
    assert same_bits(made, apply(Transform(kind), torch.from_numpy(x), range(len(x))).numpy())
    assert x.tobytes() == before


@pytest.mark.parametrize("kind", WIRE)
@given(x=shares)
def test_an_image_does_not_depend_on_those_beside_it(kind: WireKind, x: Shares) -> None:
    assert encode(kind, x).tobytes() == b"".join(encode(kind, x[i : i + 1]).tobytes() for i in range(len(x)))


@pytest.mark.parametrize("kind", WIRE)
@given(data=st.data())
def test_any_bytes_are_numbers(kind: WireKind, data: st.DataObject) -> None:
    """A peer can send any; a warning would be an error in these tests."""
    length = size(kind, 6)
    sent = np.frombuffer(data.draw(st.binary(min_size=length, max_size=length)), np.uint8)[None]

    assert decode(kind, sent, (2, 3)).shape == (1, 2, 3)


def test_the_bytes_of_int8_are_the_minimum_the_step_and_the_levels() -> None:
    (sent,) = encode("int8", np.array([[-1.0, 0.0, 254.0, 101.4]], np.float32))

    assert sent.tobytes() == np.array([-1, 1], "<f4").tobytes() + bytes([0, 1, 255, 102])


@pytest.mark.parametrize("number", [0.1, -7.0, 3.4028235e38])
def test_a_constant_share_does_not_change(number: float) -> None:
    x = np.full((2, 3, 4), number, np.float32)

    assert received("int8", x).tobytes() == x.tobytes()


def test_zeros_of_both_signs_keep_them_as_float16_and_not_as_int8() -> None:
    x = np.array([[0.0, -0.0]], np.float32)

    assert received("float16", x).tobytes() == x.tobytes()
    assert received("int8", x).tobytes() == np.zeros((1, 2), np.float32).tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_spoils_its_own_image_only(bad: float) -> None:
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    x[1, 2] = bad
    made = received("int8", x)

    assert np.isnan(made[1]).all()
    assert np.isfinite(made[[0, 2]]).all()


def test_float32_is_not_copied() -> None:
    x = np.ones((2, 3), np.float32)

    assert np.shares_memory(encode("none", x), x)
    assert np.shares_memory(decode("none", encode("none", x), (3,)), x)
