"""The store: a folder with one JSON file a cell, written at once or not at all, and its tensors beside it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cloven.auditing.cell import Outcome
from cloven.auditing.features import Shelf
from cloven.auditing.finding import CellResult
from cloven.auditing.summary import Summary
from cloven.documents import Document, parse_document
from cloven.errors import ClovenError, system_reason
from cloven.files import read_bytes, read_json, replacing, write_text

CONFIG, SUMMARY, REPORT = "config.json", "summary.json", "report.html"
CELLS, SHELF, LOCK = "cells", ".features", ".lock"
SCHEMA = "schema"
DIGEST, TENSORS = "digest", "tensors_sha256"
AGAIN = "delete the cell's .json and .safetensors and run the audit again"

Model = TypeVar("Model", bound=Document)


def to_text(value: Mapping[str, JsonValue]) -> str:
    """JSON as the store writes it; NaN and infinity are refused."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Store:
    """A run's folder: ``config.json``, ``cells/KEY.{json,safetensors}``, ``summary.json``, ``report.html``.

    The documents carry a digest of their content, and a cell's also that of its tensors. It shows damage, and
    numbers that were edited. It is not a signature: someone who edits a number can also write a new digest.
    """

    folder: Path

    @contextmanager
    def shelf(self) -> Iterator[Shelf]:
        """A folder for what all cells share, while they are worked on."""
        folder = self.folder / SHELF
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        try:
            yield Shelf(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keys(self) -> set[str]:
        """The cells that are finished."""
        return {path.stem for path in (self.folder / CELLS).glob("*.json") if not path.name.startswith(".")}

    def save(self, outcome: Outcome) -> None:
        """Keep a cell's result; it is finished when its JSON file stands."""
        of_each = {f"score/{name}": values for name, values in outcome.scores.items()}
        of_each |= {f"guess/{name}": values for name, values in outcome.guesses.items()}
        tensors = {**of_each, **outcome.samples}
        path = self.folder / CELLS / f"{outcome.result.key}.safetensors"
        content = save({name: t.contiguous() for name, t in tensors.items()})
        with replacing(path) as part:
            part.write_bytes(content)
        result = outcome.result.model_copy(update={"tensors": hashlib.sha256(content).hexdigest()})
        write_document(path.with_suffix(".json"), result.model_dump(mode="json"))
        path.with_suffix(".checkpoint").unlink(missing_ok=True)

    def cell(self, key: str) -> CellResult:
        """Return a cell's result.

        Raises:
            ClovenError: where its file is not as it was written.
        """
        path = self.folder / CELLS / f"{key}.json"
        found = read_model(path, CellResult, AGAIN)
        if found.key != key:
            raise ClovenError(f"{path} holds another cell's result; {AGAIN}")
        return found

    def tensors(self, key: str) -> Mapping[str, Tensor]:
        """Return a cell's scores of each image (``score/ssim``), guesses' (``guess/black``), and sample images.

        Raises:
            ClovenError: where a file of the cell is not as it was written.
        """
        path = self.folder / CELLS / f"{key}.safetensors"
        digest = self.cell(key).tensors
        with advising(AGAIN):
            content = read_bytes(path)
        if hashlib.sha256(content).hexdigest() != digest:
            raise ClovenError(f"{path} was edited or damaged: its digest is that of another content; {AGAIN}")
        try:
            return load(content)
        except SafetensorError as error:
            raise ClovenError(f"cannot read {path}: {error}; {AGAIN}") from error

    def scores(self, keys: Sequence[str], metric: str) -> Tensor:
        """Return the scores ``(seeds, n)`` of each victim image, float64; a key for each seed."""
        return torch.stack([self.tensors(key)[f"score/{metric}"] for key in keys]).to(torch.float64)

    def summary(self) -> Summary:
        """Return the summary.

        Raises:
            ClovenError: where the audit has not ended, or the file is not as it was written.
        """
        path = self.folder / SUMMARY
        if not path.exists():
            raise ClovenError(f"{self.folder} holds no {SUMMARY}; give the folder of an audit that has ended")
        return read_model(path, Summary, "run the same audit again, which writes it anew from the cells")


def read_model(path: Path, model: type[Model], to_do: str) -> Model:
    """Return a document of an audit that `write_document` wrote, checked against its model.

    Raises:
        ClovenError: as `read_document`; and where it is another document, or of another schema.
    """
    found = read_document(path, to_do)
    there, here = found.get("schema_version", found.get(SCHEMA)), model.model_fields["schema_version"].default
    if there is not None and there != here:
        raise ClovenError(
            f"{path} was written by another version of cloven (schema {json.dumps(there)}, here {here}); "
            "run the same command again with another folder (--out)"
        )
    try:
        return parse_document(model, json.dumps(found), str(path))
    except ClovenError as error:
        raise ClovenError(
            [f"{path} does not hold what this version of cloven writes; {to_do}", *error.problems]
        ) from error


def write_document(path: Path, document: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Write a JSON document with a digest of its content; return it as it was written.

    Raises:
        ClovenError: where it cannot be written.
    """
    plain: dict[str, JsonValue] = json.loads(
        to_text(document)
    )  # as it will be read: tuples as lists, and keys as text
    written = plain | {DIGEST: digest_of(plain)}
    write_text(path, to_text(written))
    return written


def read_document(path: Path, to_do: str) -> dict[str, JsonValue]:
    """Read a document that `write_document` wrote; its layout may have changed, its content not.

    Raises:
        ClovenError: where it cannot be read, has no digest, or another content; with what ``to_do`` about it.
    """
    with advising(to_do):
        found = read_json(path)
    digest = found.pop(DIGEST, None)
    if digest is None:
        raise ClovenError(f"{path} has no digest: an earlier version of cloven wrote it; {to_do}")
    if digest != digest_of(found):
        raise ClovenError(f"{path} was edited or damaged: its digest is that of another content; {to_do}")
    return found


@contextmanager
def advising(to_do: str) -> Iterator[None]:
    """Say with an error what ``to_do`` about it."""
    try:
        yield
    except ClovenError as error:
        raise ClovenError([f"{problem}; {to_do}" for problem in error.problems]) from error


@contextmanager
def expecting(path: Path, to_do: str) -> Iterator[None]:
    """Use a document's content, which has the right digest, but may lack what this version of cloven writes.

    Raises:
        ClovenError: where something is missing or of another type, with what ``to_do`` about it.
    """
    try:
        yield
    except (ClovenError, OSError):
        raise
    except Exception as error:  # what a missing or another value leads to is of many kinds
        raise ClovenError(
            f"{path} does not hold what this version of cloven writes ({type(error).__name__}: {error}); {to_do}"
        ) from error


def digest_of(document: Mapping[str, JsonValue]) -> str:
    """Return the SHA-256 of a document's content, whatever its layout and the order of its keys."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextmanager
def opened(folder: Path, config: Mapping[str, JsonValue]) -> Iterator[Store]:
    """The store of a run with this configuration: a new folder, or one that the same configuration began.

    Nobody else opens it meanwhile. A run that is killed leaves it to the next.

    Raises:
        ClovenError: where the folder holds a run of another configuration, or other files, or is in use.
    """
    if folder.exists() and not folder.is_dir():
        raise ClovenError(f"{folder} is a file; give a folder for the results (--out)")
    if folder.exists() and any(folder.iterdir()) and not any((folder / name).exists() for name in (CONFIG, LOCK)):
        raise ClovenError(f"{folder} is not empty and holds no audit; give another folder (--out)")
    with _locked(folder):
        _check(folder, config)
        for part in [*folder.glob(".*.part"), *(folder / CELLS).glob(".*.part")]:
            part.unlink(missing_ok=True)
        write_text(folder / CONFIG, to_text(config))
        yield Store(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; the system releases it when the process ends, however it does."""
    try:
        (folder / CELLS).mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "ab", opener=_at_once)  # noqa: SIM115
    except OSError as error:
        raise ClovenError(f"cannot write to {folder}: {system_reason(error)}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ClovenError(
                f"another audit is running in {folder}; wait until it has ended, or give another folder (--out)"
            ) from error
        yield


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK, 0o666)  # of a pipe, it does not wait for the other end


HASH = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{24,}")
"""A long hash: its first digits tell it from another."""


def _differences(name: str, there: object, now: object) -> Iterator[str]:
    """Yield the settings that differ, each by its name, such as ``plan.devices``."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted(there.keys() | now.keys()):
            yield from _differences(f"{name}.{key}".lstrip("."), there.get(key), now.get(key))
    elif there != now:
        before, after = (HASH.sub(r"\1...", json.dumps(value)) for value in (there, now))
        yield f"{name}: there {before}, now {after}"


def _check(folder: Path, config: Mapping[str, JsonValue]) -> None:
    """Refuse a folder that another configuration began."""
    if not (folder / CONFIG).exists():
        return
    found, wanted = read_json(folder / CONFIG), json.loads(json.dumps(config))
    if found.get(SCHEMA) != wanted.get(SCHEMA):
        raise ClovenError(
            f"{folder} holds an audit of another version of cloven (schema {json.dumps(found.get(SCHEMA))}, here "
            f"{json.dumps(wanted.get(SCHEMA))}); give another folder (--out)"
        )
    if differences := list(_differences("", found, wanted)):
        raise ClovenError(
            [
                f"{folder} holds an audit of another configuration; give another folder (--out)",
                *(f"  {difference}" for difference in differences),
            ]
        )
