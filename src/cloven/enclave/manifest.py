"""The Gramine manifest of the trusted half: the program in the enclave, and every file that it may access.

With Gramine 1.8 or 1.9 on the machine (for 1.7 one line of the template differs, see its comment)::

    cloven enclave manifest sealed/ --memory auto > cloven.manifest.template
    gramine-manifest -Darch_libdir=/lib/x86_64-linux-gnu cloven.manifest.template cloven.manifest
    gramine-direct cloven          # without SGX: the same files and calls, but without protection
    gramine-sgx-sign --manifest cloven.manifest --output cloven.manifest.sgx
    gramine-sgx cloven

Sources: gramineproject/gramine, Documentation/manifest-syntax.rst (meaning, defaults, removed options),
python/graminelibos/manifest_check.py (names and types) and manifest.py (trusted files), libos/src/fs/libos_fs.c
(mounts), pull requests 1716, 1820 and 2054 (``loader.entrypoint``: a string until 1.7, a table from 1.8 on, filled
in if missing), issue 359 (files both trusted and allowed); gramineproject/examples,
pytorch/pytorch.manifest.template (folders of libraries, threads).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cloven.enclave.manifest_check import HELPERS, problems
from cloven.enclave.sealed_folder import ABOUT, PLAN, WEIGHTS, opened
from cloven.enclave.sizes import size_text
from cloven.errors import ClovenError

Attestation = Literal["dcap", "none"]

SLOTS = 32
"""Slots for threads, including Gramine's own; more if PyTorch uses many threads."""

SEALED, SHARED = "/sealed", "/shared"
"""The paths in the enclave of the sealed folder and of the folder that is shared with the other half."""
ENVIRONMENT: Mapping[str, str] = {
    "HOME": "/tmp",  # noqa: S108 (inside the enclave: its own memory)
    "OMP_WAIT_POLICY": "passive",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
    "USER": "cloven",
}
"""The environment of the process, except for the number of threads and the path of Gramine's libraries."""


# --- the program and its files ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Python:
    """An interpreter.

    Attributes:
        executable: the path to call; in a virtual environment a link, by which Python finds the environment.
        binary: the program itself.
        prefix: the environment.
        path: the module search path.
        libraries: its shared libraries outside the system's folders.
    """

    executable: Path
    binary: Path
    prefix: Path
    path: tuple[Path, ...]
    libraries: tuple[Path, ...] = ()

    @classmethod
    def here(cls) -> Python:
        """Return the running interpreter, with the module path of a new process in `ENVIRONMENT`."""
        code = r"import os, sys; os.write(1, os.fsencode('\0'.join(sys.path)))"
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, env=dict(ENVIRONMENT), cwd="/", stdout=subprocess.PIPE, check=True)  # noqa: S603
        shared = sysconfig.get_config_var("Py_ENABLE_SHARED")
        names = [str(sysconfig.get_config_var(name)) for name in ("LIBDIR", "INSTSONAME")]
        return cls(
            Path(sys.executable),
            Path(sys.executable).resolve(),
            Path(sys.prefix),
            tuple(map(Path, os.fsdecode(done.stdout).split("\0"))),
            (Path(*names),) if shared else (),
        )


@dataclass(frozen=True)
class Enclosed:
    """The program inside and the files that it may access; paths of folders outside end with a slash.

    Attributes:
        entrypoint: the path of the program inside.
        argv: its arguments, beginning with its own name.
        environment: its environment without ``LD_LIBRARY_PATH``; nothing is inherited from the host.
        mounts: the path inside and the path outside of folders and single files.
        trusted: read-only files that are hashed when the enclave is signed.
        pinned: read-only files, each with its SHA-256 in hexadecimal.
        allowed: files that are read and written, and that the host can change.
        enclave_bytes: the size of the enclave, a power of two.
        max_threads: slots for threads, see `SLOTS`.
        attestation: the kind of remote attestation.
        debug: whether the host may inspect the enclave.
    """

    entrypoint: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[tuple[str, str], ...]
    trusted: tuple[str, ...]
    pinned: tuple[tuple[str, str], ...]
    allowed: tuple[str, ...]
    enclave_bytes: int
    max_threads: int = SLOTS
    attestation: Attestation = "dcap"
    debug: bool = False

    @property
    def strings(self) -> list[str]:
        """Return all texts that are written into the manifest unchanged."""
        pairs = [*self.environment.items(), *self.mounts, *self.pinned]
        words = [word for pair in pairs for word in pair]
        return [self.entrypoint, *self.argv, *self.trusted, *self.allowed, *words]


