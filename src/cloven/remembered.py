"""Remember the results of a function as long as the object exists that it was called with."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

Owner = TypeVar("Owner")
Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def remembered(function: Callable[Concatenate[Owner, Rest], Result]) -> Callable[Concatenate[Owner, Rest], Result]:
    """Return the function with a memory of its results, which is freed with its first argument.

    The other arguments are positional and hashable. The first argument must not be reachable from the results.
    """
    memory: WeakKeyDictionary[Owner, dict[tuple[object, ...], Result]] = WeakKeyDictionary()

    @wraps(function)
    def recall(owner: Owner, /, *rest: Rest.args, **named: Rest.kwargs) -> Result:
        assert not named, "arguments of a remembered function are positional"
        try:
            return memory[owner][rest]
        except KeyError:
            result = memory.setdefault(owner, {})[rest] = function(owner, *rest, **named)
            return result

    return recall
