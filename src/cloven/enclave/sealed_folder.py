"""A sealed folder: a plan and the model's weights, encrypted under a key that only the owner has.

FOLDER/sealed.json     in clear: the folder's id, and the memory that the model requires
FOLDER/plan.sealed     the plan
FOLDER/weights.sealed  the model's weights, safetensors
"""

from __future__ import annotations

import hashlib
import platform
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cloven.documents import Document, read_document
from cloven.enclave.sealing import seal, unseal
from cloven.enclave.sizes import enclave_size
from cloven.errors import ClovenError
from cloven.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from cloven.graph.graph import Graph
    from cloven.partition.plan import Plan

FORMAT: Literal["cloven sealed 1"] = "cloven sealed 1"
ABOUT, PLAN, WEIGHTS = "sealed.json", "plan.sealed", "weights.sealed"
INPUT, RESULT = "input", "result"
"""The names under which pictures and results are sealed."""
MEASURED = ("torch", "numpy", "torchvision", "timm", "safetensors", "cryptography")
"""The packages whose versions are part of a measurement."""


class SealedHeader(Document):
    """The clear part of a sealed folder, ``sealed.json``; the attributes are those of `Sealed`."""

    format: Literal["cloven sealed 1"] = FORMAT
    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    enclave_bytes: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Sealed:
    """A sealed folder.

    Attributes:
        path: the path of the folder.
        id: its id; the data key is derived from it and the owner's key.
        enclave_bytes: the owner's estimate of the memory that the trusted half requires.
    """

    path: Path
    id: str
    enclave_bytes: int

    def name(self, what: str) -> str:
        """Return the name that a file is bound to: this folder and the file's role."""
        return f"{self.id}/{what}"


def seal_model(folder: Sealed, plan: Plan, weights: Mapping[str, Tensor], *, key: bytes) -> None:
    """Write a sealed folder; the plan and the weights are never on the disk in clear.

    Args:
        folder: a new or empty folder.
        plan: a plan of two devices, the first trusted.
        weights: the model's state.
        key: the folder's data key, 32 bytes.

    Raises:
        ClovenError: if the folder is not empty, or cannot be written.
    """
    from safetensors.torch import save

    out = folder.path
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClovenError(f"{out} exists and is not empty; choose a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClovenError(f"cannot create {out}: {error.strerror}") from error
    seal_plan(folder, plan, key=key)
    state = {name: value.contiguous() for name, value in weights.items()}
    seal(save(state), out / WEIGHTS, key=key, name=folder.name(WEIGHTS))
    header = SealedHeader(id=folder.id, enclave_bytes=folder.enclave_bytes)
    write_text(out / ABOUT, header.text())  # last: it marks the folder as complete


def seal_plan(folder: Sealed, plan: Plan, *, key: bytes) -> None:
    """Write or replace a folder's plan; the arguments and errors are those of `seal_model`."""
    seal(plan.toml().encode(), folder.path / PLAN, key=key, name=folder.name(PLAN))


def new_id() -> str:
    """Return the id of a new folder."""
    return secrets.token_hex(16)


def opened(path: Path) -> Sealed:
    """Read the clear part of a sealed folder.

    Raises:
        ClovenError: if it is not a sealed folder, or incomplete.
    """
    if not (path / ABOUT).is_file():
        raise ClovenError(
            f"{path} is not a sealed folder: {ABOUT} is missing; create one with `cloven enclave seal`"
        )
    try:
        header = read_document(SealedHeader, path / ABOUT)
    except ClovenError as error:
        raise ClovenError(
            [*error.problems, f"{path} has changed since `cloven enclave seal` wrote it; copy it again"]
        ) from error
    if missing := [name for name in (PLAN, WEIGHTS) if not (path / name).is_file()]:
        raise ClovenError(f"{path} is incomplete: {', '.join(missing)} missing; copy the whole folder")
    return Sealed(path, header.id, header.enclave_bytes)


def unsealed(folder: Sealed, key: bytes) -> tuple[Plan, dict[str, Tensor]]:
    """Decrypt the plan and the weights of a folder into memory.

    Raises:
        ClovenError: if the key is wrong, or a file has changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from cloven.partition.plan import parse

    text = unseal(folder.path / PLAN, key=key, name=folder.name(PLAN)).decode()
    plan = parse(text, str(folder.path / PLAN))
    try:
        weights = load(bytes(unseal(folder.path / WEIGHTS, key=key, name=folder.name(WEIGHTS))))
    except SafetensorError as error:
        raise ClovenError(f"{folder.path / WEIGHTS} does not contain weights: {error}") from error
    return plan, weights


def modelled(plan: Plan) -> tuple[dict[str, Tensor], Graph]:
    """Return the weights and the graph of a plan's model; without a file, the weights are random (seed 0)."""
    import torch

    from cloven.zoo.named import make

    spec = plan.named_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        file = Path(spec.weights) if spec.weights else None
        state = make(spec.name, shape=spec.input, classes=spec.classes, weights=file).state_dict()
    return state, captured(plan, state)


def memory_for(graph: Graph) -> int:
    """Return the memory that a trusted half with this model requires, in bytes; see `enclave_size`."""
    return enclave_size(sum(op.param_bytes for op in graph.ops), max(op.bytes for op in graph.ops))


def captured(plan: Plan, weights: Mapping[str, Tensor]) -> Graph:
    """Return the graph of a plan's model with these weights.

    Raises:
        ClovenError: if the weights belong to another model.
    """
    import torch

    from cloven.runtime.capture import capture
    from cloven.zoo.named import normalisation, stated

    spec = plan.named_model
    model = stated(spec.name, shape=spec.input, classes=spec.classes, state=weights)
    mean, std = normalisation(spec.name, spec.weights, spec.mean, spec.std) or (None, None)
    return capture(model, torch.zeros(1, *spec.input), mean=mean, std=std)


def measured(folder: Sealed) -> str:
    """Return the measurement of a simulated trusted half, 64 hexadecimal digits: the same on every machine.

    It is a hash of this package's files, the versions of the packages in `MEASURED`, and the folder's id. Under
    Gramine with SGX the processor measures; here the process claims its own measurement.
    """
    digest = hashlib.sha256(f"{FORMAT}\n{folder.id}\n{platform.python_version()}\n".encode())
    for package in MEASURED:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            version = "none"
        digest.update(f"{package} {version}\n".encode())
    source = Path(__file__).resolve().parent.parent
    for file in sorted(source.rglob("*.py")):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(source).as_posix()} {content}\n".encode())
    return digest.hexdigest()
