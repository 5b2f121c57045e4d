"""Captures: the messages that a tap recorded and the images that were sent, joined by input number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from math import prod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from cloven.auditing.selection import apart, distinct
from cloven.errors import ClovenError, check_type, path_of, whole_number
from cloven.graph.box import Shape, count, whole
from cloven.graph.graph import Graph
from cloven.partition.observe import Observation, Seen, View
from cloven.partition.program import Link, Program
from cloven.row_files import StoredArray, stored_tensors
from cloven.rows import StoredRows, TensorRows, all_rows, chunks, in_memory, permuted
from cloven.runtime.message_shapes import MessageShapes
from cloven.runtime.torch_engine import evaluate
from cloven.threads import one_thread, repeatable
from cloven.zoo.images import Images, is_large

CAPTURED, IMAGES = "captured.safetensors", "images.safetensors"
FORMAT = "1"
SIZES = {"float32": 4, "uint8": 1}
"""Bytes of one captured number: a float on a plain link, a byte of ciphertext on a protected link."""
SENT = {"input": ("int64", 1), "image": ("uint8", 4), "auxiliary": ("bool", 1), "logits": ("float32", 2)}
"""The tensors of ``images.safetensors``: type and number of axes."""
LEAST = {"auxiliary": 2, "victim": 20}
"""The smallest numbers of images for training an attack and for scoring it."""


@dataclass(frozen=True, eq=False)
class Capture:
    """The recording of a tap on one link: an observation that comes with its own images.

    Attributes:
        seen: the shares in the messages of each image.
        link: source and target, by address.
        protected: whether the link was encrypted.
        session: the session that was recorded.
        payload: the number of bytes that the tap recorded.
        bytes: the bytes of one image as they crossed the link.
        shaped: whether the shapes of the messages are known; if not, each message is a vector.
        tensors: for each set of images, float32 rows ``(n, *shape)`` for each of ``seen``: the numbers, or, for a
            protected link, the bytes of ciphertext divided by 255. Large ones are read when they are used.
        auxiliary: the attacker's own images.
        victims: the images that are scored.
        selection: further images of the attacker, which no attack is trained on; None if all are used for training.
        answers: the outputs ``(n, classes)`` for each set of images.
        unmatched: the number of rows in each of the two files that the other lacks.
        copies: the number of victim images that were left out as copies of others.
        graph: the model that ran, if it is known.
    """

    seen: tuple[Seen, ...]
    link: Link
    protected: bool
    session: str
    payload: int
    bytes: int
    shaped: bool
    tensors: Mapping[str, tuple[TensorRows, ...]] = field(repr=False)
    auxiliary: Images = field(repr=False)
    victims: Images = field(repr=False)
    selection: Images | None = field(repr=False)
    answers: Mapping[str, Tensor] = field(repr=False)
    unmatched: Mapping[str, int] = field(repr=False)
    copies: int = 0
    graph: Graph | None = field(default=None, repr=False)
    view: ClassVar[View] = "full"
    crosses: ClassVar[bool] = True
    raw_image: ClassVar[float | None] = None

    @property
    def logits(self) -> Tensor:
        """The answers for the victims, ``(n, classes)``."""
        return self.answers["victims"]

    @property
    def links(self) -> tuple[Link, ...]:
        """The one link."""
        return (self.link,)

    @cached_property
    def prints(self) -> tuple[str, ...]:
        """For each of ``seen``, a hash of what was captured for the auxiliary and victim images."""
        sets = [[digest(tensor) for tensor in self.tensors[of]] for of in ("auxiliary", "victims")]
        return tuple(hashlib.sha256("".join(each).encode()).hexdigest() for each in zip(*sets, strict=True))

    @property
    def fingerprint(self) -> str:
        """A hash of the captured numbers and of their shapes, but not of the place and time of the capture."""
        parts = [[value, s.share, s.dtype] for value, s in zip(self.prints, self.seen, strict=True)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def values(self) -> dict[str, TensorRows]:
        """Return what was captured, by the names that `Material` uses: ``FINGERPRINT/victims`` ..."""
        named = ((of, zip(self.prints, tensors, strict=True)) for of, tensors in self.tensors.items())
        return {f"{value}/{of}": tensor for of, pairs in named for value, tensor in pairs}


Observed = Observation | Capture
"""An observation: simulated from a program, or captured by a tap."""


@dataclass(frozen=True, eq=False)
class _File:
    path: Path
    metadata: Mapping[str, str]
    arrays: Mapping[str, StoredArray]

    @property
    def ordinals(self) -> list[str]:
        """The numbers of the messages that were captured for each image, in order."""
        return sorted((name for name in self.arrays if name.isdecimal()), key=int)

    def tensor(self, name: str) -> Tensor:
        """Return a small tensor, in memory."""
        return torch.from_numpy(self.arrays[name][:])


def read_capture(
    folder: str | Path,
    program: Program,
    *,
    shapes: MessageShapes | None = None,
    queries: int | None = None,
    victims: int | None = None,
) -> tuple[Capture, ...]:
    """Return what a tap recorded while a program ran, as observations to audit.

    Args:
        folder: a folder with ``captured.safetensors`` and ``images.safetensors``.
        program: the program that ran. Its model must give the answers that were recorded.
        shapes: the shapes of the shares in each message, if the attacker knows them; by default, messages are
            vectors.
        queries: the largest number of the attacker's own images to use, from the first on; by default, all.
        victims: the largest number of victim images to use, likewise.

    Raises:
        ClovenError: with every problem of the folder; or if the model is not the one that ran.
    """
    check_type(program, Program, "program", "a program that cloven.compile() or cloven.divide() returns")
    place = path_of(folder, "folder")
    for name, most in (("queries", queries), ("victims", victims)):
        if most is not None:
            whole_number(most, name, 2)
    capture = read(place, shapes, queries=queries, victims=victims)
    graph = program.model or program.graph
    with one_thread(), repeatable():
        made = evaluate(graph, capture.victims.rows(), [graph.output])[graph.output]
    check_answers(made.argmax(1), capture.logits)
    return (replace(capture, graph=graph),)


def holding_back(capture: Capture) -> Capture:
    """Return a capture with some of the attacker's images held out, to choose between attacks.

    Raises:
        ClovenError: if there are too few images.
    """
    training, selection = apart(capture.auxiliary.digests(), [], capture.victims.digests())
    own = capture.tensors["auxiliary"]
    chosen = {"auxiliary": torch.tensor(training), "selection": torch.tensor(selection)}
    tensors = {of: tuple(permuted(z, index) for z in own) for of, index in chosen.items()}
    outputs = {of: capture.answers["auxiliary"][index] for of, index in chosen.items()}
    return replace(
        capture,
        tensors={**capture.tensors, **tensors},
        answers={**capture.answers, **outputs},
        auxiliary=capture.auxiliary.take(training),
        selection=capture.auxiliary.take(selection),
    )


ROUNDED = 0.01
"""The share of victim images whose class may differ from the recorded answer because of rounding."""


def check_answers(classes: Tensor, logits: Tensor) -> None:
    """Refuse a model whose answers differ from those that were recorded.

    Args:
        classes: ``(n,)``, the classes that the model gives the victim images.
        logits: ``(n, classes)``, the recorded answers.

    Raises:
        ClovenError: if more classes differ than rounding explains; the message says how many.
    """
    differ, allowed = int((classes != logits.argmax(1)).sum()), int(ROUNDED * len(classes))
    if differ > allowed:
        raise ClovenError(
            f"for {differ} of {len(classes)} victim images, the class of the model differs from the answer that "
            f"was recorded (rounding explains {allowed}): it is not the model that ran, or its plan had tiles "
            "without halo or transforms of links; give the MODEL, --data, --seed and --weights of the run"
        )


def read(
    folder: Path,
    shapes: MessageShapes | None = None,
    *,
    queries: int | None = None,
    victims: int | None = None,
    several: bool = False,
) -> Capture:
    """Return the capture and the images of a folder, joined by the number of each input.

    Args:
        folder: a folder with ``captured.safetensors``, which a tap writes, and ``images.safetensors``, which the
            operator of the system writes.
        shapes: the shapes in each message that the attacker knows; by default, a message is a vector.
        queries: the largest number of the attacker's own images to use, from the first on; by default, all.
        victims: the largest number of victim images to use, likewise.
        several: whether several attacks are compared; some of the attacker's images are then held out to choose
            between them.

    Raises:
        ClovenError: with every problem of the two files; if shapes do not fit the messages; or if too few images
            are in both files.
    """
    problems: list[str] = []
    wire, sent = (_opened(folder / name, problems) for name in (CAPTURED, IMAGES))
    problems += [*_wrong_wire(wire)] if wire else []
    problems += [*_wrong(sent, SENT)] if sent else []
    if problems or wire is None or sent is None:
        raise ClovenError(problems)
    rows = _joined(wire.tensor("input"), sent.tensor("input"))
    own = sent.tensor("auxiliary")[rows[:, 1]]
    chosen = {"auxiliary": rows[own][:queries], "victims": rows[~own][:victims]}
    scored = len(chosen["victims"])
    chosen["victims"] = chosen["victims"][distinct(_images(sent, chosen["victims"][:, 1]).digests())]
    pieces = _pieces(wire, shapes or {}, problems)
    problems += _too_few(chosen, wire, sent, len(rows))
    if problems:
        raise ClovenError(problems)
    if several:
        spare = rows[own][len(chosen["auxiliary"]) :]
        sets = (chosen["auxiliary"], spare, chosen["victims"])
        training, selection = apart(*(_images(sent, picked[:, 1]).digests() for picked in sets))
        both = torch.cat([chosen["auxiliary"], spare])
        chosen |= {"auxiliary": both[training], "selection": both[selection]}
    if problems := list(_not_finite(wire, chosen)):
        raise ClovenError(problems)
    images = {of: _images(sent, picked[:, 1]) for of, picked in chosen.items()}
    protected = wire.metadata["protected"] == "yes"
    source, target = wire.metadata["link"].split(" -> ")
    seen: list[Seen] = []
    for name, parts in pieces.items():
        for i, shape in enumerate(parts):
            value = name if len(parts) == 1 else f"{name}.{i}"
            seen.append(Seen(value, whole(shape), "uint8" if protected else "float32"))
    tensors = {
        of: tuple(chain.from_iterable(_parts(wire.arrays[name], picked[:, 0], pieces[name]) for name in pieces))
        for of, picked in chosen.items()
    }
    return Capture(
        seen=tuple(seen),
        link=(source, target),
        protected=protected,
        session=wire.metadata.get("session", ""),
        payload=int(wire.metadata["bytes"]),
        bytes=int(wire.metadata.get("image_bytes") or sum(SIZES[s.dtype] * count(s.share) for s in seen)),
        shaped=bool(shapes),
        tensors=tensors,
        auxiliary=images["auxiliary"],
        victims=images["victims"],
        selection=images.get("selection"),
        answers={of: sent.tensor("logits")[picked[:, 1]] for of, picked in chosen.items()},
        unmatched={CAPTURED: len(wire.arrays["input"]) - len(rows), IMAGES: len(sent.arrays["input"]) - len(rows)},
        copies=scored - len(chosen["victims"]),
    )


def _opened(path: Path, problems: list[str]) -> _File | None:
    """Return a file; None if it cannot be read, with the reason appended to ``problems``."""
    try:
        return _File(path, *stored_tensors(path))
    except ClovenError as error:
        made = "`cloven tap --read` writes it" if path.name == CAPTURED else "the operator of the system writes it"
        problems.append(f"{error}; {made}")
        return None


def _wrong(file: _File, expected: Mapping[str, tuple[str, int]]) -> Iterator[str]:
    """Yield each violation of the file format."""
    path, arrays = file.path, file.arrays
    if (found := file.metadata.get("format")) != FORMAT:
        yield f"{path} has format {found!r}; expected {FORMAT!r}: write it again with this version of cloven"
    for name, (dtype, axes) in expected.items():
        if name not in arrays:
            yield f"{path} holds no tensor {name!r}; it holds {', '.join(sorted(arrays)) or 'none'}"
        elif (arrays[name].dtype.name, arrays[name].ndim) != (dtype, axes):
            got = f"{arrays[name].dtype.name} of shape {arrays[name].shape}"
            yield f"{path}: {name!r} is {got}; expected {dtype} with {axes} axes"
        elif len(arrays[name]) != len(arrays.get("input", arrays[name])):
            yield f"{path}: {name!r} has {len(arrays[name])} rows; 'input' has {len(arrays['input'])}"
        elif name == "input" and len(file.tensor(name).unique()) != len(arrays[name]):
            yield f"{path}: some input numbers occur more than once; expected one row per image"


def _wrong_wire(wire: _File) -> Iterator[str]:
    said = wire.metadata
    dtype = "uint8" if said.get("protected") == "yes" else "float32"
    yield from _wrong(wire, {"input": ("int64", 1), **dict.fromkeys(wire.ordinals, (dtype, 2))})
    if not wire.ordinals:
        yield f"{wire.path} holds no messages (tensors named 0, 1, ...); nothing was captured on this link"
    if strange := sorted(set(wire.arrays) - {"input", *wire.ordinals}):
        yield f"{wire.path} holds {', '.join(strange)}; expected input and messages named 0, 1, ..."
    if empty := [name for name in wire.ordinals if wire.arrays[name].ndim == 2 and not wire.arrays[name].shape[1]]:
        yield f"{wire.path}: messages {', '.join(empty)} hold no numbers"
    if said.get("protected") not in ("yes", "no"):
        yield f"{wire.path}: protected is {said.get('protected')!r}; expected yes or no"
    if len(said.get("link", "").split(" -> ")) != 2:
        yield f"{wire.path}: link is {said.get('link')!r}; expected 'IP:PORT -> IP:PORT'"
    if not said.get("bytes", "").isdecimal():
        yield f"{wire.path}: bytes is {said.get('bytes')!r}; expected the number of captured bytes"
    if not said.get("image_bytes", "0").isdecimal():
        yield f"{wire.path}: image_bytes is {said['image_bytes']!r}; expected the number of bytes of an image"


def _joined(captured: Tensor, sent: Tensor) -> Tensor:
    """Return ``(n, 2)``: the rows in the two files of every input that is in both, by ascending number."""
    wire, own = ({number: row for row, number in enumerate(numbers.tolist())} for numbers in (captured, sent))
    rows = [(wire[number], own[number]) for number in sorted(wire.keys() & own.keys())]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)


def _pieces(wire: _File, shapes: MessageShapes, problems: list[str]) -> dict[str, Sequence[Shape]]:
    """Return the shapes of the shares in each message: those given, for all messages or for none; else a vector."""
    names, given = wire.ordinals, {str(ordinal): pieces for ordinal, pieces in shapes.items()}
    held = {name: wire.arrays[name].shape[1] for name in names}
    if given and set(given) != set(names):
        problems.append(
            f"shapes are given for messages {', '.join(given)}, but messages {', '.join(names)} were captured: "
            "give the shapes of all messages (--shape 0=6x14x14 --shape 1=84), or of none"
        )
    for name in sorted(set(given) & set(names)):
        numbers = sum(map(prod, given[name]))
        if numbers != held[name]:
            what = "bytes of ciphertext, which have no shape" if wire.metadata["protected"] == "yes" else "numbers"
            shown = "+".join("x".join(map(str, shape)) for shape in given[name])
            problems.append(f"message {name} holds {held[name]:,} {what}; the shape {shown} has {numbers:,}")
    return {name: given.get(name, [(held[name],)]) for name in names}


def _too_few(chosen: Mapping[str, Tensor], wire: _File, sent: _File, joined: int) -> Iterator[str]:
    for kind, name in (("auxiliary", "auxiliary"), ("victim", "victims")):
        if len(chosen[name]) < LEAST[kind]:
            yield (
                f"{len(chosen[name])} {kind} images were both sent and captured; expected {LEAST[kind]} or more "
                f"({len(wire.arrays['input'])} inputs were captured, {len(sent.arrays['input'])} sent, "
                f"{joined} are in both)"
            )


def _not_finite(wire: _File, chosen: Mapping[str, Tensor]) -> Iterator[str]:
    rows = torch.cat(list(chosen.values()))[:, 0]
    for name in wire.ordinals:
        bad = 0
        for chunk in chunks(StoredRows(wire.arrays[name].take(rows.numpy())), READ):
            bad += int((~chunk.isfinite()).any(1).sum())
        if bad:
            yield f"{wire.path}: message {name} holds NaN or infinite numbers in {bad} rows; capture it again"


def _parts(message: StoredArray, rows: Tensor, shapes: Sequence[Shape]) -> Iterator[TensorRows]:
    """Yield the float32 shares ``(n, *shape)`` in rows of a message ``(m, numbers)``; bytes are divided by 255."""
    first = 0
    for shape in shapes:
        part = StoredRows(StoredArray(message.file.part(first, shape), rows.numpy()))
        yield all_rows(part) if in_memory(part.shape) else part
        first += prod(shape)


def _images(sent: _File, rows: Tensor) -> Images:
    sources = tuple(f"input {number}" for number in sent.tensor("input")[rows].tolist())
    pixels = sent.arrays["image"].take(rows.numpy())
    return Images("sent over the link", pixels if is_large(pixels.shape) else pixels[:], None, (), sources)


def digest(rows: TensorRows) -> str:
    """Return a hash of a tensor's shape and numbers."""
    found = hashlib.sha256(repr(tuple(rows.shape)).encode())
    for chunk in chunks(rows, READ):
        found.update(chunk.contiguous().numpy().tobytes())
    return found.hexdigest()


READ = 64
"""The number of rows that are hashed or checked at a time."""
