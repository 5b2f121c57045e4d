"""Models of other libraries by name: torchvision's, timm's, and anyone's ``package.module:factory``."""

from __future__ import annotations

import importlib
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cloven.errors import ClovenError, require
from cloven.zoo.pixels import Shape

_DETECTION_OPS: list[torch.library.Library] = []
"""Kept for as long as the process lives: a library that is collected takes its definitions along."""


def torchvision() -> Any:
    """The torchvision package, also where its compiled ops do not fit this build of torch.

    The wheel on PyPI is built for CUDA; with a CPU build of torch its import fails because ``nms`` is not
    defined. Only then the two missing ops are declared, without an implementation, and the import repeated:
    models need neither.

    Raises:
        ClovenError: where torchvision is not installed.
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


def from_torchvision(name: str, shape: Shape, classes: int) -> nn.Module:
    """A classifier of torchvision with the weights that PyTorch draws.

    Raises:
        ClovenError: for an unknown name, or images that are not in colour.
    """
    models = torchvision().models
    if name not in (known := models.list_models(module=models)):
        raise ClovenError(_unknown("torchvision", name, known))
    if shape[0] != 3:
        raise ClovenError(f"torchvision:{name} takes images of 3 channels; got {shape[0]}")
    auxiliary = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    made: nn.Module = models.get_model(name, weights=None, num_classes=classes, **auxiliary)
    return made


def from_timm(name: str, shape: Shape, classes: int) -> nn.Module:
    """A classifier of timm with the weights that PyTorch draws.

    Raises:
        ClovenError: for an unknown name, or where timm is not installed.
    """
    torchvision()  # timm imports it, and would fail where it needs the repair
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise require("models", error) from error
    if name not in (known := timm.list_models()):
        raise ClovenError(_unknown("timm", name, known))
    made: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=shape[0])
    return made


def from_factory(name: str) -> nn.Module:
    """What ``package.module:factory`` makes, called without arguments; looked for in the working folder too.

    Raises:
        ClovenError: where the module cannot be imported, lacks the factory, or makes no ``nn.Module``.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ClovenError(f"{name}: {module_name} cannot be imported: {error}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ClovenError(f"{name}: {module_name} has no function or class {attribute!r}")
    try:
        made = factory()
    except TypeError as error:
        raise ClovenError(f"{name}: {attribute}() is called without arguments, and fails: {error}") from error
    if not isinstance(made, nn.Module):
        raise ClovenError(f"{name}: {attribute}() makes {type(made).__name__}; expected a torch.nn.Module")
    return made


def _unknown(library: str, name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=4)
    hint = (
        f"did you mean {', '.join(near)}?" if near else f"{library} has {len(known)} models, {known[0]} among them"
    )
    return f"{library} has no model {name!r}; {hint}"