def runtime_files(python: Python) -> tuple[Path, ...]:
    """Return the paths that an interpreter reads besides the system's libraries; no path contains another."""
    named = [python.binary, python.prefix / "pyvenv.cfg", *python.path, *python.libraries]
    there = {path for path in named if path.exists()}
    return tuple(sorted(path for path in there if not there.intersection(path.parents)))


def enclosed(
    sealed: Path,
    python: Python,
    *,
    enclave_bytes: int,
    words: Sequence[str] = (),
    shared: Path | None = None,
    threads: int = 1,
    attestation: Attestation = "dcap",
) -> Enclosed:
    """Return the program and the files of an enclave that runs the trusted half of a sealed folder.

    Args:
        sealed: the sealed folder.
        python: an interpreter with cloven and PyTorch.
        enclave_bytes: see `enclave_size` and `parse_size`.
        words: the arguments of the trusted half after the folder.
        shared: the only folder that it may write to; None if it writes only to its standard output.
        threads: the number of PyTorch's threads.
        attestation: "none" if nothing must be proved, as with gramine-direct.

    Raises:
        ClovenError: if ``sealed`` is not a sealed folder.
    """
    opened(sealed)
    outside = sealed.absolute()
    files = runtime_files(python)
    mounts = [(str(path), str(path)) for path in files]
    allowed = [str(outside / name) for name in (PLAN, WEIGHTS)]
    if shared is not None:
        mounts.append((SHARED, str(shared.absolute())))
        allowed.append(f"{shared.absolute()}/")
    return Enclosed(
        entrypoint=str(python.binary),
        argv=(str(python.executable), "-m", "cloven.enclave.trusted", SEALED, *words),
        environment={"OMP_NUM_THREADS": str(threads), **ENVIRONMENT},
        mounts=(*mounts, (SEALED, str(outside))),
        trusted=tuple(f"{path}/" if path.is_dir() else str(path) for path in files),
        pinned=((str(outside / ABOUT), hashlib.sha256((sealed / ABOUT).read_bytes()).hexdigest()),),
        allowed=tuple(allowed),
        enclave_bytes=enclave_bytes,
        max_threads=max(SLOTS, 2 * threads + HELPERS + 1),  # PyTorch has two pools
        attestation=attestation,
    )


# --- the template -----------------------------------------------------------------------------------------------


