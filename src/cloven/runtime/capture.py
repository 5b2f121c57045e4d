"""Capture a model as a graph, and check that the graph computes the same outputs as the model.

Four properties are checked on random images; an error names the op and its module. Tolerances are relative to the
largest number:

- the model is deterministic: no op draws random numbers, and two runs differ by at most `REPEATED`;
- each op treats each image independently: its value for a batch of `IMAGES` images equals the values for single
images
  up to `ALONE`, or up to `ROUNDING` times the effect of changing the last bits of the inputs; and when one image
  becomes NaN, the values of the others change by at most `BESIDE_NAN`;
- where an image has several rows along the batch axis, the rows are ordered image by image or copy by copy; the op
  records the order;
- the graph, run op by op, gives the model's outputs up to `EQUAL`, or up to `ROUNDING` times the effect of changing
the
  last bit of the images.

Ops of known kinds need no check of independence: they have the batch as the first axis, and the functions that run
them do not mix it. A model with only such ops is compared on one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from cloven.errors import ClovenError, check_type
from cloven.graph.graph import BATCH, Graph, Op
from cloven.graph.tracing import evaluation, recorded, trace
from cloven.runtime.torch_engine import Prepared, apply, evaluate, prepared

IMAGES = 3
"""The number of images in the checks of an op; with two, a reversed batch would equal a rolled one."""

REPEATED = 1e-6
"""The tolerance between two runs of a model, as threads may sum in another order."""

ALONE = 1e-4
"""The tolerance between an op's value for an image in a batch and for the image alone."""

BESIDE_NAN = 1e-6
"""The tolerance beside an image of NaN: some kernels then round differently (grid samples, reflected)."""

EQUAL = 1e-4
"""The tolerance between the outputs of the graph and of the model."""

ROUNDING = 4
"""The tolerance as a multiple of the effect of the inputs' last bits, if larger than `EQUAL` or `ALONE`."""

CHAOTIC = 0.1
"""The effect of the images' last bit, relative to the largest output, above which no comparison is possible."""


