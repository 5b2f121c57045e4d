"""Trained weights from a file into a model: all of them, or an error and a model that is as it was.

Nothing that a file names is ever run: safetensors and NumPy's arrays hold numbers only, and PyTorch's files are
read by its weights-only reader.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from cloven.errors import ClovenError

NAMES = 8
"""How many entries of a kind are told."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What a weight may be stored as; it takes the model's own precision."""

COUNTER = "num_batches_tracked"
"""BatchNorm's count of training batches: old files lack it, and evaluation does not use it."""

KERAS = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""The last part of a weight's name in Keras, and in PyTorch."""

AXES = {"kernel": (3, 2, 0, 1), "depthwise_kernel": (2, 3, 0, 1)}
"""From Keras' layouts, HWIO and HWC1, to PyTorch's OIHW and C1HW."""


def load_weights(model: nn.Module, path: Path, *, but: Collection[str] = ()) -> None:
    """Put the weights of a file into a model, which keeps its own precision and device.

    Args:
        model: any model; it is changed only where everything fits.
        path: ``.safetensors``; ``.pth``, ``.pt`` or ``.th``, where the entries may lie under ``state_dict`` or
            ``model`` and begin with ``module.``; or ``.npz`` with names and layouts of PyTorch or Keras.
        but: entries that stay the model's own, whatever the file has under their names.

    Raises:
        ClovenError: for a file that is missing, of another kind, damaged or refused, or not of this model: then
            with the entries that are missing, unexpected, of the wrong shape and of the wrong type.
    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    kept = {name: value for name, value in own.items() if name.endswith(COUNTER) or name in but}
    found = kept | {name: value for name, value in _unprefixed(_read(path), own).items() if name not in but}
    if problems := list(_problems(own, found)):
        raise ClovenError([f"{path}: {problem}" for problem in problems])
    model.load_state_dict(found)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name."""
    reader = READERS.get(path.suffix.lower())
    problem = ""
    if reader is None:
        problem = f"weights end in {', '.join(READERS)}; got {path.suffix or 'no suffix'}"
    elif not path.exists():
        problem = "there is no such file"
    elif not path.is_file():
        problem = f"is no file, expected one that ends in {', '.join(READERS)}"
    if reader is None or problem:
        raise ClovenError(f"{path}: {problem}")
    try:
        found = reader(path)
    except ClovenError as error:
        raise ClovenError([f"{path}: {problem}" for problem in error.problems]) from error
    except Exception as error:  # what the libraries raise on damaged bytes is of many kinds
        raise ClovenError(f"{path}: cannot be read as {path.suffix} ({_brief(error)}); fetch it again") from error
    if not found:
        raise ClovenError(f"{path}: holds no named tensors, expected the weights of a model")
    return found


def _torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files in old formats
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise _refused(f"it names {named[1]}" if named else "it holds what no weights need") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping):
        raise ClovenError(f"holds a {type(content).__name__}, expected weights by name, as state_dict() gives them")
    pairs = ((name, value) for name, value in content.items() if isinstance(value, Tensor))
    return {name: value for name, value in pairs if isinstance(name, str) and not value.is_nested}


def _numpy(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as stream:  # NumPy leaves a file open that it cannot read
            opened = np.load(stream, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise ClovenError("holds one array without a name, expected several, as numpy.savez writes them")
            arrays = dict(opened)
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise _refused("it holds a pickle, or nothing that NumPy knows") from error
    named = [_from_keras(name, array) for name, array in arrays.items()]
    names = [name for name, _ in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ClovenError(f"holds {_listed(twice)} twice, under PyTorch's and Keras' names; leave one out")
    return dict(named)


def _from_keras(name: str, array: NDArray[Any]) -> tuple[str, Tensor]:
    """A weight by PyTorch's name and layout; what is not named as in Keras is left as it is."""
    layer, dot, last = name.rpartition(".")
    if last in AXES and array.ndim == 4:
        array = array.transpose(AXES[last])
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
    return layer + dot + KERAS.get(last, last), torch.from_numpy(native)


READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".safetensors": load_file,
    ".pth": _torch,
    ".pt": _torch,
    ".th": _torch,
    ".npz": _numpy,
}
"""How each kind of file is read, by its suffix."""


def _refused(reason: str) -> ClovenError:
    """The error for a file that could run code; without the libraries' advice on how to let it."""
    return ClovenError(
        f"is refused: {reason}; nothing in it was run. If it should hold weights only, fetch it again, or have "
        "its weights converted to .safetensors where it was made"
    )


def _unprefixed(found: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries without the prefix that DataParallel puts before all of them."""
    prefix = "module."
    if any(name.startswith(prefix) for name in own) or not all(name.startswith(prefix) for name in found):
        return found
    return {name.removeprefix(prefix): value for name, value in found.items()}


def _problems(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[str]:
    """Why these entries are not this model's."""
    both = [(name, value, own[name]) for name, value in found.items() if name in own]
    sizes = [f"{n} {tuple(v.shape)} not {tuple(w.shape)}" for n, v, w in both if v.shape != w.shape]
    wrong = {
        "missing": [name for name in own if name not in found],
        "unexpected": [name for name in found if name not in own],
        "of another shape": sizes,
    }
    for what, names in wrong.items():
        if names:
            yield f"{len(names)} {_entries(names)} {what}: {_listed(names)}"
    if any(wrong.values()):
        yield "is not of this model; give the file of this one, or the model and classes that it was made for"
    if types := [f"{n} {_type(v)} not {_type(w)}" for n, v, w in both if not _converts(v, w)]:
        yield f"{len(types)} {_entries(types)} of another type: {_listed(types)}; store weights as float32"


def _converts(value: Tensor, wanted: Tensor) -> bool:
    """Whether a stored value becomes the model's by its precision only, and is an array of numbers at all."""
    if value.layout is not torch.strided or value.device.type != "cpu":
        return False
    return value.dtype in FLOATS if wanted.is_floating_point() else value.dtype == wanted.dtype


def _type(value: Tensor) -> str:
    kind = value.dtype if value.layout is torch.strided else value.layout
    return str(kind if value.device.type != "meta" else value.device)


def _entries(names: list[str]) -> str:
    return "entry" if len(names) == 1 else "entries"


def _listed(names: list[str]) -> str:
    more = f" ... and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def _brief(error: Exception) -> str:
    """What a library's error says, in one short line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(". ")
