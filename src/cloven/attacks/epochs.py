"""Change the epochs of attacks of any class, also in the attacks that they consist of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

from cloven.attacks.attack import Attack
from cloven.attacks.hyperparameters import COUNT

Value = TypeVar("Value")


def with_epochs(attack: Attack, change: Callable[[int | None], int | None]) -> Attack:
    """Return an attack with other epochs, also in the attacks that it consists of; itself if none has epochs.

    An attack whose epochs are None trains until held-out pairs stop improving.
    """
    return _changed(attack, "", change)


def _changed(value: Value, name: str, change: Callable[[int | None], int | None]) -> Value:
    """Return the value of a field with other epochs."""
    if name == "epochs" and COUNT.or_none().holds(value):
        return change(value)  # type: ignore[arg-type,return-value]
    if isinstance(value, tuple) and any(isinstance(one, Attack) for one in value):
        return tuple(_changed(one, "", change) for one in value)  # type: ignore[return-value]
    if not isinstance(value, Attack) or not is_dataclass(value):
        return value
    own = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    other = {name: _changed(one, name, change) for name, one in own.items()}
    return replace(value, **other) if any(other[name] is not own[name] for name in own) else value
