"""Capture checks its graph: ops that are random, mix images or compute something else are refused by name."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloven
from cloven.graph.graph import Graph
from cloven.runtime import torch_engine
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.libraries import from_timm, from_torchvision

IMAGE = torch.zeros(1, 3, 8, 8)


def but(slow: Collection[str], cases: Iterable[str]) -> list[Any]:
    """Return the cases; those that go the way of another case are slow tests."""
    assert set(slow) <= set(cases)
    return [pytest.param(case, marks=pytest.mark.slow) if case in slow else case for case in cases]


class Net(nn.Module):
    """A model: some layers, and its forward as a function of the layers and the images."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.conv, self.drop, self.gate = nn.Conv2d(3, 8, 3, padding=1), nn.Dropout(), nn.Linear(192, 192)
        self.lstm, self.kernels = nn.LSTM(8, 8, batch_first=True), nn.Linear(3, 27)
        self.attn, self.across = nn.MultiheadAttention(8, 2, batch_first=True), nn.MultiheadAttention(8, 2)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        nn.init.zeros_(self.gate.weight)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)

    def tokens(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.conv(x).flatten(2).transpose(1, 2))


def attended(x: Tensor, dropout_p: float = 0.0) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, dropout_p=dropout_p)


def captured(function: Callable[..., Any]) -> Graph:
    return cloven.capture(Net(function), IMAGE)


# --- random numbers -------------------------------------------------------------------------------------------

RANDOM: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "dropout": lambda net, x: F.dropout(x.flatten(1)),
    "feature_dropout": lambda net, x: F.dropout2d(net.conv(x)).flatten(1),
    "alpha_dropout": lambda net, x: F.alpha_dropout(x.flatten(1), training=True),
    "rrelu": lambda net, x: F.rrelu(net.conv(x), training=True).flatten(1),
    "rand_like": lambda net, x: (x + torch.rand_like(x)).flatten(1),
    "randn_like": lambda net, x: (x + 1e-6 * torch.randn_like(x)).flatten(1),
    "exponential_": lambda net, x: F.gumbel_softmax(x.flatten(1)),
    "scaled_dot_product_attention": lambda net, x: attended(net.tokens(x), dropout_p=0.1),
    # A draw that does not depend on the image would become a constant at capture.
    "bernoulli": lambda net, x: (net.conv(x) * torch.bernoulli(torch.full((1, 8, 1, 1), 0.5))).flatten(1),
    "bernoulli_": lambda net, x: (net.conv(x) * torch.empty(1, 8, 1, 1).bernoulli_(0.5)).flatten(1),
    "normal_": lambda net, x: x.flatten(1) + torch.zeros(1, 192).normal_(),
    "randint": lambda net, x: x.flatten(1) + torch.randint(0, 5, (1, 192)),
    "rand": lambda net, x: x.flatten(1) * torch.rand(1, 192, generator=torch.Generator().manual_seed(1)),
    "randperm": lambda net, x: x.flatten(1)[:, torch.randperm(192)],
    "multinomial": lambda net, x: x.flatten(1) + torch.multinomial(torch.ones(1, 192), 192),
}


@pytest.mark.parametrize("op", RANDOM)
def test_a_random_op_is_refused_by_name(op: str) -> None:
    with pytest.raises(
        cloven.ClovenError, match=rf"aten\.{op}\.\w+ in the model draws random numbers in evaluation"
    ):
        captured(RANDOM[op])


def test_the_module_of_a_random_op_is_named() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x)

    model = nn.Sequential(nn.Sequential(nn.Flatten(), Noisy()), nn.Linear(192, 5))

    with pytest.raises(cloven.ClovenError, match=r"aten\.dropout\.default in 0\.1 draws random numbers"):
        cloven.capture(model, IMAGE)


RESTING: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "Dropout": lambda net, x: net.drop(x).flatten(1),
    "dropout": lambda net, x: F.dropout(x, training=False).flatten(1),
    "rrelu": lambda net, x: F.rrelu(x).flatten(1),
    "LSTM": lambda net, x: net.lstm(net.tokens(x))[0].mean(1),
    "attention": lambda net, x: attended(net.tokens(x)).mean(1),
}


