"""Apply the transforms of transfers to tensors: the result is what the receiver, and a listener, obtain in float32.

The share of each image is transformed separately, with its own random seed, so the result for an image does not
depend on the other images of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from cloven.errors import ClovenError
from cloven.graph.box import Box, text
from cloven.graph.graph import Graph
from cloven.partition.observe import Seen
from cloven.partition.program import Transfer
from cloven.partition.transform import WIRE, Transform
from cloven.runtime.wire_format import received

IMAGES = 64
"""The number of images that are transformed at a time, to limit the memory of intermediate results."""


def apply(transform: Transform, tensor: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return a share ``(n, ...)`` of ``n`` images after a transform, in float32 on the CPU.

    - ``float16`` rounds to nearest; numbers beyond its finite range, also infinities, become 65504 or -65504.
    - ``int8`` rounds to the nearest of 256 levels between an image's smallest and largest number; a constant share
      does not change. The scale and the offset are float32.
    - ``topk`` keeps exactly ``transform.kept`` numbers per image; the choice among equal numbers is not defined.
    - ``noise`` does not change a constant share or one of a single number, as its standard deviation is 0.
    - ``dropout`` does not rescale the remaining numbers.

    NaN stays NaN. With ``int8`` and ``noise``, a NaN or an infinity makes the whole share of its image NaN, since
    the share has no finite range or deviation; ``topk`` treats NaN as the largest number; the others keep
    infinities.

    Args:
        transform: the transform; if it is exact, ``tensor`` itself is returned.
        tensor: the share; it is not changed.
        seeds: a non-negative number for each image; see `seeds_of`.

    Raises:
        ClovenError: if the number of seeds is not the number of images.
    """
    if len(seeds) != len(tensor):
        raise ClovenError(f"got {len(seeds)} seeds for {len(tensor)} images; expected one for each image")
    if transform.exact:
        return tensor
    made = torch.empty_like(tensor, dtype=torch.float32, memory_format=torch.contiguous_format)
    rows, results = tensor.detach().flatten(1), made.flatten(1)
    for start in range(0, len(rows), IMAGES):
        some = slice(start, start + IMAGES)
        results[some] = _apply(transform, rows[some].float(), seeds[some])
    return made


def sent(sending: Transfer | Seen, graph: Graph, tensor: Tensor, first: int = 0) -> Tensor:
    """Return the received tensor of a share that is sent as ``tensor`` ``(n, ...)``.

    Args:
        sending: the transfer or observation, which names the value, the share and the transform.
        graph: the graph of the value.
        tensor: the share of images with the numbers ``first``, ``first + 1``, ...
        first: the number of the first image.
    """
    if sending.transform.exact:
        return tensor
    images = range(first, first + len(tensor))
    return apply(sending.transform, tensor, seeds_of(graph.fingerprints[sending.value], sending.share, images))


def seeds_of(fingerprint: str, share: Box, images: Iterable[int]) -> list[int]:
    """Return a seed for each image of a share, by the value's fingerprint, the share and the image's number.

    So equal observations of different plans have equal noise, and a share that is sent twice has the same noise
    both
    times: two taps cannot average it out.
    """
    return [seed_of(f"{fingerprint} {text(share)}", image) for image in images]


def seed_of(what: str, image: int) -> int:
    """Return a seed below 2 ** 64, derived from a text and an image's number."""
    return int.from_bytes(hashlib.sha256(f"{what} {image}".encode()).digest()[:8])


def _apply(transform: Transform, rows: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return ``rows`` ``(n, count)`` after a transform that is not exact."""
    match transform.kind:
        case "float16" | "int8":  # as workers send them
            return torch.from_numpy(received(WIRE[transform.kind], rows.numpy()))
        case "topk":
            return _topk(rows, transform.kept(rows.shape[1]))
        case "noise":
            return _noise(rows, transform.amount, seeds)
    return _dropout(rows, transform.amount, seeds)


def _topk(rows: Tensor, kept: int) -> Tensor:
    places = rows.abs().topk(kept, 1, sorted=False).indices
    return torch.zeros_like(rows).scatter_(1, places, rows.gather(1, places))


def _noise(rows: Tensor, amount: float, seeds: Sequence[int]) -> Tensor:
    given, made = rows.numpy(), np.empty(rows.shape, np.float32)
    with np.errstate(all="ignore"):  # where the numbers are infinite or NaN
        for row, noise, seed in zip(given, made, seeds, strict=True):
            np.random.default_rng(seed).standard_normal(out=noise, dtype=np.float32)
            noise *= np.float32(amount * row.std(dtype=np.float64))
            noise += row
    return torch.from_numpy(made)


def _dropout(rows: Tensor, amount: float, seeds: Sequence[int]) -> Tensor:
    drawn = np.empty(rows.shape, np.float32)
    for row, seed in zip(drawn, seeds, strict=True):
        np.random.default_rng(seed).random(out=row, dtype=np.float32)
    return rows.masked_fill(torch.from_numpy(drawn) < amount, 0.0)
