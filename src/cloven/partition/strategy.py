"""The base class of strategies. A strategy is both a Python object and an entry of a plan file."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from cloven.errors import ClovenError, shown
from cloven.partition.division import Placed, Placement, Stretch

Made = TypeVar("Made")

Names = Annotated[Sequence[str], AfterValidator(tuple)]
"""A list or tuple of names; stored as a tuple."""


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def checked(cls: type[Made]) -> type[Made]:
    """Make a class a frozen dataclass that checks its arguments and lists all problems in a ClovenError."""
    made: Any = dataclass(cls, frozen=True, repr=False, config=ConfigDict(strict=True, extra="forbid"))
    validated: Callable[..., None] = made.__init__

    @wraps(validated)
    def init(self: Made, *args: object, **named: object) -> None:
        try:
            validated(self, *args, **named)
        except ValidationError as error:
            raise ClovenError(wrong_arguments(cls, error)) from None

    made.__init__ = init
    checked_class: type[Made] = made
    return checked_class


def wrong_arguments(cls: type, error: ValidationError) -> list[str]:
    """Return a sentence for each wrong argument of a class."""
    positional = dict(enumerate(f.name for f in dataclasses.fields(cls) if f.init and not f.kw_only))
    found = []
    for entry in error.errors():
        first, *rest = entry["loc"]
        named = positional.get(first, first) if isinstance(first, int) else first
        name = ".".join(map(str, [named, *rest]))
        if "unexpected" in entry["type"]:
            known = ", ".join(field.name for field in dataclasses.fields(cls))
            found.append(f"{cls.__name__} takes no argument {name!r}; expected {known}")
            continue
        expected = entry["msg"].removeprefix("Input should be ")
        if entry["type"] in ("sequence_str", "is_instance_of", "tuple_type"):
            expected = f"a list, such as {name}=[...]"
        elif entry["type"] == "string_type":
            expected = "text"
        found.append(f"{name} is {shown(entry['input'])}; expected {expected[0].lower()}{expected[1:]}")
    return found


@checked
class Strategy(ABC):
    """A partitioning strategy: its parameters, their checks, and the owners of each value.

    It divides the layers up to ``until`` (default: the model's last layer) over the devices ``on`` (default: the
    first ones, as many as it takes).
    """

    until: str | None = dataclasses.field(default=None, kw_only=True)
    on: Names | None = dataclasses.field(default=None, kw_only=True)

    @abstractmethod
    def title(self) -> str:
        """Return the parameters in a few words."""

    @abstractmethod
    def count(self, devices: int | None) -> int:
        """Return the number of devices that the strategy takes, given the requested number, if any."""

    @abstractmethod
    def problems(self, stretch: Stretch) -> list[str]:
        """Return all problems of the parameters for these ops and devices, one sentence each."""

    @abstractmethod
    def place(self, stretch: Stretch, before: Placement) -> Placed:
        """Return the owners of the values in a stretch, and those of earlier values, which are in ``before``.

        There must be no `problems`. If the graph is rewritten, the model's values keep their names.
        """

    def __repr__(self) -> str:
        given = ((f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self))
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v, d in given if v != d)})"