@pytest.mark.parametrize("case", but(("Dropout",), RESTING))
def test_a_random_op_that_rests_in_evaluation_is_accepted(case: str) -> None:
    captured(RESTING[case])


def test_numbers_drawn_by_python_or_numpy_are_refused() -> None:
    with pytest.raises(
        cloven.ClovenError, match=r"aten\.mul\.Tensor .* has the argument .* nothing drawn at random"
    ):
        captured(lambda net, x: x.flatten(1) * random.random())
    with pytest.raises(cloven.ClovenError, match="reads a constant that differs between two exports"):
        captured(lambda net, x: x.flatten(1) * torch.from_numpy(np.random.rand(192).astype(np.float32)))


class Counts(nn.Module):
    """Counts its calls in a buffer, which it writes to or replaces."""

    calls: Tensor

    def __init__(self, *, reads: bool, replaces: bool) -> None:
        super().__init__()
        self.reads, self.replaces = reads, replaces
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.replaces:
            self.calls = self.calls + 1
        else:
            self.calls.add_(1)
        return x.flatten(1) * self.calls if self.reads else x.flatten(1)


@pytest.mark.parametrize("replaces", [False, True])
def test_a_model_is_refused_where_its_outputs_depend_on_state_and_left_as_it_was(replaces: bool) -> None:
    model, indifferent = (Counts(reads=reads, replaces=replaces) for reads in (True, False))

    with pytest.raises(cloven.ClovenError, match="Counts gives different outputs for the same images in two runs"):
        cloven.capture(model, IMAGE)
    cloven.capture(indifferent, IMAGE)
    assert model.calls == indifferent.calls == 0


def test_capture_draws_nothing_from_the_callers_random_numbers() -> None:
    model = Net(RANDOM["dropout"])
    expected = torch.rand(3, generator=torch.manual_seed(0))
    torch.manual_seed(0)

    with pytest.raises(cloven.ClovenError):
        cloven.capture(model, IMAGE)
    cloven.capture(nn.Flatten(), IMAGE)

    assert torch.equal(torch.rand(3), expected)


# --- images of a batch ----------------------------------------------------------------------------------------