def capture(
    model: nn.Module,
    example: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Graph:
    """Return the graph of a model in evaluation mode.

    Args:
        model: a model that takes one float32 tensor ``(n, C, H, W)`` and returns one tensor ``(n, ...)``.
        example: one image ``(1, C, H, W)`` in [0, 1]; its shape becomes the input's.
        mean: the mean of each channel, which is subtracted from the image before it enters the model.
        std: the standard deviation of each channel, by which the difference is divided. This normalisation
            becomes the graph's first op, so that the graph takes images in [0, 1].

    Raises:
        ClovenError: if the model cannot be captured or a check fails, with the op or the module and the reason.
    """
    check_type(model, nn.Module, "model", "a torch.nn.Module")
    check_type(example, Tensor, "example", "one image as a tensor (1, C, H, W)")
    with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluation(model), _unchanged(model):
        return _checked(trace(model, example, mean=mean, std=std), model, example.device)


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the values of a model's buffers at the end of the context."""
    kept = [(m, name, b, b.clone()) for m in model.modules() for name, b in m.named_buffers(recurse=False)]
    try:
        yield
    finally:
        for module, name, buffer, value in kept:
            if getattr(module, name, None) is not buffer:
                setattr(module, name, buffer)
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _checked(graph: Graph, model: nn.Module, device: torch.device) -> Graph:
    """Return the graph with the order of its rows, after a comparison with its model."""
    images, expected = _images(graph.input.shape, IMAGES).to(device), None
    if all(image_wise(op) for op in graph.ops):
        with suppress(Exception):  # some models drop the axis of a batch of one, and fail
            expected = _output(model, _normalised(graph, images[:1]))
            images = images[:1]
    if expected is None:
        expected = _output(model, _normalised(graph, images))
    if (gap := _apart(_output(model, _normalised(graph, images)), expected)) > REPEATED:
        raise ClovenError(
            f"{type(model).__name__} gives different outputs for the same images in two runs: they differ by "
            f"{gap:.2g} of the largest output; allowed {REPEATED:.0e}: expected a deterministic model without state"
        )
    ops, output = _run(graph, images)
    gap = _apart(output.reshape(expected.shape) if output.numel() == expected.numel() else output, expected)
    if gap > EQUAL:
        rounding = _apart(_output(model, _normalised(graph, torch.nextafter(images, 1 - images))), expected)
        if gap > ROUNDING * rounding or rounding > CHAOTIC:
            raise ClovenError(
                f"the graph of {type(model).__name__} and the model compute different outputs: they differ by "
                f"{gap:.2g} of the largest output; allowed {max(EQUAL, ROUNDING * rounding):.0e}"
                f"{_first_difference(Graph(ops, graph.output), model, images[:1])}"
            )
    return Graph(ops, graph.output)


def _first_difference(graph: Graph, model: nn.Module, image: Tensor) -> str:
    """Return the first op whose value differs from the exported model's, as the end of a sentence."""
    values = evaluate(graph, image, [op.name for op in graph.ops])
    for place, name, value in recorded(model, _normalised(graph, image)):
        if _apart(values[name], value[:1]) > EQUAL:
            return f"; the first op whose value differs is {place}"
    return ""


def image_wise(op: Op) -> bool:
    """Return whether an op cannot mix images: its kind is known, and it does not use the batch size."""
    return op.kind != "opaque" and not _mentions_batch(op.attrs)


def _mentions_batch(item: Any) -> bool:
    if isinstance(item, Mapping):
        return BATCH in item or any(map(_mentions_batch, item.values()))
    if isinstance(item, list | tuple):
        return any(map(_mentions_batch, item))
    return isinstance(item, str) and item == BATCH


def _images(shape: Sequence[int], count: int) -> Tensor:
    """Return random images ``(count, C, H, W)`` in [0, 1] that differ in brightness and contrast."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.rand(2, count, *(1 for _ in shape), generator=generator)
    return torch.lerp(ends[0], ends[1], torch.rand(count, *shape, generator=generator))


def _normalised(graph: Graph, images: Tensor) -> Tensor:
    """Return the images after the normalisation, if the graph has one."""
    if len(graph.ops) < 2 or graph.ops[1].kind != "normalise":
        return images
    return _apply(_moved(prepared(graph, graph.ops[1], images.dtype), images.device), [images])


def _output(model: nn.Module, images: Tensor) -> Tensor:
    """Return the output of a model for a copy of the images, as a model may write to them."""
    (made,) = [leaf for leaf in _pytree.tree_leaves(model(images.clone())) if isinstance(leaf, Tensor)]
    return made


def _run(graph: Graph, images: Tensor) -> tuple[tuple[Op, ...], Tensor]:
    """Run a graph op by op and check each op; return the ops with the order of their rows, and the output."""
    last = {name: i for i, op in enumerate(graph.ops) for name in op.inputs} | {graph.output: len(graph.ops)}
    held, ops = {graph.input.name: images}, {graph.input.name: graph.input}
    for i, op in enumerate(graph.ops[1:], 1):
        inputs = [held[name] for name in op.inputs]
        for ordered in _orders(op, ops):
            step = _moved(prepared(graph, ordered, images.dtype), images.device)
            try:
                made = _apply(step, inputs)
            except (RuntimeError, IndexError) as error:
                reason = str(error).strip().splitlines()[0]
                raise ClovenError(f"{_named(op)} cannot be run on its own: {reason}") from error
            if image_wise(op) or _treats_images_alone(step, inputs, made):
                break
        else:
            raise ClovenError(
                f"{_named(op)} mixes the images of a batch, or depends on the size of the batch: its value for an "
                f"image differs between a batch and the image alone{_rows(op)}; expected ops that treat each image "
                "independently"
            )
        held[op.name], ops[op.name] = made, ordered
        for name in [name for name in held if last.get(name, 0) <= i]:
            del held[name]
    return tuple(ops.values()), held[graph.output]


def _named(op: Op) -> str:
    """Return the name of an op and its module for messages."""
    return f"{op.attrs.get('op', op.kind)} in {op.module or 'the model'}"


def _rows(op: Op) -> str:
    many = op.attrs.get("laid", (0, 1))[1] > 1
    return ", or its rows are ordered neither image by image nor copy by copy" if many else ""


def _moved(step: Prepared, device: torch.device) -> Prepared:
    name, local, inputs, params = step
    return name, local, inputs, {key: value.to(device) for key, value in params.items()}


def _apply(step: Prepared, inputs: Sequence[Tensor]) -> Tensor:
    _, local, _, params = step
    return apply(local, inputs, params)


def _orders(op: Op, ops: Mapping[str, Op]) -> Iterator[Op]:
    """Yield the op with its possible orders of rows: image by image, then copy by copy."""
    if "laid" not in op.attrs:
        yield op
        return
    read = {i: ops[op.inputs[i]].attrs["laid"] for i in op.attrs["read"]}
    axis, copies = op.attrs["laid"]
    for laid in ((axis, copies), (axis, copies, True))[: 1 if copies == 1 else 2]:
        yield replace(op, attrs={**op.attrs, "read": read, "laid": laid})


def _treats_images_alone(step: Prepared, inputs: Sequence[Tensor], made: Tensor) -> bool:
    """Return whether an op's value for each image is independent of the other images and of their number."""
    every = range(len(made))
    try:
        images = zip(*(x.split(1) for x in inputs), strict=True)
        alone = torch.cat([_apply(step, image) for image in images])
    except (RuntimeError, IndexError):  # its arguments require this batch size
        return False
    if (gap := _apart(alone, made)) > ALONE:
        rounding = _apart(_apply(step, [_rounded_otherwise(x) for x in inputs]), made)
        if gap > ROUNDING * rounding or rounding > CHAOTIC:
            return False
    with suppress(RuntimeError, IndexError):  # some ops do not accept NaN
        # Copies have another memory layout than expanded or transposed tensors, which changes the last bits.
        copied = _apply(step, [x.clone() for x in inputs])
        for changed in every:
            others = [i for i in every if i != changed]
            again = _apply(step, [_with_another(x, changed) for x in inputs])
            if _apart(again[others], copied[others]) > BESIDE_NAN:
                return False
    return True


def _rounded_otherwise(x: Tensor) -> Tensor:
    """Return a value with the last bit of each number randomly changed up or down."""
    if not x.is_floating_point():
        return x
    up = torch.randint(2, x.shape, generator=torch.Generator().manual_seed(0)).to(x.device, x.dtype)
    return x * (1 + (2 * up - 1) * torch.finfo(x.dtype).eps)


def _with_another(x: Tensor, index: int) -> Tensor:
    """Return a value with one image replaced by NaN, or by the next image if the type has no NaN."""
    changed = x.clone()
    changed[index] = float("nan") if x.is_floating_point() else x[(index + 1) % len(x)]
    return changed


def _apart(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of two tensors relative to the largest number of the second; NaN equals NaN."""
    if a.shape != b.shape:
        return float("inf")
    if torch.equal(a, b):
        return 0.0
    a, b = a.double(), b.double()
    same = (a == b) | (a.isnan() & b.isnan())
    largest = float((a - b).abs().where(~same, 0.0).nan_to_num(nan=float("inf")).max())
    scale = float(b.abs().where(b.isfinite(), 0.0).max())
    return largest / scale if scale else largest
