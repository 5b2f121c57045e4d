"""Features: the values that listeners see, computed once for all images and kept, or computed for each batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloven.attacks.knowledge import Shape, finite, laid_out
from cloven.attacks.shapes import ShapeGuess
from cloven.errors import ClovenError, system_reason
from cloven.graph.box import Box, slices
from cloven.graph.graph import Graph
from cloven.row_files import RowFile, opened, reserve, stored
from cloven.rows import StoredRows, TensorRows, chunks, in_memory
from cloven.runtime.torch_engine import batch_for, forward

Precision = Literal["float32", "float16"]
BUDGET = 4 * 10**9
"""The default limit on the bytes of features that are kept; beyond it, features are computed for each batch."""

BATCH = 32
"""The number of images for which values are computed at a time."""

Function = Callable[[Tensor], dict[str, Tensor]]
Values = Mapping[Graph, Mapping[str, str]]
"""The values to compute of each graph: name -> fingerprint."""


Writer = Callable[[int, Tensor], None]
"""A function that writes consecutive rows ``(n, ...)`` of a tensor, from a number on."""


@dataclass(frozen=True)
class Shelf(Mapping[str, TensorRows]):
    """A folder of tensors, one file each, so that several processes share them.

    Small ones are mapped into memory. Of the others, the rows that are used are read.
    """

    folder: Path

    def __getitem__(self, name: str) -> TensorRows:
        for last in (False, True):
            if (path := self._path(name, last)).exists():
                mapped = np.load(path, mmap_mode="c")
                if mapped.dtype == np.uint8 or not in_memory(mapped.shape, mapped.itemsize):
                    return StoredRows(stored(_file(path, mapped)), last)
                tensor = torch.from_numpy(mapped)
                return tensor.movedim(-1, 1) if last else tensor
        raise KeyError(name)

    def _path(self, name: str, channels_last: bool) -> Path:
        return self.folder / f"{name}{LAST if channels_last else ''}.npy"

    def __iter__(self) -> Iterator[str]:
        paths = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.npy"))
        return (path.removesuffix(".npy").removesuffix(LAST) for path in paths)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def arrays(self) -> Iterator[tuple[str, NDArray[Any], bool]]:
        """Yield the name of each tensor, its array as it lies in the file, and whether that is ``(n, H, W, C)``."""
        for name in self:
            last = self._path(name, True).exists()
            yield name, np.load(self._path(name, last), mmap_mode="r"), last

    def new(self, name: str, shape: Shape, dtype: torch.dtype, *, channels_last: bool = False) -> Writer:
        """Return the function that fills a new tensor; with ``channels_last``, maps lie as ``(n, H, W, C)``.

        Raises:
            ClovenError: if the file cannot be written, or the disk has too little space for it.
        """
        last = channels_last and len(shape) == 4
        file = self._new(
            self._path(name, last),
            (shape[0], *shape[2:], shape[1]) if last else shape,
            np.dtype("float32" if dtype == torch.bfloat16 else str(dtype).removeprefix("torch.")),
        )
        return lambda first, rows: file.write(first, (rows.movedim(1, -1) if last else rows).numpy())

    def _new(self, path: Path, shape: Shape, dtype: np.dtype[Any]) -> RowFile:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _file(path, np.lib.format.open_memmap(path, "w+", dtype, shape))
            reserve(file.file, path.stat().st_size)
        except OSError as error:
            raise ClovenError(
                f"cannot keep {prod(shape) * dtype.itemsize:,} bytes of captured numbers in {self.folder}: "
                f"{system_reason(error)}, or keep fewer (--disk)"
            ) from error
        return file

    def put(self, name: str, rows: TensorRows) -> None:
        """Save a tensor; images in a file stay pixels of 8 bits."""
        if isinstance(rows, StoredRows) and rows.array.dtype == np.uint8:
            file = self._new(self._path(name, False), rows.array.shape, rows.array.dtype)
            for first in range(0, len(rows), BATCH):
                file.write(first, rows.array[first : first + BATCH])
            return
        write = self.new(name, tuple(rows.shape), rows.dtype)
        for number, chunk in enumerate(chunks(rows, BATCH)):
            write(number * BATCH, chunk)


LAST = ".channels-last"
"""Marks the files whose axes are ``(n, H, W, C)``."""


def _file(path: Path, mapped: np.memmap[Any, np.dtype[Any]]) -> RowFile:
    """Return the rows of a NumPy file, whose layout is that of the array that it is mapped to."""
    width = prod(mapped.shape[1:]) * mapped.itemsize
    return RowFile(opened(path, writable=True), len(mapped), mapped.shape[1:], mapped.dtype, mapped.offset, width)


@dataclass(frozen=True, eq=False)
class Features:
    """Values of graphs for sets of images, by ``FINGERPRINT/SET``, one row per image.

    ``kept`` holds the values that were computed or captured beforehand. ``computed`` names those that are computed
    from ``images`` on ``device`` for each batch. Both are rounded to ``precision``, so that results do not depend
    on which is used. Numbers that are not finite are replaced by 0; ``broken`` is their share in each kept value
    that has any.
    """

    kept: Mapping[str, TensorRows]
    images: Mapping[str, TensorRows]
    computed: tuple[tuple[Graph, Mapping[str, str]], ...] = ()
    precision: Precision = "float32"
    broken: Mapping[str, float] = field(default_factory=dict)
    device: str = "cpu"
    _engine: _Engine = field(default_factory=lambda: _Engine(), repr=False)

    def take(self, values: Sequence[str], of: str, index: Tensor) -> dict[str, Tensor]:
        """Return the rows ``index`` of values for one set of images, by fingerprint: ``(n, ...)`` each."""
        missing = [v for v in values if f"{v}/{of}" not in self.kept]
        made = self._engine.rows(self, of, index) if missing else {}
        return {v: laid_out(made[v] if v in made else self._kept(f"{v}/{of}", index)) for v in values}

    def _kept(self, name: str, index: Tensor) -> Tensor:
        tensor = self.kept[name][index]
        return self.rounded(finite(tensor) if name in self.broken else tensor)

    def rounded(self, value: Tensor) -> Tensor:
        """Return a value rounded to the precision in which values are kept."""
        return value.half() if self.precision == "float16" else value


class _Engine:
    """Computes values for a batch, and remembers the last batch for the other attacks that are trained on it."""

    def __init__(self) -> None:
        self.functions: list[tuple[Function, Mapping[str, str]]] | None = None
        self.last: tuple[str, Tensor, dict[str, Tensor]] | None = None

    def __reduce__(self) -> tuple[type[_Engine], tuple[()]]:
        return _Engine, ()

    def rows(self, features: Features, of: str, index: Tensor) -> dict[str, Tensor]:
        if self.last is not None and self.last[0] == of and self.last[1] is index:
            return self.last[2]
        self.last = None  # a batch may be large: let go of the last one first
        if self.functions is None:
            self.functions = [(forward(graph, names, overwrite=True), names) for graph, names in features.computed]
        images = features.images[of][index]
        made: dict[str, Tensor] = {}
        for function, names in self.functions:
            first = 0
            for chunk in _chunks(function, images, features.device):
                some = slice(first, first + len(next(iter(chunk.values()))))
                for value, tensor in chunk.items():
                    rows = features.rounded(finite(tensor))
                    name = names[value]
                    if name not in made:
                        made[name] = laid_out(torch.empty((len(index), *rows.shape[1:]), dtype=rows.dtype))
                    made[name][some] = rows
                first = some.stop
        self.last = (of, index, made)
        return made


def _chunks(function: Function, images: TensorRows, device: str) -> Iterator[dict[str, Tensor]]:
    """Yield the values of images, in batches of one size, so that they do not depend on the other images.

    PyTorch chooses other kernels for other batch sizes, and the last bits then differ; so the last batch is filled
    up. Channels-last tensors are a third faster; their last bits differ from those of contiguous ones.
    """
    size = min(BATCH, batch_for(tuple(images.shape[1:])))
    for chunk in chunks(images, size):
        missing = size - len(chunk)
        filled = torch.cat([chunk, chunk[:1].expand(missing, *chunk.shape[1:])]) if missing else chunk
        with torch.inference_mode():
            made = function(laid_out(filled).to(device))
        yield {value: tensor[: len(chunk)].to(chunk.device) for value, tensor in made.items()}


def features(
    values: Values,
    images: Mapping[str, TensorRows],
    *,
    budget: int,
    precision: Precision,
    shelf: Shelf | None,
    others: Mapping[Graph, Mapping[str, str]],
    device: str = "cpu",
) -> tuple[Features, dict[str, Tensor]]:
    """Return the values that listeners see of all images.

    If they fit the budget, they are computed in one pass of each graph and kept; else they are computed when they
    are needed.

    Args:
        values: the values that listeners see.
        images: the sets of images, ``(n, C, H, W)`` each.
        budget: the largest number of bytes to keep.
        precision: the precision to which the values are rounded.
        shelf: the folder to keep them in; None for memory.
        others: further values, name -> name, which are small and returned whole from the same pass.
        device: the device that computes them.

    Returns:
        the features, and the further values by ``NAME/SET``.
    """
    width = 2 if precision == "float16" else 4
    one = sum(prod(graph.by_name[value].shape) for graph, names in values.items() for value in names)
    keeps = one * width * sum(map(len, images.values())) <= budget
    kept: dict[str, TensorRows] = {}
    made: dict[str, list[Tensor]] = {}
    broken: dict[str, float] = {}
    empty = Features({}, images, precision=precision, device=device)
    for graph in dict.fromkeys([*values, *others]):
        names = values.get(graph, {}) if keeps else {}
        wanted = others.get(graph, {})
        if not names and not wanted:
            continue
        for of, batch in images.items():
            _fill(graph, names, wanted, of, batch, empty, kept, made, broken, shelf)
    computed = () if keeps else tuple(values.items())
    found = Features(kept if shelf is None else shelf, images, computed, precision, broken, device)
    return found, {name: torch.cat(parts) for name, parts in made.items()}


def _fill(
    graph: Graph,
    names: Mapping[str, str],
    wanted: Mapping[str, str],
    of: str,
    images: TensorRows,
    rounding: Features,
    kept: dict[str, TensorRows],
    made: dict[str, list[Tensor]],
    broken: dict[str, float],
    shelf: Shelf | None,
) -> None:
    """Fill ``kept``, ``made`` and ``broken`` in one pass of a graph over a set of images."""
    dtype = torch.float16 if rounding.precision == "float16" else torch.float32
    writers: dict[str, Writer] = {}
    for value, name in names.items():
        shape = (len(images), *graph.by_name[value].shape)
        if shelf is not None:
            writers[value] = shelf.new(f"{name}/{of}", shape, dtype, channels_last=True)
        else:
            kept[f"{name}/{of}"] = tensor = laid_out(torch.empty(shape, dtype=dtype))
            writers[value] = tensor_writer(tensor)
    wrong = dict.fromkeys(names, 0)
    start = 0
    for chunk in _chunks(forward(graph, {*names, *wanted}, overwrite=True), images, rounding.device):
        some = slice(start, start + len(next(iter(chunk.values()))))
        for value in names:
            clean = finite(chunk[value])
            writers[value](start, rounding.rounded(clean))
            if clean is not chunk[value]:
                wrong[value] += int((~chunk[value].isfinite()).sum())
        for value, name in wanted.items():
            made.setdefault(f"{name}/{of}", []).append(chunk[value].clone())
        start = some.stop
    for value, count in wrong.items():
        if count:
            broken[f"{names[value]}/{of}"] = count / (len(images) * prod(graph.by_name[value].shape))


def tensor_writer(tensor: Tensor) -> Writer:
    """Return the function that fills a tensor in memory."""

    def write(first: int, rows: Tensor) -> None:
        tensor[first : first + len(rows)] = rows

    return write


@dataclass(frozen=True)
class Part:
    """One captured tensor: a box of a value, which is given by its fingerprint; the box None is the whole value."""

    value: str
    box: Box | None
    shape: Shape
    channels_last: bool = False
    """True if the numbers are read as ``(H, W, C)``."""

    def read(self, share: Tensor) -> Tensor:
        """Return a share ``(n, ...)`` in the shape in which the attacker reads it, ``(n, *self.shape)``."""
        if not self.channels_last:
            return share.reshape(len(share), *self.shape)
        channels, height, width = self.shape
        return share.reshape(len(share), height, width, channels).movedim(3, 1)

    def unread(self, z: Tensor, shape: Shape) -> Tensor:
        """Return the inverse of `read`: from ``(n, *self.shape)`` to the shape of the share, ``(n, *shape)``."""
        return (z.movedim(1, 3) if self.channels_last else z).reshape(len(z), *shape)


@dataclass(frozen=True, eq=False)
class Shares:
    """The shares that a listener receives for one set of images; see `cloven.attacks.knowledge.CapturedTensors`."""

    features: Features
    of: str
    parts: tuple[Part, ...]
    count: int

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of each tensor for one image; a link that carries nothing gives one number, always 0."""
        return tuple(part.shape for part in self.parts) or ((1,),)

    def __len__(self) -> int:
        return self.count

    def take(self, index: Tensor) -> list[Tensor]:
        """Return the rows ``index`` of each tensor, float32 ``(n, ...)``."""
        if not self.parts:
            return [torch.zeros(len(index), 1)]
        rows = self.features.take(list(dict.fromkeys(part.value for part in self.parts)), self.of, index)
        return [_share(rows[part.value], part) for part in self.parts]

    def read_as(self, guesses: Sequence[ShapeGuess]) -> Shares:
        """Return the same numbers in the shapes that an attacker who does not know the true ones has guessed."""
        parts = zip(self.parts, guesses, strict=True)
        return replace(self, parts=tuple(_taken(part, guess) for part, guess in parts))

    def upto(self, count: int) -> Shares:
        """Return the shares for the first ``count`` images."""
        return replace(self, count=min(count, self.count))


def _share(value: Tensor, part: Part) -> Tensor:
    share = value if part.box is None else value[slices(part.box)]
    return part.read(laid_out(share.to(torch.float32)))


def _taken(part: Part, guess: ShapeGuess) -> Part:
    """Return a part in the guessed shape; as a vector if the guess has another type or number of elements."""
    if guess.dtype != "float32" or prod(guess.shape) != prod(part.shape):
        return replace(part, shape=(prod(part.shape),))
    return replace(part, shape=tuple(guess.shape), channels_last=guess.layout == "hwc")


def broken(captured: Shares) -> float:
    """Return the share of captured numbers that were NaN or infinite, in the worst of the captured tensors."""
    shares = captured.features.broken
    return max((shares.get(f"{part.value}/{captured.of}", 0.0) for part in captured.parts), default=0.0)
