"""Models by any name that the command line takes, how they want their images, and what is usual for them."""

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
"""Stands for a library's own weights, where a file may stand; they are downloaded if they are not there."""


class Usual(NamedTuple):
    """The size of one image and the number of classes that a model is usually made for."""

    shape: tuple[int, int, int]
    classes: int


def is_own(name: str) -> bool:
    """Return whether a model is a person's own: ``package.module:factory``."""
    library, _, rest = name.partition(":")
    return bool(rest) and library not in ("torchvision", "timm")


def usual(name: str) -> Usual:
    """Return the usual input shape and class count of a model; of a person's own model nothing is known."""
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
    """Return the model of a name, in evaluation mode.

    A name is one of the zoo's, ``torchvision:NAME``, ``timm:NAME`` or ``package.module:factory``.
    Without ``weights`` it has those that PyTorch draws (a factory's own, as it left them); ``pretrained`` in the
    place of a file are torchvision's or timm's own.

    Raises:
        ClovenError: for an unknown name, a library that is not installed, a factory that fails, or weights that
            are not this model's.
    """
    library, _, rest = name.partition(":")
    own = weights is not None and str(weights) == PRETRAINED
    if own and library not in ("torchvision", "timm"):
        raise ClovenError(f"{name} has no weights of its own to download; give a file of weights")
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
    """Return the model of a name before it is trained: with the weights of ``start``, or PyTorch's without one.

    The file may be for any number of classes: the layers whose size depends on it have PyTorch's weights.

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
    """Return the mean and deviation by channel that a model expects; None for images as they are in [0, 1].

    Those that are given count. A model of the zoo that has no weights of its own is trained here, on images as they
    are. torchvision and timm say what their own weights expect; a person's weights of such a model are taken to
    expect the same.
    """
    if mean is not None and std is not None:
        return mean, std
    if name in MODELS:
        return NORMALISATION.get(name) if weights else None
    library = published(name)
    return None if library is None else (library.mean, library.std)


def stated(name: str, *, shape: Shape, classes: int, state: Mapping[str, Tensor]) -> nn.Module:
    """Return the model of a name with its whole state, whose tensors become its own; no weights are drawn.

    Raises:
        ClovenError: as `make`; for a state of another model.
    """
    with _Undrawn():
        model = make(name, shape=shape, classes=classes)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ClovenError(f"the weights are not those of {name}: {error}") from error
    return model


class _Undrawn(TorchFunctionMode):
    """While models are made, drawing weights leaves them as they are: for VGG-16 it takes seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func.__name__.endswith(("normal_", "uniform_")):  # of tensors, and of torch.nn.init
            return args[0] if args else named["tensor"]
        return func(*args, **named)
