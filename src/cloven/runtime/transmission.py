"""Transforms of what crosses a link, on tensors: what the receiver, and a listener, end up with in float32.

Each image's share is transformed by itself, with random numbers from a seed of its own: what becomes of an image
does not depend on the images beside it.
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
from cloven.partition.transform import Transform

IMAGES = 64
"""How many images are transformed at a time, so that what is made on the way stays small."""

HALF_MAX = 65504.0
"""The largest finite number of float16."""

STEPS = 255
"""Steps between the 256 levels of int8."""


def apply(transform: Transform, tensor: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return what the receiver has in float32 of ``tensor`` ``(n, ...)``: one share of ``n`` images, on the CPU.

    - ``float16`` rounds to nearest; what is beyond its finite range, infinities too, becomes 65504 or -65504.
    - ``int8`` rounds to the nearest of 256 levels from an image's least to its largest number; a constant share
      stays as it is. The scale and the offset are float32.
    - ``topk`` keeps exactly ``transform.kept`` numbers an image; which of equal ones is not defined.
    - ``noise`` adds nothing to a constant share, nor to one of a single number: its deviation is 0.
    - ``dropout`` does not scale up what is left.

    NaN stays NaN. With ``int8`` and ``noise`` a NaN or an infinity makes its image's whole share NaN, since the
    share then has no range or deviation; ``topk`` takes NaN for the largest; the others keep infinities.

    Args:
        transform: what to do; with none, ``tensor`` itself is returned.
        tensor: it is not written to.
        seeds: a number from 0 for each image; see `seeds_of`.

    Raises:
        ClovenError: for another number of seeds than images.
    """
    if len(seeds) != len(tensor):
        raise ClovenError(f"{len(seeds)} seeds for a share of {len(tensor)} images; expected one for each")
    if transform.exact:
        return tensor
    made = torch.empty_like(tensor, dtype=torch.float32, memory_format=torch.contiguous_format)
    rows, results = tensor.detach().flatten(1), made.flatten(1)
    for start in range(0, len(rows), IMAGES):
        some = slice(start, start + IMAGES)
        results[some] = _apply(transform, rows[some].float(), seeds[some])
    return made


def sent(sending: Transfer | Seen, graph: Graph, tensor: Tensor, first: int = 0) -> Tensor:
    """Return what arrives of a share that its sender has as ``tensor`` ``(n, ...)``.

    Args:
        sending: which share of which value, and its transform.
        graph: whose values are sent.
        tensor: of images that are numbered from ``first``.
        first: the number of the first image.
    """
    if sending.transform.exact:
        return tensor
    images = range(first, first + len(tensor))
    return apply(sending.transform, tensor, seeds_of(graph.fingerprints[sending.value], sending.share, images))


def seeds_of(fingerprint: str, share: Box, images: Iterable[int]) -> list[int]:
    """Return a seed for each image of a share, by the value's fingerprint, the share and the image's number.

    So equal observations of different plans have equal noise, and a share that is sent twice is disturbed alike:
    two taps cannot average the noise away.
    """
    return [seed_of(f"{fingerprint} {text(share)}", image) for image in images]


def seed_of(what: str, image: int) -> int:
    """Return a number below 2 ** 64 from a text and an image's number."""
    return int.from_bytes(hashlib.sha256(f"{what} {image}".encode()).digest()[:8])


def _apply(transform: Transform, rows: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return ``rows`` ``(n, count)`` after a transform."""
    match transform.kind:
        case "float16":
            return rows.clamp(-HALF_MAX, HALF_MAX).half().float()
        case "int8":
            return _int8(rows)
        case "topk":
            return _topk(rows, transform.kept(rows.shape[1]))
        case "noise":
            return _noise(rows, transform.amount, seeds)
    return _dropout(rows, transform.amount, seeds)


def _int8(rows: Tensor) -> Tensor:
    low, high = (edge.double() for edge in rows.aminmax(dim=1, keepdim=True))
    step = ((high - low) / STEPS).float().double()
    codes = rows.double().sub_(low).div_(step.where(step != 0, 1)).round_().clamp_(0, STEPS)
    return codes.mul_(step).add_(low).float()


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
