"""Every localised op as ONNX nodes computes what the torch engine does, for boxes and geometry of any kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cloven.graph.box import Shape, slices
from cloven.graph.graph import BATCH, Graph, Op
from cloven.graph.ops import KINDS, Local
from cloven.runtime import torch_engine
from cloven.runtime.bundle.engine import outputs, session
from cloven.runtime.bundle.onnx.builder import ModelBuilder, UnsupportedError, Value, Weights
from cloven.runtime.bundle.onnx.nodes import NODES, apply
from cloven.runtime.capture import capture
from tests.graph.test_ops import OTHERS, boxes_of

Case = tuple[Local, Sequence[Tensor]]


def images(*shape: int, number: int = 2) -> Tensor:
    """Return random values of a shape."""
    return torch.from_numpy(np.random.default_rng(len(shape)).standard_normal((number, *shape), np.float32))


def written(cases: Sequence[Case], folder: Path, *, finite: bool = False) -> list[Value]:
    """Write one model of all cases into ``folder``; return its outputs. ``finite`` declares its inputs finite."""
    weights = Weights()
    model, made = ModelBuilder("test", weights, "weights.bin"), []
    for i, (local, inputs) in enumerate(cases):
        model.scope(f"case{i}")
        given = [model.input(f"case{i}/input{j}", x.shape[1:]) for j, x in enumerate(inputs)]
        given = [replace(value, finite=finite) for value in given]
        value = model.called(apply(model, local, given), f"case{i}")
        model.output(value, value.shape)
        made.append(value)
    weights.write(folder / "weights.bin")
    (folder / "model.onnx").write_bytes(model.finish().SerializeToString())
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    return made


def check(cases: Sequence[Case]) -> None:
    """Check that the nodes of the cases compute what the torch engine does, also with those for finite values."""
    for finite in (False, True):
        _check(cases, finite=finite)


def _check(cases: Sequence[Case], *, finite: bool) -> None:
    with TemporaryDirectory() as folder:
        values = written(cases, Path(folder), finite=finite)
        feeds = {f"case{i}/input{j}": x.numpy() for i, (_, xs) in enumerate(cases) for j, x in enumerate(xs)}
        made = outputs(session(Path(folder) / "model.onnx"), [v.name for v in values], feeds)
    for (local, inputs), value in zip(cases, values, strict=True):
        expected = torch_engine.apply(local, inputs, torch_engine.weights(local)).numpy()
        assert made[value.name].shape == expected.shape == (len(inputs[0]), *value.shape), local
        np.testing.assert_allclose(made[value.name], expected, rtol=1e-5, atol=1e-5, err_msg=str(local))


def boxes(data: st.DataObject, op: Op, inputs: Sequence[Tensor], number: int) -> Iterator[Case]:
    """Yield some boxes of an op's value, each computed from the regions that it needs."""
    shapes = tuple(tuple(x.shape[1:]) for x in inputs)
    for box in data.draw(st.lists(boxes_of(op.shape), min_size=number, max_size=number)):
        needs = KINDS[op.kind].needs(op, shapes, box)
        pieces = [x[slices(need)].contiguous() for x, need in zip(inputs, needs, strict=True) if need is not None]
        yield KINDS[op.kind].localise(op, shapes, box), pieces


def made_of(kind: str, attrs: dict[str, Any], params: dict[str, Any], x: Tensor) -> Op:
    """Return an op with the shape of its value in the torch engine."""
    shape = tuple(torch_engine.RUN[kind](attrs, [x], {k: torch.tensor(v) for k, v in params.items()}).shape[1:])
    return Op("op", kind, ("input",), shape, attrs=attrs, params=params)


