"""NaN, infinities and signed zeros in a bundle: every op treats them as PyTorch does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cloven.graph.ops import Local
from cloven.partition.compiler import divide
from cloven.partition.vertical import Vertical
from cloven.runtime import torch_engine
from cloven.runtime.bundle.engine import outputs, session
from cloven.runtime.bundle.engine import run as run_bundle
from cloven.runtime.bundle.onnx.builder import ModelBuilder, Weights
from cloven.runtime.bundle.onnx.nodes import apply
from cloven.runtime.bundle.writer import write
from cloven.runtime.capture import capture
from tests.runtime.test_onnx_nodes import CALLS, ITEMS, MAP, X, Y, called

NAN, INF = float("nan"), float("inf")
SPECIAL = {
    "NaN": [NAN],
    "infinity": [INF],
    "minus infinity": [-INF],
    "infinities": [INF, -INF],
    "all": [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, 7.0],
}
MASK, BLIND = {"param": "thirds"}, {"param": "blind"}
MASKS = {"thirds": np.arange(30).reshape(6, 5) % 3 == 0, "blind": np.tri(6, 6, -1, dtype=bool)}
MORE: list[tuple[str, list[Any], dict[str, Any]]] = [
    *((f"{name}.default", [X], {}) for name in "sqrt rsqrt reciprocal log log2 log10 log1p asin acos".split()),
    *((f"{name}.default", [X], {}) for name in "cos floor ceil".split()),
    *((f"{name}.Tensor", [X, Y], {}) for name in "eq ne gt ge lt le clamp clamp_min clamp_max div".split()),
    *((f"{name}.Scalar", [X, 0.0], {}) for name in "eq ne gt ge lt le".split()),
    *(
        (f"{name}.default", [X, dim, keep], {})
        for name in ("argmax", "argmin")
        for dim in (1, -1)
        for keep in (0, 1)
    ),
    *((f"{name}.default", [X, [dim]], {}) for name in ("amax", "amin") for dim in (1, -1)),
    *(("pow.Tensor_Scalar", [X, exponent], {}) for exponent in (0.5, -0.5, 0, -1, 3, 2.5)),
    ("clamp.default", [X, 0.0], {}),
    ("clamp.default", [X, 1.0, 0.0], {}),
    ("clamp_max.default", [X, -0.0], {}),
    ("softplus.default", [X, 1.0, 2.0], {}),
    ("lerp.Scalar", [X, Y, 0.9], {}),
    ("where.self", [MASK, X, Y], {}),
    ("masked_fill.Scalar", [X, MASK, -INF], {}),
    ("max_pool2d.default", [X, [2, 2]], {}),
    ("max_pool2d.default", [X, [3, 3], [1, 1], [1, 1]], {}),
    ("hardshrink.default", [X, 0.0], {}),
    ("softmax.int", [X, -1], {}),
    ("linalg_vector_norm.default", [X, 1, [1]], {}),
    ("adaptive_avg_pool2d.default", [X, [2, 2]], {}),
]
PLACES = [("max.dim", [X, 1], 1), ("min.dim", [X, -1], 1)]

QUIRKS = "gelu scaled_dot_product_attention var_mean"
"""PyTorch's result for infinity, or for NaN in a query, depends on the kernel that it chooses."""
WEIGHED = "upsample_bilinear2d upsample_bicubic2d _upsample_bicubic2d_aa"
"""Zero times infinity is NaN in PyTorch; here a zero weight may ignore its input. Finite results are the same."""


def special(numbers: list[float], seed: int) -> Tensor:
    """Return random maps with these numbers interspersed, and filling one channel."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((2, *MAP)).astype(np.float32)
    x[random.random(x.shape) < 0.12] = NAN
    x[np.isnan(x)] = random.choice(np.array(numbers, np.float32), np.isnan(x).sum())
    if seed == 0:
        x[0, 0] = numbers[0]
    return torch.from_numpy(x)


def made(local: Local, inputs: list[Tensor]) -> NDArray[np.float32]:
    """Return the output of a model with one op."""
    weights = Weights()
    model = ModelBuilder("test", weights, "weights.bin")
    value = apply(model, local, [model.input(f"x{i}", x.shape[1:]) for i, x in enumerate(inputs)])
    value = model.called(model.add("Cast", [value], to=onnx.TensorProto.FLOAT), "out")
    model.output(value, value.shape)
    with TemporaryDirectory() as folder:
        weights.write(Path(folder) / "weights.bin")
        (Path(folder) / "model.onnx").write_bytes(model.finish().SerializeToString())
        feeds = {f"x{i}": x.numpy() for i, x in enumerate(inputs)}
        return outputs(session(Path(folder) / "model.onnx"), ["out"], feeds)["out"]


Case = tuple[str, list[Any], dict[str, Any], int | None]
CASES: list[Case] = [*((name, args, kwargs, None) for name, args, kwargs in CALLS + MORE)]
CASES += [(name, args, {}, item) for name, args, item in ITEMS + PLACES]
JUDGED = [case for case in CASES if case[0].split(".")[0] not in QUIRKS.split()]


def compared(case: Case, inputs: list[Tensor]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the results of ONNX and of PyTorch for the same inputs."""
    name, args, kwargs, item = case
    local = called(name, args, kwargs, item)
    local = replace(local, params={**local.params, **{k: v for k, v in MASKS.items() if repr(k) in str(args)}})
    used = inputs[: 1 + (str(Y) in str(args))]
    return made(local, used), torch_engine.apply(local, used, torch_engine.weights(local)).float().numpy()


