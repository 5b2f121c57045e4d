"""Casts: a divided model computes the same numbers, and sends each type at its own size."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cloven.errors import ClovenError
from cloven.graph.graph import SIZES, Graph
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Program
from cloven.partition.strategy import Strategy
from cloven.partition.transform import Transform, Transforms
from cloven.partition.vertical import Vertical
from cloven.runtime.bundle.engine import run as run_bundle
from cloven.runtime.bundle.writer import write
from cloven.runtime.capture import capture
from cloven.runtime.local import run
from cloven.runtime.torch_engine import evaluate

REAL = {name: size for name, size in SIZES.items() if not name.startswith("complex")}
TYPES = [getattr(torch, name) for name in REAL]


class Between(nn.Module):
    """A model with a function between two convolutions, whose inputs are roughly between -300 and 300."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.first.weight.data.mul_(200)
        self.register_buffer("scale", torch.tensor([0.5, 2.0, 100.0, 300.0]).reshape(4, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, numbers)``."""
        made: Tensor = self.last(self.function(self.first(x) * 1.0) / 128)
        return made.flatten(1)


@cache
def captured(function: Callable[[Tensor], Tensor]) -> tuple[nn.Module, Graph, Tensor]:
    model, images = Between(function).eval(), torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return model, capture(model, images[:1]), images


def run_counted(program: Program, images: Tensor) -> tuple[Tensor, list[int]]:
    """Run a program, and count the bytes of each transfer."""
    sent: list[int] = []
    return run(program, images, tap=lambda transfer, tensor: sent.append(tensor.nbytes)), sent


STRATEGIES: dict[str, Strategy] = {
    "cut": Vertical(("first",)),
    "channels": Horizontal("out_channels"),
    "rows": Horizontal("rows"),
    "columns": Horizontal("columns"),
    "tiles": Data((1, 2), until="last"),
}


def check(function: Callable[[Tensor], Tensor], *, names: Any = STRATEGIES) -> None:
    """Check that every strategy computes the model's outputs and sends the bytes of its transfer table."""
    model, graph, images = captured(function)
    with torch.inference_mode():
        expected = model(images)
    assert torch.equal(evaluate(graph, images, [graph.output])[graph.output], expected)
    for name in names:
        program = divide(graph, STRATEGIES[name], 2)
        made, sent = run_counted(program, images)
        torch.testing.assert_close(made, expected, rtol=0, atol=3e-5, msg=name)
        assert sent == [len(images) * t.bytes for t in program.transfers]


def test_casts_between_neighbouring_types() -> None:
    pairs = list(pairwise([*TYPES, *TYPES[::-1]]))
    check(lambda x: torch.stack([x.to(a).to(b).float() for a, b in pairs], 1).mean(1), names=["cut"])


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), list(product(TYPES, TYPES)), ids=str)
def test_every_pair_of_casts(first: torch.dtype, second: torch.dtype) -> None:
    check(lambda x: x.to(first).to(second).float())


NARROW: dict[str, Callable[[Tensor], Tensor]] = {
    "uint8 wraps around": lambda x: (x.to(torch.uint8) + x.to(torch.uint8)).float(),
    "uint8 is added as float32 once it is cast": lambda x: x.to(torch.uint8).float() + x.to(torch.uint8).float(),
    "uint8 times a number": lambda x: (x.to(torch.uint8) * 3 + 200).float(),
    "int8 of negative numbers": lambda x: (x / 3).to(torch.int8).float(),
    "negative to uint8": lambda x: (-x.abs()).to(torch.uint8).float(),
    "beyond 255 to uint8": lambda x: (x.abs() + 256).to(torch.uint8).float(),
    "half": lambda x: x.half().float(),
    "arithmetic in half": lambda x: (x.half() * x.half() / 128 + x.half()).float(),
    "arithmetic in bfloat16": lambda x: (x.bfloat16() * 3 + x.bfloat16()).float(),
    "half and float32": lambda x: x.half() + x,
    "half and a number without axes": lambda x: (x.half() * torch.tensor(1.1)).float(),
    "double": lambda x: (x.double() / 3).float(),
    "type_as": lambda x: x.half().type_as(x) + x.to(torch.uint8).type_as(x),
    "to another tensor": lambda x: x.int().to(x),
    "bool": lambda x: x.bool().float() + (x > 0).float(),
    "comparison": lambda x: (x >= 0).to(torch.float32) * x,
    "where": lambda x: torch.where((x > 0) & (x < 100), x, 0 * x),
    "where with a number": lambda x: torch.where(x > 0, x, 0.5),
    "where of uint8": lambda x: torch.where(x > 0, x.to(torch.uint8), 7).float(),
    "round": lambda x: x.round().int().float(),
    "torch.floor and int64": lambda x: x.floor().long().float(),
    "quantise and dequantise": lambda x: ((x / 2 + 3).round().clamp(0, 255).to(torch.uint8).float() - 3) * 2,
    "int division": lambda x: (x.int() / 2).float(),
    "int32 and int64": lambda x: (x.int() + x.long()).float(),
    "a bool that is transposed and copied": lambda x: torch.where(
        (x > 0).transpose(2, 3).contiguous().transpose(2, 3), x, 0.0 * x
    ),
    "padded uint8": lambda x: nn.functional.pad(x.to(torch.uint8), (1, 1, 0, 0), value=9).float(),
    "concatenated types": lambda x: torch.cat([x.half(), x[:, :2].half()], 1)[:, 1:5].float(),
    "mean of half": lambda x: x + x.half().mean((2, 3), keepdim=True),
    "relu of half": lambda x: x.half().relu().float(),
    "sum in place of narrow numbers": lambda x: x.to(torch.uint8).relu() + 0.5,
    "pool of half": lambda x: nn.functional.max_pool2d(x.half(), 3, 1, 1).float(),
    "resized uint8": lambda x: nn.functional.interpolate(x.to(torch.uint8), scale_factor=2, mode="nearest").float(),
}


