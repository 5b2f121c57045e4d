"""Documents and messages from others give a value or a ClovenError, never another error, and quickly."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from cloven.attacks.trainer import train
from cloven.cost.cluster import Cluster
from cloven.enclave import pipe, split
from cloven.errors import ClovenError
from cloven.files import parse_json, parse_toml, read_bytes, read_json, read_tensors, read_toml, replacing
from cloven.partition import plan as plans
from cloven.partition.plan import parse
from cloven.runtime.bundle import engine, reader
from cloven.runtime.bundle.format import MANIFEST, PART
from cloven.runtime.bundle.schedule import schedule
from cloven.runtime.bundle.writer import write
from cloven.runtime.tap import extraction
from tests.attacks.problems import problem
from tests.attacks.test_trainer import begun
from tests.fuzzing import Reader, counts, from_file, fuzz
from tests.models import lenet5

MODEL = """[model]
name = "lenet5"
input = [1, 28, 28]
classes = 10
"""
DATA = (
    'devices = ["edge0", "edge1", "edge2"]\n'
    + MODEL
    + """[[strategy]]
until = "pool2"
kind = "data"
grid = [3, 1]
[[strategy]]
kind = "horizontal"
shares = [2, 1.0, 1]
[protection.links]
"edge0-edge1" = "ascon-128"
"""
)
VERTICAL = (
    """version = 1
devices = ["edge0", "edge1", "edge2"]
routing = "star"
"""
    + MODEL
    + """[strategy]
kind = "vertical"
cuts = ["pool1", "conv3"]
on = ["edge2", "edge1", "edge0"]
[transform.links]
"edge0-edge1" = "int8"
"""
)
CLUSTER = """keys = "keys"
[devices]
edge0 = "127.0.0.1:7001"
edge1 = "[::1]:7002"
"""
ODD: tuple[Any, ...] = (
    -1, 0, 1, 2**31, 2**63, 10**400, 0.5, 1e308, True, None, "", "\0", "a" * 5000, "../up", [], {}, [-1, 2],
)  # fmt: skip
"""Replacements for a value in a document."""


def changed(document: Any, seed: int) -> Any:
    """Return a document with one or two of its values changed, dropped, repeated or swapped."""
    chance, made = random.Random(seed), copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 2))):
        places = list(walk(made))
        holder, key = chance.choice(places)
        other, place = chance.choice(places)
        match chance.randrange(6):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case 2 if isinstance(holder, list):
                del holder[key]
            case 3:
                holder[key] = copy.deepcopy(other[place])
            case 4 if isinstance(holder[key], int):
                holder[key] += chance.choice((-1, 1))
            case _:
                holder[key] = copy.deepcopy(chance.choice(ODD))
    return made


def walk(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the place of each value in a document: its container, and its key or index."""
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in keys:
        yield document, key
        yield from walk(document[key])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a bundle for three devices that exchange shares."""
    folder = tmp_path_factory.mktemp("fuzz") / "bundle"
    write(plans.compile(lenet5(), parse(DATA)), folder, model="lenet5", plan=DATA)
    return folder


def rehash(folder: Path, name: str, content: bytes) -> None:
    """Write a file of a bundle, with a matching manifest, as an attacker who controls both would."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def run(folder: Path) -> None:
    for part in reader.read(folder).parts.values():
        schedule(part)
    engine.run(folder, np.zeros((1, 1, 28, 28), np.float32))


@counts
def test_plans(count: int) -> None:
    def read(content: bytes) -> None:
        plans.compile(lenet5(), parse(content.decode(errors="surrogateescape")))

    fuzz(Reader("plan", [DATA.encode(), VERTICAL.encode()], read), count)


@counts
def test_clusters(count: int, tmp_path: Path) -> None:
    def read(path: Path) -> None:
        Cluster.load(path, ["edge0", "edge1"])

    fuzz(Reader("cluster", [CLUSTER.encode()], from_file(read, tmp_path / "cluster.toml")), count)


@counts
@pytest.mark.parametrize("name", [MANIFEST, f"edge1/{PART}"])
def test_documents_of_a_bundle(count: int, name: str, written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "bundle")
    original, manifest = (written / name).read_bytes(), (written / MANIFEST).read_bytes()

    def read(content: bytes) -> None:
        (folder / MANIFEST).write_bytes(manifest)
        rehash(folder, name, content) if name != MANIFEST else (folder / name).write_bytes(content)
        run(folder)

    fuzz(Reader(name, [original], read), count)


