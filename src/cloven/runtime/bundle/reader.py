"""Read a bundle, and check every file against its manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from cloven.documents import Document, parse_document
from cloven.errors import ClovenError, shown
from cloven.files import open_regular, parse_json, read_text
from cloven.runtime.bundle.format import (
    FORMAT,
    MANIFEST,
    PART,
    DevicePart,
    FileDigest,
    Manifest,
    NumericalCheck,
    ReceiveShare,
    RunSegment,
    SendShare,
)


class DeviceSummary(Document):
    """A device's folder in a bundle, the number of its files, and their total size in bytes."""

    device: str
    folder: str
    files: int
    bytes: int


class BundleSummary(Document):
    """The summary of a bundle that `cloven bundle` prints."""

    bundle: str
    devices: tuple[DeviceSummary, ...]
    check: NumericalCheck


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files match its manifest."""

    folder: Path
    manifest: Manifest
    parts: Mapping[str, DevicePart]

    def place(self, device: str) -> Path:
        """Return the folder of a device."""
        (folder,) = (d.folder for d in self.manifest.devices if d.name == device)
        return self.folder / folder

    def summary(self) -> BundleSummary:
        """Return the files of each device, and the comparison with PyTorch."""
        devices = []
        for device in self.manifest.devices:
            prefix = device.folder + "/"
            sizes = [file.bytes for path, file in self.manifest.files.items() if path.startswith(prefix)]
            row = DeviceSummary(device=device.name, folder=device.folder, files=len(sizes), bytes=sum(sizes))
            devices.append(row)
        return BundleSummary(bundle=str(self.folder), devices=tuple(devices), check=self.manifest.check)


def read(folder: Path, device: str | None = None) -> Bundle:
    """Read a bundle and check every file against the manifest.

    Args:
        folder: the bundle's folder.
        device: if given, only this device's folder is read; the others need not exist.

    Raises:
        ClovenError: if the folder is not a bundle or has another version; otherwise lists every file that is
            missing, differs from the manifest, does not belong to the bundle, or lies outside of it.
    """
    manifest = read_manifest(folder)
    names = [d.name for d in manifest.devices]
    if device is not None and device not in names:
        raise ClovenError(f"{folder} has no device {device!r}; its devices are {', '.join(names)}")
    devices = [d for d in manifest.devices if device in (None, d.name)]
    unsafe = [name for name in (*manifest.files, *(d.folder for d in devices)) if not _inside(name)]
    if unsafe:
        raise ClovenError([f"{folder / MANIFEST} names {n!r}, which lies outside of the bundle" for n in unsafe])
    folders = {d.folder for d in devices}
    listed = {n: f for n, f in manifest.files.items() if device is None or PurePosixPath(n).parts[0] in folders}
    problems = list(_differences(folder, listed, folders if device else None))
    if problems:
        raise ClovenError(
            [*problems, f"{folder} has changed since it was written: copy it again, or run `cloven bundle`"]
        )
    parts = {d.name: _parsed(DevicePart, (folder / d.folder / PART)) for d in devices}
    wrong = list(_mismatches(parts, manifest))
    for d in devices:
        for step in parts[d.name].steps:
            if isinstance(step, RunSegment) and f"{d.folder}/{step.segment}" not in manifest.files:
                path = folder / d.folder / PART
                wrong.append(f"{path} names {step.segment!r}, which the manifest does not list")
    if wrong:
        raise ClovenError(wrong)
    return Bundle(folder, manifest, parts)


def read_device(folder: Path) -> tuple[Bundle, DevicePart]:
    """Return the bundle and the part of one device, from the device's folder in it; the others need not be there.

    Raises:
        ClovenError: for a folder that is not a device's of a bundle, and as `read`.
    """
    here = Path(os.path.realpath(folder))
    devices = read_manifest(here.parent).devices
    device = next((d.name for d in devices if d.folder == here.name), None)
    if device is None:
        known = ", ".join(str(folder.parent / d.folder) for d in devices)
        raise ClovenError(f"{folder} is not a device's folder of the bundle; expected one of {known}")
    bundle = read(here.parent, device)
    return bundle, bundle.parts[device]


def _mismatches(parts: Mapping[str, DevicePart], manifest: Manifest) -> Iterator[str]:
    """Yield each contradiction between the parts that were read, or between a part and the manifest."""
    names = [d.name for d in manifest.devices]
    sends: dict[tuple[int, str, str], SendShare] = {}
    receives: dict[tuple[int, str, str], ReceiveShare] = {}
    listed = 0
    for device, part in parts.items():
        for step in part.steps:
            match step:
                case SendShare():
                    sends[step.transfer, device, step.target] = step
                    listed += 1
                case ReceiveShare():
                    receives[step.transfer, device, step.source] = step
                    listed += 1
    if len({key[0] for key in sends}) + len({key[0] for key in receives}) < listed:
        yield "a transfer is listed twice"
    transfers: list[tuple[tuple[int, str, str], SendShare | ReceiveShare]] = [*sends.items(), *receives.items()]
    for (transfer, device, peer), step in transfers:
        if peer not in names or peer == device:
            yield f"transfer {transfer} of {device} names {peer!r}; the bundle's devices are {', '.join(names)}"
        elif peer in parts:
            other = (receives if isinstance(step, SendShare) else sends).get((transfer, peer, device))
            if other is None or not step.same_transfer(other):
                yield f"transfer {transfer} between {device} and {peer} differs between their parts"
    for device, part in parts.items():
        if part.device != device:
            yield f"the part of {device} was written for {part.device!r}"
    images = {device: part.image for device, part in parts.items()}
    outputs = {device: part.output for device, part in parts.items()}
    for end, values, shape in (("image", images, manifest.image), ("output", outputs, manifest.output)):
        found = {device: value for device, value in values.items() if value is not None}
        for device, value in found.items():
            if value.shape != shape:
                yield f"the {end} of {device} has the shape {value.shape}; expected {shape}, as in {MANIFEST}"
        if len(found) > 1 or (not found and len(parts) == len(names)):
            yield f"{len(found)} devices hold the {end}; expected one"


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a bundle without checking the files.

    Raises:
        ClovenError: if the folder is not a bundle, or has another version.
    """
    if not (folder / MANIFEST).is_file():
        raise ClovenError(
            f"{folder} is not a bundle: {MANIFEST} is missing; expected a folder that `cloven bundle` wrote"
        )
    return _parsed(Manifest, folder / MANIFEST)