MIXED: dict[str, tuple[str, Callable[[Net, Tensor], Tensor]]] = {
    "softmax": ("softmax", lambda net, x: x.flatten(1).softmax(0)),
    "softmax over axis -2": ("softmax", lambda net, x: x.flatten(1).softmax(-2)),
    "cumulative sum": ("cumsum", lambda net, x: x.flatten(1).cumsum(0)),
    "a millionth of a cumulative sum": ("cumsum", lambda net, x: x.flatten(1) + 1e-6 * x.flatten(1).cumsum(0)),
    "cumulative maximum": ("cummax", lambda net, x: x.flatten(1).cummax(0)[0]),
    "places of a sort": ("argsort", lambda net, x: x.flatten(1).argsort(0).float()),
    "places of a sort of integers": ("argsort", lambda net, x: (9 * x.flatten(1)).int().argsort(0).float()),
    "flip": ("flip", lambda net, x: x.flip(0).flatten(1)),
    "flip of booleans": ("flip", lambda net, x: (x > 0.5).flip(0).float().flatten(1)),
    "roll": ("roll", lambda net, x: x.roll(1, 0).flatten(1)),
    "flip, times zero weights": ("flip", lambda net, x: x.flatten(1) + net.gate(x.flatten(1).flip(0))),
    "sum of zeros": ("cumsum", lambda net, x: x.flatten(1) + net.gate(x.flatten(1)).cumsum(0)),
    "norm": ("renorm", lambda net, x: torch.renorm(x.flatten(1), 2, 1, 1.0)),
    "index": ("index_select", lambda net, x: x.flatten(1).index_select(0, x[:, 0, 0, 0].gt(0.5).long())),
    "einsum": ("einsum", lambda net, x: torch.einsum("nc,mc,md->nd", *[x.flatten(1)] * 3)),
    "convolution": (
        "conv1d",
        lambda net, x: F.conv1d(x.flatten(1).T[:, None], torch.ones(1, 1, 3), padding=1)[:, 0].T,
    ),
    "pool": ("avg_pool2d", lambda net, x: F.avg_pool2d(x.flatten(1)[None], (3, 1), 1, (1, 0))[0]),
    "padding": ("pad", lambda net, x: F.pad(x.flatten(1), (0, 0, 1, -1))),
    "layer norm": ("layer_norm", lambda net, x: F.layer_norm(x.flatten(1).T, (len(x),)).T),
    "group norm": ("group_norm", lambda net, x: F.group_norm(x.reshape(1, -1, 8, 8), 1).reshape(len(x), -1)),
    "attention": (
        "scaled_dot_product_attention",
        lambda net, x: net.across(*[net.tokens(x)] * 3, need_weights=False)[0].mean(1),
    ),
    "attention, functional": (
        "scaled_dot_product_attention",
        lambda net, x: attended(net.tokens(x).transpose(0, 1)).mean(0),
    ),
    "reshape": ("reshape", lambda net, x: x.flatten(1).T.reshape(len(x), 192)),
    "rows of other images": ("reshape", lambda net, x: torch.cat([x, x.flip(3)], 0).reshape(len(x), -1)),
    "in place": ("flip", lambda net, x: x.flatten(1).clone().add_(x.flatten(1).flip(0))),
    "times the batch size": ("mul", lambda net, x: x.flatten(1) * x.shape[0]),
    "divided by the batch size": ("div", lambda net, x: x.flatten(1) / x.shape[0]),
    "the image's number": ("arange", lambda net, x: x.flatten(1) + torch.arange(len(x))[:, None]),
}


def refusal(op: str) -> str:
    return rf"aten\.(_safe_)?{op}\.\w+ in [\w ]+ mixes the images of a batch, or depends on the size of the batch"


LIKE_OTHERS = (
    "softmax over axis -2", "places of a sort of integers", "flip of booleans", "roll",
    "sum of zeros", "attention, functional", "divided by the batch size",
)  # fmt: skip


@pytest.mark.parametrize("case", but(LIKE_OTHERS, MIXED))
def test_an_op_that_mixes_images_and_keeps_the_batch_is_refused_by_name(case: str) -> None:
    op, function = MIXED[case]

    with pytest.raises(cloven.ClovenError, match=refusal(op)):
        captured(function)


def test_the_module_that_mixes_is_named_and_not_one_behind_it() -> None:
    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.roll(1, 0)

    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(192, 8), Mixing(), nn.Softmax(1)))

    with pytest.raises(cloven.ClovenError, match=r"aten\.roll\.default in 1\.1 mixes the images"):
        cloven.capture(model, IMAGE)


OTHERWISE: dict[str, tuple[str, Callable[[Net, Tensor], Tensor]]] = {
    "mean of the batch": (
        r"mean\.dim .*one value per image",
        lambda net, x: (x - x.mean(0, keepdim=True)).flatten(1),
    ),
    "the first image": (r"slice\.Tensor .*one value per image", lambda net, x: (x + x[:1]).flatten(1)),
    "every other image": (
        r"slice\.Tensor .*one value per image",
        lambda net, x: torch.cat([x[::2], x[1::2]]).flatten(1),
    ),
    "ghost batch norm": (
        "takes mean and variance from the batch",
        lambda net, x: F.batch_norm(x.reshape(1, -1, 8, 8), None, None, training=True).reshape(len(x), -1),
    ),
    "a constant made of the batch size": (
        r"full\.default .* has the argument 2",
        lambda net, x: x.flatten(1) * torch.full((1, 192), len(x)),
    ),
    "other ops for three images": (
        "expected the same ops for any batch",
        lambda net, x: x.flatten(1).flip(0) if len(x) > 2 else x.flatten(1),
    ),
    "other ops for one image": (
        "and the model compute different outputs",
        lambda net, x: x.flatten(1) * 2 if len(x) == 1 else x.flatten(1),
    ),
}


