"""Attacks by name: of this package, of packages that register theirs, and any ``package.module:Class``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path

from cloven.attacks.attack import Attack
from cloven.attacks.augmented import Augmented
from cloven.attacks.cgan import CGAN
from cloven.attacks.conv_probe import ConvProbe
from cloven.attacks.decoder import Decoder
from cloven.attacks.ensemble import Ensemble
from cloven.attacks.knn import KNN
from cloven.attacks.mlp_probe import MLPProbe
from cloven.attacks.nearest import Nearest
from cloven.attacks.probe import Probe
from cloven.attacks.provenance import GROUP
from cloven.attacks.rear import ModelRear
from cloven.attacks.refine import Refine
from cloven.attacks.residual import Residual
from cloven.attacks.rmle import RMLE
from cloven.attacks.screen import Screen
from cloven.attacks.tiles import Enlarge, Inpaint, Paste
from cloven.errors import ClovenError

NAMED: Mapping[str, Callable[[], Attack]] = {
    "nearest": Nearest,
    "knn": KNN,
    "probe": Probe,
    "mlp-probe": MLPProbe,
    "conv-probe": ConvProbe,
    "rear": ModelRear,
    "screen": Screen,
    "decoder": Decoder,
    "residual": Residual,
    "cgan": CGAN,
    "cgan-l1": lambda: CGAN(pixel=100.0),
    "residual-ensemble": Ensemble,
    "rmle": RMLE,
    "residual-augmented": Augmented,
    "refine-pixels": Refine,
    "refine-labels": lambda: Refine(goal="labels"),
    "paste": Paste,
    "enlarge": Enlarge,
    "inpaint": Inpaint,
}
"""The attacks of this package by name, from weak to strong; those on pieces of the image are last."""

GROUPS: Mapping[str, tuple[str, ...]] = {"refine": ("refine-pixels", "refine-labels")}
"""Names that stand for several attacks."""


def load(attack: object) -> Attack:
    """Return the attack of a name; an attack is returned as it is.

    A name is one of this package (``residual``), one that an installed package registers in the entry point group
    ``cloven.attacks``, or ``package.module:Class``. The module may be in the working folder; the class is called
    without arguments. Instead of a class, an attack can be named: ``package.module:FAST``.

    Raises:
        ClovenError: for an unknown name, with the nearest ones; for a module that cannot be imported; and for
            anything that is not an attack, such as the class of an attack.
    """
    if not isinstance(attack, str):
        return _checked(attack, type(attack).__name__)
    if attack in NAMED:
        return NAMED[attack]()
    if attack in GROUPS:
        raise ClovenError(f"{attack} stands for {' and '.join(GROUPS[attack])}; choose one of them")
    registered = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    module, _, name = registered.get(attack, attack).partition(":")
    if not name and (near := get_close_matches(attack, [*NAMED, *GROUPS, *registered], n=3)):
        raise ClovenError(f"no attack is named {attack!r}; did you mean {', '.join(near)}?")
    if not name:
        known = ", ".join([*NAMED, *GROUPS, *registered])
        raise ClovenError(f"no attack is named {attack!r}; choose from {known}, or give package.module:Class")
    if attack not in registered and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # a user's module may raise anything
        raise ClovenError(f"{attack}: {module or 'a module without a name'} cannot be imported: {error}") from error
    if not hasattr(imported, name):
        classes = [n for n, one in vars(imported).items() if callable(getattr(one, "fit", None))]
        near = get_close_matches(name, classes, n=3) or classes[:3]
        raise ClovenError(f"{attack}: {module} has no {name!r}; it has {', '.join(near) or 'no attack'}")
    return _made(getattr(imported, name), attack)


def _made(found: object, name: str) -> Attack:
    """Return the attack that was found by name: an instance of the class, or the instance itself."""
    if isinstance(found, type) and callable(getattr(found, "fit", None)):
        try:
            found = found()
        except Exception as error:  # a user's class may raise anything
            called = f"{getattr(found, '__name__', found)}()"
            raise ClovenError(f"{name}: {called} without arguments failed: {error}") from error
    return _checked(found, name)


def _checked(found: object, name: str) -> Attack:
    """Return what was found, if it is an attack."""
    if isinstance(found, type):
        has = callable(getattr(found, "fit", None))
        raise ClovenError(
            f"pass {found.__name__}(), not {found.__name__}: expected an attack, got its class"
            if has
            else f"{name} is the class {found.__name__}, which has no method fit; expected an attack"
        )
    if not callable(getattr(found, "fit", None)):
        raise ClovenError(f"{name} is not an attack: {type(found).__name__} has no method fit(knowledge, ...)")
    assert isinstance(found, Attack)
    return found