@st.composite
def windows(draw: st.DrawFn, x: Tensor) -> Op:
    """Draw a convolution or a pool: any stride, dilation, groups, wide padding, windows that exceed the edge."""
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(pairs), draw(pairs), draw(pairs)
    kind, random = draw(st.sampled_from(["conv2d", "conv_transpose2d", "max", "avg"])), np.random.default_rng(3)
    attrs: dict[str, Any] = {"kernel": kernel, "stride": stride, "dilation": dilation}
    if kind in ("max", "avg"):
        height, width = (draw(st.integers(0, k // 2)) for k in kernel)
        attrs |= {"pads": (height, height, width, width), "ceil": draw(st.booleans())}
        if kind == "avg":
            more = {"count_include_pad": draw(st.booleans()), "divisor": draw(st.sampled_from([None, 3]))}
            attrs |= {"dilation": (1, 1), **more}
        return made_of(f"{kind}_pool2d", attrs, {}, x)
    groups, wide = draw(st.sampled_from([1, 2, 4])), kind == "conv2d"
    ends = [draw(st.integers(0, 4 if wide else d * (k - 1))) for d, k in zip(dilation, kernel, strict=True)]
    attrs |= {"groups": groups, "pads": tuple(ends[i] for i in (0, 0, 1, 1))}
    if not wide:
        tail = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        attrs["output_padding"] = tail
    weight = random.standard_normal((8 if wide else 4, 4 // groups if wide else 8 // groups, *kernel))
    params = {"weight": weight.astype(np.float32)}
    if draw(st.booleans()):
        params["bias"] = np.arange(8, dtype=np.float32)
    return made_of(kind, attrs, params, x)


@st.composite
def sizes(draw: st.DrawFn, x: Tensor) -> Op:
    """Draw a resize of any kind, to larger or smaller, or an adaptive pool."""
    size = (draw(st.integers(1, 18)), draw(st.integers(1, 14)))
    mode = draw(st.sampled_from(["mean", "nearest", "nearest-exact", "linear", "cubic"]))
    if mode == "mean":
        return made_of("adaptive_avg_pool2d", {"size": size, "mode": mode}, {}, x)
    scale = draw(st.sampled_from([None, (2.0, 2.0), (1.7, 0.6), (3.0, 1.0)]))
    align = mode in ("linear", "cubic") and draw(st.booleans())
    return made_of("resize", {"mode": mode, "align": align, "scale": scale, "size": size}, {}, x)


def some(data: st.DataObject) -> Tensor:
    """Draw one or three feature maps."""
    return images(4, 9, 7, number=data.draw(st.sampled_from([1, 3])))


@given(st.data())
@settings(max_examples=60)
def test_windows(data: st.DataObject) -> None:
    x = some(data)

    check(list(boxes(data, data.draw(windows(x)), [x], 4)))


@given(st.data())
@settings(max_examples=40)
def test_resizing(data: st.DataObject) -> None:
    x = some(data)
    op = data.draw(sizes(x))
    size = op.attrs["size"] if not op.attrs.get("scale") else op.shape[1:]

    check(list(boxes(data, replace(op, attrs={**op.attrs, "size": size}), [x], 3)))


@cache
def everything() -> tuple[Graph, dict[str, Tensor]]:
    """Capture all other modules of the op table's tests in one model; return its values for three images."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.all = nn.ModuleList(OTHERS)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([module(x).flatten(1) for module in self.all], 1)

    torch.manual_seed(0)
    graph = capture(Beside(), torch.rand(1, 4, 8, 6))
    return graph, torch_engine.evaluate(graph, images(4, 8, 6, number=3), [op.name for op in graph.ops])


@given(st.data())
@settings(max_examples=5)
def test_whatever_else_has_a_rule(data: st.DataObject) -> None:
    graph, values = everything()

    check([case for op in graph.ops[1:] for case in boxes(data, op, [values[i] for i in op.inputs], 2)])


def test_every_kind_of_the_torch_engine_has_nodes() -> None:
    assert NODES.keys() == torch_engine.RUN.keys() - {"input"}


# --- kinds that only rewritten graphs have ----------------------------------------------------------------------


def test_sums_with_a_bias_or_a_count() -> None:
    bias = np.arange(3, dtype=np.float32).reshape(3, 1, 1)
    xs = [images(3, 4, 5) + i for i in range(3)]

    check([(Local("sum", {}, {"bias": bias}), xs), (Local("sum", {"count": 7}), xs), (Local("sum"), xs[:1])])


def test_pieces_on_a_ground_where_the_later_holds() -> None:
    x = images(2, 3)
    at = (((0, 2), (0, 3)), None, ((1, 3), (2, 5)))
    alone = {"shape": (4, 5), "at": (((2, 4), (0, 3)),), "value": -1.5}

    check(
        [
            (Local("place", {"shape": (4, 5), "at": at, "value": 0.0}), [x, x, x + 1]),
            (Local("place", alone), [x]),
            (Local("place", {"shape": (2, 3), "at": (((0, 2), (0, 3)),), "value": 0.0}), [x]),
            (Local("place", {"shape": (4, 5), "at": (None,), "value": 2.5}), [x[:, :1, :1]]),
        ]
    )


def test_normalisation_a_slice_of_an_op_and_a_norm_without_weights() -> None:
    mean, std = (np.array([[[a]], [[b]]], np.float32) for a, b in ((0.1, 0.2), (0.5, 2)))
    relu = Local("call", {"op": "aten.relu.default", "args": [{"input": 0}], "kwargs": {}, "item": None})
    norm = {"running_mean": np.array([1, 2], np.float32), "running_var": np.array([3, 4], np.float32)}
    x = images(2, 3, 4)

    check(
        [
            (Local("normalise", {}, {"mean": mean, "std": std}), [x]),
            (Local("sliced", {"of": relu, "boxes": [((1, 2), (0, 3), (1, 3))]}), [x]),
            (Local("batch_norm", {"eps": 1e-3}, norm), [x]),
            (Local("batch_norm", {"eps": 1e-3}, {**norm, "bias": np.ones(2, np.float32)}), [x[..., 0, 0]]),
            (Local("identity"), [x]),
            (Local("linear", {}, {"weight": np.eye(3, 4, dtype=np.float32)}), [x]),
        ]
    )


def test_a_pool_as_wide_as_its_padding_allows() -> None:
    attrs = {"kernel": (2, 2), "stride": (2, 2), "dilation": (1, 1), "pads": (3, 0, 0, 2), "ceil": True}

    check([(Local("max_pool2d", attrs), [images(2, 5, 5)])])


# --- calls ------------------------------------------------------------------------------------------------------

X, Y = {"input": 0}, {"input": 1}
MAP: Shape = (4, 6, 5)
MAPS = [MAP, MAP]
W, B, PER_AXIS, INDICES, VAR = ({"param": name} for name in ("w", "b", "per_axis", "indices", "var"))
PARAMS = {
    "w": np.random.default_rng(1).standard_normal((4, 2, 3, 3)).astype(np.float32),
    "b": np.array([1, 2, 3, 4], np.float32),
    "per_axis": np.array([0.5, -1, 2, 3, 1], np.float32),
    "square": np.random.default_rng(2).standard_normal((5, 5)).astype(np.float32),
    "indices": np.array([2, 0]),
    "var": np.array([0.5, 1, 2, 3], np.float32),
    "corner": np.array([[-1], [0]]),
    "columns": np.array([1, 4, 2]),
    "places": np.random.default_rng(4).integers(0, 6, (1, 4, 2, 5)),
    "mask": np.tri(6, 6, dtype=bool),
}
UNARY = (
    "relu relu6 tanh sigmoid silu hardswish hardsigmoid selu mish log_sigmoid neg abs exp square erf sin tan atan "
    "sinh cosh expm1 sign round hardshrink softshrink alias contiguous"
)
CALLS: list[tuple[str, list[Any], dict[str, Any]]] = [
    *((f"{name}.default", [X], {}) for name in UNARY.split()),
    ("gelu.default", [X], {}),
    ("gelu.default", [X], {"approximate": "tanh"}),
    ("hardtanh.default", [X], {}),
    ("hardtanh.default", [X, 0.0, 1.5], {}),
    ("leaky_relu.default", [X], {}),
    ("leaky_relu.default", [X, 0.3], {}),
    ("elu.default", [X, 0.7], {}),
    ("celu.default", [X, 0.7], {}),
    ("softplus.default", [X], {}),
    ("softplus.default", [X, 2.0], {}),
    ("clamp.default", [X, -0.5], {}),
    ("clamp.default", [X, None, 0.5], {}),
    ("clamp.default", [X, -0.5, 0.5], {}),
    ("clamp_min.default", [X, 0.1], {}),
    ("clamp_max.default", [X, 0.1], {}),
    ("add.Tensor", [X, Y], {}),
    ("add.Tensor", [X, Y], {"alpha": 2}),
    ("add.Tensor", [X, 3], {}),
    ("sub.Tensor", [X, PER_AXIS], {"alpha": 0.5}),
    ("rsub.Scalar", [X, 1], {}),
    ("mul.Tensor", [X, 2.5], {}),
    ("div.Tensor", [X, PER_AXIS], {}),
    ("maximum.default", [X, Y], {}),
    ("minimum.default", [X, Y], {}),
    ("pow.Tensor_Scalar", [X, 2], {}),
    ("mean.dim", [X, [2, 3]], {}),
    ("mean.dim", [X, [-1], True], {}),
    ("sum.dim_IntList", [X, [1]], {}),
    ("amax.default", [X, [2, 3]], {}),
    ("linalg_vector_norm.default", [X, 2, [1], True], {}),
    ("softmax.int", [X, 1], {}),
    ("log_softmax.int", [X, -1], {}),
    ("layer_norm.default", [X, [5], PER_AXIS, PER_AXIS, 1e-6, False], {}),
    ("layer_norm.default", [X, [6, 5]], {}),
    ("group_norm.default", [X, 2, B, B, 1e-5, False], {}),
    ("reshape.default", [X, [BATCH, -1, 10]], {}),
    ("reshape.default", [X, [-1, 24, 5]], {}),
    ("reshape.default", [X, [BATCH, 2, 2, 6, 5]], {}),
    ("flatten.using_ints", [X, 1], {}),
    ("flatten.using_ints", [X, 2, 3], {}),
    ("permute.default", [X, [0, 2, -1, 1]], {}),
    ("transpose.int", [X, 1, -1], {}),
    ("unsqueeze.default", [X, 2], {}),
    ("squeeze.dim", [X, 1], {}),
    ("slice.Tensor", [X, 2, 1, -1, 2], {}),
    ("slice.Tensor", [X, 3, 2], {}),
    ("select.int", [X, 1, -1], {}),
    ("index_select.default", [X, 1, {"param": "indices"}], {}),
    ("cat.default", [[X, Y], 1], {}),
    ("stack.default", [[X, Y], 2], {}),
    ("roll.default", [X, [2, -1], [2, 3]], {}),
    ("expand.default", [X, [BATCH, 4, 6, -1]], {}),
    ("repeat.default", [X, [1, 2, 1, 3]], {}),
    ("pad.default", [X, [1, 2, 0, 3], "reflect"], {}),
    ("pad.default", [X, [1, -2], "constant", 2.0], {}),
    ("pad.default", [X, [1, 2, 3, 1], "replicate"], {}),
    ("pad.default", [X, [1, 2, 3, 1], "circular"], {}),
    ("constant_pad_nd.default", [X, [0, 1, 1, 0, 1, 1], -1.0], {}),
    ("matmul.default", [X, {"param": "square"}], {}),
    ("linear.default", [X, {"param": "square"}, PER_AXIS], {}),
    ("einsum.default", ["nchw,nchv->nchwv", [X, Y]], {}),
    ("scaled_dot_product_attention.default", [X, Y, X], {}),
    ("scaled_dot_product_attention.default", [X, Y, Y], {"scale": 0.3}),
    ("prelu.default", [X, B], {}),
    ("conv2d.default", [X, W, B, [2, 1], [1, 0], [1, 1], 2], {}),
    ("conv2d.padding", [X, W, None, [1, 1], "same", [1, 1], 2], {}),
    ("convolution.default", [X, W, None, [1, 2], [1, 1], [1, 1], True, [0, 1], 1], {}),
    ("conv_transpose2d.input", [X, W, None, [2, 2], [1, 1], [1, 0], 2], {}),
    ("upsample_nearest2d.vec", [X, None, [2.0, 3.0]], {}),
    ("upsample_nearest2d.default", [X, [5, 9]], {}),
    ("upsample_bilinear2d.vec", [X, [9, 7], False, None], {}),
    ("upsample_bilinear2d.vec", [X, None, True, [2.0, 2.0]], {}),
    ("upsample_bilinear2d.default", [X, [12, 10], False, 2.0, 2.0], {}),
    # elementwise
    ("lerp.Scalar", [X, Y, 0.3], {}),
    ("addcmul.default", [X, Y, Y], {"value": 2}),
    ("threshold.default", [X, 0.1, 20.0], {}),
    ("hardshrink.default", [X, 0.7], {}),
    ("softshrink.default", [X, 0.7], {}),
    ("true_divide.Tensor", [X, PER_AXIS], {}),
    ("max.other", [X, Y], {}),
    ("type_as.default", [X, Y], {}),
    ("feature_dropout.default", [X, 0.5, False], {}),
    # over some axes
    ("glu.default", [X, 1], {}),
    ("glu.default", [X, -2], {}),
    ("var.correction", [X, [2, 3]], {"correction": 0, "keepdim": True}),
    ("var.dim", [X, [1]], {}),
    ("std.dim", [X, [1], False], {}),
    ("norm.ScalarOpt_dim", [X, 2, [1]], {}),
    ("logsumexp.default", [X, [1]], {}),
    ("prod.dim_int", [X, 1], {}),
    ("cumsum.default", [X, 2], {}),
    ("cosine_similarity.default", [X, Y], {}),
    ("rms_norm.default", [X, [6, 5]], {}),
    ("rms_norm.default", [X, [5], PER_AXIS, 1e-3], {}),
    ("batch_norm.default", [X, B, B, B, VAR, False, 0.1, 1e-3, True], {}),
    ("instance_norm.default", [X, B, None, None, None, True, 0.1, 1e-3, True], {}),
    ("instance_norm.default", [X, None, None, B, VAR, False, 0.1, 1e-3, True], {}),
    # moves
    ("unflatten.int", [X, 1, [2, -1]], {}),
    ("reshape_as.default", [X, Y], {}),
    ("swapaxes.default", [X, 1, 3], {}),
    ("movedim.int", [X, 1, -1], {}),
    ("movedim.intlist", [X, [1, 2], [3, 1]], {}),
    ("narrow.default", [X, 2, -3, 2], {}),
    ("flip.default", [X, [1, -1]], {}),
    ("index.Tensor", [X, [None, INDICES]], {}),
    ("index.Tensor", [X, [None, None, {"param": "corner"}, {"param": "columns"}]], {}),
    ("take_along_dim.default", [X, {"param": "places"}, 2], {}),
    ("index.Tensor", [X, [None, None, {"param": "places"}]], {}),
    ("repeat_interleave.self_int", [X, 3, -1], {}),
    ("unfold.default", [X, 2, 3, 2], {}),
    ("concatenate.default", [[X, Y], 2], {}),
    ("broadcast_to.default", [X, [BATCH, 4, 6, 5]], {}),
    ("tile.default", [X, [2, 1]], {}),
    ("pad.default", [X, [1, 1], "constant"], {}),
    # windows
    ("im2col.default", [X, [3, 2], [1, 2], [1, 1], [2, 1]], {}),
    ("im2col.default", [X, [6, 5], [1, 1], [0, 0], [1, 1]], {}),
    ("max_pool2d.default", [X, [3, 2], [2, 1], [1, 0], [1, 2], True], {}),
    ("avg_pool2d.default", [X, [3, 3], [], [1, 1], True, False], {}),
    ("avg_pool2d.default", [X, [2, 2], [2, 2], [0, 0], False, True, 3], {}),
    ("adaptive_avg_pool2d.default", [X, [4, 3]], {}),
    *(
        (f"upsample_bicubic2d.{name}", rest, {})
        for name, rest in (
            ("vec", [X, [9, 4], False, None]),
            ("vec", [X, [9, 4], True, None]),
            ("vec", [X, None, False, [1.7, 0.6]]),
            ("default", [X, [10, 3], False, 1.7, 0.6]),
        )
    ),
    ("_upsample_nearest_exact2d.vec", [X, None, [1.7, 0.6]], {}),
    ("_upsample_nearest_exact2d.default", [X, [7, 3]], {}),
    ("_upsample_bicubic2d_aa.vec", [X, [4, 9], False, None], {}),
    ("_upsample_bilinear2d_aa.vec", [X, [3, 3], True, None], {}),
    ("scaled_dot_product_attention.default", [X, Y, X, {"param": "mask"}], {}),
    ("scaled_dot_product_attention.default", [X, Y, X, None, 0.0, True], {}),
]

ITEMS: list[tuple[str, list[Any], int]] = [
    ("split.Tensor", [X, 4, 2], 1),
    ("split_with_sizes.default", [X, [1, 3], 1], 1),
    ("chunk.default", [X, 4, 2], 2),
    ("unbind.int", [X, 3], 2),
    ("native_layer_norm.default", [X, [5], PER_AXIS, None, 1e-5], 0),
    ("native_group_norm.default", [X, B, B, BATCH, 4, 30, 2, 1e-5], 0),
    ("_native_batch_norm_legit_no_training.default", [X, B, None, B, VAR, 0.1, 1e-3], 0),
    ("tensor_split.sections", [X, 4, 2], 1),
    ("tensor_split.indices", [X, [1, 4], 2], 1),
    ("max.dim", [X, 1], 0),
    ("min.dim", [X, -1, True], 0),
    ("var_mean.correction", [X, [1, 2]], 0),
    ("var_mean.correction", [X, [1, 2]], 1),
    ("max_pool2d_with_indices.default", [X, [2, 2]], 0),
    *(("adaptive_max_pool2d.default", [X, size], 0) for size in ([3, 5], [4, 3], [1, 1], [7, 9])),
]


def called(name: str, args: list[Any], kwargs: dict[str, Any], item: int | None = None) -> Local:
    """Return a call with the weights that it names."""
    attrs = {"op": f"aten.{name}", "args": args, "kwargs": kwargs, "item": item}
    return Local("call", attrs, {key: value for key, value in PARAMS.items() if f"{key!r}" in str(args)})


@pytest.mark.parametrize(("name", "args", "kwargs"), CALLS, ids=[f"{c[0]}-{i}" for i, c in enumerate(CALLS)])
def test_calls(name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    check([(called(name, args, kwargs), [images(*MAP), images(*MAP)[..., [1, 0, 3, 2, 4]]])])


def test_calls_on_numbers_that_must_be_positive() -> None:
    x = images(*MAP).abs() + 0.1
    check([(called(f"{name}.default", [X], {}), [x]) for name in ("sqrt", "rsqrt", "reciprocal", "log")])


@pytest.mark.parametrize(("name", "args", "item"), ITEMS, ids=[f"{c[0]}-{i}" for i, c in enumerate(ITEMS)])
def test_one_of_several_results(name: str, args: list[Any], item: int) -> None:
    check([(called(name, args, {}, item), [images(*MAP)])])


def test_windows_of_images_put_along_the_batch_and_back() -> None:
    """Ops may produce, take and remove several rows per image on the batch axis."""
    x = images(3, 4, 6)
    split = called("reshape.default", [X, [{"batch": 2}, 3, 2, -1]], {})
    inside = called("mul.Tensor", [X, 2], {})
    back = called("reshape.default", [X, [BATCH, -1, 6]], {})
    two: dict[str, Any] = {"laid": (0, 2)}
    first = Local("call", {**split.attrs, **two, "read": {}})
    middle = Local("call", {**inside.attrs, **two, "read": {0: (0, 2)}})
    last = Local("call", {**back.attrs, "laid": (0, 1), "read": {0: (0, 2)}})

    between = torch_engine.apply(first, [x], {})
    check([(first, [x]), (middle, [between]), (last, [between])])


@pytest.mark.parametrize(
    ("local", "reason"),
    [
        (Local("whirl"), "no node for the kind 'whirl'"),
        (called("fft_fft2.default", [X], {}), "no node for this op"),
        (called("elu.default", [X, 1.0, 2.0], {}), "scales are 2.0 and 1"),
        (called("div.Tensor_mode", [X, 2], {"rounding_mode": "floor"}), "unexpected keyword argument"),
        (called("native_layer_norm.default", [X, [5], None, None, 1e-5], {}, 1), "mean and deviation are used"),
    ],
)
def test_what_has_no_node_says_why(local: Local, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        written([(local, [images(*MAP)])], tmp_path)
