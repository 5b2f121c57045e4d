"""The store: a folder with one JSON file a cell, written at once or not at all, and its tensors beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cloven.audit.features import Shelf
from cloven.audit.finding import Finding
from cloven.errors import ClovenError
from cloven.files import write_text

CONFIG, SUMMARY, REPORT = "config.json", "summary.json", "report.html"
CELLS, SHELF = "cells", ".features"


def to_text(value: Any) -> str:
    """JSON as the store writes it; NaN and infinity are refused."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Store:
    """A run's folder: ``config.json``, ``cells/KEY.{json,safetensors}``, ``summary.json``, ``report.html``."""

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

    def save(self, finding: Finding) -> None:
        """Keep a cell's result; it is finished when its JSON file stands."""
        tensors = {**{f"score/{k}": v for k, v in finding.scores.items()}, **finding.samples}
        path = self.folder / CELLS / f"{finding.key}.safetensors"
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        save_file({name: t.contiguous() for name, t in tensors.items()}, part)
        part.replace(path)
        write_text(path.with_suffix(".json"), to_text(finding.to_json()))
        path.with_suffix(".checkpoint").unlink(missing_ok=True)

    def cell(self, key: str) -> dict[str, Any]:
        """A cell's result."""
        return read_json(self.folder / CELLS / f"{key}.json")

    def tensors(self, key: str) -> Mapping[str, Tensor]:
        """A cell's scores of each image (``score/ssim`` ...) and its sample images."""
        path = self.folder / CELLS / f"{key}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ClovenError(
                f"{path} cannot be read ({error}); delete it and its .json and run the audit again"
            ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ClovenError: where it cannot be read or is no JSON object.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ClovenError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise ClovenError(f"{path} holds {type(value).__name__}; expected a JSON object")
    return value


def opened(folder: Path, config: Mapping[str, Any]) -> Store:
    """The store of a run with this configuration: a new folder, or one that the same configuration began.

    Raises:
        ClovenError: where the folder holds a run of another configuration, or other files.
    """
    store, wanted = Store(folder), json.loads(json.dumps(config))
    if folder.exists() and not folder.is_dir():
        raise ClovenError(f"{folder} is a file; give a folder for the results (--out)")
    if (folder / CONFIG).exists():
        found = read_json(folder / CONFIG)
        differences = [
            f"{key}: there {json.dumps(found.get(key))}, now {json.dumps(wanted.get(key))}"
            for key in sorted(found.keys() | wanted.keys())
            if found.get(key) != wanted.get(key)
        ]
        if differences:
            raise ClovenError(
                [
                    f"{folder} holds an audit of another configuration; give another folder (--out)",
                    *(f"  {difference}" for difference in differences),
                ]
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ClovenError(f"{folder} is not empty and holds no audit; give another folder (--out)")
    (folder / CELLS).mkdir(parents=True, exist_ok=True)
    for part in [*folder.glob(".*.part"), *(folder / CELLS).glob(".*.part")]:
        part.unlink(missing_ok=True)
    write_text(folder / CONFIG, to_text(wanted))
    return store
