"""The provenance of an attack: its name, and everything that can change its results, for the key of a finding."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType

import numpy as np
from torch import Tensor

from cloven.attacks.attack import Attack, BatchedAttack, Json
from cloven.attacks.knowledge import Shape
from cloven.errors import ClovenError, shown

GROUP = "cloven.attacks"
"""The group of entry points under which packages register attacks."""


def name_of(attack: Attack) -> str:
    """Return the ``name`` of an attack if it is one line of text, or the name of its class."""
    name = getattr(attack, "name", None)
    return name if isinstance(name, str) and name.strip() and name.isprintable() else type(attack).__name__


def label_of(attack: Attack) -> str:
    """Return the label of an attack of this package, and the name of any other."""
    return attack.label if isinstance(attack, BatchedAttack) else name_of(attack)


def part_label(attack: Attack) -> str:
    """Return the label of an attack as a part of another one's: in parentheses if it consists of others itself."""
    return f"({label_of(attack)})" if _inner(attack) else label_of(attack)


def needs_classes(attack: Attack) -> bool:
    """Return whether an attack may use the classes that the service answered; assumed of a user's own attack."""
    return bool(getattr(attack, "needs_classes", True)) or any(needs_classes(one) for _, one in _inner(attack))


def is_white_box(attack: Attack) -> bool:
    """Return whether an attack, or one that it consists of, is for an attacker with the model's weights."""
    return any(getattr(one, "white_box", False) for one in _all_of(attack))


def descends(attack: Attack) -> bool:
    """Return whether an attack, or one that it consists of, computes a descent for each image that it attacks."""
    return any(getattr(one, "descends", False) for one in _all_of(attack))


def uses_pairs(attack: Attack) -> bool:
    """Return whether an attack learns from images of the attacker's own: all do that do not say otherwise."""
    return bool(getattr(attack, "uses_pairs", True))


def _all_of(attack: Attack) -> list[Attack]:
    """Return an attack and those that it consists of."""
    return [attack, *(part for _, one in _inner(attack) for part in _all_of(one))]


def _inner(attack: Attack) -> list[tuple[str, Attack]]:
    """Return the attacks that an attack consists of, by the names of its fields."""
    if not is_dataclass(attack):
        return []
    return [(f.name, one) for f in fields(attack) if isinstance(one := getattr(attack, f.name), Attack)]


def settings_of(attack: Attack, captured: Sequence[Shape], image: Shape) -> dict[str, Json]:
    """Return everything that can change the results of an attack, given shapes of captured tensors and an image.

    For an attack of this package, these are its hyper-parameters. For any other, the name of its class, its fields
    (the attributes of an object that is not a dataclass), and the SHA-256 of the source text of its module; or the
    package's version, if a package registers the attack.

    Raises:
        ClovenError: if the value of a field cannot be identified by its contents, such as a function.
    """
    if isinstance(attack, BatchedAttack) and type(attack).__module__.startswith("cloven.attacks."):
        inner = {name: {"name": name_of(one), **settings_of(one, captured, image)} for name, one in _inner(attack)}
        return {**attack.settings(captured, image), **inner}
    return _described(attack, name_of(attack), captured, image)


def _described(value: object, where: str, captured: Sequence[Shape], image: Shape) -> dict[str, Json]:
    """Return the class, the fields and the origin of an object."""
    kind = type(value)
    names = [f.name for f in fields(value)] if is_dataclass(value) else sorted(getattr(value, "__dict__", {}))
    plain = {name: _plain(getattr(value, name), f"{where}.{name}", captured, image) for name in names}
    return {"class": _path(kind), "fields": plain, **_origin(kind)}


def _plain(value: object, where: str, captured: Sequence[Shape], image: Shape) -> Json:
    """Return a field's value as JSON; tensors and arrays by their hash."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Enum() | Path():
            return str(value)
        case Tensor():
            return _plain(value.detach().cpu().numpy(), where, captured, image)
        case np.ndarray():
            digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return {"sha256": digest, "type": str(value.dtype), "shape": list(value.shape)}
        case Mapping():
            return {str(k): _plain(one, f"{where}[{k!r}]", captured, image) for k, one in sorted(value.items())}
        case Sequence():
            return [_plain(one, f"{where}[{i}]", captured, image) for i, one in enumerate(value)]
        case Set():
            return sorted(map(str, value))
        case Attack():
            return {"name": name_of(value), **settings_of(value, captured, image)}
    if is_dataclass(value) and not isinstance(value, type):
        return _described(value, where, captured, image)
    raise ClovenError(
        f"{where} is {shown(value)}; expected numbers, text, tensors, dataclasses or collections of them: "
        "the key of a finding hashes the values of all fields of its attack"
    )


def _path(kind: type) -> str:
    module = kind.__module__.replace("__mp_main__", "__main__")  # the name of the script in a worker process
    return f"{module}:{kind.__qualname__}"


def _origin(kind: type) -> dict[str, Json]:
    """Return what identifies the code of a class: the version of the package that registers it, or its source."""
    if (version := _registered().get(_path(kind))) is not None:
        return {"version": version}
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is not None and Path(file).is_file():
        return {"source": _digest(file)}
    # a class in a notebook or an interpreter has no file
    codes = [one.__code__ for one in vars(kind).values() if hasattr(one, "__code__")]
    return {"code": hashlib.sha256("".join(map(_compiled, codes)).encode()).hexdigest()}


@cache
def _registered() -> dict[str, str]:
    """Return the package and version of each registered class, by ``module:Class``."""
    entries = entry_points(group=GROUP)
    return {e.value: f"{e.dist.name} {e.dist.version}" for e in entries if e.dist is not None}


@cache
def _digest(file: str) -> str:
    """Return the SHA-256 of a source file at the first call, when it is most likely the code that runs."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _compiled(code: CodeType) -> str:
    """Return the text of compiled code: instructions, names and constants."""
    constants = [_compiled(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"
