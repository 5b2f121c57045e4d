"""The layer numbers of the two papers, and the module path of each layer in a captured graph.

Mehrafrooz et al. (2025), prefix ``s1``, count as Keras does: Layer k is ``model.layers[k]``. Layer 0 is the input,
except in a ``Sequential``, which does not list it. (Their Layer 1 of a divided input is a tile of the image, not a
layer.) Rajasekar et al. (2024), prefix ``s2``, count differently for each model: the convolutions of VGG-16, the
stages of ResNet-50, the groups of blocks of EfficientNet-B0. EfficientNet-Lite0, which they do not have, has the
numbers of EfficientNet-B0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal, get_args

from cloven.errors import ClovenError

Paper = Literal["s1", "s2"]
"""A paper, by the prefix of its layer numbers."""

PAPERS: Mapping[str, str] = {"s1": "Mehrafrooz et al. (2025)", "s2": "Rajasekar et al. (2024)"}
"""The authors and year of each paper, by prefix."""


@dataclass(frozen=True)
class Point:
    """A layer that a paper numbers.

    Attributes:
        paper: its prefix.
        model: the model's name.
        number: the layer's number in the paper.
        path: the module path, as `Graph.find` takes it.
        note: the exact position, such as before or after an activation.
    """

    paper: Paper
    model: str
    number: int
    path: str
    note: str = ""

    @property
    def name(self) -> str:
        """Return the number with its paper's prefix: ``s1:33``."""
        return f"{self.paper}:{self.number}"


MOBILENETS = ("mobilenet_v1", "mobilenet_v1_0.75", "mobilenet_v1_0.5", "mobilenet_v1_0.25")
"""MobileNet v1 at each width; layers and numbers are the same for all widths."""

Row = tuple[str, str]
"""A path and its note."""


def _numbered(paper: Paper, model: str, rows: Iterable[tuple[int, Row]]) -> Iterator[Point]:
    return (Point(paper, model, number, path, note) for number, (path, note) in rows)


# --- Mehrafrooz et al. (2025): Keras' indices -------------------------------------------------------------------

_LENET5 = (
    ("conv1", "after its ReLU"),
    ("pool1", ""),
    ("conv2", "after its ReLU"),
    ("pool2", ""),
    ("conv3", "after its ReLU"),
    ("flatten", "channel by channel; Keras interleaves the channels"),
    ("dense1", "after its ReLU"),
    ("dense2", "logits"),
)

_SECTION_2 = {
    5: "; the paper's Sect. 2 cuts here, or after conv_pw_2 if it counts convolutions",
    20: "; the paper's Sect. 2 cuts here, or after conv_dw_10 if it counts convolutions",
}


def _mobilenet() -> Iterator[Row]:
    """Return layers 1 to 88 of current Keras, without ``conv1_pad``, the reshape and the softmax."""
    for number, (path, note) in enumerate(chain(_activated("conv1"), *map(_block, range(1, 14))), 1):
        yield path, note + _SECTION_2.get(number, "")
    yield "global_average_pooling2d", ""
    yield "global_average_pooling2d", "Keras' dropout, which does nothing at inference"
    yield "conv_preds", "logits"


def _block(number: int) -> Iterator[Row]:
    if number in (2, 4, 6, 12):  # the blocks with stride 2
        yield f"conv_pad_{number}", "zero padding"
    yield from _activated(f"conv_dw_{number}")
    yield from _activated(f"conv_pw_{number}")


def _activated(name: str) -> tuple[Row, ...]:
    return (
        (name, "before its batch norm"),
        (f"{name}_bn", "batch norm's output, before its ReLU6"),
        (f"{name}_relu", "after its ReLU6"),
    )


_KERAS = (
    "; the paper uses Keras' ResNet-50: its convolutions have biases, and a stage halves the sides in its first "
    "1x1 convolution, torchvision's in its first 3x3"
)

_RESNET50_S1 = {
    2: ("conv1", f"Keras' conv1_conv, before its batch norm{_KERAS}"),
    33: ("layer1.2.bn2", f"Keras' conv2_block3_2_bn, before its ReLU; the block's input crosses too{_KERAS}"),
    42: (
        "layer2.0.conv2",
        f"Keras' conv3_block1_2_conv, before its batch norm; the block's input crosses too{_KERAS}",
    ),
}

# --- Rajasekar et al. (2024): a count for each model ------------------------------------------------------------

