"""The store: a folder with one JSON file per cell, written atomically, and the cell's tensors beside it."""

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
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import JsonValue, ValidationError
from safetensors import SafetensorError

from cloven.auditing.finding import CellResult
from cloven.auditing.summary import Summary
from cloven.documents import Document, wrong_entries
from cloven.errors import ClovenError, system_reason
from cloven.files import lock, parse_json, read_bytes, read_json, read_text, replacing, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from cloven.auditing.cell import Outcome
    from cloven.auditing.features import Shelf

CONFIG, PLANNED, SUMMARY, REPORT = "config.json", "planned.json", "summary.json", "report.html"
SUBJECT = "subject.json"
CELLS, SHELF, LOCK = "cells", ".features", ".lock"
SCHEMA = "schema"
DIGEST, TENSORS = "digest", "tensors_sha256"
AGAIN = "delete the cell's .json and .safetensors and run the audit again"

Model = TypeVar("Model", bound=Document)


def to_text(value: Mapping[str, JsonValue]) -> str:
    """Return JSON as the store writes it.

    Raises:
        ValueError: for NaN and infinity.
    """
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


class PlannedCell(Document):
    """A cell of an audit: its attack, observation and seed.

    ``skipped`` is why the attack cannot work on the observation, and ``failed`` the error of its last run; they are
    None for other cells. A cell is done once the store has its result.
    """

    attack: str
    observation: str
    seed: int
    skipped: str | None = None
    failed: str | None = None

    @property
    def name(self) -> str:
        """The cell in words."""
        return f"{self.attack} on {self.observation}, seed {self.seed}"


class PlannedCells(Document):
    """The document ``planned.json``: the cells of an audit, by their keys."""

    schema_version: Literal[1] = 1
    cells: dict[str, PlannedCell]


@dataclass(frozen=True)
class FinishedCell:
    """A cell's result, with the content of its file of tensors, whose digest is in the result."""

    result: CellResult
    tensors: bytes


def finished(outcome: Outcome) -> FinishedCell:
    """Return an outcome in the form in which the store saves it."""
    of_each = {f"score/{name}": values for name, values in outcome.scores.items()}
    of_each |= {f"guess/{name}": values for name, values in outcome.guesses.items()}
    of_each |= {f"reading/{name}": values for name, values in outcome.readings.items()}
    from safetensors.torch import save

    content = save({name: t.contiguous() for name, t in {**of_each, **outcome.samples}.items()})
    digest = hashlib.sha256(content).hexdigest()
    return FinishedCell(outcome.result.model_copy(update={"tensors": digest}), content)


