"""Models of other libraries by name: torchvision, timm, and any ``package.module:factory``."""

from __future__ import annotations

import importlib
import re
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cloven.errors import ClovenError, require
from cloven.zoo.pixels import Shape
from cloven.zoo.weights import load_weights

BY_HAND = "download it elsewhere and give the file"

_DETECTION_OPS: list[torch.library.Library] = []
"""Kept alive as long as the process, because a library that is garbage-collected removes its definitions."""


def torchvision() -> Any:
    """Return the torchvision package, even if its compiled ops do not fit this build of torch.

    The wheel on PyPI is built for CUDA; with a CPU build of torch its import fails because ``nms`` is not defined.
    In this case the two missing ops are declared without an implementation, and the import is repeated.
    Classifiers use neither.

    Raises:
        ClovenError: if torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise require("models", error) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    declared = torch.library.Library("torchvision", "FRAGMENT")
    declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DETECTION_OPS.append(declared)
    return importlib.import_module("torchvision")


class PretrainedInput(NamedTuple):
    """The image shape and normalisation that a library's pretrained model expects, and its number of classes."""

    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def published(name: str) -> PretrainedInput | None:
    """Return the input of the pretrained weights of ``torchvision:NAME`` or ``timm:NAME``, or None without any."""
    library, _, model = name.partition(":")
    if library == "torchvision":
        models = torchvision().models
        if model not in models.list_models(module=models):
            return None
        weights = models.get_model_weights(model).DEFAULT
        images, size = weights.transforms(), weights.transforms().crop_size[0]
        return PretrainedInput(
            (3, size, size), len(weights.meta["categories"]), tuple(images.mean), tuple(images.std)
        )
    found = _timm().get_pretrained_cfg(model) if library == "timm" else None
    return None if found is None else PretrainedInput(found.input_size, found.num_classes, found.mean, found.std)


def from_torchvision(name: str, shape: Shape, classes: int, *, pretrained: bool = False) -> nn.Module:
    """Return a classifier of torchvision with PyTorch's initial weights, or with torchvision's pretrained ones.

    Raises:
        ClovenError: if the name is unknown, images are not in colour, or weights cannot be downloaded.
    """
    models = torchvision().models
    if name not in (known := models.list_models(module=models)):
        raise ClovenError(_unknown("torchvision", name, known))
    if shape[0] != 3:
        raise ClovenError(f"torchvision:{name} takes images of 3 channels; got {shape[0]}")
    helped = name in ("googlenet", "inception_v3")  # they have auxiliary classifiers for training
    more = {"aux_logits": pretrained, "init_weights": False, "transform_input": pretrained} if helped else {}
    made: nn.Module = models.get_model(name, weights=None, num_classes=classes, **more)
    if pretrained:
        _same_classes(f"torchvision:{name}", classes)
        load_weights(made, _downloaded(models.get_model_weights(name).DEFAULT.url))
    if pretrained and helped:
        made.aux_logits = False  # type: ignore[assignment]
        for part in ("aux1", "aux2", "AuxLogits"):
            if hasattr(made, part):
                setattr(made, part, None)
    return made


def from_timm(name: str, shape: Shape, classes: int, *, pretrained: bool = False) -> nn.Module:
    """Return a classifier of timm with PyTorch's initial weights, or with timm's pretrained ones.

    Raises:
        ClovenError: if the name is unknown, timm is not installed, or weights cannot be downloaded.
    """
    timm = _timm()
    if name not in (known := timm.list_models()):
        raise ClovenError(_unknown("timm", name, known))
    if pretrained:
        _same_classes(f"timm:{name}", classes)
    try:
        made: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=classes, in_chans=shape[0])
    except OSError as error:
        raise ClovenError(f"timm:{name}: its weights cannot be downloaded: {error}; {BY_HAND}") from error
    return made


def _timm() -> Any:
    torchvision()  # timm imports it, which may fail without this workaround
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise require("models", error) from error


def _same_classes(name: str, classes: int) -> None:
    known = published(name)
    if known is None or known.classes != classes:
        has = "none" if known is None else f"weights for {known.classes} classes"
        raise ClovenError(f"{name} has {has}; got {classes} classes: expected a file of your own weights")


def _downloaded(url: str) -> Path:
    """Return a file of weights from the web, stored in PyTorch's cache."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest and digest.group(1), progress=False)
        except (OSError, RuntimeError) as error:
            raise ClovenError(f"{url} cannot be downloaded: {error}; {BY_HAND}") from error
    return path


def from_factory(name: str) -> nn.Module:
    """Return the model from ``package.module:factory``, which is called without arguments.

    The module may also be in the working folder.

    Raises:
        ClovenError: if the module cannot be imported or does not have the factory, or the factory fails or does not
            return an ``nn.Module``.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise ClovenError(
            f"{name}: {module_name or 'a module without a name'} cannot be imported: {error}"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ClovenError(f"{name}: {module_name} has no function or class {attribute!r}")
    try:
        made = factory()
    except Exception as error:
        raise ClovenError(f"{name}: {attribute}(), called without arguments, fails: {error}") from error
    if not isinstance(made, nn.Module):
        raise ClovenError(f"{name}: {attribute}() returns a {type(made).__name__}; expected a torch.nn.Module")
    return made


def _unknown(library: str, name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=4)
    hint = f"did you mean {', '.join(near)}?" if near else f"{library} has {len(known)} models, such as {known[0]}"
    return f"{library} has no model {name!r}; {hint}"
