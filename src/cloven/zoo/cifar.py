"""Read CIFAR-10 in its binary or its Python version.

The Python version consists of pickles, which can call any function when they are loaded. This reader never imports
or calls what a pickle names: the few globals that an array of bytes needs become inert records, which are read
afterwards, and any other global is refused by name.
"""

from __future__ import annotations

import pickle
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.files import read_bytes
from cloven.zoo import pickles
from cloven.zoo.contents import recognised
from cloven.zoo.folder_errors import missing
from cloven.zoo.images import Images

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
VALUES = 3 * 32 * 32
RECORD = 1 + VALUES
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")

# The globals of numpy arrays and bytes in a pickle, and the kind of record that stands for each.
ADMITTED = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy.core.numeric", "_frombuffer"): "buffer",
    ("numpy._core.numeric", "_frombuffer"): "buffer",
    ("_codecs", "encode"): "encode",
    ("__builtin__", "bytes"): "bytes",
    ("builtins", "bytes"): "bytes",
}


def read_cifar10(folder: Path) -> Images:
    """Return the images of all batches in a folder, or in its sub-folder cifar-10-batches-bin or -py."""
    batches = [(file.name, *_read(file)) for file in _batches(folder)]
    return Images(
        "cifar10",
        np.concatenate([values for _, values, _ in batches]).reshape(-1, 3, 32, 32),
        np.concatenate([labels for _, _, labels in batches]),
        CLASSES,
        tuple(f"{name}[{i}]" for name, values, _ in batches for i in range(len(values))),
    )


def _batches(folder: Path) -> list[Path]:
    """Return the batch files of the first place that has any, preferring the binary version."""
    for place in (folder, folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"):
        for suffix in (".bin", ""):
            if files := [file for name in BATCHES if (file := place / f"{name}{suffix}").is_file()]:
                return files
    raise missing(folder, "data_batch_1.bin or data_batch_1 (here, in cifar-10-batches-bin or -py)")


def _read(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the values ``(n, 3072)`` and the labels of one batch."""
    values, labels = _records(file) if file.suffix == ".bin" else _unpickled(file)
    if len(values) != len(labels):
        raise ClovenError(f"{file}: has {len(values)} images, but {len(labels)} labels")
    for i, label in enumerate(labels):
        if type(label) is not int or not 0 <= label <= 9:
            small = type(label) is int and abs(label) < 1000  # others may be too long to print
            got = label if small else f"of type {type(label).__name__}"
            raise ClovenError(f"{file}: label {i} is {got}, expected 0 to 9")
    return values, np.array(labels, dtype=np.int64)


def _records(file: Path) -> tuple[NDArray[np.uint8], list[Any]]:
    content = read_bytes(file)
    if not content or len(content) % RECORD:
        got = f"got {len(content):,} bytes, expected whole records of {RECORD} bytes; fetch it again"
        raise ClovenError(f"{file}: {recognised(file) or got}")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    return records[:, 1:], records[:, 0].tolist()


def _unpickled(file: Path) -> tuple[NDArray[np.uint8], list[Any]]:
    content = read_bytes(file)
    try:
        pickles.check(BytesIO(content))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in text
            batch = _Unpickler(BytesIO(content), encoding="bytes").load()
    except ClovenError as error:
        raise ClovenError(f"{file}: {recognised(file) or error}") from None
    except DAMAGED as error:
        raise ClovenError(f"{file}: is not an intact pickle ({error}); fetch it again") from error
    values, labels = (_entry(batch, name) for name in ("data", "labels"))
    pixels = _array(values)
    if pixels is None or not isinstance(labels, list):
        raise ClovenError(f"{file}: expected a dict with 'data', a uint8 array (n, {VALUES}), and a list 'labels'")
    return pixels, labels


DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
)
"""Errors that the standard unpickler raises on bytes that are not a pickle."""


class _Record:
    """A call in a pickle that was not made: the function, its arguments, and the state that was set afterwards."""

    __match_args__ = ("kind", "args", "state")

    def __init__(self, kind: str, args: tuple[Any, ...]) -> None:
        self.kind, self.args, self.state = kind, args, ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Admitted:
    """A stand-in for an admitted global; calling it only returns a record."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, *args: Any) -> _Record | bytes:
        match self.kind, args:
            case "encode", (str(text), "latin1"):  # Python 3 writes bytes like this in old protocols
                return text.encode("latin1")
            case "bytes", ():  # and empty bytes like this
                return b""
        return _Record(self.kind, args)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Admitted:
        if kind := ADMITTED.get((module, name)):
            return _Admitted(kind)
        raise ClovenError(
            f"names the global {f'{module}.{name}'!r:.80}, which no CIFAR-10 batch needs; nothing was run. "
            "Do not trust this file: fetch the binary version, data_batch_1.bin and the others"
        )


def _entry(batch: Any, name: str) -> Any:
    """Return a value of the batch's dict; its keys are bytes if Python 2 wrote it."""
    return batch.get(name.encode(), batch.get(name)) if isinstance(batch, dict) else None


def _array(value: Any) -> NDArray[np.uint8] | None:
    """Return the uint8 array ``(n, 3072)`` that a record describes, or None if it describes something else."""
    match value:
        case _Record("array", _, (_, shape, _Record("dtype", ("u1" | b"u1", *_)), False, bytes(raw))):
            pass
        case _Record("buffer", (bytes(raw) | bytearray(raw), _Record("dtype", ("u1" | b"u1", *_)), shape, "C")):
            pass
        case _:
            return None
    count = len(raw) // VALUES
    if not count or len(raw) % VALUES or shape != (count, VALUES):
        return None
    return np.frombuffer(raw, np.uint8).reshape(count, VALUES)
