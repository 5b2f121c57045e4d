from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cloven.attacks import convolutions
from cloven.attacks.convolutions import WIDE, Doubled, Transposed, weight_gradient


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=30)
def test_doubling_equals_nearest_enlarging_and_a_convolution(i: int, o: int, height: int, width: int) -> None:
    doubled = Doubled(i, o).double()
    doubled.fold = doubled.fold.double()
    x = torch.randn(2, i, height, width, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), doubled.weight, doubled.bias, padding=1)

    fast = doubled(x)

    assert torch.allclose(fast, plain, atol=1e-12)
    grads = [torch.autograd.grad(y.square().sum(), [x, doubled.weight]) for y in (fast, plain)]
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-9)


@st.composite
def transpositions(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The shapes and arguments of a transposed convolution whose output is not empty."""
    kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    padding, more = draw(st.integers(0, kernel // 2)), draw(st.integers(0, stride - 1))
    size = st.integers(2, 6)
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(size), draw(size))
    return shape, {"kernel_size": kernel, "stride": stride, "padding": padding, "output_padding": more}


@given(transpositions(), st.integers(1, 3), st.sampled_from([1, 100, 2**20]))
@settings(max_examples=60)
def test_the_gradient_of_transposed_weights_is_autograds(
    given: tuple[tuple[int, ...], dict[str, Any]], outputs: int, unfolded: int
) -> None:
    shape, arguments = given
    plain = torch.nn.ConvTranspose2d(shape[1], outputs, bias=False, **arguments).double()
    x = torch.randn(shape, dtype=torch.float64)
    made = plain(x)
    gradient = torch.randn_like(made)
    (wanted,) = torch.autograd.grad(made, [plain.weight], gradient)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolutions, "UNFOLDED", unfolded)
        sides = [(arguments[name], arguments[name]) for name in ("kernel_size", "stride", "padding")]
        found = weight_gradient(x, gradient, *sides)

    assert torch.allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("inputs", [WIDE - 1, WIDE, WIDE + 1])
@pytest.mark.parametrize("further", [True, False])
def test_wide_transposed_convolutions_compute_what_torchs_do(inputs: int, further: bool) -> None:
    own = Transposed(inputs, 3, 3, 2, 1, 1).double()
    x = torch.randn(2, inputs, 4, 5, dtype=torch.float64, requires_grad=further)
    learned = [*own.parameters(), *([x] if further else [])]

    made = own(x)
    plain = F.conv_transpose2d(x, own.weight, own.bias, 2, 1, 1)

    assert torch.allclose(made, plain, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), learned) for y in (made, plain)), strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def test_a_wide_transposed_convolution_runs_in_bfloat16_where_asked() -> None:
    own = Transposed(WIDE, 3, 3, 2, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        made = own(torch.randn(2, WIDE, 4, 5))
    made.float().square().sum().backward()

    assert made.dtype == torch.bfloat16
    assert own.weight.grad is not None
