"""Backends that start the trusted half: as an ordinary process (simulated), or with Gramine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cloven.enclave.handover import Way
from cloven.enclave.quote import DIRECT, SGX, SIMULATED
from cloven.errors import ClovenError
from cloven.parallel import THREADS

MODULE = "cloven.enclave.trusted"
PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH")
"""The variables that the processes inherit from the caller's environment."""


@dataclass(frozen=True)
class Backend:
    """One way to start the trusted half.

    Attributes:
        name: the name on the command line.
        kind: the kind of measurement in its quote.
        program: the program that must be on the PATH; empty for this interpreter.
        ways: the supported kinds of hand-over.
        words: how far it protects, for every output.
    """

    name: str
    kind: str
    program: str
    ways: tuple[Way, ...]
    words: str

    def command(self, sealed: Path, arguments: list[str], manifest: Path) -> list[str]:
        """Return the command line of the process.

        Raises:
            ClovenError: if Gramine or its manifest is missing.
        """
        if not self.program:
            return [sys.executable, "-m", MODULE, str(sealed), *arguments]
        problems = []
        if shutil.which(self.program) is None:
            problems.append(
                f"{self.program} is not on the PATH; install Gramine (https://gramine.readthedocs.io), or run both "
                "halves without protection: --backend simulated"
            )
        needed = manifest.with_name(manifest.name + (".sgx" if self.kind == SGX else ""))
        if not needed.is_file():
            problems.append(
                f"{needed} is missing; write its template (cloven enclave manifest {sealed}) and create it with "
                "gramine-manifest" + (" and gramine-sgx-sign" if needed.suffix == ".sgx" else "")
            )
        if problems:
            raise ClovenError(problems)
        return [self.program, manifest.name.removesuffix(".manifest"), *arguments]


SIMULATED_BACKEND = Backend(
    name="simulated",
    kind=SIMULATED,
    program="",
    ways=("memory", "file", "pipe"),
    words="simulated: an ordinary process; nothing protects it from the operator of this machine",
)
DIRECT_BACKEND = Backend(
    name="gramine-direct",
    kind=DIRECT,
    program="gramine-direct",
    ways=("pipe",),
    words="gramine-direct: Gramine without SGX; nothing protects it from the operator of this machine",
)
SGX_BACKEND = Backend(
    name="gramine-sgx",
    kind=SGX,
    program="gramine-sgx",
    ways=("pipe",),
    words="gramine-sgx: an SGX enclave; trust in it requires a verified quote and trust in the processor's vendor",
)
BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {backend.name: backend for backend in (SIMULATED_BACKEND, DIRECT_BACKEND, SGX_BACKEND)}
)


def named(name: str) -> Backend:
    """Return the backend with a name.

    Raises:
        ClovenError: if there is none.
    """
    if name not in BACKENDS:
        raise ClovenError(f"the backend is {name!r}; choose from {', '.join(BACKENDS)}")
    return BACKENDS[name]


def environment(threads: int) -> dict[str, str]:
    """Return the environment of the processes, with only the caller's variables that Python needs."""
    own = {name: value for name in PASSED if (value := os.environ.get(name)) is not None}
    return {**own, **THREADS, "OMP_NUM_THREADS": str(threads), "PYTHONDONTWRITEBYTECODE": "1"}
