"""Write a bundle: the parts of all devices as files, compared with PyTorch before they replace an older bundle."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx

from cloven.errors import ClovenError, system_reason, tried
from cloven.files import file_names, replacing_folder
from cloven.partition.program import Program
from cloven.partition.protection import Protection
from cloven.runtime.bundle.engine import Array, expect
from cloven.runtime.bundle.format import MANIFEST, PART, WEIGHTS, DeviceFolder, Manifest, NumericalCheck
from cloven.runtime.bundle.lowering import BuiltPart, build
from cloven.runtime.bundle.reader import Bundle, digest, read_manifest
from cloven.runtime.bundle.segment_check import FEWEST, TOLERANCE, largest_difference, smooth_images


def write(
    program: Program,
    out: Path,
    *,
    model: str,
    plan: str,
    images: Array | None = None,
    protection: Protection | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a program as a bundle, and check every segment against PyTorch.

    Args:
        program: the compiled plan.
        out: the folder. It is written completely or not at all; an older bundle of the same plan is replaced.
        model: the model's name, for display.
        plan: the plan file's text; the manifest stores it unchanged.
        images: ``(n, C, H, W)`` float32 in [0, 1] for the comparison; if fewer than three, smooth random images
            are added.
        protection: the protection of the links; by default none.
        overwrite: also replace a bundle of another plan or model.

    Raises:
        ClovenError: if ops have no ONNX node (all are listed), the folder holds anything but a bundle of this plan,
            the program has transforms that workers cannot send, or a segment computes something else than PyTorch.
    """
    shape = program.graph.input.shape
    images = smooth_images(shape) if images is None else images
    expect(images, shape)
    if len(images) < FEWEST:
        images = np.concatenate([images, smooth_images(shape)[len(images) :]])
    out = Path(os.path.realpath(out))  # unlike resolve(), does not raise for a loop of links
    problems = place_problems(out, model, plan, overwrite=overwrite)
    if unsendable := program.transforms.unsendable(program.devices) + _not_float32(program):
        raise ClovenError(problems + unsendable)
    built = tried(lambda: build(program, model), problems)
    if built is None or problems:
        raise ClovenError(problems)
    folders = dict(zip(built, file_names(list(built)), strict=True))
    with replacing_folder(out) as folder:
        for device, part in built.items():
            _write_part(part, folder / folders[device])
        difference = largest_difference(program, built, {d: folder / name for d, name in folders.items()}, images)
        manifest = Manifest(
            model=model,
            plan=plan,
            exact=program.exact,
            image=shape,
            output=program.graph.by_name[program.graph.output].shape,
            devices=tuple(DeviceFolder(name=device, folder=name) for device, name in folders.items()),
            protection=protection or Protection(),
            made_with={name: version(name) for name in ("cloven", "onnx", "onnxruntime", "torch", "numpy")},
            check=NumericalCheck(images=len(images), largest_difference=difference, tolerance=TOLERANCE),
            files={
                path.relative_to(folder).as_posix(): digest(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            },
        )
        (folder / MANIFEST).write_text(manifest.text(), "utf-8")
    return Bundle(out, manifest, {device: part.part for device, part in built.items()})


def _not_float32(program: Program) -> list[str]:
    """Return a sentence for each value that crosses a link in another type than float32."""
    crossing = {t.value: t for t in program.transfers if t.dtype != "float32"}
    return [
        f"{t.value} crosses {t.source}->{t.target} as {t.dtype}, but workers send float32; cut the model before "
        f"the cast to {t.dtype}, or after the cast back to float32; `cloven run` runs this plan in one process"
        for t in crossing.values()
    ]


def _write_part(built: BuiltPart, folder: Path) -> None:
    folder.mkdir(parents=True)
    built.weights.write(folder / WEIGHTS)
    for name, model in built.models.items():
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))
        try:
            onnx.checker.check_model(folder / name, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ClovenError(
                f"{folder.name}/{name} is not valid ONNX: {error}; please report this model"
            ) from error
    (folder / PART).write_text(built.part.text(), "utf-8")


def place_problems(out: Path, model: str, plan: str, *, overwrite: bool) -> list[str]:
    """Return why a folder cannot take a bundle: it must be new, empty, or hold a bundle of the same plan.

    The arguments are those of `write`.
    """
    try:
        str(out).encode()
        there = out.exists() or out.is_symlink()
    except UnicodeEncodeError:  # ONNX requires UTF-8
        return [f"{out}: the name is not valid UTF-8; choose another name"]
    except OSError as error:
        return [f"cannot write {out}: {system_reason(error)}"]
    if not there:
        return []
    if not out.is_dir():
        return [f"{out} is not a folder; expected a new folder, or a bundle to replace"]
    present = {p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir()}
    if not present:
        return []
    try:
        found = read_manifest(out)
    except ClovenError as error:
        return [
            f"{out} holds {len(present)} files and is not a bundle that can be replaced ({error}); expected a new "
            "or empty folder, or a bundle: choose another folder"
        ]
    if foreign := sorted(present - found.files.keys() - {MANIFEST}):
        return [f"{out} is a bundle, but also holds other files: {', '.join(foreign[:5])}; move them away"]
    if not overwrite and (found.model, found.plan) != (model, plan):
        devices = ", ".join(device.name for device in found.devices)
        return [
            f"{out} holds a bundle of another plan: {found.model} on {devices}; choose a new folder, or replace it "
            "with --force"
        ]
    return []
