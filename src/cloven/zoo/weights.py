"""Load trained weights from a file into a model: either all of them, or an error and an unchanged model.

Code in a file is never run: safetensors and NumPy arrays contain numbers only, and PyTorch files are read with its
weights-only reader. Files are recognised by their content, not by their names.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from cloven.errors import ClovenError
from cloven.files import open_regular
from cloven.zoo import pickles
from cloven.zoo.contents import HEAD, described
from cloven.zoo.notes import note

NAMES = 8
"""The number of entries of a kind that an error lists at most."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The types in which a weight may be stored; it is converted to the model's precision."""

COUNTER = "num_batches_tracked"
"""BatchNorm's count of training batches, which old files do not have and evaluation does not use."""

UNPACKED, TIMES = 2**26, 8
"""The largest unpacked size of an archive, unless it is larger itself: bytes, plus a multiple of the model's."""

LEVELS = 4
"""The number of levels of a checkpoint that are searched for weights."""

WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that torch.compile and other wrappers of PyTorch insert."""

SECOND = re.compile(
    r"(?:^|[^a-z])(?:ema|swa|averaged?|avg|shadow|teacher|momentum|best|optim[a-z]*|grads?)(?:$|[^a-z])",
    re.IGNORECASE,
)
"""Keys of other tensors with the names and shapes of weights: averages, the best epoch's, an optimizer's."""

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

STATE = "torch.save(model.state_dict(), 'weights.pth')"

Entries = dict[str, Tensor]


class CheckpointKeys(NamedTuple):
    """The place of weights in a checkpoint: the keys that lead to them, and the common prefix of their names."""

    keys: tuple[str, ...]
    prefix: str

    def __str__(self) -> str:
        where = ".".join(self.keys) or "the top level"
        return f"{where}, without the prefix {self.prefix}" if self.prefix else where


class Taken(NamedTuple):
    """The entries for a model, the removed parts of names, the unused entries, and other places of weights."""

    place: CheckpointKeys
    entries: Entries
    wrappers: list[str]
    left: list[str]
    others: list[CheckpointKeys]


def load_weights(model: nn.Module, path: Path, *, but: Collection[str] = ()) -> None:
    """Load the weights of a file into a model, which keeps its precision and device.

    In a PyTorch checkpoint, the weights may be below any keys (such as ``state_dict`` or ``model``), have a common
    prefix (such as ``module.`` or ``_orig_mod.``) and be stored with other objects: they are found by the model's
    own names. If there are both raw weights and averages (``model_ema``) or those of the best epoch, the raw ones
    are used. The log says which weights were used if there was a choice.

    Args:
        model: any model; it is changed only if everything fits.
        path: a file of safetensors; of ``torch.save`` (``.pth``, ``.pt``, ``.ckpt``, ``.pth.tar``, ``.bin``); or of
            ``numpy.savez``, with names and layouts of PyTorch or Keras.
        but: entries that are not loaded from the file.

    Raises:
        ClovenError: if the file is missing, of another kind, damaged, refused or of another model. In the last
            case, it lists the entries that are missing, unexpected, of the wrong shape or type, or not finite.
    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    kept = {name: value for name, value in own.items() if name.endswith(COUNTER) or name in but}
    try:
        content = _read(path, TIMES * sum(value.nbytes for value in own.values()))
        taken = _taken(content, own, own.keys() - kept.keys())
        found = kept | {name: value for name, value in taken.entries.items() if name not in but}
        if problems := list(_problems(own, found)) or list(_not_finite(model, own, found)):
            raise ClovenError(problems)
    except ClovenError as error:
        raise ClovenError([f"{path}: {problem}" for problem in error.problems]) from error
    _tell(path, taken)
    model.load_state_dict(found)


# --- files to entries -----------------------------------------------------------------------------------------