LIKE_OTHERS = (
    "beyond 255 to uint8", "type_as", "comparison", "where with a number",
    "torch.floor and int64", "int32 and int64",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LIKE_OTHERS else n for n in NARROW]
)
def test_arithmetic_in_a_narrow_type(name: str) -> None:
    whole = ("mean", "pool", "resized", "a bool")
    check(NARROW[name], names=[n for n in STRATEGIES if n != "tiles" or not name.startswith(whole)])


class HalfWeights(Between):
    """A convolution in another type, with cast weights."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(lambda x: x)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, numbers)``."""
        y = self.first(x).to(self.dtype) * self.scale.to(self.dtype)
        return nn.functional.conv2d(y, self.last.weight.to(self.dtype)).float().flatten(1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type(dtype: torch.dtype) -> None:
    model, images = HalfWeights(dtype).eval(), torch.rand(2, 1, 6, 6)
    graph = capture(model, images[:1])

    made = run(divide(graph, Vertical(("first",)), 2), images)

    with torch.inference_mode():
        assert torch.equal(made, model(images))


def test_float64_is_exact_for_a_model_that_casts_to_float32() -> None:
    """The model's own rounding error is measured in float64, where a cast to float32 must not round."""
    _, graph, images = captured(lambda x: x.double().float().to(torch.int32).to(torch.float32) / 3)

    made = evaluate(graph, images.double(), [graph.output])[graph.output]

    assert made.dtype == torch.float64
    assert not torch.equal(made, made.float().double())


@pytest.mark.parametrize(("dtype", "size"), REAL.items())
def test_a_cut_at_a_value_of_any_type_is_counted_and_sent_at_its_own_size(dtype: str, size: int) -> None:
    model, graph, images = captured(lambda x: x.to(getattr(torch, dtype)).to(torch.float32))
    cut = next(op.name for op in graph.ops if op.dtype == dtype and op.kind == "elementwise")
    program = divide(graph, Vertical((cut,)), 2)

    made, sent = run_counted(program, images)

    with torch.inference_mode():
        assert torch.equal(made, model(images))
    transfer = program.transfers[0]
    assert (transfer.value, transfer.bytes) == (cut, 4 * 6 * 6 * size)
    assert sent == [len(images) * t.bytes for t in program.transfers]


def test_numbers_read_by_their_bits_are_refused() -> None:
    with pytest.raises(ClovenError, match=r"aten\.view\.dtype.* reinterprets bits as int32; expected a cast"):
        captured(lambda x: x.view(torch.int32).float())


def test_a_model_that_returns_another_type_is_refused() -> None:
    class Half(Between):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).half()

    with pytest.raises(ClovenError, match=r"returns float16 values; expected float32: end it with \.float\(\)"):
        capture(Half(lambda x: x), torch.rand(1, 1, 6, 6))


def test_spectra_are_complex_numbers_inside_of_a_model() -> None:
    check(lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=(6, 6)) * 0.5, names=["cut", "rows"])


def test_a_transform_of_another_type_than_float32_is_refused() -> None:
    _, graph, _ = captured(lambda x: x.to(torch.uint8).float())

    with pytest.raises(ClovenError, match=r"int8 on edge0->edge1 requires float32, but _to_copy is uint8"):
        divide(graph, Vertical(("_to_copy",)), 2, transforms=Transforms(default=Transform("int8")))


# --- bundles: the same in onnxruntime -------------------------------------------------------------------------


def bundled(function: Callable[[Tensor], Tensor], folder: Path) -> None:
    """Check that a bundle computes the model's outputs."""
    model, graph, images = captured(function)
    write(divide(graph, Vertical(("first",)), 2), folder / "bundle", model="casts", plan="")

    made = run_bundle(folder / "bundle", images.numpy())

    with torch.inference_mode():
        expected = model(images)
    torch.testing.assert_close(torch.from_numpy(made), expected, rtol=0, atol=1e-4)


WRITTEN = [name for name in NARROW if not name.startswith(("pool", "mean"))]
OFTEN = ("uint8 wraps", "beyond", "half", "arithmetic in half", "bool", "where of", "quantise", "a bool")


@pytest.mark.parametrize(
    "name", [n if n.startswith(OFTEN) else pytest.param(n, marks=pytest.mark.slow) for n in WRITTEN]
)
def test_a_bundle_of_narrow_arithmetic(name: str, tmp_path: Path) -> None:
    bundled(NARROW[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), list(product(TYPES, TYPES)), ids=str)
def test_a_bundle_of_every_pair_of_casts(first: torch.dtype, second: torch.dtype, tmp_path: Path) -> None:
    bundled(lambda x: x.to(first).to(second).float(), tmp_path)


def test_a_bundle_that_would_send_another_type_than_float32_is_refused(tmp_path: Path) -> None:
    _, graph, _ = captured(lambda x: x.to(torch.uint8).float())

    with pytest.raises(ClovenError, match="_to_copy crosses edge0->edge1 as uint8, but workers send float32; cut"):
        write(divide(graph, Vertical(("_to_copy",)), 2), tmp_path / "bundle", model="casts", plan="")
