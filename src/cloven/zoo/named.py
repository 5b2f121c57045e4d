"""Models by any name that the command line accepts, with their default image size and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cloven.errors import ClovenError
from cloven.zoo.libraries import from_factory, from_timm, from_torchvision, published
from cloven.zoo.models import MODELS, NORMALISATION, build, unknown
from cloven.zoo.pixels import Shape
from cloven.zoo.weights import load_weights

PRETRAINED = "pretrained"
"""Stands for a library's pretrained weights in place of a file; they are downloaded if needed."""


class Usual(NamedTuple):
    """The default shape of an image and number of classes of a model."""

    shape: tuple[int, int, int]
    classes: int


def is_own(name: str) -> bool:
    """Return whether a name is a user's own model: ``package.module:factory``."""
    library, _, rest = name.partition(":")
    return bool(rest) and library not in ("torchvision", "timm")


def usual(name: str) -> Usual:
    """Return the default image shape and number of classes of a model; those of a user's own model are unknown."""
    known = {
        "lenet5": Usual((1, 28, 28), 10),
        "resnet20": Usual((3, 32, 32), 10),
        "resnet56": Usual((3, 32, 32), 10),
    }
    library = published(name)
    if library is not None:
        return Usual(library.shape, library.classes)
    return known.get(name, Usual((3, 224, 224), 1000))


def make(name: str, *, shape: Shape, classes: int, weights: Path | None = None) -> nn.Module:
    """Return the model with a name, in evaluation mode.

    The name is one of cloven's own models, ``torchvision:NAME``, ``timm:NAME`` or ``package.module:factory``.
    Without ``weights``, the model has PyTorch's initial weights, or those that the factory gave it. ``pretrained``
    in place of a file stands for torchvision's or timm's pretrained weights.

    Raises:
        ClovenError: if the name is unknown, a library is not installed, a factory fails, or the weights belong to
            another model.
    """
    library, _, rest = name.partition(":")
    own = weights is not None and str(weights) == PRETRAINED
    if own and library not in ("torchvision", "timm"):
        raise ClovenError(f"{name} has no pretrained weights; give a file of weights")
    if not rest:
        if name not in MODELS:
            raise ClovenError(f"{unknown(name)}, torchvision:NAME, timm:NAME or package.module:factory")
        model = build(name, shape=shape, classes=classes)
    elif library == "torchvision":
        model = from_torchvision(rest, shape, classes, pretrained=own)
    elif library == "timm":
        model = from_timm(rest, shape, classes, pretrained=own)
    else:
        model = from_factory(name)
    if weights is not None and not own:
        load_weights(model, weights)
    return model.eval()


def begun(name: str, *, shape: Shape, classes: int, start: Path | None) -> nn.Module:
    """Return the model with a name before training, with the weights of ``start`` or PyTorch's initial weights.

    The file may be for any number of classes: layers whose size depends on it keep PyTorch's initial weights.

    Raises:
        ClovenError: as `make` does.
    """
    model = make(name, shape=shape, classes=classes)
    if start is None:
        return model
    other = make(name, shape=shape, classes=classes + 1)
    sizes = {entry: value.shape for entry, value in other.state_dict().items()}
    load_weights(model, start, but=[e for e, value in model.state_dict().items() if value.shape != sizes[e]])
    return model


def normalisation(
    name: str,
    weights: str | None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and standard deviation per channel that a model expects, or None for images in [0, 1].

    Given values take precedence. A model of cloven's own without weights is trained here, on images in [0, 1]. For
    a model of torchvision or timm, they are those of the pretrained weights, also if the user has other weights.
    """
    if mean is not None and std is not None:
        return mean, std
    if name in MODELS:
        return NORMALISATION.get(name) if weights else None
    library = published(name)
    return None if library is None else (library.mean, library.std)


def stated(name: str, *, shape: Shape, classes: int, state: Mapping[str, Tensor]) -> nn.Module:
    """Return the model with a name and a complete state, whose tensors it shares, without drawing initial weights.

    Raises:
        ClovenError: as `make`, and if the state belongs to another model.
    """
    with _Undrawn():
        model = make(name, shape=shape, classes=classes)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ClovenError(f"the weights are not those of {name}: {error}") from error
    return model


class _Undrawn(TorchFunctionMode):
    """Skip the random initialisation of weights, which takes seconds for VGG-16."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func.__name__.endswith(("normal_", "uniform_")):  # methods of tensors, and torch.nn.init
            return args[0] if args else named["tensor"]
        return func(*args, **named)