def _read(path: Path, most: int) -> Mapping[Any, Any]:
    """Return the content of a file: entries by name, or a checkpoint with entries somewhere in it."""
    try:
        file = open_regular(path)
    except ClovenError as error:
        gone = isinstance(error.__cause__, FileNotFoundError)
        said = "there is no such file" if gone else str(error).removeprefix(f"cannot read {path}: ")
        raise ClovenError(said) from error
    with file:
        head = file.read(HEAD)
        file.seek(0)
        kind, reader = _kind(head)
        try:
            return reader(path, file, most)
        except ClovenError:
            raise
        except Exception as error:  # the libraries raise many kinds of errors on damaged bytes
            raise ClovenError(f"cannot be read as {kind} ({_brief(error)}); fetch it again") from error


Reader = Callable[[Path, BinaryIO, int], Mapping[Any, Any]]


def _kind(head: bytes) -> tuple[str, Reader]:
    """Return the kind of a file of weights, and its reader."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "a zip archive", _zip
    if head.startswith(b"\x93NUMPY"):
        raise ClovenError("holds one array without a name; expected several, as numpy.savez writes them")
    if head[:1] == b"\x80" and head[1:2] in b"\1\2\3\4\5":
        return "a pickle of PyTorch", _pickled
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors", _safetensors
    unknown = "is damaged, or does not hold weights: expected a file of safetensors, torch.save or numpy.savez"
    raise ClovenError(described(head) or unknown)


def _safetensors(path: Path, _file: BinaryIO, _most: int) -> Entries:
    return load_file(path)


def _zip(path: Path, file: BinaryIO, most: int) -> Mapping[Any, Any]:
    """Return the content of an archive of PyTorch or NumPy, unless it unpacks to more than is allowed."""
    try:
        archive = ZipFile(file)
    except BadZipFile as error:
        raise ClovenError(f"breaks off or is damaged: {_brief(error)}; fetch it again") from error
    with archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        largest = max(path.stat().st_size, UNPACKED + most)
        if (size := sum(member.file_size for member in members)) > largest:
            raise ClovenError(f"unpacks to {size:,} bytes; expected at most {largest:,} for this model")
        if len(set(names)) < len(names):
            raise ClovenError("is damaged: a name occurs twice in the archive")
        if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
            raise ClovenError(
                "is a TorchScript program; save its weights alone where it is trusted: "
                "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            )
        if any(name.rsplit("/")[-1] in ("archive_format", "serialized_exported_program.json") for name in names):
            raise ClovenError(
                "is an exported program of torch.export (.pt2); save its weights alone where it is trusted: "
                "torch.save(torch.export.load(FILE).state_dict, 'weights.pth')"
            )
        if "model.weights.h5" in names:
            raise ClovenError("is a model of Keras; export its arrays with numpy.savez")
        if pickled := [name for name in names if name.lower().endswith(".pkl")]:
            for name in pickled:  # PyTorch reads data.pkl, in any case of letters, of any folder
                with archive.open(name) as stream:
                    pickles.check(stream)  # type: ignore[arg-type]
            return _torch(file)
        if names and all(name.endswith(".npy") for name in names):
            return _numpy(archive)
        raise ClovenError(
            f"is a zip archive of {_listed(names) or 'nothing'}; unpack it and give the file of weights"
        )


def _pickled(_path: Path, file: BinaryIO, _most: int) -> Mapping[Any, Any]:
    """Return the content of a file of PyTorch before 1.6: five pickles, followed by the bytes of its tensors."""
    for _ in range(5):
        pickles.check(file)
        if not file.read(1):
            break
        file.seek(-1, 1)
    return _torch(file)


def _torch(file: BinaryIO) -> Mapping[Any, Any]:
    """Return the content of a file that `torch.save` wrote."""
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old file formats
            with torch.serialization.safe_globals([(Inert, name) for name in BESIDE_WEIGHTS]):
                content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise _refused(
            f"it names {named[1]}" if named else "it contains objects that weights do not need"
        ) from error
    if not isinstance(content, Mapping):
        raise ClovenError(f"holds a {type(content).__name__}; expected weights by name, as state_dict() gives them")
    return content


class Inert:
    """An inert stand-in for an object of another kind that is stored with the weights."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