_VGG16 = tuple((f"features.{i}", "before its ReLU") for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))

_RESNET50_S2 = (
    (
        "conv1",
        'the paper says only "1 convolution"; it may also mean bn1, relu, or maxpool with a quarter of the size',
    ),
    *((f"layer{stage}", "end of the stage, after its ReLU") for stage in range(1, 5)),
)

_STEM, _STAGE = "stem, after its SiLU", "end of the stage"
_HEAD = "head, after its SiLU; the paper has no point between the last stage and the head"

_EFFICIENTNET = (
    ("features.0", _STEM),
    *((f"features.{stage}", _STAGE) for stage in range(1, 7)),
    ("features.8", _HEAD),
)
_EFFICIENTNET_TIMM = (
    ("bn1", _STEM),
    *((f"blocks.{stage}", _STAGE) for stage in range(6)),
    ("bn2", _HEAD),
)
_LITE = (
    "; EfficientNet-Lite0 has the blocks of the paper's EfficientNet-B0, without squeeze-and-excite and with ReLU6"
)
_EFFICIENTNET_LITE = tuple((path, note.replace("SiLU", "ReLU6") + _LITE) for path, note in _EFFICIENTNET_TIMM)

POINTS: tuple[Point, ...] = (
    *_numbered("s1", "lenet5", enumerate(_LENET5)),
    *chain.from_iterable(_numbered("s1", model, enumerate(_mobilenet(), 1)) for model in MOBILENETS),
    *_numbered("s1", "torchvision:resnet50", _RESNET50_S1.items()),
    *_numbered("s2", "torchvision:vgg16", enumerate(_VGG16, 1)),
    *_numbered("s2", "torchvision:resnet50", enumerate(_RESNET50_S2, 1)),
    *_numbered("s2", "torchvision:efficientnet_b0", enumerate(_EFFICIENTNET, 1)),
    *_numbered("s2", "timm:efficientnet_b0", enumerate(_EFFICIENTNET_TIMM, 1)),
    *_numbered("s2", "timm:tf_efficientnet_lite0", enumerate(_EFFICIENTNET_LITE, 1)),
)
"""All numbered layers, ordered by paper, model and number."""


def points(model: str, paper: Paper | None = None) -> tuple[Point, ...]:
    """Return the numbered layers of a model, in one paper or in both; empty if the papers do not have the model."""
    return tuple(point for point in POINTS if point.model == model and paper in (None, point.paper))


def resolve(model: str, name: str) -> str:
    """Return the module path of a layer that is named by its path or by its number in a paper.

    ``s1:33`` and ``s2:4`` are numbers in the named paper. A bare ``33`` is a number in the only paper that has it
    for the model. For a model in neither paper, a bare number is a path (``1`` of a ``Sequential``).

    Raises:
        ClovenError: for a number that the named paper, or both papers, do not have for this model; or for a bare
            number that both papers have.
    """
    prefix, _, number = name.rpartition(":")
    named = next((paper for paper in get_args(Paper) if paper == prefix.lower()), None)
    if named is None and not name.isdecimal():
        return name
    known = points(model, named)
    if not known and named is None:
        return name
    found = [point for point in known if number.isdecimal() and point.number == int(number)]
    if not found:
        raise ClovenError(_unknown(model, name, known, named))
    if len(found) > 1:
        meant = " and ".join(f"{point.path} in {PAPERS[point.paper]}" for point in found)
        raise ClovenError(f"layer {name} of {model} is {meant}; write {' or '.join(point.name for point in found)}")
    return found[0].path


def _unknown(model: str, name: str, known: tuple[Point, ...], named: Paper | None) -> str:
    """Return the error message for a number that is not in the table."""
    if named is not None and not known:
        models = ", ".join(dict.fromkeys(point.model for point in POINTS if point.paper == named))
        return f"{name}: {PAPERS[named]} number the layers of {models}, not of {model}; give the layer's path"
    numbers: dict[str, list[int]] = {}
    for point in known:
        numbers.setdefault(point.paper, []).append(point.number)
    listed = ", ".join(f"{PAPERS[paper]} number its layers {_runs(found)}" for paper, found in numbers.items())
    return f"{model} has no layer {name}: {listed}; give one of these or the layer's path"


def _runs(numbers: list[int]) -> str:
    """Return ascending numbers as text: ``2, 33, 42``, or ``1 to 88`` where they are consecutive."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
