"""The parts of a divided model on both sides of a hand-over: run with PyTorch, serialised without pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.graph.box import Box, Shape, extent, whole
from cloven.graph.kinds import Local
from cloven.partition.program import Compute, Program, Receive, Send, Step

if TYPE_CHECKING:
    from torch import Tensor

Share = tuple[str, Box]
"""A value and a box of it."""


@dataclass(frozen=True, eq=False)
class ModelPart:
    """Steps that run without communication, from the shares that they take to those that they give."""

    takes: tuple[Share, ...]
    steps: tuple[Compute, ...]
    gives: tuple[Share, ...]

    @property
    def weight_bytes(self) -> int:
        """Return the size of the weights, in bytes."""
        return sum(array.nbytes for step in self.steps for array in step.local.params.values())


@dataclass(frozen=True, eq=False)
class Split:
    """A program of two devices with at most one hand-over from the first to the second, and one back.

    ``front`` and ``rest`` run on the first device, which is trusted; ``rear`` runs on the second. ``rest`` is None
    if the second device has the result. The first shares that the front gives are those that the rear takes; the
    others are kept for the rest.
    """

    front: ModelPart
    rear: ModelPart
    rest: ModelPart | None


def split(program: Program) -> Split:
    """Divide a program into its front, rear and rest.

    Raises:
        ClovenError: if it does not have two devices, hands over more than once, or is inexact.
    """
    if problems := _problems(program):
        raise ClovenError(problems)
    trusted, other = program.devices
    image, output = program.graph.input, program.graph.output
    result = ((output, whole(program.graph.by_name[output].shape)),)
    own = program.parts[trusted]
    before = _computed(takewhile(lambda step: not isinstance(step, Receive), own))
    after = _computed(dropwhile(lambda step: not isinstance(step, Receive), own))
    out = tuple((t.value, t.share) for t in program.transfers if t.source == trusted)
    back = tuple((t.value, t.share) for t in program.transfers if t.source == other)
    inside = program.sink == trusted
    read = {value for step in after for value, _ in step.reads} | ({output} if inside else set())
    kept = tuple((step.value, step.box) for step in before if step.value in read)
    return Split(
        ModelPart(((image.name, whole(image.shape)),), before, (*out, *kept)),
        ModelPart(out, _computed(program.parts[other]), back if inside else result),
        ModelPart((*kept, *back), after, result) if inside else None,
    )


def _computed(steps: Iterable[Step]) -> tuple[Compute, ...]:
    return tuple(step for step in steps if isinstance(step, Compute))


def _problems(program: Program) -> list[str]:
    found = []
    if len(program.devices) != 2:
        names = ", ".join(program.devices)
        return [f"the plan has {len(program.devices)} devices ({names}); expected two, the first of them trusted"]
    if program.source != program.devices[0]:
        found.append(f"the image is on {program.source}; expected it on {program.devices[0]}, which is trusted")
    for device in program.devices:
        turns = [type(step) for step in program.parts[device] if not isinstance(step, Compute)]
        back = [Receive, Send] if device == program.devices[1] else [Send, Receive]
        if list(dict.fromkeys(turns)) != back[: len(set(turns))] or turns != sorted(turns, key=back.index):
            found.append(f"{device} hands over more than once; expected one hand-over in each direction at most")
    if not program.exact:
        found.append(f"{', '.join(program.inexact)}; expected a program with the same output as the model")
    return found


# --- running ----------------------------------------------------------------------------------------------------


def ready(part: ModelPart, device: str = "cpu") -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Return a function from inputs to outputs, tensors ``(n, ...)``; its weights are on the device."""
    import torch

    from cloven.runtime.torch_engine import apply, paste, weights

    params = [{name: w.to(device) for name, w in weights(step.local).items()} for step in part.steps]
    last = {value: i for i, step in enumerate(part.steps) for value, _ in step.reads}
    wanted = {value for value, _ in part.gives}

    def compute(given: Sequence[Tensor]) -> list[Tensor]:
        held: dict[str, list[tuple[Box, Tensor]]] = {}
        for (value, box), tensor in zip(part.takes, given, strict=True):
            held.setdefault(value, []).append((box, tensor.to(device)))
        with torch.inference_mode():
            for i, (step, own) in enumerate(zip(part.steps, params, strict=True)):
                made = apply(step.local, [paste(held[value], box) for value, box in step.reads], own)
                held.setdefault(step.value, []).append((step.box, made))
                for value, _ in step.reads:
                    if last[value] == i and value not in wanted:
                        held.pop(value, None)
            return [paste(held[value], box) for value, box in part.gives]

    return compute


def shapes(shares: Sequence[Share]) -> list[Shape]:
    """Return the shapes of shares for one image."""
    return [extent(box) for _, box in shares]


# --- writing and reading ----------------------------------------------------------------------------------------


def written(part: ModelPart) -> bytes:
    """Serialise a part as safetensors: the weights, with the steps as JSON in the header."""
    from safetensors.numpy import save

    arrays: dict[str, NDArray[Any]] = {}
    steps = [
        {
            "step": step.step,
            "value": step.value,
            "box": step.box,
            "reads": step.reads,
            "local": _numbered(step.local, arrays),
            "macs": step.macs,
        }
        for step in part.steps
    ]
    head = {"takes": part.takes, "steps": steps, "gives": part.gives}
    return save(arrays, {"stretch": json.dumps(_plain(head))})


def _numbered(local: Local, arrays: dict[str, NDArray[Any]]) -> Local:
    """Return the op with its weights replaced by names; the weights go to ``arrays``."""
    names = {}
    for key, array in local.params.items():
        names[key] = str(len(arrays))
        arrays[names[key]] = np.ascontiguousarray(array)
    inner = {key: _numbered(v, arrays) if isinstance(v, Local) else v for key, v in local.attrs.items()}
    return Local(local.kind, inner, names, local.crop)  # type: ignore[arg-type]


def _plain(item: Any) -> Any:
    """Return nested data as JSON; types that JSON lacks are tagged."""
    match item:
        case tuple():
            return {"tuple": [_plain(part) for part in item]}
        case list():
            return [_plain(part) for part in item]
        case Local():
            return {"local": [item.kind, _plain(item.attrs), _plain(item.params), _plain(item.crop)]}
        case Mapping():
            return {"pairs": [[_plain(key), _plain(value)] for key, value in item.items()]}
        case None | bool() | int() | float() | str():
            return item
    raise ClovenError(f"an op has an attribute of type {type(item).__name__}, which cannot be handed over")


def read(content: bytes | bytearray) -> ModelPart:
    """Read a part that `written` wrote.

    Raises:
        ClovenError: if the content is malformed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        size = int.from_bytes(content[:8], "little")
        head = json.loads(bytes(content[8 : 8 + size]))["__metadata__"]["stretch"]
        arrays = load(bytes(content))
        found = _back(json.loads(head), arrays)
        steps = tuple(Compute(**step) for step in found["steps"])
        return ModelPart(found["takes"], steps, found["gives"])
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ClovenError(f"the received content is not a part of a model: {error}") from error


def _back(item: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    match item:
        case list():
            return [_back(part, arrays) for part in item]
        case {"tuple": parts}:
            return tuple(_back(part, arrays) for part in parts)
        case {"pairs": pairs}:
            return {_back(key, arrays): _back(value, arrays) for key, value in pairs}
        case {"local": [kind, attrs, names, crop]}:
            params = {key: arrays[name] for key, name in _back(names, arrays).items()}
            return Local(kind, _back(attrs, arrays), params, _back(crop, arrays))
    return item