@pytest.mark.parametrize("case", but(("every other image",), OTHERWISE))
def test_other_ways_to_depend_on_the_batch_are_refused(case: str) -> None:
    message, function = OTHERWISE[case]

    with pytest.raises(cloven.ClovenError, match=message):
        captured(function)


ALONE: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "sign": lambda net, x: torch.sign(net.conv(x)).flatten(1),
    "rounding to 8 bits": lambda net, x: (torch.round(net.conv(x) * 255) / 255).flatten(1),
    "class of each pixel": lambda net, x: F.one_hot(net.conv(x).argmax(1), 8).float().flatten(1),
    "sort": lambda net, x: x.flatten(1).sort(1)[0],
    "cumulative sum": lambda net, x: x.flatten(1).cumsum(1),
    "attention": lambda net, x: net.attn(*[net.tokens(x)] * 3)[0].mean(1),
    "attention, tokens first": lambda net, x: net.across(*[net.tokens(x).transpose(0, 1)] * 3)[0].mean(0),
    "PyTorch's fast path of an encoder": lambda net, x: net.encoder(net.tokens(x)).mean(1),
    "a mask of infinities": lambda net, x: (
        (net.tokens(x) @ net.tokens(x).mT).masked_fill(torch.ones(64, 64).triu(1).bool(), -torch.inf).softmax(-1)
    ),
    "kernels made of the image": lambda net, x: F.conv2d(
        x.reshape(1, -1, 8, 8), net.kernels(x.mean((2, 3))).reshape(-1, 1, 3, 3), groups=3 * len(x)
    ).reshape(len(x), -1),
    "instance norm by channels of all images": lambda net, x: F.instance_norm(x.reshape(1, -1, 8, 8)).reshape(
        len(x), -1
    ),
    "an op that magnifies rounding": lambda net, x: torch.cdist(net.tokens(x), net.tokens(x)).flatten(1),
    "a value that is expanded, whose copy lies otherwise in memory": lambda net, x: F.grid_sample(
        x, x.mean(1)[..., :2, None].expand(-1, 8, 2, 2), "bicubic", "reflection", True
    ).flatten(1),
    "infinities": lambda net, x: 1 / (0 * x).flatten(1),
    "NaN": lambda net, x: torch.log(net.conv(x)).flatten(1),
    "zeros": lambda net, x: 0 * x.flatten(1),
    "an image that is written to": lambda net, x: x.mul_(2).flatten(1),
    "squeeze": lambda net, x: net.conv(x).mean((2, 3), keepdim=True).squeeze(),
    "squeeze, and a model that does not run on one image": lambda net, x: (
        net.conv(x).amax((2, 3), keepdim=True).squeeze().flatten(1)
    ),
    "memory formats": lambda net, x: net.conv(x).gt(0).to(memory_format=torch.channels_last).float().flatten(1),
    "a dictionary": lambda net, x: {"logits": x.flatten(1)},  # type: ignore[dict-item,return-value]
}


@pytest.mark.parametrize("case", but(("attention, tokens first", "zeros", "cumulative sum"), ALONE))
def test_what_treats_each_image_alone_is_accepted(case: str) -> None:
    captured(ALONE[case])


# --- rows of several images in one value ----------------------------------------------------------------------

ROWS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "views one after the other": lambda net, x: sum(net.conv(torch.cat([x, x.flip(3)])).flatten(1).chunk(2)),
    "repeated": lambda net, x: net.conv(x.repeat(3, 1, 1, 1) ** 2).view(3, len(x), -1).sum(0),
    "stacked before the batch": lambda net, x: (
        net.conv(torch.stack([x, x.flip(3)]).flatten(0, 1)).unflatten(0, (2, -1)).amax(0).flatten(1)
    ),
    "stacked behind the batch": lambda net, x: (
        net.conv(torch.stack([x, x.flip(3)], 1).flatten(0, 1)).unflatten(0, (-1, 2)).amax(1).flatten(1)
    ),
    "interleaved": lambda net, x: net.conv(x.repeat_interleave(2, 0)).view(len(x), 2, -1).sum(1),
    "the output of attention": lambda net, x: net.attn(*[net.tokens(x)] * 3)[0].flatten(1),
}


