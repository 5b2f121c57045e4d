"""Typed documents: everything written to a JSON file or sent as JSON is a frozen and strict pydantic model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cloven.errors import ClovenError, one_line, shown
from cloven.files import DOCUMENT_BYTES, TOML_BYTES, parse_json, read_text, read_toml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

EXPECTED = {
    "a valid number": "a number",
    "a valid integer": "a whole number, without a unit, point or exponent",
    "a valid integer, unable to parse string as an integer": "a whole number",
    "a valid boolean": "true or false",
    "a valid string": "text in quotes",
    "a finite number": "a number, not infinite",
    "greater than 0": "a number greater than 0",
    "greater than or equal to 0": "a number, 0 or more",
}
"""The expected value of an entry, for error messages, by pydantic's words for it."""

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
    """Read a document from a TOML file that a person wrote; errors as `read_toml`, and for each wrong entry."""
    try:
        # JSON mode accepts a list for a tuple; it is as strict about numbers and strings as Python mode.
        return kind.model_validate_json(json.dumps(read_toml(path, limit), default=str))
    except ValidationError as error:
        raise ClovenError(wrong_entries(error, str(path), correction)) from error


def correction(place: str, entry: ErrorDetails) -> str:
    """Return what a wrong entry of a file that somebody wrote has, and what is expected."""
    message, value = one_line(entry["msg"]), one_line(shown(entry["input"]))
    match entry["type"]:
        case "missing":
            return f"{place} is missing; add it"
        case "extra_forbidden":
            return f"{place} is not a known entry; correct its name, or remove it"
        case "value_error":
            return _message(place, entry).replace("Value error, ", "", 1)
        case "too_short" if not entry["input"]:
            return f"{place} is empty; expected at least one entry"
        case "model_type" | "dict_type":
            return f"{place} is {value}; expected a table"
        case _ if message.startswith("Input should be "):
            expected = message.removeprefix("Input should be ")
            return f"{place} is {value}; expected {EXPECTED.get(expected, expected)}"
        case _:
            return _message(place, entry)


def _message(place: str, entry: ErrorDetails) -> str:
    """Return what pydantic says about a wrong entry."""
    return ": ".join(filter(None, (place, one_line(entry["msg"]))))


def wrong_entries(
    error: ValidationError, name: str, sentence: Callable[[str, ErrorDetails], str] = _message
) -> list[str]:
    """Return a sentence for each of the first 20 entries of a document that are missing, unknown or wrong.

    Args:
        error: the error of the document.
        name: the name of the document.
        sentence: returns what is wrong with an entry, given its place.
    """
    found = []
    entries = [entry for entry in error.errors(include_url=False) if not _follows(entry)]
    for entry in entries[:SHOWN]:
        place = one_line(".".join(str(part) for part in entry["loc"] if part != "[key]"))
        found.append(f"{name}: {sentence(place, entry)}")
    if len(entries) > SHOWN:
        found.append(f"{name}: {len(entries) - SHOWN} more problems")
    return found


def _follows(entry: ErrorDetails) -> bool:
    """Return whether a list is too short only because its wrong items, which are listed too, do not count."""
    return entry["type"] == "too_short" and len(entry["input"]) >= entry["ctx"]["min_length"]
