"""Write a bundle: a program's segments as ONNX models, beside what each device has to do."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from cloven.errors import ClovenError, system_reason
from cloven.graph.box import Shape, contains, extent, relative
from cloven.graph.graph import Op
from cloven.partition.program import Compute, Program, Receive, Send
from cloven.partition.protection import Protection
from cloven.runtime import bundle as form
from cloven.runtime.bundle import MANIFEST, PART, WEIGHTS, Bundle, Device, Manifest, Part, Piece, Run, Whole
from cloven.runtime.bundle_check import FEWEST, TOLERANCE, Built, largest_difference, pictures
from cloven.runtime.onnx.engine import Array, expect
from cloven.runtime.onnx.model import Model, UnsupportedError, Value, Weights
from cloven.runtime.onnx.nodes import apply
from cloven.runtime.onnx.views import crop
from cloven.runtime.schedule import numbered
from cloven.runtime.segments import Key, Segment, named, segments


def write(
    program: Program,
    out: Path,
    *,
    model: str,
    plan: str | Mapping[str, Any],
    images: Array | None,
    protection: Protection,
) -> Bundle:
    """See `cloven.runtime.bundle.write`."""
    shape = program.graph.input.shape
    images = pictures(shape) if images is None else images
    expect(images, shape)
    if len(images) < FEWEST:
        images = np.concatenate([images, pictures(shape)[len(images) :]])
    out = Path(os.path.realpath(out))  # unlike resolve(), it says nothing of links in a circle
    problems = _occupied(out)
    if unsendable := program.transforms.unsendable(program.devices) + _of_other_types(program):
        raise ClovenError(problems + unsendable)
    built = _build(program, model, problems)
    if problems:
        raise ClovenError(problems)
    with _replacing(out) as folder:
        for one in built.values():
            _write_device(one, folder / one.folder)
        difference = largest_difference(program, built, folder, images)
        check = form.Check(images=len(images), largest_difference=difference, tolerance=TOLERANCE)
        manifest = Manifest(
            model=model,
            plan=plan if isinstance(plan, str) else dict(plan),
            exact=program.exact,
            image=shape,
            output=program.graph.by_name[program.graph.output].shape,
            devices=tuple(Device(name=name, folder=one.folder) for name, one in built.items()),
            protection=protection,
            made_with={name: version(name) for name in ("cloven", "onnx", "onnxruntime", "torch", "numpy")},
            check=check,
            files={
                p.relative_to(folder).as_posix(): form.described(p)
                for p in sorted(folder.rglob("*"))
                if p.is_file()
            },
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    return Bundle(out, manifest, {name: one.part for name, one in built.items()})


def _of_other_types(program: Program) -> list[str]:
    """Return what crosses as another type than float32, one sentence a value."""
    crossing = {t.value: t for t in program.transfers if t.dtype != "float32"}
    return [
        f"{t.value} crosses {t.source}->{t.target} as {t.dtype}, but workers send float32; cut the model before "
        "the cast to it, or behind the one to float32; `cloven run` runs such a plan in one process"
        for t in crossing.values()
    ]


# --- models ---------------------------------------------------------------------------------------------------


def _build(program: Program, model: str, problems: list[str]) -> dict[str, Built]:
    """All devices' models in memory; what has no node is added to ``problems``, each op once."""
    found: dict[str, None] = {}
    built: dict[str, Built] = {}
    for device, folder in zip(program.devices, folders(program.devices), strict=True):
        weights, cut, models, steps = Weights(), {}, {}, []
        for i, segment in enumerate(segments(program, device)):
            name = f"segment-{i}.onnx"
            cut[name] = segment
            models[name] = _model(program, segment, weights, f"{device}/{name}", found)
            steps.append(_run(name, segment))
        built[device] = Built(folder, _part(program, device, model, steps), cut, models, weights)
    if found:
        problems += [*found, "such a model cannot be bundled; `cloven run` runs it with PyTorch"]
    parts = numbered({device: one.part for device, one in built.items()})
    return {device: replace(one, part=parts[device]) for device, one in built.items()}


def _model(
    program: Program, segment: Segment, weights: Weights, title: str, found: dict[str, None]
) -> onnx.ModelProto:
    model = Model(title, weights, WEIGHTS)
    values = {key: model.input(named(key), extent(key[1])) for key in segment.inputs}
    for step in segment.computes:
        key = (step.value, step.box)
        model.scope(named(key))
        try:
            made = apply(model, step.local, [_read(model, values, read) for read in step.reads])
            _require_shape(made, extent(step.box))
            if key in segment.outputs:
                _require_float32(model, made)
        except Exception as reason:  # arguments that nobody foresaw are refused too, never written wrong
            found[_sentence(program.graph.by_name[step.value], reason)] = None
            made = model.input(f"{named(key)}/missing", extent(step.box))
        values[key] = model.called(made, named(key))
    for key in segment.outputs:
        if (dtype := program.graph.by_name[key[0]].dtype) != "float32":
            found[
                f"{key[0]} is needed outside of its segment as {dtype}, but workers hold and send float32: cut the "
                "model before the cast to it, or behind the one to float32"
            ] = None
            continue
        model.output(values[key], extent(key[1]))
    return model.finish()