BESIDE_WEIGHTS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "datetime.datetime",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
)
"""Types that training scripts store with the weights; each object is replaced by an `Inert`."""


def _numpy(archive: ZipFile) -> Entries:
    """Return the arrays of an .npz file; refuse arrays of objects and arrays larger than the archive says."""
    named = []
    for member in archive.infolist():
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise ClovenError(f"{member.filename} is compressed in a way that numpy.savez does not use")
        with archive.open(member) as stream:
            shape, dtype = _header(stream)  # type: ignore[arg-type]
            if dtype.hasobject:
                raise _refused(f"it contains a pickle, {member.filename}")
            if dtype.kind not in "biufc":
                raise ClovenError(f"{member.filename} is of type {dtype}; expected numbers")
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ClovenError(
                    f"is damaged: {member.filename} announces more numbers than it holds; fetch it again"
                )
            stream.seek(0)
            array = np.lib.format.read_array(stream, allow_pickle=False)
        named.append(_from_keras(member.filename.removesuffix(".npy"), array))
    names = [name for name, _ in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ClovenError(f"holds {_listed(twice)} twice, under PyTorch's and Keras' names; leave one out")
    return dict(named)


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and type of an array."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def _from_keras(name: str, array: NDArray[Any]) -> tuple[str, Tensor]:
    """Return a weight with PyTorch's name and layout; one without a name of Keras is returned unchanged."""
    layer, dot, last = name.rpartition(".")
    if last in AXES and array.ndim == 4:
        array = array.transpose(AXES[last])
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
    return layer + dot + KERAS.get(last, last), torch.from_numpy(native)


def _refused(reason: str) -> ClovenError:
    """Return the error for a file that could run code, without the libraries' advice on how to allow that."""
    return ClovenError(
        f"is refused: {reason}; nothing in it was run. If it should hold weights only, fetch it again; if it is a "
        f"checkpoint that holds more, save its weights alone where it was made: {STATE}"
    )


# --- entries to a model ---------------------------------------------------------------------------------------


def _mappings(content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], Entries]]:
    """Yield the named tensors of each mapping in a checkpoint, with the keys that lead to it, outer ones first."""
    waiting: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    seen = {id(content)}
    for keys, mapping in waiting:
        named = [(name, value) for name, value in mapping.items() if isinstance(name, str)]
        entries = {name: value for name, value in named if isinstance(value, Tensor) and not value.is_nested}
        if entries:
            yield keys, entries
        for name, value in named:
            if isinstance(value, Mapping) and id(value) not in seen and len(keys) < LEVELS:
                seen.add(id(value))
                waiting.append(((*keys, name), value))


def _taken(content: Mapping[Any, Any], own: Mapping[str, Tensor], wanted: Collection[str]) -> Taken:
    """Find the place in a checkpoint that has all, or else most, of the model's own names.

    Raises:
        ClovenError: if the file has no named tensors, or several sets of weights of this model.
    """
    mappings = as_named = dict(_mappings(content))
    if not any(WRAPPERS.search(name) for name in own):
        mappings = {keys: _unwrapped(entries) for keys, entries in as_named.items()}
    if not mappings:
        raise ClovenError("holds no named tensors; expected the weights of a model")
    counts = _counts(mappings, wanted)
    whole = []
    for place, count in counts.items():
        entries = mappings[place.keys]
        if count == len(wanted) and all(entries[place.prefix + name].shape == own[name].shape for name in wanted):
            whole.append(place)
    exact = {place.keys for place in whole if not place.prefix}
    whole = [place for place in whole if not place.prefix or place.keys not in exact]
    raw = [place for place in whole if not SECOND.search(str(place))] or whole[:1]
    if len(raw) > 1:
        raise ClovenError(
            f"holds several sets of weights of this model: {' and '.join(map(str, raw))}; save one alone"
        )
    place = raw[0] if raw else _nearest(counts, mappings, len(wanted))
    entries = mappings[place.keys]
    found = {n.removeprefix(place.prefix): value for n, value in entries.items() if n.startswith(place.prefix)}
    left = [name for name in entries if not name.startswith(place.prefix)]
    wrappers: set[str] = set()
    for name in as_named[place.keys].keys() - entries.keys():
        wrappers.update(WRAPPERS.findall(name))
    return Taken(place, found, sorted(wrappers), left, [other for other in whole if other != place])


