"""Attacks that reconstruct images, or read their classes, from captured tensors.

>>> results = cloven.audit(seen, cloven.attacks.Residual(epochs=10), auxiliary=photos, victims=tests)

An attack is a frozen dataclass of hyper-parameters with one method, ``fit(knowledge, *, generator, device)``. It
returns a function from captured tensors, a list of ``(n, ...)``, to images ``(n, C, H, W)`` in [0, 1], or an object
that reads classes. Any class with that method can be used like the ones here; see `Attack` and `Knowledge`.

Names are imported on first use: importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloven.attacks.attack import Attack as Attack
    from cloven.attacks.augmented import Augmented as Augmented
    from cloven.attacks.cgan import CGAN as CGAN
    from cloven.attacks.conv_probe import ConvProbe as ConvProbe
    from cloven.attacks.decoder import Decoder as Decoder
    from cloven.attacks.ensemble import Ensemble as Ensemble
    from cloven.attacks.knn import KNN as KNN
    from cloven.attacks.knowledge import CapturedTensors as CapturedTensors
    from cloven.attacks.knowledge import Knowledge as Knowledge
    from cloven.attacks.knowledge import LabelReader as LabelReader
    from cloven.attacks.knowledge import Pairs as Pairs
    from cloven.attacks.knowledge import Reconstructor as Reconstructor
    from cloven.attacks.knowledge import in_memory as in_memory
    from cloven.attacks.knowledge import needed as needed
    from cloven.attacks.matching import PixelDescent as PixelDescent
    from cloven.attacks.mlp_probe import MLPProbe as MLPProbe
    from cloven.attacks.nearest import Nearest as Nearest
    from cloven.attacks.probe import Probe as Probe
    from cloven.attacks.rear import ModelRear as ModelRear
    from cloven.attacks.refine import Refine as Refine
    from cloven.attacks.registry import load as load
    from cloven.attacks.residual import Residual as Residual
    from cloven.attacks.rmle import RMLE as RMLE
    from cloven.attacks.screen import Screen as Screen
    from cloven.attacks.tiles import Enlarge as Enlarge
    from cloven.attacks.tiles import Inpaint as Inpaint
    from cloven.attacks.tiles import Paste as Paste

_HOME = {
    "Attack": "attack",
    "Augmented": "augmented",
    "CGAN": "cgan",
    "CapturedTensors": "knowledge",
    "ConvProbe": "conv_probe",
    "Decoder": "decoder",
    "Enlarge": "tiles",
    "Ensemble": "ensemble",
    "Inpaint": "tiles",
    "KNN": "knn",
    "Knowledge": "knowledge",
    "LabelReader": "knowledge",
    "MLPProbe": "mlp_probe",
    "ModelRear": "rear",
    "Nearest": "nearest",
    "Pairs": "knowledge",
    "Paste": "tiles",
    "PixelDescent": "matching",
    "Probe": "probe",
    "RMLE": "rmle",
    "Reconstructor": "knowledge",
    "Refine": "refine",
    "Residual": "residual",
    "Screen": "screen",
    "in_memory": "knowledge",
    "load": "registry",
    "needed": "knowledge",
}
"""The module of each public name."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cloven.attacks' has no attribute {name!r}")
    return getattr(import_module(f"cloven.attacks.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
