"""The folder in which a worker keeps the bundles that were sent to it, and the name of the one that it uses.

    FOLDER/active.json       the hashes of the bundle that is used, and of the one before
    FOLDER/HASH/             a bundle: manifest.json, and the folders of the worker's devices
    FOLDER/.HASH.part/       one that is being received

A hash is the SHA-256 of the manifest.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from cloven.documents import Document, parse_document
from cloven.errors import ClovenError, system_reason
from cloven.files import lock, read_text, write_text
from cloven.runtime.bundle.format import MANIFEST, FileDigest, Manifest
from cloven.runtime.bundle.reader import parse_manifest
from cloven.runtime.cluster.protocol import MANIFEST_BYTES, Hash

ACTIVE = "active.json"

POINTER_BYTES = 4096
"""The maximum size of ``active.json`` in bytes."""

LARGEST_BUNDLE, MOST_FILES = 2**34, 2**16
"""The maximum size in bytes of the files that a worker accepts, and their number."""

OURS = re.compile(r"\.?[0-9a-f]{64}(\.part)?")
"""The names of the folders that may be removed."""


class ActiveBundles(Document):
    """The hashes of the bundle that a worker uses for new runs, and of the one that it used before."""

    version: Literal[1] = 1
    current: Hash
    previous: Hash | None = None


class UpgradeFolder:
    """The folder of one worker; another process cannot use it at the same time.

    Attributes:
        path: the folder.
        active: the bundles in use when the worker started; None if it was never upgraded.
    """

    def __init__(self, path: Path) -> None:
        """Create the folder if it is missing, and lock it.

        Raises:
            ClovenError: if it cannot be used, or another worker uses it.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            lock(self._lock, f"--upgrades is {path}, which another worker uses; give each worker its own folder")
        except OSError as error:
            raise ClovenError(f"--upgrades is {path}, which cannot be used: {system_reason(error)}") from error
        pointer = path / ACTIVE
        self.active = (
            parse_document(ActiveBundles, read_text(pointer, POINTER_BYTES), str(pointer))
            if pointer.exists()
            else None
        )

    def place(self, plan: str) -> Path:
        """Return the folder of a bundle."""
        return self.path / plan

    def activate(self, current: str, previous: str | None) -> None:
        """Record which bundle is used, and which one was used before.

        Raises:
            ClovenError: if the file cannot be written.
        """
        write_text(self.path / ACTIVE, ActiveBundles(current=current, previous=previous).text())

    def remove_except(self, plans: Collection[str]) -> None:
        """Remove all bundles but these, and what is left of bundles that were not received completely."""
        for path in self.path.iterdir():
            if OURS.fullmatch(path.name) and path.name not in plans and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


class IncomingBundle:
    """A bundle that is being received: the manifest, then the files in its order, each as one or more chunks.

    Every chunk is checked before it is written. `finish` moves the bundle to its place, `discard` removes it.

    Attributes:
        manifest: the manifest.
        folders: the folders whose files are received.
    """

    def __init__(self, folder: UpgradeFolder, plan: str, manifest: bytes, device: str | None) -> None:
        """Check the manifest, and create a temporary folder.

        Args:
            folder: the worker's folder.
            plan: the hash of the manifest.
            manifest: its text.
            device: the device whose files are received; None for all.

        Raises:
            ClovenError: if the manifest is wrong, or there is no space for the files.
        """
        if (found := hashlib.sha256(manifest).hexdigest()) != plan or len(manifest) > MANIFEST_BYTES:
            raise ClovenError(f"the manifest has the hash {found[:12]}; expected {plan[:12]}")
        self.plan, self.manifest = plan, parse_manifest(manifest, "the manifest")
        self.folders = folders_of(self.manifest, device)
        self.files = files_in(self.manifest, self.folders)
        size = sum(file.bytes for _, file in self.files)
        if size > LARGEST_BUNDLE or len(self.files) > MOST_FILES:
            raise ClovenError(
                f"the bundle has {len(self.files)} files of {size} bytes; expected at most {MOST_FILES} files of "
                f"{LARGEST_BUNDLE} bytes"
            )
        self.target, self.part = folder.place(plan), folder.path / f".{plan}.part"
        self._next = iter(self.files)
        self._file: BinaryIO | None = None
        self._name, self._expected, self._left = "", FileDigest(sha256="", bytes=0), 0
        try:
            if (free := shutil.disk_usage(folder.path).free) < size:
                raise ClovenError(f"{folder.path} has {free} bytes of free space; the bundle needs {size}")
            shutil.rmtree(self.part, ignore_errors=True)
            self.part.mkdir()
            (self.part / MANIFEST).write_bytes(manifest)
            self.complete = not self._open_next()
        except OSError as error:
            self.discard()
            raise ClovenError(f"cannot write to {self.part}: {system_reason(error)}") from error

    def _open_next(self) -> bool:
        """Open the next file that is not empty; return whether there is one."""
        for name, expected in self._next:
            self._name, self._expected = name, expected
            path = self.part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._left, self._hash = path.open("xb"), self._expected.bytes, hashlib.sha256()
            if self._left:
                return True
            self._close()
        return False

    def add(self, chunk: bytes) -> None:
        """Write the next chunk, which is part of one file.

        Raises:
            ClovenError: if it does not belong to a file, or the file differs from the manifest.
        """
        if self._file is None or not 0 < len(chunk) <= self._left:
            raise ClovenError(
                f"got a chunk of {len(chunk)} bytes; expected 1 to {self._left} bytes of {self._name or 'a file'}"
            )
        try:
            self._file.write(chunk)
            self._hash.update(chunk)
            self._left -= len(chunk)
            if not self._left:
                self._close()
                self.complete = not self._open_next()
        except OSError as error:
            raise ClovenError(f"cannot write to {self.part}: {system_reason(error)}") from error

    def _close(self) -> None:
        """Close a file that was received.

        Raises:
            ClovenError: if its hash is not the manifest's.
        """
        if self._file is None:
            return
        file, self._file = self._file, None
        with file:
            file.flush()
            os.fsync(file.fileno())
        if (found := self._hash.hexdigest()) != self._expected.sha256:
            raise ClovenError(
                f"{self._name} has the hash {found[:12]}; expected {self._expected.sha256[:12]}, as in the manifest"
            )

    def finish(self) -> Path:
        """Move the complete bundle to its place, and return that.

        Raises:
            ClovenError: if that fails.
        """
        try:
            shutil.rmtree(self.target, ignore_errors=True)
            self.part.rename(self.target)
        except OSError as error:
            raise ClovenError(f"cannot write {self.target}: {system_reason(error)}") from error
        return self.target

    def discard(self) -> None:
        """Remove what was received so far."""
        if self._file is not None:
            self._file.close()
            self._file = None
        shutil.rmtree(self.part, ignore_errors=True)


def folders_of(manifest: Manifest, device: str | None) -> list[str]:
    """Return the folder of a device in a bundle, or those of all devices; empty if the plan lacks the device."""
    return [found.folder for found in manifest.devices if device in (None, found.name)]


def files_in(manifest: Manifest, folders: Collection[str]) -> Sequence[tuple[str, FileDigest]]:
    """Return the files in folders of a bundle, in the order in which they are sent."""
    return [(name, file) for name, file in manifest.files.items() if name.partition("/")[0] in folders]


def chunks(path: Path, size: int) -> Iterator[bytes]:
    """Yield a file in chunks of at most ``size`` bytes.

    Raises:
        ClovenError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            while chunk := file.read(size):
                yield chunk
    except OSError as error:
        raise ClovenError(f"cannot read {path}: {system_reason(error)}") from error