def _unwrapped(entries: Entries) -> Entries:
    """Return the entries without the parts of names that wrappers insert."""
    names = [WRAPPERS.sub("", name) for name in entries]
    return dict(zip(names, entries.values(), strict=True)) if len(set(names)) == len(names) else entries


def _counts(mappings: Mapping[tuple[str, ...], Entries], wanted: Collection[str]) -> Counter[CheckpointKeys]:
    """Return the number of the model's own names at each place."""
    counts: Counter[CheckpointKeys] = Counter()
    longest = max((name.count(".") for name in wanted), default=0) + 1
    for keys, entries in mappings.items():
        for name in entries:
            parts = name.split(".")
            ends = (".".join(parts[-count:]) for count in range(1, min(longest, len(parts)) + 1))
            counts.update(CheckpointKeys(keys, name[: len(name) - len(end)]) for end in ends if end in wanted)
    return counts


def _nearest(
    counts: Counter[CheckpointKeys], mappings: Mapping[tuple[str, ...], Entries], wanted: int
) -> CheckpointKeys:
    """Return the place with the most of the model's names, or the largest mapping if none has half of them."""
    near = max(counts, key=lambda at: (counts[at], not SECOND.search(str(at)), -len(at.prefix)), default=None)
    if near is not None and 2 * counts[near] >= wanted:
        return near
    return CheckpointKeys(max(mappings, key=lambda keys: len(mappings[keys])), "")


def _tell(path: Path, taken: Taken) -> None:
    """Log which entries were used and which were not, unless the file contains only the model's weights."""
    said = []
    if taken.place.keys or taken.place.prefix:
        said.append(f"the weights were taken from {taken.place}")
    if taken.wrappers:
        said.append(f"left out of names: {', '.join(taken.wrappers)}")
    if taken.left:
        said.append(f"left out: {_listed(taken.left)}")
    if taken.others:
        said.append(f"not taken: the weights of this model in {' and in '.join(map(str, taken.others))}")
    if said:
        note(f"{path}: {'; '.join(said)}")


def _problems(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the reasons why these entries do not fit the model."""
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
        yield "belongs to another model; give this model's file, or the model and classes that it was made for"
    if types := [f"{n} {_type(v)} not {_type(w)}" for n, v, w in both if not _converts(v, w)]:
        yield f"{len(types)} {_entries(types)} of another type: {_listed(types)}; store weights as float32"


def _not_finite(model: nn.Module, own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield an error for the entries that contain NaN or infinity in the model's precision."""
    parameters = dict(model.named_parameters())
    bad = []
    for name, value in found.items():
        if value.is_floating_point():
            odd = ~torch.isfinite(value.to(own[name].dtype))
            if name not in parameters:
                odd &= torch.isfinite(own[name]).cpu()
            if count := int(odd.sum()):
                bad.append(f"{name} ({count:,} of {value.numel():,} values)")
    if bad:
        yield (
            f"{len(bad)} {_entries(bad)} with NaN or infinity: {_listed(bad)}; "
            "the training that made them diverged, or the file is damaged"
        )


def _converts(value: Tensor, wanted: Tensor) -> bool:
    """Return whether a stored value is a dense CPU tensor that differs from the model's in precision only."""
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
    return ", ".join(name[:200] for name in names[:NAMES]) + more


def _brief(error: Exception) -> str:
    """Return a library's error message in one short line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(". ")