@pytest.mark.parametrize("case", but(("interleaved",), ROWS))
def test_every_value_of_an_image_in_a_batch_is_its_value_alone(case: str) -> None:
    model, images = Net(ROWS[case]), torch.rand(4, 3, 8, 8)
    graph = cloven.capture(model, IMAGE)
    names = [op.name for op in graph.ops]

    batch = evaluate(graph, images, names)
    alone = [evaluate(graph, images[i : i + 1], names) for i in range(4)]

    with torch.no_grad():
        assert torch.allclose(batch[graph.output], model.eval()(images), rtol=0, atol=1e-5)
    for name in names:
        assert torch.allclose(batch[name], torch.cat([values[name] for values in alone]), rtol=0, atol=1e-5), name


def test_rows_in_a_third_order_are_refused() -> None:
    """Two views of each image, of these two windows: the rows lie by view, image and window."""

    def windows_of_views(net: Net, x: Tensor) -> Tensor:
        views = torch.cat([x, x.flip(3)])
        windows = views.unflatten(3, (2, 4)).permute(0, 3, 1, 2, 4).flatten(0, 1)
        return torch.as_tensor(net.conv(windows).view(2, len(x), -1).sum(0))

    with pytest.raises(cloven.ClovenError, match="its rows are ordered neither image by image nor copy by copy"):
        captured(windows_of_views)


# --- the graph and the model ----------------------------------------------------------------------------------


def test_a_graph_that_computes_something_else_is_refused_with_the_first_op_that_differs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An engine whose batch norm leaves something out stands for any op that is read or run wrongly."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    nn.init.constant_(model[1].bias, 0.01)  # type: ignore[arg-type]
    right = torch_engine.prepared

    def without_bias(*args: Any) -> Any:
        name, local, inputs, params = right(*args)
        return name, local, inputs, {k: 0 * p if (name, k) == ("1", "bias") else p for k, p in params.items()}

    for module in ("capture", "torch_engine"):
        monkeypatch.setattr(f"cloven.runtime.{module}.prepared", without_bias)

    with pytest.raises(cloven.ClovenError, match=r"different outputs.*first op.*is aten\.batch_norm\.default in 1"):
        cloven.capture(model, IMAGE)


def test_the_comparison_is_on_images_as_they_enter_the_model() -> None:
    cloven.capture(Net(lambda net, x: net.conv(x).relu().flatten(1)), IMAGE, mean=[0.4] * 3, std=[0.2] * 3)


# --- reasons --------------------------------------------------------------------------------------------------


class TwoInputs(nn.Module):
    def forward(self, image: Tensor, mask: Tensor, scale: float = 1.0) -> Tensor:
        return image * mask * scale


class Blocks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] % 3 == 0, "sides must be multiples of 3"
        return x.flatten(1)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else x.flatten(1) * 2


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return x.flatten(1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (TwoInputs(), r"^TwoInputs takes 2 inputs \(image, mask\); expected one image tensor$"),
        (
            nn.Sequential(Blocks()),
            r"does not run on images of \(3, 8, 8\): AssertionError: sides .* in 0 at `assert",
        ),
        (Branches(), r"Its shapes or branches depend on the values of an image's pixels"),
        (Mixed(), r"autocast in the model is not an op on tensors; expected a forward without torch\.autocast"),
    ],
)
def test_the_reason_of_a_refusal_is_the_true_one(model: nn.Module, message: str) -> None:
    with pytest.raises(cloven.ClovenError, match=message) as caught:
        cloven.capture(model, IMAGE)
    assert isinstance(model, Branches) == ("depend on the values" in str(caught.value))


