"""Known mistakes of other tools that capture and split models: one test for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from cloven.errors import ClovenError
from cloven.graph.box import Box, covers, whole
from cloven.graph.cuts import Cut, cuts
from cloven.graph.graph import Graph
from cloven.graph.ops import KINDS
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Compute, Program, Receive, Send, Transfer
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture
from cloven.runtime.local import run
from cloven.runtime.torch_engine import apply, evaluate, paste, weights
from cloven.zoo.libraries import torchvision
from tests.models import Recorder

EVERY: tuple[tuple[Strategy, int], ...] = (
    (Vertical(), 2),
    (Horizontal(), 3),
    (Horizontal("in_channels"), 2),
    (Horizontal("fused"), 2),
    (Horizontal("rows"), 3),
    (Horizontal("columns"), 2),
    (Data((2, 2)), 4),
)


class Net(nn.Module):
    """A model: some layers, and its forward as a function of the layers and the images."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def captured(model: nn.Module, *shape: int) -> Graph:
    return capture(model, torch.zeros(1, *shape))


def output(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.as_tensor(model.eval()(images))


def divided_everyhow(model: nn.Module, graph: Graph, images: Tensor) -> None:
    """Every strategy computes the same as the model: vertical bit by bit, the others up to rounding."""
    expected = output(model, images)
    scale = max(1.0, float(expected.abs().max()))
    for strategy, devices in EVERY:
        made = run(divide(graph, strategy, devices), images)
        if isinstance(strategy, Vertical):
            assert torch.equal(made, expected)
        assert float((made - expected).abs().max()) <= 1e-5 * scale, strategy


# --- 1. the batch size crosses no cut -------------------------------------------------------------------------


@cache
def shufflenet() -> tuple[nn.Module, Graph]:
    """A ShuffleNet of three stages, four units in all, and its graph."""
    torch.manual_seed(0)
    made = torchvision().models.ShuffleNetV2([2, 1, 1], [8, 16, 32, 64, 32], num_classes=5).eval()
    return made, captured(made, 3, 64, 64)


def carrying_one(found: list[Cut]) -> int:
    return sum(len(cut.tensors) == 1 for cut in found)


def single_of_fx(model: nn.Module) -> int:
    """Return the cuts in torch.fx that one value crosses; it may be a size."""
    nodes = [node for node in fx.symbolic_trace(model).graph.nodes if node.op != "output"]
    place = {node: i for i, node in enumerate(nodes)}
    live = (
        [n for n in nodes[: i + 1] if n.op != "get_attr" and any(place.get(user, i) > i for user in n.users)]
        for i in range(len(nodes) - 1)
    )
    return sum(len(values) == 1 for values in live)


def test_no_cut_of_a_shufflenet_carries_a_size_and_no_single_tensor_cut_is_lost() -> None:
    model, graph = shufflenet()
    found = cuts(graph)

    # Stem (5 values), cat and three views of the shuffle in each of 4 units, the last convolution's 3, the mean.
    assert carrying_one(found) == 5 + 4 * 4 + 3 + 1
    assert carrying_one(found) >= single_of_fx(model)
    assert max(len(cut.tensors) for cut in found) == 2
    assert all(op.shape and min(op.shape) >= 1 for op in graph.ops)


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_a_shuffle_of_channels_is_the_same_for_any_batch(batch: int) -> None:
    model, graph = shufflenet()
    images = torch.rand(batch, 3, 64, 64)

    assert torch.equal(run(divide(graph, Vertical(), 3), images), output(model, images))


def test_a_resnet_has_as_many_single_tensor_cuts_as_with_fx() -> None:
    model, graph = residual()

    assert carrying_one(cuts(graph)) == single_of_fx(model) == 11


# --- 3, 4, 7, 12: residual networks ---------------------------------------------------------------------------


@cache
def residual() -> tuple[nn.Module, Graph]:
    """A ResNet of two blocks, the second of which halves the sides; its activations and sums are in place."""
    torch.manual_seed(0)
    models = torchvision().models
    made = models.ResNet(models.resnet.BasicBlock, [1, 1, 0, 0], num_classes=5)
    made.layer3 = made.layer4 = nn.Sequential()
    made.fc = nn.Linear(128, 5)
    with torch.no_grad():
        made.train()(torch.rand(8, 3, 32, 32))
    return made.eval(), captured(made, 3, 32, 32)


def test_a_blocks_path_means_the_value_after_its_last_activation() -> None:
    _, graph = residual()

    for block in ("layer1.0", "layer1", "layer2.0", "layer2"):
        found = graph.by_name[graph.find(block)]
        (added,) = found.inputs
        assert found.attrs["op"] == "aten.relu.default"
        assert graph.by_name[added].attrs["op"].startswith("aten.add")
        assert found.module.endswith(".relu")
    assert graph.find("layer2.0") == graph.find("layer2")


def test_ops_in_place_change_no_value_that_was_recorded_before() -> None:
    """The ReLU overwrites bn1's output in place, and the block's sum overwrites bn2's."""
    model, graph = residual()
    images = torch.rand(3, 3, 32, 32)
    values = evaluate(graph, images, [op.name for op in graph.ops])
    expected: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, made: expected.__setitem__(name, made.clone())

    recorded_ones = ("bn1", "layer1.0.bn2", "layer2.0.downsample.1")
    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in recorded_ones]
    output(model, images)
    for hook in hooks:
        hook.remove()

    assert float(values["bn1"].min()) < 0
    for name, value in expected.items():
        assert torch.equal(values[name], value)
    for name in ("bn1", "layer1.0.bn2"):
        program = divide(graph, Vertical((name,)))
        tap = Recorder(("edge0", "edge1"))
        run(program, images, tap=tap)
        for transfer, recorded in zip(program.transfers, tap.tensors(), strict=True):
            assert torch.equal(recorded, values[transfer.value])