HEAD = """\
# Gramine manifest template for the trusted half of a divided model, written by cloven. Render it with
# gramine-manifest -Darch_libdir=DIR; DIR is the folder of this machine's libraries, such as /lib/x86_64-linux-gnu.

# Gramine 1.7 expects a string instead: loader.entrypoint = "file:...".
loader.entrypoint.uri = "file:{{ gramine.libos }}"
# Messages other than errors could reveal to the host what happens inside.
loader.log_level = "error"
"""
RUN = """
# Arguments and environment are fixed here and part of the measurement: the host cannot choose them.
"""
PATHS = """\
# PYTHONSAFEPATH keeps the current folder out of the module path: files that the host can change are never run.
loader.env.LD_LIBRARY_PATH = "/lib:{{ arch_libdir }}:/usr{{ arch_libdir }}"
"""
MOUNTED = """
# Every child process would be a separate enclave; none is needed.
sys.disallow_subprocesses = true
# PyTorch's threads need more than Gramine's 256K.
sys.stack.size = "8M"

# The root is an empty memory file system: otherwise it would be the host's current folder.
fs.root = { type = "tmpfs" }
fs.mounts = [
  { path = "/lib", uri = "file:{{ gramine.runtimedir() }}" },
  { path = "{{ arch_libdir }}", uri = "file:{{ arch_libdir }}" },
  { path = "/usr{{ arch_libdir }}", uri = "file:/usr{{ arch_libdir }}" },
  { type = "tmpfs", path = "/tmp" },
"""
LIMITS = """
# Without EDMM, all memory is allocated at the start. EDMM requires SGX2 and Linux 6.0.
sgx.edmm_enable = false
"""
TRUSTED = """
# All code is trusted: hashed when the enclave is signed, read only, and part of the measurement. Every file in
# these folders is hashed, so use an environment that contains only cloven and PyTorch for the CPU.
sgx.trusted_files = [
  "file:{{ gramine.libos }}",
  "file:{{ gramine.runtimedir() }}/",
  "file:{{ arch_libdir }}/",
  "file:/usr{{ arch_libdir }}/",
"""
PINNED = f"""\
  # {ABOUT} is not encrypted. Its hash pins the model: every other sealed file is bound to the id in it, so the host
  # cannot replace the model by an older or another one.
"""
ALLOWED = """
# Sealed files are allowed, not trusted: Gramine need not hash them, because cloven decrypts them in authenticated
# chunks, with a key that the owner releases only after attestation. If the host changes one, it cannot be opened. A
# folder in this list carries the hand-over, which the other half sees in any case. Nothing else is writable.
# Gramine reports allowed files as insecure when it starts.
sgx.allowed_files = [
"""


def template(given: Enclosed) -> str:
    """Return the manifest as TOML; it is valid before rendering, since Jinja placeholders occur only in strings.

    Raises:
        ClovenError: lists everything that `problems` finds, and every path that is not UTF-8.
    """
    found = [f"{word!a} is not UTF-8; rename it" for word in given.strings if not _is_utf8(word)]
    text = _written(given)
    found += problems(tomllib.loads(text))
    if found:
        raise ClovenError(found)
    return text


def _written(given: Enclosed) -> str:
    mounts = (f"{{ path = {_toml(path)}, uri = {_uri(outside)} }}" for path, outside in given.mounts)
    pinned = (f"{{ uri = {_uri(path)}, sha256 = {_toml(digest)} }}" for path, digest in given.pinned)
    run = [("libos.entrypoint", _toml(given.entrypoint)), ("loader.argv", _toml(list(given.argv)))]
    run += [(f"loader.env.{_name(name)}", _toml(value)) for name, value in given.environment.items()]
    limits = [
        ("sgx.enclave_size", _toml(size_text(given.enclave_bytes))),
        ("sgx.max_threads", _toml(given.max_threads)),
        ("sgx.debug", _toml(given.debug)),
        ("sgx.remote_attestation", _toml(given.attestation)),
    ]
    parts = [HEAD, RUN, _entries(run), PATHS, MOUNTED, _items(mounts), "]\n", LIMITS, _entries(limits)]
    parts += [TRUSTED, _items(map(_uri, given.trusted)), PINNED, _items(pinned), "]\n"]
    return "".join([*parts, ALLOWED, _items(map(_uri, given.allowed)), "]\n"])


def _entries(pairs: Sequence[tuple[str, str]]) -> str:
    return "".join(f"{key} = {value}\n" for key, value in pairs)


def _items(values: Iterable[str]) -> str:
    return "".join(f"  {value},\n" for value in values)


def _uri(path: str) -> str:
    return _toml(f"file:{path}")


def _toml(value: Any) -> str:
    # JSON's notation is valid TOML except for DEL. Braces are escaped, since Jinja would interpret two of them.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f").replace("{", "\\u007b")


def _name(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _toml(key)


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
