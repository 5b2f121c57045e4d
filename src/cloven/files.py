"""Read files from untrusted sources with limits and checks, and write files atomically."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast, overload

from cloven.errors import ClovenError, system_reason

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydantic import JsonValue
    from torch import Tensor

DOCUMENT_BYTES = 256 << 20
"""The size limit of JSON files."""

TOML_BYTES = 4 << 20
"""The size limit of TOML files, which people write."""

DEPTH = 64
"""The deepest nesting of objects and lists in a document."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""An escaped surrogate in JSON. Decoded text has no others, so that a document without them is valid Unicode."""

_KEY = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""
_LONG_KEY = re.compile(rf"(?<![\w-]){_KEY}(?:\.[ \t]*+{_KEY}){{{DEPTH},}}+")
"""A dotted key with too many parts; tomllib keeps every prefix of a key, so that a long one takes gigabytes."""


def cache_dir() -> Path:
    """Return the folder for what can be made again, such as trained models.

    It is $CLOVEN_CACHE, else $XDG_CACHE_HOME/cloven, else ~/.cache/cloven.
    """
    if own := os.environ.get("CLOVEN_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cloven"


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without waiting for the other end of a pipe or opening a device.

    Raises:
        ClovenError: if the file is missing, unreadable, or not a regular file.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits until someone writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                kind = "a folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "a pipe or a device"
                raise ClovenError(f"cannot read {path}: it is {kind}; expected a regular file")
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except ClovenError:
        raise
    except ValueError as error:
        raise ClovenError(f"cannot read {path!r}: {error}") from error
    except OSError as error:
        raise ClovenError(f"cannot read {path}: {error.strerror or error}") from error


def check_regular(path: Path) -> Path:
    """Return the path of a regular file, for a library that opens it by name.

    Raises:
        ClovenError: as `open_regular`.
    """
    open_regular(path).close()
    return path


def read_bytes(path: Path, limit: int = DOCUMENT_BYTES) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        ClovenError: if the file is larger, or as `open_regular`.
    """
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            # Some files, such as those in /proc, report no size; others grow meanwhile.
            content = file.read(limit + 1) if size <= limit else b""
        except OSError as error:
            raise ClovenError(f"cannot read {path}: {error.strerror or error}") from error
    if max(size, len(content)) > limit:
        raise ClovenError(f"cannot read {path}: it has more than {limit} bytes")
    return content


def read_text(path: Path, limit: int = DOCUMENT_BYTES) -> str:
    """Read a UTF-8 file, without the byte-order mark that some editors add.

    Raises:
        ClovenError: if the file is not UTF-8, or as `read_bytes`.
    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ClovenError(f"cannot read {path}: it is not UTF-8 text ({error.reason} at {error.start})") from error


def read_json(path: Path, limit: int = DOCUMENT_BYTES) -> dict[str, JsonValue]:
    """Read the JSON object in a file; see `parse_json`."""
    return parse_json(read_text(path, limit), str(path))


def read_toml(path: Path, limit: int = TOML_BYTES) -> dict[str, object]:
    """Read the document in a TOML file; see `parse_toml`."""
    return parse_toml(read_text(path, limit), str(path))


@overload
def read_tensors(path: Path, framework: Literal["numpy"]) -> tuple[dict[str, str], dict[str, NDArray[Any]]]: ...


@overload
def read_tensors(path: Path, framework: Literal["pt"]) -> tuple[dict[str, str], dict[str, Tensor]]: ...


def read_tensors(path: Path, framework: Literal["numpy", "pt"]) -> tuple[dict[str, str], Mapping[str, object]]:
    """Read the metadata and the tensors of a safetensors file, as NumPy arrays or PyTorch tensors.

    Raises:
        ClovenError: if it is not a safetensors file, has a type that the framework lacks, or as `open_regular`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(check_regular(path), framework) as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ClovenError(f"cannot read {path} as safetensors: {error}") from error


def parse_json(text: str | bytes, name: str) -> dict[str, JsonValue]:
    """Parse a JSON object from an untrusted source.

    Args:
        text: the document; the caller limits its length.
        name: the file or the message, for error messages.

    Raises:
        ClovenError: if it is not valid JSON, is not an object, names a key twice, is nested deeper than 64,
            or holds text that is not valid Unicode.
    """
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ClovenError(f"{name} is nested too deep; expected at most {DEPTH} levels") from error
    except ValueError as error:
        raise ClovenError(f"{name} is not valid JSON: {_reason(error)}") from error
    if not isinstance(found, dict):
        raise ClovenError(f"{name} contains a {type(found).__name__}; expected a JSON object")
    check_depth(found, name)
    if isinstance(text, bytes) or _SURROGATE.search(text):
        check_text(found, name)
    return found


def toml_value(value: object) -> str:
    """Return a string, a number or a list of them in the notation of TOML, which is that of JSON for these."""
    return json.dumps(value, ensure_ascii=False)


def parse_toml(text: str, name: str) -> dict[str, object]:
    """Parse a TOML document.

    Args:
        text: the document.
        name: the file, for error messages.

    Raises:
        ClovenError: if it is not valid TOML, or is nested deeper than 64.
    """
    if _LONG_KEY.search(text):
        raise ClovenError(f"{name} is nested too deep; expected at most {DEPTH} levels")
    try:
        found = tomllib.loads(text.removeprefix("\ufeff"))
    except RecursionError as error:
        raise ClovenError(f"{name} is nested too deep; expected at most {DEPTH} levels") from error
    except ValueError as error:
        raise ClovenError(f"{name} is not valid TOML: {_reason(error)}") from error
    check_content(found, name)
    return found


def _reason(error: ValueError) -> str:
    return str(error).split("; use sys.")[0]  # drops advice to programmers on integers with too many digits


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"the key {twice[:80]!r} occurs twice in one object")
    return found


def check_content(document: Mapping[str, object], name: str) -> None:
    """Check the depth and the text of a document, without recursion.

    Raises:
        ClovenError: if it is nested deeper than 64, or holds text that is not valid Unicode.
    """
    check_depth(document, name)
    check_text(document, name)


def check_depth(document: Mapping[str, object], name: str) -> None:
    """Raise a ClovenError if a document is nested deeper than 64."""
    level: list[object] = [document]
    for _ in range(DEPTH):
        level = [item for value in level for item in _inside(value) if isinstance(item, dict | list)]
        if not level:
            return
    raise ClovenError(f"{name} is nested too deep; expected at most {DEPTH} levels")


def check_text(document: Mapping[str, object], name: str) -> None:
    """Raise a ClovenError if a document holds text that is not valid Unicode; it is not nested too deep."""
    level: list[object] = [document]
    while level:
        items = [item for value in level for item in (*_inside(value), *(value if isinstance(value, dict) else ()))]
        try:
            "".join(item for item in items if isinstance(item, str)).encode()
        except UnicodeEncodeError as error:
            raise ClovenError(f"{name} contains text that is not valid Unicode (a lone surrogate)") from error
        level = [item for item in items if isinstance(item, dict | list)]


def _inside(value: object) -> Iterable[object]:
    """Return the values of an object, or the items of a list."""
    return value.values() if isinstance(value, dict) else cast("list[object]", value)


def file_names(names: Sequence[str]) -> list[str]:
    """Return a unique file name for each name: in ASCII, with a number appended if it is taken."""
    taken: dict[str, str] = {}
    for first, given in enumerate(names):
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", given) or "_"
        numbered = (f"{plain}-{number}" for number in count(first))
        name = next(name for name in chain([plain], numbered) if name.casefold() not in taken)
        taken[name.casefold()] = name
    return list(taken.values())


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: readers see all of it or nothing.

    Raises:
        ClovenError: if it cannot be written.
    """
    with replacing(path) as part:
        part.write_text(text, "utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see all of it or nothing.

    Raises:
        ClovenError: if it cannot be written.
    """
    with replacing(path) as part:
        part.write_bytes(content)


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces `path` at the end; after an error it is removed.

    The folder is created if it does not exist.

    Args:
        path: the file, which may exist already.
        private: create the file with mode 0600, so that other users cannot read it at any time.

    Raises:
        ClovenError: if the file cannot be written (no space, no permission, a read-only file system), or the path
            is a folder, a pipe or a device, or its parent is not a folder.
    """
    from safetensors import SafetensorError

    part = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    try:
        # A rename would replace even /dev/null.
        if not path.name or (path.exists() and not path.is_file()):
            raise ClovenError(f"cannot write {path}: it is a folder, a pipe or a device; expected a file")
        if path.parent.exists() and not path.parent.is_dir():
            raise ClovenError(f"cannot write {path}: {path.parent} is not a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        if private:
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        yield part
        part.replace(path)
    except OSError as error:
        raise ClovenError(f"cannot write {path}: {system_reason(error)}") from error
    except SafetensorError as error:  # what safetensors raises instead of OSError
        raise ClovenError(f"cannot write {path}: {error}") from error
    finally:
        with suppress(OSError):
            part.unlink()


def lock(file: int | BinaryIO, busy: str) -> None:
    """Lock an open file or folder; the system releases it when it is closed, or the process ends or is killed.

    Args:
        file: the file, or its descriptor.
        busy: the message of the error if another process holds the lock.

    Raises:
        ClovenError: if another process holds it.
    """
    import fcntl  # not on Windows, where this module is imported too

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ClovenError(busy) from error


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new, empty folder, which replaces `path` at the end; after an error it is removed.

    An existing folder is replaced with everything in it; the caller checks that this is allowed.

    Raises:
        ClovenError: if it cannot be written.
    """
    token = secrets.token_hex(4)
    new, old = (path.with_name(f".{path.name}.{token}.{word}") for word in ("part", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    except OSError as error:
        raise ClovenError(f"cannot write {path}: {system_reason(error)}") from error
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
