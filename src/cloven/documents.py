"""Typed documents: everything written to a JSON file or sent as JSON is a frozen and strict pydantic model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cloven.errors import ClovenError, one_line
from cloven.files import DOCUMENT_BYTES, TOML_BYTES, parse_json, read_text, read_toml

Kind = TypeVar("Kind", bound=BaseModel)

SHOWN = 20
"""The number of problems of a document that are listed at most, because it may come from someone else."""


class Document(BaseModel):
    """A document: it is immutable, its entries have exactly the declared types, and unknown entries are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    def text(self) -> str:
        """Return the document as indented JSON that ends with a line feed."""
        return self.model_dump_json(indent=1) + "\n"


def parse_document(kind: type[Kind], text: str | bytes, name: str) -> Kind:
    """Parse a document from JSON.

    Args:
        kind: the class of the document.
        text: JSON; the caller limits its length.
        name: the file or the message, for error messages.

    Raises:
        ClovenError: as `parse_json`, and if entries are missing, unknown or wrong.
    """
    parse_json(text, name)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise ClovenError(wrong_entries(error, name)) from error


def read_document(kind: type[Kind], path: Path, limit: int = DOCUMENT_BYTES) -> Kind:
    """Read a document from a JSON file of at most `limit` bytes; errors as `read_text` and `parse_document`."""
    return parse_document(kind, read_text(path, limit), str(path))


def read_toml_document(kind: type[Kind], path: Path, limit: int = TOML_BYTES) -> Kind:
    """Read a document from a TOML file; errors as `read_toml` and `parse_document`."""
    try:
        # JSON mode accepts a list for a tuple; it is as strict about numbers and strings as Python mode.
        return kind.model_validate_json(json.dumps(read_toml(path, limit), default=str))
    except ValidationError as error:
        raise ClovenError(wrong_entries(error, str(path))) from error


def wrong_entries(error: ValidationError, name: str) -> list[str]:
    """Return a sentence for each of the first 20 entries of a document that are missing, unknown or wrong."""
    found = []
    for entry in error.errors(include_url=False, include_input=False)[:SHOWN]:
        place = one_line(".".join(map(str, entry["loc"])))
        found.append(": ".join(filter(None, (name, place, one_line(entry["msg"])))))
    if error.error_count() > SHOWN:
        found.append(f"{name}: {error.error_count() - SHOWN} more problems")
    return found
