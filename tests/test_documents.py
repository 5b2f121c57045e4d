"""Documents: strict and frozen, with a version and a JSON schema; errors name the problem, writes are atomic."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import pytest
from benchmarks import schemas
from pydantic import BaseModel, Field, ValidationError

from cloven.documents import Document, parse_document, read_document, read_toml_document
from cloven.enclave.dcap import Policy
from cloven.enclave.run_report import RunReport
from cloven.enclave.sealed_folder import SealedHeader
from cloven.enclave.sealed_results import SealedResult
from cloven.enclave.sweep import CutTimes
from cloven.errors import ClovenError
from cloven.files import replacing, replacing_folder, write_bytes
from cloven.runtime.bundle.format import DevicePart, Manifest

WRITTEN = (Manifest, DevicePart, SealedHeader, SealedResult, RunReport, CutTimes, Policy)
"""The documents of bundles and enclaves that are written to files."""


class Recipe(Document):
    version: Literal[1] = 1
    name: str
    steps: tuple[int, ...] = ()
    cups: Annotated[tuple[int, ...], Field(min_length=1)] = (1,)


@pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: kind.__name__)
def test_a_document_is_strict_and_has_a_version_and_a_schema(kind: type[BaseModel]) -> None:
    schema = kind.model_json_schema()
    strict = {key: kind.model_config.get(key) for key in ("frozen", "strict", "extra")}

    assert strict == {"frozen": True, "strict": True, "extra": "forbid"}
    version = schema["properties"].get("format") or schema["properties"]["version"]
    assert "const" in version
    assert schema["additionalProperties"] is False


def test_the_schemas_in_the_documentation_are_those_of_the_code() -> None:
    assert {path: path.read_text("utf-8") for path in schemas.FOLDER.iterdir()} == schemas.files()


def test_a_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    recipe = Recipe(name="tea", steps=(1, 2))
    (tmp_path / "recipe.json").write_text(recipe.text())
    (tmp_path / "recipe.toml").write_text('name = "tea"\nsteps = [1, 2]\n')

    assert read_document(Recipe, tmp_path / "recipe.json") == recipe
    assert read_toml_document(Recipe, tmp_path / "recipe.toml") == recipe
    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "coffee"


def test_every_wrong_entry_is_named() -> None:
    text = json.dumps({"version": 2, "name": 3, "steps": [1, "2"], "cups": ["x"], "sugar\n": True})

    with pytest.raises(ClovenError) as caught:
        parse_document(Recipe, text, "recipe.json")
    assert [problem.split(": ")[:2] for problem in caught.value.problems] == [
        ["recipe.json", "version"],
        ["recipe.json", "name"],
        ["recipe.json", "steps.1"],
        ["recipe.json", "cups.0"],
        ["recipe.json", "sugar\\n"],
    ]


def test_of_many_wrong_entries_the_first_are_named() -> None:
    text = json.dumps({"name": "tea", "steps": ["x"] * 1000})

    with pytest.raises(ClovenError) as caught:
        parse_document(Recipe, text, "recipe.json")
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "recipe.json: 980 more problems"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_bytes(path, b"old")

    with suppress(RuntimeError), replacing(path) as part:
        part.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]

    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_nobody_else_can_read_a_private_file_at_any_moment(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with replacing(tmp_path / "key", private=True) as part:
            assert part.stat().st_mode & 0o777 == 0o600
            part.write_bytes(b"secret")
    finally:
        os.umask(before)

    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with replacing_folder(tmp_path / "folder") as folder:
            (folder / name).touch()
    with suppress(RuntimeError), replacing_folder(tmp_path / "folder") as folder:
        (folder / "half").touch()
        raise RuntimeError

    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
