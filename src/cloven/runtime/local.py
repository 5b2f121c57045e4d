"""Run a program in this process: the steps of all devices in the global order, with an optional tap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloven.errors import ClovenError, check_type, shown, whole_number
from cloven.graph.box import Box, whole
from cloven.partition.program import Compute, Program, Receive, Send, Step, Transfer
from cloven.partition.usage import last_reads
from cloven.rows import Concatenated, StoredRows, TensorRows, chunks
from cloven.runtime.inplace import in_place
from cloven.runtime.torch_engine import apply, batch_for, paste, weights
from cloven.runtime.transmission import sent

Tap = Callable[[Transfer, Tensor], None]
"""A function that is called with each transfer and its received tensor ``(n, ...)``, which it must not change."""

Pieces = dict[str, list[tuple[Box, Tensor]]]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A program with its weights as tensors, for many runs; ``steps`` are in the global order."""

    program: Program
    steps: tuple[tuple[str, Step], ...]
    weights: tuple[dict[str, Tensor], ...]
    dropped: tuple[list[str], ...]


def prepare(program: Program) -> Prepared:
    """Return a program with its weights as tensors, for many runs."""
    dropped = last_reads(program)
    steps = tuple(in_place(program.graph, program.steps, dropped))
    ready = tuple(weights(step.local) if isinstance(step, Compute) else {} for step in steps)
    devices = (device for device, _ in program.steps)
    return Prepared(program, tuple(zip(devices, steps, strict=True)), ready, tuple(dropped))


def dense(images: Tensor | NDArray[Any], name: str) -> Tensor:
    """Return images as a dense tensor on the CPU; arrays are copied if PyTorch cannot share their memory.

    Raises:
        ClovenError: for arrays that are not numeric, sparse tensors, and tensors without data.
    """
    if isinstance(images, np.ndarray):
        try:
            return torch.from_numpy(np.require(images, images.dtype.newbyteorder("="), ["C", "W"]))
        except TypeError as error:
            raise ClovenError(f"{name} are an array of {images.dtype}; expected float32 in [0, 1]") from error
    if images.layout != torch.strided or images.is_meta:
        kind = "without data (meta)" if images.is_meta else f"with layout {images.layout}"
        raise ClovenError(f"{name} are a tensor {kind}; expected a dense tensor: call to_dense()")
    return images.detach().cpu()


@overload
def run(
    program: Program | Prepared, images: TensorRows, *, tap: Tap | None = None, batch: int | None = None
) -> Tensor: ...
@overload
def run(
    program: Program | Prepared, images: NDArray[Any], *, tap: Tap | None = None, batch: int | None = None
) -> NDArray[np.float32]: ...


def run(
    program: Program | Prepared,
    images: Tensor | NDArray[Any] | TensorRows,
    *,
    tap: Tap | None = None,
    batch: int | None = None,
) -> Tensor | NDArray[np.float32]:
    """Return the outputs of a program for images, computed in this process.

    Transfers are transformed as in the plan; the noise of an image depends on its index in ``images``.

    Args:
        program: the program that `cloven.divide` or `cloven.compile` returned.
        images: a floating-point tensor or array ``(n, C, H, W)`` in [0, 1], or such rows of a file.
        tap: called with each transfer and its received tensor.
        batch: the number of images that are computed at a time.

    Returns:
        The outputs ``(n, classes)`` in float32: a tensor for a tensor, an array for an array.

    Raises:
        ClovenError: if the images do not have the required type or the shape of the program's input.
    """
    check_type(program, (Program, Prepared), "program", "the program that cloven.divide or cloven.compile returns")
    check_type(
        images, (Tensor, np.ndarray, StoredRows, Concatenated), "images", "a tensor or an array (n, C, H, W)"
    )
    size = None if batch is None else whole_number(batch, "batch", 1)
    if tap is not None and not callable(tap):
        raise ClovenError(f"tap is {shown(tap)}; expected a function of a transfer and a tensor")
    if isinstance(images, np.ndarray):
        return run(program, dense(images, "the images"), tap=tap, batch=size).numpy()
    images = dense(images, "the images") if isinstance(images, Tensor) else images
    if not images.dtype.is_floating_point:
        raise ClovenError(f"the images are {images.dtype}; expected floating point in [0, 1]: divide pixels by 255")
    ready = program if isinstance(program, Prepared) else prepare(program)
    expected = ready.program.graph.input.shape
    if len(images.shape) != 4 or tuple(images.shape[1:]) != expected or len(images) == 0:
        raise ClovenError(
            f"the images have shape {tuple(images.shape)}; expected (n, {', '.join(map(str, expected))}), the "
            "input of the plan's model"
        )
    size = size or batch_for(expected)
    with torch.inference_mode():
        made = [_one_batch(ready, chunk.float(), i * size, tap) for i, chunk in enumerate(chunks(images, size))]
        return torch.cat(made)


def _one_batch(ready: Prepared, images: Tensor, first: int, tap: Tap | None) -> Tensor:
    program = ready.program
    held: dict[str, Pieces] = {device: {} for device in program.devices}
    held[program.source][program.graph.input.name] = [(whole(program.graph.input.shape), images)]
    under_way: dict[int, Tensor] = {}
    for (device, step), params, dropped in zip(ready.steps, ready.weights, ready.dropped, strict=True):
        mine = held[device]
        match step:
            case Compute():
                inputs = [paste(mine[value], box) for value, box in step.reads]
                result = apply(step.local, inputs, params)
                mine.setdefault(step.value, []).append((step.box, result))
            case Send(transfer=transfer):
                share = paste(mine[transfer.value], transfer.share)
                under_way[transfer.id] = sent(transfer, program.graph, share, first)
                if tap is not None:
                    tap(transfer, under_way[transfer.id])
            case Receive(transfer=transfer):
                mine.setdefault(transfer.value, []).append((transfer.share, under_way.pop(transfer.id)))
        for value in dropped:
            del mine[value]
    output = program.graph.output
    return paste(held[program.sink][output], whole(program.graph.by_name[output].shape))