@pytest.mark.parametrize("case", JUDGED, ids=[f"{c[0]}-{i}" for i, c in enumerate(JUDGED)])
def test_ops_on_nan_and_infinity(case: Case) -> None:
    for kind, numbers in SPECIAL.items():
        found, expected = compared(case, [special(numbers, 0), special(numbers, 1)])
        if case[0].split(".")[0] in WEIGHED.split():
            found, expected = (np.where(np.isfinite(x), x, NAN) for x in (found, expected))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=kind)


def test_a_query_that_sees_no_key_gets_zero() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, *MAP), np.float32))
    found, expected = compared(("scaled_dot_product_attention.default", [X, X, X, BLIND], {}, None), [x])

    assert not expected[:, :, 0].any()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


SIGNED: list[tuple[str, list[Any]]] = [
    *((f"{name}.default", [X]) for name in "relu relu6 hardtanh tanh round floor ceil neg abs sqrt sin".split()),
    *((f"{name}.default", [X]) for name in "erf leaky_relu elu silu hardswish alias reciprocal rsqrt".split()),
    *((f"{name}.default", [X, 0.0]) for name in "clamp clamp_min clamp_max".split()),
    ("clamp.default", [X, 0.0, 1.0]),
    ("hardtanh.default", [X, 0.0, 1.0]),
    ("pow.Tensor_Scalar", [X, 0.5]),
    ("pow.Tensor_Scalar", [X, -0.5]),
    ("mul.Tensor", [X, 2.5]),
    ("div.Tensor", [X, 2.5]),
    ("amax.default", [X, [1]]),
    ("max_pool2d.default", [X, [2, 2]]),
]


@pytest.mark.parametrize(("name", "args"), SIGNED, ids=[f"{name}{args[1:]}" for name, args in SIGNED])
def test_ops_keep_the_sign_of_zero(name: str, args: list[Any]) -> None:
    for zero in (0.0, -0.0):
        found, expected = compared((name, args, {}, None), [torch.full((1, *MAP), zero)])
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


class Net(nn.Module):
    """A convolution, some functions of its output, and the sums of each, in which NaN counts as 0.5."""

    def __init__(self, functions: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.functions, self.conv = functions, nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, channels of all)``."""
        features = self.conv(x)
        maps = [function(features) for function in self.functions]
        return torch.cat([torch.where(m == m, m, 0.5).clamp(-2, 2).sum((2, 3)) for m in maps], 1)


AT_RUN_TIME: Sequence[Callable[[Tensor], Tensor]] = [
    lambda x: x.sqrt().amax(1, keepdim=True),
    lambda x: x.log().amin(-1, keepdim=True),
    lambda x: x.sqrt().argmax(1, keepdim=True).float(),
    lambda x: x.sqrt().max(1, keepdim=True).values,
    lambda x: functional.max_pool2d(x.sqrt(), 3, 2, 1),
    lambda x: functional.max_pool2d((x.relu() * 0).log(), 3, 2, 1) / 1e38,
    lambda x: functional.adaptive_max_pool2d(x.sqrt(), 3),
    lambda x: x.sqrt().sign(),
    lambda x: functional.softshrink(x.sqrt()),
    lambda x: functional.interpolate(x.sqrt(), scale_factor=1.7, mode="bilinear"),
    lambda x: functional.adaptive_avg_pool2d(x.sqrt(), 3),
    lambda x: 1 / (-x.relu()).clamp(0, 1),
]
ORDINARY: Sequence[Callable[[Tensor], Tensor]] = [
    lambda x: functional.max_pool2d(x.relu(), 3, 2, 1),
    lambda x: functional.interpolate(x.sigmoid() * x, scale_factor=1.7, mode="bilinear"),
]


def bundled(functions: Sequence[Callable[[Tensor], Tensor]], folder: Path) -> Net:
    """Return a model that is also written as a bundle."""
    model = Net(functions).eval()
    graph = capture(model, torch.rand(1, 1, 9, 9))
    write(divide(graph, Vertical(("conv",)), 2), folder, model="net", plan="")
    return model


@pytest.mark.slow
def test_nan_that_appears_at_run_time(tmp_path: Path) -> None:
    model = bundled(AT_RUN_TIME, tmp_path / "bundle")
    images = torch.rand(3, 1, 9, 9, generator=torch.Generator().manual_seed(1))

    with torch.inference_mode():
        expected = model(images).numpy()
    np.testing.assert_allclose(run_bundle(tmp_path / "bundle", images.numpy()), expected, rtol=1e-5, atol=1e-4)


def test_an_ordinary_network_has_no_nodes_for_nan(tmp_path: Path) -> None:
    bundled(ORDINARY, tmp_path / "bundle")
    nodes = {node.op_type for path in tmp_path.rglob("*.onnx") for node in onnx.load(path).graph.node}

    assert "MaxPool" in nodes
    assert "IsNaN" not in nodes