@counts
@pytest.mark.parametrize("name", [MANIFEST, f"edge1/{PART}"])
def test_values_of_a_bundles_documents(count: int, name: str, written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "bundle")
    original, manifest = json.loads((written / name).read_bytes()), (written / MANIFEST).read_bytes()

    found = Counter[str]()
    for seed in range(count):
        content = json.dumps(changed(original, seed)).encode()
        (folder / MANIFEST).write_bytes(manifest)
        rehash(folder, name, content) if name != MANIFEST else (folder / name).write_bytes(content)
        try:
            run(folder)
            found["value"] += 1
        except ClovenError:
            found["own error"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
    print(f"values of {name}: {dict(found)}")  # noqa: T201 - shown by pytest -rP


@counts
def test_models_of_a_bundle(count: int, written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "bundle")

    def read(content: bytes) -> None:
        rehash(folder, "edge1/segment-0.onnx", content)
        run(folder)

    fuzz(Reader("onnx", [(written / "edge1/segment-0.onnx").read_bytes()], read), count)


@counts
def test_captures(count: int, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    messages = {0: np.zeros((3, 4), np.float32), 1: np.ones((3, 5), np.float32)}
    path = extraction.write(extraction.CapturedMessages(np.arange(3), messages, "a-b", False, 99, ("7f",)), folder)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        extraction.read(folder)

    fuzz(Reader("captured", [path.read_bytes()], read), count)


@counts
@pytest.mark.parametrize("framework", ["numpy", "pt"])
def test_tensors(count: int, framework: Any, tmp_path: Path) -> None:
    valid = save({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.uint8)}, {"format": "1"})

    fuzz(
        Reader("safetensors", [valid], from_file(lambda path: read_tensors(path, framework), tmp_path / "file")),
        count,
    )


@counts
def test_what_is_handed_over(count: int) -> None:
    weights = split.written(split.ModelPart((("input", ((0, 1), (0, 28), (0, 28))),), (), ()))

    fuzz(Reader("handed over", [weights], split.read), count)


@counts
def test_messages_between_processes(count: int) -> None:
    report = pipe.SplitReport(
        decrypted_seconds=0.5,
        split_seconds=0.25,
        takes=((1, 2), (3,)),
        gives=(),
        values=("conv1", "conv2"),
        result="clear",
        front_ops=1,
        rear_ops=2,
        front_weight_bytes=3,
        rear_weight_bytes=4,
    )
    words = report.model_dump_json().encode()
    valid = pipe.HEAD.pack(len(words), 5) + words + b"\0" * 5

    def read(content: bytes) -> None:
        hears, tells = os.pipe()
        try:
            os.write(tells, content[:60_000])
            os.close(tells)
            pipe.heard(hears, pipe.SplitReport)
        finally:
            os.close(hears)

    fuzz(Reader("messages", [valid], read), count)


@counts
def test_json_and_toml(count: int) -> None:
    document = b'{"a": [1, 2.5, "x", null, true, {"b": "\\u00e9"}], "c": -1e3}'
    table = b'a = [1, 2.5, "x"]\n[b.c]\nd = 2020-01-01\n[[e]]\nf = { g = """\nh""" }\n'

    fuzz(Reader("json", [document], lambda content: parse_json(content, "it")), count)
    fuzz(Reader("toml", [table], lambda content: parse_toml(content.decode("latin-1"), "it")), count)


# --- one helper for all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_bytes, read_json, read_toml, lambda path: read_tensors(path, "numpy")])
def test_pipes_devices_and_folders_are_refused_at_once(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ClovenError, match=r"cannot read .*expected a regular file"):
            read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a":' * 100_000, "nested too deep"),
        ('{"a":' + "[" * 65 + "]" * 65 + "}", "nested too deep"),
        ('{"a": ' + "9" * 5000 + "}", "limit .* for integer"),
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ('{"a": "\\ud800"}', "not valid Unicode"),
        ("[1]", "contains a list; expected a JSON object"),
        ("", "is not valid JSON"),
    ],
)
def test_json_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(ClovenError, match=f"^the message .*{message}"):
        parse_json(text, "the message")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=" + "[" * 100_000, "nested too deep"),
        (".".join("a" * 100_000) + "=1", "nested too deep"),
        ("[" + ' . "a"' * 100_000 + "]", "nested too deep|is not valid TOML"),
        ("a=" + "9" * 5000, "limit .* for integer"),
        ("a = 1\na = 2", "is not valid TOML"),
    ],
)
def test_toml_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(ClovenError, match=message):
        parse_toml(text, "plan.toml")


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(2**40)

    with pytest.raises(ClovenError, match=r"huge.json: it has more than \d+ bytes"):
        read_json(path)


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_bytes(b"\xef\xbb\xbfversion = 1\n")
    (tmp_path / "plan.json").write_bytes(b'\xef\xbb\xbf{"version": 1}')

    assert read_toml(tmp_path / "plan.toml") == read_json(tmp_path / "plan.json") == {"version": 1}


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    from cloven.attacks.decoder import Decoder

    file = tmp_path / "half.checkpoint"
    for state in ({}, {"x": torch.zeros(1)}):
        file.write_bytes(save({k: v.numpy() for k, v in state.items()}, {"epochs": "1", "stopped": "0"}))
        with pytest.raises(ClovenError, match="is not a checkpoint of this training"):
            train([begun(Decoder(epochs=2), problem())], [file])


@pytest.mark.parametrize("grid", ["[99999, 99999]", f"[{'3' * 70}, 1]"])
def test_a_plan_of_absurdly_many_devices_is_refused_before_they_are_listed(grid: str) -> None:
    with pytest.raises(ClovenError, match="expected at most 4096"):
        plans.compile(lenet5(), parse(DATA.replace("[3, 1]", grid)))


@pytest.mark.parametrize("open_new", [replacing, partial(replacing, private=True)])
def test_a_new_file_never_takes_the_place_of_a_pipe_or_a_device(
    open_new: Callable[[Path], AbstractContextManager[object]], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path / "pipe", tmp_path, Path()):
        with (
            pytest.raises(ClovenError, match="a pipe or a device; expected a file"),
            open_new(path),
        ):
            pass
    assert (tmp_path / "pipe").is_fifo()