def _read(model: Model, values: Mapping[Key, Value], read: Key) -> Value:
    """A box that a computation reads: as it is there, or cut out of a larger one."""
    if read in values:
        return values[read]
    value, box = read
    key = next(k for k in values if k[0] == value and contains(k[1], box))
    return crop(model, values[key], relative(box, key[1]))


def _require_shape(made: Value, shape: Shape) -> None:
    if made.dims != (None, *shape):
        raise UnsupportedError(f"its nodes make {made.dims}; expected {(None, *shape)}, None for the batch")


def _require_float32(model: Model, made: Value) -> None:
    """Refuse what a device cannot hold between two segments."""
    if model.dtype(made) != np.float32:
        raise UnsupportedError(f"its value is {model.dtype(made)}; what leaves a segment is float32")


def _sentence(op: Op, reason: Exception) -> str:
    called = op.attrs.get("op", op.kind)
    said = reason
    if not isinstance(reason, UnsupportedError):
        said = UnsupportedError(f"there is no node for these arguments of it ({type(reason).__name__}: {reason})")
    return f"{op.name} ({called}, in {op.module or 'the model itself'}) cannot be written as ONNX: {said}"


# --- parts ----------------------------------------------------------------------------------------------------


def _run(name: str, segment: Segment) -> Run:
    inputs, outputs = (
        tuple(Piece(name=named(key), value=key[0], box=key[1]) for key in keys)
        for keys in (segment.inputs, segment.outputs)
    )
    return Run(step=segment.step, segment=name, inputs=inputs, outputs=outputs)


def _part(program: Program, device: str, model: str, runs: Sequence[Run]) -> Part:
    steps = [*runs, *(_crossing(step) for step in program.parts[device] if not isinstance(step, Compute))]
    image, output = program.graph.input, program.graph.by_name[program.graph.output]
    return Part(
        device=device,
        model=model,
        image=Whole(value=image.name, shape=image.shape) if device == program.source else None,
        output=Whole(value=output.name, shape=output.shape) if device == program.sink else None,
        steps=tuple(sorted(steps, key=lambda step: step.step)),
    )


def _crossing(step: Send | Receive) -> form.Send | form.Receive:
    t = step.transfer
    crossing: dict[str, Any] = {
        "step": step.step,
        "transfer": t.id,
        "message": 0,  # numbered once all parts are there
        "value": t.value,
        "share": t.share,
        "shape": t.shape,
        "bytes": t.bytes,
    }
    if isinstance(step, Send):
        return form.Send(target=t.target, **crossing)
    return form.Receive(source=t.source, **crossing)


# --- files ----------------------------------------------------------------------------------------------------


def folders(devices: Sequence[str]) -> list[str]:
    """A folder's name for each device: its own in plain letters, with a number where another has it."""
    taken: list[str] = []
    for i, device in enumerate(devices):
        name = re.sub(r"[^A-Za-z0-9_-]", "_", device) or "_"
        plain = name.casefold() not in {other.casefold() for other in taken}
        taken.append(name if plain else f"{name}-{i}")
    return taken


def _write_device(built: Built, folder: Path) -> None:
    folder.mkdir(parents=True)
    built.weights.write(folder / WEIGHTS)
    for name, model in built.models.items():
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))
        try:
            onnx.checker.check_model(folder / name, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ClovenError(
                f"{built.folder}/{name} is no valid ONNX, please report this model: {error}"
            ) from error
    (folder / PART).write_text(built.part.model_dump_json(indent=1) + "\n", "utf-8")


def _occupied(out: Path) -> list[str]:
    """What is wrong with the place for a bundle: it may be new, empty, or hold a bundle and nothing else."""
    try:
        str(out).encode()
        there = out.exists() or out.is_symlink()
    except UnicodeEncodeError:  # ONNX takes no other names
        return [f"{out}: the name is not valid UTF-8; give another one"]
    except OSError as error:
        return [f"cannot write the bundle {out}: {system_reason(error)}"]
    if not there:
        return []
    if not out.is_dir():
        return [f"{out} is not a folder; expected the name of a new folder, or of a bundle to replace"]
    present = {p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir()}
    if not present:
        return []
    try:
        foreign = sorted(present - form.read_manifest(out).files.keys() - {MANIFEST})
    except ClovenError as error:
        return [
            f"{out} holds {len(present)} files and is not a bundle that can be replaced ({error}); expected a new "
            "or empty folder, or a bundle: give another name"
        ]
    kept = "it also holds what no bundle has"
    return [f"{out} is a bundle, but {kept}: {', '.join(foreign[:5])}; move that away"] if foreign else []


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of ``out`` once all is written."""
    new, old = (out.with_name(f".{out.name}.{os.getpid()}.{word}") for word in ("part", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        if out.exists():
            out.rename(old)
        new.rename(out)
    except OSError as error:
        raise ClovenError(f"cannot write the bundle {out}: {system_reason(error)}") from error
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
