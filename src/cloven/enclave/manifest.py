"""The Gramine manifest of the trusted half: what runs in the enclave, and all that it may touch outside.

With Gramine 1.8 or 1.9 on the machine (for 1.7 one line of the template differs, and says so)::

    cloven enclave manifest sealed/ --memory auto > cloven.manifest.template
    gramine-manifest -Darch_libdir=/lib/x86_64-linux-gnu cloven.manifest.template cloven.manifest
    gramine-direct cloven          # without SGX: the same files and calls, and no protection at all
    gramine-sgx-sign --manifest cloven.manifest --output cloven.manifest.sgx
    gramine-sgx cloven

Sources: gramineproject/gramine, Documentation/manifest-syntax.rst (meaning, defaults, what is gone),
python/graminelibos/manifest_check.py (names and types) and manifest.py (trusted files), libos/src/fs/libos_fs.c
(mounts), pull requests 1716, 1820 and 2054 (``loader.entrypoint``: a string until 1.7, a table from 1.8 on, filled
in where it is left out), issue 359 (files both trusted and allowed); gramineproject/examples,
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
"""For threads, Gramine's own among them; more where PyTorch computes on many."""

SEALED, SHARED = "/sealed", "/shared"
"""The paths in the enclave of the sealed folder and of the folder that it shares with the other half."""
ENVIRONMENT: Mapping[str, str] = {
    "HOME": "/tmp",  # noqa: S108 (inside the enclave: its own memory)
    "OMP_WAIT_POLICY": "passive",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
    "USER": "cloven",
}
"""All that the process has, besides the number of threads and where Gramine's libraries are."""


# --- what runs, and what it touches -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Python:
    """An interpreter.

    Attributes:
        executable: how it is called; in a virtual environment a link, by which it finds the environment.
        binary: the program itself.
        prefix: the environment.
        path: where it looks for modules.
        libraries: shared ones of its own, outside the system's folders.
    """

    executable: Path
    binary: Path
    prefix: Path
    path: tuple[Path, ...]
    libraries: tuple[Path, ...] = ()

    @classmethod
    def here(cls) -> Python:
        """Return the running interpreter; its path is that of a new process with only `ENVIRONMENT`."""
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
    """The program inside, and all that it may touch; a folder outside is written with a slash at its end.

    Attributes:
        entrypoint: the program, by its path inside.
        argv: its words, the first being its own name.
        environment: all of it but ``LD_LIBRARY_PATH``; nothing is taken from the host.
        mounts: path inside and path outside, of folders and single files.
        trusted: read only, and hashed when the enclave is signed.
        pinned: read only, each with its SHA-256 in hexadecimal.
        allowed: read and written, and changed by the host at will.
        enclave_bytes: a power of two.
        max_threads: slots for threads, see `SLOTS`.
        attestation: how the enclave proves what it is.
        debug: whether the host may look inside.
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
        """Return all text that is written into a manifest as it is."""
        pairs = [*self.environment.items(), *self.mounts, *self.pinned]
        words = [word for pair in pairs for word in pair]
        return [self.entrypoint, *self.argv, *self.trusted, *self.allowed, *words]


def runtime_files(python: Python) -> tuple[Path, ...]:
    """Return what an interpreter reads besides the system's libraries; no path lies within another."""
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
    """Return what runs inside and what it may touch: the trusted half of a sealed folder, in one interpreter.

    Args:
        sealed: the sealed folder.
        python: has cloven and PyTorch.
        enclave_bytes: see `enclave_size` and `parse_size`.
        words: what follows the folder on the command line of the trusted half.
        shared: the one folder that it may write to; None if all goes out through its standard output.
        threads: that PyTorch computes on.
        attestation: "none" where nothing is to be proved, as with gramine-direct.

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
# Gramine manifest template for the trusted half of a division, written by cloven. Render it with gramine-manifest
# -Darch_libdir=..., where that is the folder of this machine's libraries, such as /lib/x86_64-linux-gnu.

# Gramine 1.7 takes this one as a string: loader.entrypoint = "file:...".
loader.entrypoint.uri = "file:{{ gramine.libos }}"
# More than errors could tell the host what happens inside.
loader.log_level = "error"
"""
RUN = """
# Words and environment are fixed here, and so part of what the owner attests: the host chooses none of them.
"""
PATHS = """\
# PYTHONSAFEPATH keeps the current folder out of the module path, so that no file that the host may change is run.
loader.env.LD_LIBRARY_PATH = "/lib:{{ arch_libdir }}:/usr{{ arch_libdir }}"
"""
MOUNTED = """
# Every child would be an enclave of its own; nothing here needs one.
sys.disallow_subprocesses = true
# PyTorch's threads need more than Gramine's 256K.
sys.stack.size = "8M"

# The root is empty memory: otherwise it would be the host's current folder.
fs.root = { type = "tmpfs" }
fs.mounts = [
  { path = "/lib", uri = "file:{{ gramine.runtimedir() }}" },
  { path = "{{ arch_libdir }}", uri = "file:{{ arch_libdir }}" },
  { path = "/usr{{ arch_libdir }}", uri = "file:/usr{{ arch_libdir }}" },
  { type = "tmpfs", path = "/tmp" },
"""
LIMITS = """
# Without EDMM all of it is taken from the machine at the start. EDMM needs SGX2 and Linux 6.0.
sgx.edmm_enable = false
"""
TRUSTED = """
# All code is trusted: hashed when the enclave is signed, read only, and part of its measurement. Every file in
# these folders is hashed, so use an environment with nothing but cloven and PyTorch for the CPU.
sgx.trusted_files = [
  "file:{{ gramine.libos }}",
  "file:{{ gramine.runtimedir() }}/",
  "file:{{ arch_libdir }}/",
  "file:/usr{{ arch_libdir }}/",
"""
PINNED = f"""\
  # {ABOUT} is in clear. Its hash pins which model runs here: every other sealed file is bound to the number in it,
  # so the host cannot put an older or another sealed model in its place.
"""
ALLOWED = """
# Sealed files are allowed, not trusted: Gramine need not hash them, because cloven opens them in authenticated
# chunks, under a key that the owner releases only after attestation. Whatever the host does to them, they open
# unchanged or not at all. A folder listed here, if any, is where the hand-over goes, which the other half sees in
# any case. Nothing else can be written. Gramine reports allowed files as insecure when it starts.
sgx.allowed_files = [
"""


def template(given: Enclosed) -> str:
    """Return the manifest as TOML, with Gramine's Jinja placeholders in strings only: it can be parsed as it is.

    Raises:
        ClovenError: with everything that `problems` finds in it, and every path that is not UTF-8.
    """
    found = [f"{word!a} is not UTF-8, and a manifest is; rename it" for word in given.strings if not _is_utf8(word)]
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
    # JSON's notation is TOML's but for DEL. A brace is written by its number: Jinja would read two of them.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f").replace("{", "\\u007b")


def _name(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _toml(key)


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