# --- models of torchvision and timm ---------------------------------------------------------------------------

TORCHVISION = {
    "alexnet": 96, "convnext_tiny": 64, "densenet121": 64, "efficientnet_b0": 64, "efficientnet_v2_s": 64,
    "googlenet": 64, "inception_v3": 96, "maxvit_t": 224, "mnasnet0_5": 64, "mobilenet_v2": 64,
    "mobilenet_v3_small": 64, "regnet_x_400mf": 64, "regnet_y_400mf": 64, "resnet18": 64, "resnet50": 64,
    "resnext50_32x4d": 64, "shufflenet_v2_x0_5": 64, "squeezenet1_0": 64, "squeezenet1_1": 64, "swin_t": 64,
    "swin_v2_t": 64, "vgg11": 64, "vgg11_bn": 64, "vit_b_16": 224,
}  # fmt: skip
TIMM = {
    "beit_base_patch16_224": 224, "botnet26t_256": 256, "cait_xxs24_224": 224, "coatnet_nano_rw_224": 224,
    "convit_tiny": 224, "convmixer_768_32": 64, "convnextv2_atto": 64, "crossvit_tiny_240": 240,
    "cspresnet50": 64, "davit_tiny": 64, "deit_tiny_patch16_224": 224, "dla34": 64, "dpn48b": 64,
    "edgenext_xx_small": 64, "efficientformer_l1": 224, "efficientvit_b0": 64, "fastvit_t8": 64,
    "focalnet_tiny_srf": 64, "gcvit_xxtiny": 224, "ghostnet_100": 64, "gmlp_ti16_224": 224, "halonet26t": 256,
    "hgnetv2_b0": 64, "hrnet_w18_small": 64, "inception_next_atto": 64, "lambda_resnet26t": 256,
    "levit_128s": 224, "mixer_s32_224": 224, "mobileone_s0": 64, "mobilevit_xxs": 64, "mvitv2_tiny": 224,
    "nest_tiny": 224, "nfnet_l0": 64, "pit_ti_224": 224, "poolformer_s12": 64, "pvt_v2_b0": 64,
    "repvgg_a0": 64, "repvit_m0_9": 64, "res2net50_26w_4s": 64, "resmlp_12_224": 224, "resnest14d": 64,
    "rexnet_100": 64, "selecsls42": 64, "skresnet18": 64, "starnet_s1": 64, "tiny_vit_5m_224": 224,
    "tnt_s_patch16_224": 224, "tresnet_m": 64, "twins_pcpvt_small": 224, "visformer_tiny": 224,
    "volo_d1_224": 224, "vovnet39a": 64, "xception41": 64, "xcit_nano_12_p16_224": 224,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize(
    ("make", "name", "size"),
    [(from_torchvision, *entry) for entry in TORCHVISION.items()] + [(from_timm, *entry) for entry in TIMM.items()],
)
def test_a_published_model_is_captured(make: Callable[..., nn.Module], name: str, size: int) -> None:
    torch.manual_seed(0)
    cloven.capture(make(name, (3, size, size), 10), torch.zeros(1, 3, size, size))


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.mean((2, 3))
        return x * 2 if x.sum() > 0 else x


@pytest.mark.parametrize("model", [Branching(), nn.Sequential(nn.Flatten(), nn.Linear(7, 10))])
def test_what_torch_prints_of_a_model_that_it_cannot_export_is_dropped(
    model: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(cloven.ClovenError):
        cloven.capture(model, torch.zeros(1, 3, 8, 8))
    assert capfd.readouterr() == ("", "")


def test_a_model_that_does_not_take_small_images_says_so_with_its_own_line() -> None:
    model = from_timm("halonet26t", (3, 64, 64), 10)

    with pytest.raises(cloven.ClovenError, match=r"does not run on images of \(3, 64, 64\): .* in stages"):
        cloven.capture(model, torch.zeros(1, 3, 64, 64))