Kind = TypeVar("Kind", DevicePart, Manifest)


def _parsed(kind: type[Kind], path: Path) -> Kind:
    """Return a document of a bundle; the version is checked first, since other versions have other fields."""
    return _parsed_text(kind, read_text(path), str(path))


def _parsed_text(kind: type[Kind], text: str | bytes, where: str) -> Kind:
    version = parse_json(text, where).get("format")
    if version != FORMAT:
        raise ClovenError(
            f"{where} has format {shown(version)}; this cloven reads {FORMAT}: write it again with `cloven bundle`"
        )
    return parse_document(kind, text, where)


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Return the manifest of a bundle that comes from someone else, as they sent it.

    Raises:
        ClovenError: if it is not a manifest, has another version, or names a file outside of the devices' folders.
    """
    manifest = _parsed_text(Manifest, text, where)
    folders = {device.folder for device in manifest.devices}
    unsafe = [name for name in (*manifest.files, *folders) if not _inside(name)]
    unsafe += [name for name in folders if _inside(name) and len(PurePosixPath(name).parts) > 1]
    unsafe += [name for name in manifest.files if _inside(name) and PurePosixPath(name).parts[0] not in folders]
    unsafe += [name for name in manifest.files if name in folders]
    if unsafe:
        raise ClovenError(
            f"{where} names {shown(unsafe[0])}; expected files in the folders of the devices, such as edge0/{PART}"
        )
    if wrong := [name for name, file in manifest.files.items() if file.bytes < 0]:
        raise ClovenError(f"{where}: the size of {shown(wrong[0])} is negative")
    return manifest


def _inside(name: str) -> bool:
    """Return whether a name is a relative path inside the folder on every operating system."""
    path = PurePosixPath(name)
    plain = not any(mark in name for mark in "\\:\0")
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts and str(path) == name


def _differences(folder: Path, listed: Mapping[str, FileDigest], folders: set[str] | None) -> Iterator[str]:
    """Yield each difference between the files and the manifest, in the whole bundle or in some of its folders."""
    found = {}
    for top in [folder] if folders is None else [folder / name for name in sorted(folders)]:
        for path in sorted(top.rglob("*")):
            if path.is_symlink() or not path.is_dir():
                found[path.relative_to(folder).as_posix()] = path
    for name in sorted(found.keys() - listed.keys() - {MANIFEST}):
        yield f"{name} does not belong to the bundle"
    for name, expected in sorted(listed.items()):
        if name not in found:
            yield f"{name} is missing"
        elif found[name].is_symlink():
            yield f"{name} is a link; expected a file"
        elif (size := found[name].stat().st_size) != expected.bytes:  # avoids hashing a huge file
            yield f"{name} differs: {size} bytes; expected {expected.bytes} bytes"
        elif (made := digest(found[name])) != expected:
            yield (
                f"{name} differs: {made.bytes} bytes, sha256 {made.sha256[:12]}...; "
                f"expected {expected.bytes} bytes, {expected.sha256[:12]}..."
            )


def digest(path: Path) -> FileDigest:
    """Return the SHA-256 and the size of a regular file."""
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
        return FileDigest(sha256=digest.hexdigest(), bytes=path.stat().st_size)