def test_batch_norm_stays_an_op_of_its_own_with_a_cut_before_it() -> None:
    model, graph = residual()
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]

    for name in norms:
        op = graph.by_name[name]
        (before,) = op.inputs
        assert op.kind == "batch_norm"
        assert graph.by_name[before].kind == "conv2d"
        assert any(cut.after == before and before in {t.name for t in cut.tensors} for cut in cuts(graph))
    assert len(norms) == sum(op.kind == "batch_norm" for op in graph.ops) == 6


def test_a_strided_1x1_convolution_takes_all_of_an_axis_that_is_owned_whole() -> None:
    """A layer that reads 7 of 8 rows: on these alone it runs another kernel, which rounds differently."""
    model, graph = residual()
    op = graph.by_name["layer2.0.downsample.0"]
    (source,) = graph.input_shapes(op)
    kind = KINDS["conv2d"]
    assert (op.attrs["kernel"], op.attrs["stride"], source) == ((1, 1), (2, 2), (64, 8, 8))

    assert kind.needs(op, (source,), whole(op.shape)) == (whole(source),)
    assert kind.needs(op, (source,), ((0, 128), (0, 2), (0, 4))) == (((0, 64), (0, 3), (0, 8)),)
    images = torch.rand(3, 3, 32, 32)
    for strategy in (Vertical(("layer2.0.conv2",)), Vertical(("layer1",)), Data((1, 1), until="layer2")):
        assert torch.equal(run(divide(graph, strategy), images), output(model, images)), strategy


@pytest.mark.parametrize("until", ["layer1.0.conv1", "layer2.0.conv2", "layer2.0.bn2", "layer2.0.downsample.0"])
def test_tiles_that_end_inside_a_residual_block_own_all_of_what_is_added_behind_them(until: str) -> None:
    model, graph = residual()
    program = divide(graph, Data((2, 2), until=until))
    images = torch.rand(3, 3, 32, 32)
    behind = {value for op in graph.ops[graph.position[until] + 1 :] for value in op.inputs}
    crossing = {op.name for op in graph.ops[: graph.position[until] + 1]} & behind

    assert len(crossing) == 2
    for value in crossing:
        owned = [box for share in program.owners[value].values() for box in share]
        assert covers(owned, whole(graph.by_name[value].shape))
    assert {t.value for t in program.transfers} == {"input", *crossing}
    assert torch.allclose(run(program, images), output(model, images), rtol=0, atol=1e-5)


# --- 6, 10: models that are refused by name -------------------------------------------------------------------


def norm(**more: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, **more), nn.Flatten(), nn.Linear(216, 5))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda net, x: torch.nonzero(x).float(), r"aten\.nonzero\.default in the model .*depends on the image"),
        (lambda net, x: x[x > 0.5].reshape(1, -1), r"aten\.index\.Tensor in the model .*depends on the image"),
        (lambda net, x: x.flatten(1)[:, : int(x.sum())], "cannot be captured: torch.export says"),
        (lambda net, x: x - x.mean(0), r"aten\.mean\.dim in the model .*expected one value per image"),
        (lambda net, x: x / x.sum(), r"aten\.sum\.default in the model .*expected one value per image"),
        (lambda net, x: (x, x * 2), "the model returns 2 tensors; expected one"),
        (lambda net, x: {"a": x, "b": [x * 2, x * 3]}, "the model returns 3 tensors; expected one"),
    ],
)
def test_what_depends_on_the_data_mixes_images_or_returns_several_is_refused(
    function: Callable[..., Any], message: str
) -> None:
    with pytest.raises(ClovenError, match=message):
        captured(Net(function), 4, 8, 8)


