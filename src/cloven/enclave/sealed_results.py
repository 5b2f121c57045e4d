"""Sealed results: class scores that are bound to the run, to the inputs, and to their position in the run.

A result is a JSON object, sealed under the folder's data key (see `cloven.enclave.sealing`). Only an enclave that
has the key can create or change one:

    run        64 hexadecimal digits, see `cloven.enclave.quote.Quote.run`: one start of the enclave and one release
    position   number of the message within the run, from 0
    inputs     SHA-256 of each picture of the message before it was sealed
    logits     (n, classes) float32

The owner compares these with their pictures and the run that they released (`open_results`). This detects a result
of an earlier run, a result of another input, an input that the host replaced, a missing result, and one result that
is returned for two inputs. Within a run, the enclave opens each sealed input once.

Not guaranteed: that results arrive; that the accelerator computed correctly (see `cloven.enclave.trusted`); and
anything about results that leave in clear, which the host can replace.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cloven.documents import Document, parse_document
from cloven.enclave.sealed_folder import INPUT, RESULT, Sealed
from cloven.enclave.sealing import MAGIC, sealed_bytes, unseal, unsealed_bytes
from cloven.errors import ClovenError
from cloven.files import read_bytes

RUN = re.compile("[0-9a-f]{64}")
RESULT_BYTES = 64 << 20
"""The size limit of a result; it suffices for a million classes."""


class SealedResult(Document):
    """The content of a sealed result; the module's table describes the attributes."""

    format: Literal["cloven result 1"] = "cloven result 1"
    run: Annotated[str, Field(pattern=f"^{RUN.pattern}$")]
    position: Annotated[int, Field(ge=0)]
    inputs: tuple[str, ...]
    logits: tuple[tuple[float, ...], ...]


def digest(picture: bytes) -> str:
    """Return the SHA-256 of a picture's file, in hexadecimal digits."""
    return hashlib.sha256(picture).hexdigest()


def sealed_result(result: SealedResult, folder: Sealed, key: bytes) -> bytes:
    """Return the sealed bytes of a result."""
    return sealed_bytes(result.model_dump_json().encode(), key, folder.name(RESULT))


def open_results(
    folder: Sealed, key: bytes, pairs: Sequence[tuple[Path, Path]], *, run: str
) -> tuple[list[SealedResult], list[str]]:
    """Open the results of inputs, and check that each belongs to its input and to the run.

    Args:
        folder: the sealed folder.
        key: its data key, 32 bytes.
        pairs: for each input, the result's file and the owner's copy of the picture or of the sealed input.
        run: the run that the owner released, 64 hexadecimal digits.

    Returns:
        The results, and notes about the run.

    Raises:
        ClovenError: lists one problem for each result that is missing, changed, or of another run or input.
    """
    if not RUN.fullmatch(run):
        raise ClovenError(f"the run is {run[:80]!r}; expected the 64 digits that `cloven enclave release` printed")
    problems: list[str] = []
    found: dict[int, tuple[Path, SealedResult]] = {}
    for path, own in pairs:
        try:
            result = _opened(path, own, folder, key, run)
        except ClovenError as error:
            problems += error.problems
            continue
        twin, _ = found.setdefault(result.position, (path, result))
        if twin != path:
            problems.append(f"{path} is a copy of {twin}: both are result {result.position} of the enclave")
    if not any(path.exists() for path, _ in pairs):
        problems.append(
            "none of the results exists; if the plan's last layers are not inside the enclave (--until), the "
            "results left it in clear: they are in the .json files beside the run's trace.json"
        )
    if problems:
        raise ClovenError(problems)
    missing = sorted(set(range(max(found) + 1)) - set(found))
    notes = []
    if missing:
        others = ", ".join(map(str, missing))
        notes.append(f"the run has other results: {others} (of 0 to {max(found)}) are not among these")
    return [result for _, result in found.values()], notes


def _opened(path: Path, own: Path, folder: Sealed, key: bytes, run: str) -> SealedResult:
    """Open one result, and check that it belongs to the owner's input and to the run."""
    if not path.exists():
        raise ClovenError(f"{path} is missing: the host did not return the result of {own}")
    content = unseal(path, key=key, name=folder.name(RESULT), limit=RESULT_BYTES)
    result = parse_document(SealedResult, bytes(content), str(path))
    if result.run != run:
        raise ClovenError(
            f"{path} is a result of another run ({result.run}, expected {run}): the host replayed it, or --run is "
            "not the run that `cloven enclave release` printed"
        )
    picture = read_bytes(own)
    if picture.startswith(MAGIC):
        picture = unsealed_bytes(picture, key, folder.name(INPUT))
    if result.inputs != (digest(picture),):
        raise ClovenError(f"{path} is not the result of {own}: the host renamed it, or ran another input")
    return result
