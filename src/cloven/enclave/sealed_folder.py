"""A sealed folder: a plan and the model's weights, encrypted under a key that only the owner has.

FOLDER/sealed.json     in clear: the folder's number, and what the other files are
FOLDER/plan.sealed     the plan
FOLDER/weights.sealed  the model's weights, safetensors
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.enclave.sealing import seal, unseal
from cloven.enclave.sizes import enclave_size
from cloven.errors import ClovenError
from cloven.files import read_json, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from cloven.graph.graph import Graph
    from cloven.partition.plan import Plan

FORMAT = "cloven sealed 1"
ABOUT, PLAN, WEIGHTS = "sealed.json", "plan.sealed", "weights.sealed"
INPUT, RESULT = "input", "result"
"""As what a picture, and an answer, are sealed."""
MEASURED = ("torch", "numpy", "torchvision", "timm", "safetensors", "cryptography")
"""Packages whose versions are part of a measurement."""


@dataclass(frozen=True)
class Sealed:
    """A sealed folder.

    Attributes:
        path: where it is.
        id: its number, from which with the owner's key its data key follows.
        enclave_bytes: the memory that the trusted half needs, as reckoned by the owner.
    """

    path: Path
    id: str
    enclave_bytes: int

    def name(self, what: str) -> str:
        """What a file is bound to: this folder, and what it is in it."""
        return f"{self.id}/{what}"


def seal_model(folder: Sealed, plan: Plan, weights: Mapping[str, Tensor], *, key: bytes) -> None:
    """Write a sealed folder; nothing of the plan or the weights is on the disk in clear at any time.

    Args:
        folder: one that is not there yet, or is empty.
        plan: what is run, and where it is cut.
        weights: the model's state.
        key: 32 bytes, the folder's own.

    Raises:
        ClovenError: where the folder holds something, or cannot be written.
    """
    from safetensors.torch import save

    out = folder.path
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClovenError(f"{out} is there already; give a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClovenError(f"cannot make {out}: {error.strerror}") from error
    seal_plan(folder, plan, key=key)
    state = {name: value.contiguous() for name, value in weights.items()}
    seal(save(state), out / WEIGHTS, key=key, name=folder.name(WEIGHTS))
    about = {"format": FORMAT, "id": folder.id, "enclave_bytes": folder.enclave_bytes}
    write_text(out / ABOUT, json.dumps(about) + "\n")  # last: without it there is no folder


def seal_plan(folder: Sealed, plan: Plan, *, key: bytes) -> None:
    """Write a folder's plan, in the place of one that is there; arguments and errors as `seal_model`."""
    seal(plan.toml().encode(), folder.path / PLAN, key=key, name=folder.name(PLAN))


def new_id() -> str:
    """The number of a new folder."""
    return secrets.token_hex(16)


def opened(path: Path) -> Sealed:
    """A sealed folder, as far as it can be read without a key.

    Raises:
        ClovenError: where there is none.
    """
    try:
        about = read_json(path / ABOUT)
    except ClovenError as error:
        raise ClovenError(f"{path} is not a sealed folder: {error}; make one: cloven enclave seal") from error
    match about:
        case {"format": str(form), "id": str(number), "enclave_bytes": int(size)} if form == FORMAT:
            pass
        case _:
            raise ClovenError(f"{path / ABOUT} is not what `cloven enclave seal` writes ({FORMAT}); copy it again")
    if not re.fullmatch("[0-9a-f]{32}", number) or size < 0:
        raise ClovenError(f"{path / ABOUT} has no right id or enclave_bytes; copy it again")
    if missing := [name for name in (PLAN, WEIGHTS) if not (path / name).is_file()]:
        raise ClovenError(f"{path} lacks {', '.join(missing)}; copy the whole folder")
    return Sealed(path, number, size)


def unsealed(folder: Sealed, key: bytes) -> tuple[Plan, dict[str, Tensor]]:
    """The plan and the weights of a folder, in memory.

    Raises:
        ClovenError: for another key, or a file that is not what was sealed.
    """
    import tomllib

    from safetensors import SafetensorError
    from safetensors.torch import load

    from cloven.partition.plan import check_document

    text = unseal(folder.path / PLAN, key=key, name=folder.name(PLAN)).decode()
    plan, problems = check_document(tomllib.loads(text))
    if problems or plan is None:
        raise ClovenError(problems)
    try:
        weights = load(bytes(unseal(folder.path / WEIGHTS, key=key, name=folder.name(WEIGHTS))))
    except SafetensorError as error:
        raise ClovenError(f"{folder.path / WEIGHTS} holds no weights: {error}") from error
    return plan, weights


def modelled(plan: Plan) -> tuple[dict[str, Tensor], Graph]:
    """The weights of a plan's model, and its graph; without a file of weights random ones, always the same."""
    import torch

    from cloven.zoo.named import make

    spec = plan.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        file = Path(spec.weights) if spec.weights else None
        state = make(spec.name, shape=spec.input, classes=spec.classes, weights=file).state_dict()
    return state, captured(plan, state)


def memory_for(graph: Graph) -> int:
    """The bytes that a trusted half with this model needs; see `enclave_size`."""
    return enclave_size(sum(op.param_bytes for op in graph.ops), max(op.bytes for op in graph.ops))


def captured(plan: Plan, weights: Mapping[str, Tensor]) -> Graph:
    """The graph of a plan's model with these weights.

    Raises:
        ClovenError: where they are another model's.
    """
    import torch

    from cloven.runtime.capture import capture
    from cloven.zoo.named import normalisation, stated

    spec = plan.model
    model = stated(spec.name, shape=spec.input, classes=spec.classes, state=weights)
    mean, std = normalisation(spec.name, spec.weights) or (None, None)
    return capture(model, torch.zeros(1, *spec.input), mean=mean, std=std)


def measured(folder: Sealed) -> str:
    """What of a trusted half is the same wherever it runs, as 64 hexadecimal digits.

    A hash of this package's files, of the versions of what it computes with, and of the folder's number. Under
    Gramine with SGX the processor measures instead; here the process says so of itself.
    """
    digest = hashlib.sha256(f"{FORMAT}\n{folder.id}\n{platform.python_version()}\n".encode())
    for package in MEASURED:
        digest.update(f"{package} {_version(package)}\n".encode())
    source = Path(__file__).resolve().parent.parent
    for file in sorted(source.rglob("*.py")):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(source).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