@dataclass(frozen=True)
class Store:
    """A run's folder: ``config.json``, ``planned.json``, ``summary.json``, ``report.html``, and two files per cell.

    The files of a cell are ``cells/KEY.json`` and ``cells/KEY.safetensors``.
    The documents have a digest of their content; a cell's document also has the digest of its tensors. A digest
    shows damage and edited numbers. It is not a signature: someone who edits a number can also write a new digest.
    """

    folder: Path

    @contextmanager
    def shelf(self) -> Iterator[Shelf]:
        """Yield a folder for the tensors that all cells share; it is deleted afterwards."""
        from cloven.auditing.features import Shelf

        folder = self.folder / SHELF
        shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed
        try:
            yield Shelf(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keys(self) -> set[str]:
        """Return the keys of the finished cells."""
        return {path.stem for path in (self.folder / CELLS).glob("*.json") if not path.name.startswith(".")}

    def plan(self, cells: Mapping[str, PlannedCell]) -> None:
        """Write the cells of the audit, so that others can see how many are left."""
        write_document(self.folder / PLANNED, PlannedCells(cells=dict(cells)).model_dump(mode="json"))

    def planned(self) -> Mapping[str, PlannedCell] | None:
        """Return the cells of the audit by their keys; None if they are not known yet.

        Raises:
            ClovenError: if the file was edited or damaged.
        """
        path = self.folder / PLANNED
        if not path.exists():
            return None
        return read_model(path, PlannedCells, "delete it and run the audit again").cells

    def in_use(self) -> bool:
        """Return whether an audit is running in the folder, on this machine."""
        try:
            with (self.folder / LOCK).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def save(self, cell: FinishedCell) -> None:
        """Save a cell's result; the cell is finished once its JSON file exists."""
        path = self.folder / CELLS / f"{cell.result.key}.safetensors"
        with replacing(path) as part:
            part.write_bytes(cell.tensors)
        write_document(path.with_suffix(".json"), cell.result.model_dump(mode="json"))
        path.with_suffix(".checkpoint").unlink(missing_ok=True)

    def has(self, key: str) -> bool:
        """Return whether a cell is finished."""
        return (self.folder / CELLS / f"{key}.json").exists()

    def finished(self, key: str) -> FinishedCell:
        """Return a finished cell, to save it in another store.

        Raises:
            ClovenError: where a file of the cell is not as it was written.
        """
        self.tensors(key)  # checks them
        return FinishedCell(self.cell(key), read_bytes(self.folder / CELLS / f"{key}.safetensors"))

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

    def verify(self, key: str) -> None:
        """Check that a cell's result is as it was written, without reading its numbers.

        Raises:
            ClovenError: if it is not.
        """
        path, here = self.folder / CELLS / f"{key}.json", CellResult.model_fields["schema_version"].default
        with advising(AGAIN):
            text = read_text(path)
        try:
            found = json.loads(text)  # whatever is not as it was written has another digest
            ours = found.pop(DIGEST) == digest_of(found) and found["schema_version"] == here
            intact = ours and found["key"] == key
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            intact = False
        if not intact:
            self.cell(key)  # raises an error that says what is wrong

    def tensors(self, key: str) -> Mapping[str, Tensor]:
        """Return a cell's scores of each image (``score/ssim``), those of guesses (``guess/black``), and samples.

        Raises:
            ClovenError: where a file of the cell is not as it was written.
        """
        from safetensors.torch import load

        path = self.folder / CELLS / f"{key}.safetensors"
        digest = read_document(path.with_suffix(".json"), AGAIN).get("tensors")
        with advising(AGAIN):
            content = read_bytes(path)
        if hashlib.sha256(content).hexdigest() != digest:
            raise ClovenError(f"{path} was edited or damaged: its content does not match its digest; {AGAIN}")
        try:
            return load(content)
        except SafetensorError as error:
            raise ClovenError(f"cannot read {path}: {error}; {AGAIN}") from error

    def scores(self, keys: Sequence[str], metric: str) -> Tensor:
        """Return the scores ``(seeds, n)`` of each victim image, float64; a key for each seed."""
        import torch

        return torch.stack([self.tensors(key)[f"score/{metric}"] for key in keys]).to(torch.float64)

    def summary(self) -> Summary:
        """Return the summary.

        Raises:
            ClovenError: if the audit has not ended, or the file was edited or damaged.
        """
        path = self.folder / SUMMARY
        if not path.exists():
            raise ClovenError(f"{self.folder} holds no {SUMMARY}; give the folder of an audit that has ended")
        return read_model(path, Summary, "run the same audit again, which writes it from the cells")


def read_model(path: Path, model: type[Model], to_do: str) -> Model:
    """Return a document that `write_document` wrote, checked against its model.

    Raises:
        ClovenError: as `read_document`; and if it is another kind of document, or has another schema version.
    """
    _, text = _of_this_version(path, model, to_do)
    try:
        return model.model_validate_json(text)  # JSON again: in Python, a list is not a tuple
    except ValidationError as error:
        wrong = wrong_entries(error, str(path))
        raise ClovenError([f"{path} does not hold what this version of cloven writes; {to_do}", *wrong]) from error


def _of_this_version(path: Path, model: type[Document], to_do: str) -> tuple[dict[str, JsonValue], str]:
    """Return the content of a document with the schema version of a model, also as JSON."""
    found, text = _read(path, to_do)
    there, here = found.get("schema_version", found.get(SCHEMA)), model.model_fields["schema_version"].default
    if there is not None and there != here:
        raise ClovenError(
            f"{path} was written by another version of cloven (schema {json.dumps(there)}, here {here}); "
            "run the same command again with another folder (--out)"
        )
    return found, text


def write_document(path: Path, document: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Write a JSON document with a digest of its content, and return it as written.

    Raises:
        ClovenError: if it cannot be written.
    """
    plain: dict[str, JsonValue] = json.loads(
        to_text(document)
    )  # as it is read later: tuples as lists, and keys as text
    written = plain | {DIGEST: digest_of(plain)}
    write_text(path, to_text(written))
    return written


def read_document(path: Path, to_do: str) -> dict[str, JsonValue]:
    """Return the content of a document that `write_document` wrote; its layout may have changed since.

    Raises:
        ClovenError: if it cannot be read, has no digest, or does not match its digest; ``to_do`` ends the message.
    """
    return _read(path, to_do)[0]


def _read(path: Path, to_do: str) -> tuple[dict[str, JsonValue], str]:
    """Return the content of a document, also as JSON."""
    with advising(to_do):
        text = read_text(path)
        found = parse_json(text, str(path))
    digest = found.pop(DIGEST, None)
    if digest is None:
        raise ClovenError(f"{path} has no digest: an earlier version of cloven wrote it; {to_do}")
    if digest != digest_of(found):
        raise ClovenError(f"{path} was edited or damaged: its content does not match its digest; {to_do}")
    end = f',\n  "{DIGEST}": "{digest}"\n}}\n'  # as `write_document` writes it
    return found, text.removesuffix(end) + "}" if text.endswith(end) else json.dumps(found)


@contextmanager
def advising(to_do: str) -> Iterator[None]:
    """Append ``to_do`` to the message of an error."""
    try:
        yield
    except ClovenError as error:
        raise ClovenError([f"{problem}; {to_do}" for problem in error.problems]) from error


@contextmanager
def expecting(path: Path, to_do: str) -> Iterator[None]:
    """Turn the errors of reading a document's content into a `ClovenError`.

    The content has the right digest, but another version of cloven may have written other values.

    Raises:
        ClovenError: if a value is missing or has another type; ``to_do`` ends the message.
    """
    try:
        yield
    except (ClovenError, OSError):
        raise
    except Exception as error:  # a missing or different value can raise any of many types
        raise ClovenError(
            f"{path} does not hold what this version of cloven writes ({type(error).__name__}: {error}); {to_do}"
        ) from error


def digest_of(document: Mapping[str, JsonValue]) -> str:
    """Return the SHA-256 of a document's content, whatever its layout and the order of its keys."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextmanager
def opened(folder: Path, config: Mapping[str, JsonValue]) -> Iterator[Store]:
    """Yield the store of a run with this configuration: a new folder, or that of a run with the same configuration.

    The folder is locked meanwhile; the lock of a run that is killed is released.

    Raises:
        ClovenError: if the folder holds a run with another configuration, holds other files, or is in use.
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


def reopen(folder: Path) -> None:
    """Prepare an audit's folder for other settings: everything but the finished cells is forgotten."""
    if folder.exists():
        for name in (SUMMARY, REPORT, PLANNED, CONFIG):
            (folder / name).unlink(missing_ok=True)
        (folder / LOCK).touch()  # a sign that the folder is an audit's


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; the operating system releases it when the process ends, even if it is killed."""
    try:
        (folder / CELLS).mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "ab", opener=_at_once)  # noqa: SIM115
    except OSError as error:
        raise ClovenError(f"cannot write to {folder}: {system_reason(error)}") from error
    with file:
        lock(
            file,
            f"another audit is running in {folder}; wait until it has ended, or give another folder (--out)",
        )
        yield


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK, 0o666)  # do not wait for the other end of a pipe


HASH = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{24,}")
"""A long hash, of which messages show the first digits."""


def differing(one: object, other: object, name: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the entries of two documents that differ: a name such as ``plan.devices``, and both values as text."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differing(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))
    elif one != other:
        first, second = (HASH.sub(r"\1...", json.dumps(value)) for value in (one, other))
        yield name, first, second


def _check(folder: Path, config: Mapping[str, JsonValue]) -> None:
    """Refuse a folder that holds a run with another configuration."""
    if not (folder / CONFIG).exists():
        return
    found, wanted = read_json(folder / CONFIG), json.loads(json.dumps(config))
    if found.get(SCHEMA) != wanted.get(SCHEMA):
        raise ClovenError(
            f"{folder} holds an audit of another version of cloven (schema {json.dumps(found.get(SCHEMA))}, here "
            f"{json.dumps(wanted.get(SCHEMA))}); give another folder (--out)"
        )
    if differences := [
        f"  {name}: {there} in the folder, {now} now" for name, there, now in differing(found, wanted)
    ]:
        raise ClovenError(
            [f"{folder} holds an audit with another configuration; give another folder (--out)", *differences]
        )