def test_a_batch_norm_without_running_statistics_is_refused_with_its_module() -> None:
    block = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False))
    model = Net(lambda net, x: net.block(x).flatten(1), block=block)

    with pytest.raises(ClovenError, match=r"in block\.1 takes mean and variance from the batch.*running_stats"):
        captured(model, 4, 8, 8)


# --- 10, 11: models that must work ----------------------------------------------------------------------------


def chunks(net: Any, x: Tensor) -> Tensor:
    a, b, c = net.conv(x).chunk(3, 1)
    return torch.cat([c, a * b], 1).mean((-2, -1))


class Operands(nn.Module):
    """A parameter, a buffer and a constant as operands, and a weight that is computed from weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(6, 5)
        self.weight = nn.Parameter(torch.randn(6, 6, 3, 3))
        self.gain = nn.Parameter(torch.rand(1, 6, 1, 1))
        self.register_buffer("shift", torch.rand(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) * self.gain + self.shift + torch.tensor([1.0, 2, 3, 4, 5, 6]).view(1, 6, 1, 1)
        centred = self.weight - self.weight.mean((-3, -2, -1), keepdim=True)
        made: Tensor = self.head(F.conv2d(y, centred, padding=1).mean(dim=[-1, -2]))
        return made


def mutations(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    halves = y.view(len(y), 2, 3, 8, 8)
    halves[:, 0].mul_(2)  # a view of a view
    y[:, 1:3] += 1  # a slice
    y[:, :, 0] = 0.5  # a row is set
    halves.relu_()
    return torch.as_tensor(net.conv2(y).flatten(1))


def seen_before(net: Any, x: Tensor) -> Tensor:
    """An in-place write changes a view that was taken before it, but not a value that was computed before it."""
    y = net.conv(x)
    view, read = y.flatten(2), net.inner(y)
    y.relu_()
    return torch.as_tensor(net.conv2(view.flatten(1).view_as(y) + read).flatten(1))


def seen_between(net: Any, x: Tensor) -> Tensor:
    """A view is taken after one in-place write and before the next."""
    y = net.conv(x).relu_()
    view = F.dropout(y, training=False)
    y += net.inner(x[:, :1].expand(-1, 6, -1, -1))
    return torch.as_tensor(net.conv2(view).flatten(1))


def windowed(net: Any, x: Tensor) -> Tensor:
    """Windows of 4x4 are moved to the batch axis and back, as in a Swin transformer."""
    y = net.conv(x)
    n, c, h, w = y.shape
    cells = y.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, 4, 4)
    cells = net.inner(cells)
    back = cells.reshape(n, h // 4, w // 4, c, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)
    return torch.as_tensor(net.conv2(back).flatten(1))


def along_one_axis(net: Any, x: Tensor) -> Tensor:
    """Coordinate attention: one mean over the rows, one over the columns."""
    y = net.conv(x)
    gates = torch.sigmoid(y.mean(2, keepdim=True)) * torch.sigmoid(y.mean(-1, keepdim=True))
    return torch.as_tensor(net.conv2(y * gates).mean((-1, -2)))


def three() -> dict[str, nn.Module]:
    return {"conv": nn.Conv2d(4, 6, 3, padding=1), "conv2": nn.Conv2d(6, 4, 3), "inner": nn.Conv2d(6, 6, 1)}


MODELS: dict[str, Callable[[], nn.Module]] = {
    "norm without weights": lambda: norm(affine=False),
    "chunk": lambda: Net(chunks, conv=nn.Conv2d(4, 6, 3, padding=1)),
    "operands": Operands,
    "mutations": lambda: Net(mutations, **three()),
    "a view before a write": lambda: Net(seen_before, **three()),
    "a view between writes": lambda: Net(seen_between, **three()),
    "windows along the batch": lambda: Net(windowed, **three()),
    "means along one axis": lambda: Net(along_one_axis, **three()),
}


@cache
def made(name: str) -> tuple[nn.Module, Graph]:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    return model, captured(model, 4, 8, 8)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_odd_models_are_captured_to_the_bit_and_divided(name: str, batch: int) -> None:
    model, graph = made(name)
    images = torch.rand(batch, 4, 8, 8)

    assert torch.equal(evaluate(graph, images, [graph.output])[graph.output], output(model, images))
    divided_everyhow(model, graph, images)


WRITES = st.tuples(
    st.sampled_from(("relu_", "add_", "mul_", "view", "dropout", "conv", "add")), *[st.integers(0, 3)] * 2
)


@settings(max_examples=25)
@given(steps=st.lists(WRITES, min_size=1, max_size=8))
def test_ops_in_place_on_maps_and_their_views_in_any_order(steps: list[tuple[str, int, int]]) -> None:
    def work(net: Any, x: Tensor) -> Tensor:
        maps = [net.conv(x)]
        for kind, i, j in steps:
            one, other = maps[i % len(maps)], maps[j % len(maps)]
            match kind:
                case "relu_" | "add_" | "mul_":
                    getattr(one, kind)(*(() if kind == "relu_" else (other,)))
                case "view":
                    maps.append(one.flatten(1, 1))
                case "dropout":
                    maps.append(F.dropout(one, training=False))
                case "conv":
                    maps.append(net.inner(one))
                case _:
                    maps.append(one + other)
        return torch.cat(maps, 1).flatten(1)

    torch.manual_seed(0)
    model = Net(work, conv=nn.Conv2d(2, 3, 3), inner=nn.Conv2d(3, 3, 1)).eval()
    graph = captured(model, 2, 4, 4)
    images = torch.rand(3, 2, 4, 4)

    assert torch.equal(evaluate(graph, images, [graph.output])[graph.output], output(model, images))


def test_ops_of_weights_alone_are_constants_of_the_op_that_reads_them() -> None:
    model, graph = made("operands")
    assert isinstance(model, Operands)
    (second,) = [op for op in graph.ops if op.kind == "conv2d" and op.name != "conv"]
    centred = model.weight - model.weight.mean((1, 2, 3), keepdim=True)

    # Three operations with weights, none on weights alone.
    assert [op.kind for op in graph.ops] == ["input", "conv2d", *["elementwise"] * 3, "conv2d", "mean", "linear"]
    assert np.array_equal(second.params["weight"], centred.detach().numpy())


def test_windows_along_the_batch_are_an_axis_of_the_value_in_every_cut() -> None:
    _, graph = made("windows along the batch")

    assert graph.by_name["inner"].shape == (4, 6, 4, 4)
    assert all(op.shape[0] in (2, 4, 6) for op in graph.ops[:-1])


# --- 8, 9: slices of weights, windows in the padding ----------------------------------------------------------


@pytest.mark.parametrize(("inputs", "outputs", "devices"), [(120, 84, 4), (250, 33, 8)])
def test_a_share_of_a_linear_layer_is_what_its_own_rows_give_to_the_bit(
    inputs: int, outputs: int, devices: int
) -> None:
    """The slices' weights are copies aligned to 64 bytes, since MKL's results depend on the alignment."""
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs)
    model = nn.Sequential(nn.Flatten(), layer)
    graph = captured(model, 1, 2, inputs // 2)
    images = torch.rand(5, *graph.input.shape)
    program = divide(graph, Horizontal(), devices)
    steps = [step for part in program.parts.values() for step in part if isinstance(step, Compute)]
    shares = [step for step in steps if step.local.kind == "linear"]

    assert len(shares) == devices
    for step in shares:
        ready = weights(step.local)
        assert all(value.data_ptr() % 64 == 0 and value.is_contiguous() for value in ready.values())
        assert not any(np.shares_memory(value.numpy(), step.local.params[key]) for key, value in ready.items())
        rows = slice(*step.box[0])
        expected = F.linear(images.flatten(1), layer.weight[rows].clone(), layer.bias[rows].clone())
        assert torch.equal(apply(step.local, [images.flatten(1)], ready), expected)
    assert torch.allclose(run(program, images), output(model, images), rtol=0, atol=1e-6)
    assert torch.equal(run(divide(graph, Vertical(), 2), images), output(model, images))


IN_PADDING: tuple[nn.Module, ...] = (
    nn.Conv2d(2, 3, 1, padding=4),
    nn.Conv2d(2, 3, 2, stride=2, padding=5),
    nn.Conv2d(2, 2, 1, stride=3, padding=4, groups=2, bias=False),
    nn.Conv2d(2, 3, 3, padding=6, dilation=2),
    nn.ZeroPad2d((5, 0, 0, 5)),
)


@pytest.mark.parametrize("layer", IN_PADDING, ids=str)
def test_rows_that_lie_wholly_in_the_padding_are_what_the_whole_model_has_there(layer: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer, nn.ReLU(), nn.Conv2d(2 if layer in IN_PADDING[2::2] else 3, 2, 3, padding=1))
    graph = captured(model, 2, 6, 6)
    images = torch.rand(2, 2, 6, 6)
    rows = graph.by_name["0"].shape[1]
    expected = output(model, images)

    for strategy in (
        Horizontal("rows"),
        Horizontal("columns"),
        Data((rows, 1), until="0"),
        Data((1, rows), until="2"),
    ):
        made = run(divide(graph, strategy, rows), images)
        assert torch.allclose(made, expected, rtol=0, atol=1e-6), strategy


POOLS: tuple[nn.Module, ...] = (
    nn.AvgPool2d(3, 2, 1),
    nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    nn.MaxPool2d(3, 2, 1, ceil_mode=True),
)


@pytest.mark.parametrize("pool", POOLS)
def test_pools_at_the_edge_divide_by_the_counts_of_the_whole_map(pool: nn.Module) -> None:
    graph = captured(pool, 2, 8, 10)
    images = torch.rand(2, 2, 8, 10) - 2  # less than 0: a maximum must not see padding's zeros

    for grid in ((4, 1), (2, 2), (1, 5), (4, 5)):
        made = run(divide(graph, Data(grid, until=graph.output), grid[0] * grid[1]), images)
        assert torch.allclose(made, output(pool, images), rtol=0, atol=1e-6)


# --- 13. transfers are matched by id --------------------------------------------------------------------------


class Device:
    """A device that knows its own part only, and runs until a transfer is missing."""

    def __init__(self, program: Program, name: str, images: Tensor) -> None:
        self.steps = iter(program.parts[name])
        self.held: dict[str, list[tuple[Box, Tensor]]] = {}
        self.mail: dict[int, Tensor] = {}
        self.waits: Transfer | None = None
        if name == program.source:
            self.held[program.graph.input.name] = [(whole(program.graph.input.shape), images)]

    def go_on(self) -> list[tuple[Transfer, Tensor]]:
        """Run until a transfer is missing, and return what is sent meanwhile."""
        sent: list[tuple[Transfer, Tensor]] = []
        while self.waits is None or self.waits.id in self.mail:
            if self.waits is not None:
                self.hold(self.waits.value, self.waits.share, self.mail.pop(self.waits.id))
                self.waits = None
            match next(self.steps, None):
                case None:
                    return sent
                case Compute(value=value, box=box, reads=reads, local=local):
                    inputs = [paste(self.held[v], need) for v, need in reads]
                    self.hold(value, box, apply(local, inputs, weights(local)))
                case Send(transfer=transfer):
                    sent.append((transfer, paste(self.held[transfer.value], transfer.share)))
                case Receive(transfer=transfer):
                    self.waits = transfer
        return sent

    def hold(self, value: str, box: Box, tensor: Tensor) -> None:
        self.held.setdefault(value, []).append((box, tensor))


@pytest.mark.parametrize(
    ("strategy", "devices"), [(Data((2, 2), until="layer1.0.conv1"), 4), (Horizontal(), 3), (Horizontal("rows"), 3)]
)
def test_devices_that_match_by_id_need_no_order_of_arrival(strategy: Strategy, devices: int) -> None:
    model, graph = residual()
    program = divide(graph, strategy, devices)
    images = torch.rand(2, 3, 32, 32)
    shuffled = np.random.default_rng(0)
    with torch.inference_mode():
        parts = {name: Device(program, name, images) for name in program.devices}
        under_way = [entry for part in parts.values() for entry in part.go_on()]
        while under_way:
            transfer, tensor = under_way.pop(int(shuffled.integers(len(under_way))))
            parts[transfer.target].mail[transfer.id] = tensor
            under_way += parts[transfer.target].go_on()
    made = paste(parts[program.sink].held[graph.output], whole(graph.by_name[graph.output].shape))

    assert torch.allclose(made, output(model, images), rtol=0, atol=1e-5)
    assert not any(part.mail or part.waits for part in parts.values())


@pytest.mark.parametrize(("strategy", "devices"), EVERY)
def test_each_transfer_has_an_id_of_its_own_one_sender_and_one_receiver(strategy: Strategy, devices: int) -> None:
    program = divide(residual()[1], strategy, devices)
    sent = [(s.transfer.id, d) for d, part in program.parts.items() for s in part if isinstance(s, Send)]
    received = [(s.transfer.id, d) for d, part in program.parts.items() for s in part if isinstance(s, Receive)]

    assert [t.id for t in program.transfers] == list(range(len(program.transfers)))
    assert sorted(sent) == [(t.id, t.source) for t in program.transfers]
    assert sorted(received) == [(t.id, t.target) for t in program.transfers]
