"""Bundles compute what the model does, without torch; damaged ones are refused, and none is left half written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloven.errors import ClovenError
from cloven.files import file_names
from cloven.graph.box import count
from cloven.graph.graph import Graph
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Program
from cloven.partition.segments import segments
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from cloven.runtime import local
from cloven.runtime.bundle import engine, segment_check
from cloven.runtime.bundle.format import DevicePart, ReceiveShare, RunSegment, SendShare, SentImage
from cloven.runtime.bundle.onnx import nodes as onnx_nodes
from cloven.runtime.bundle.onnx.builder import ModelBuilder, Value
from cloven.runtime.bundle.reader import Bundle, digest, read
from cloven.runtime.bundle.writer import write
from cloven.runtime.capture import capture
from cloven.zoo.named import make

PLAN = 'version = 1\ndevices = ["edge0", "edge1"]\n'


class Block(nn.Module):
    """A depthwise convolution with squeeze-and-excitation and a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.deep = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(2 * channels, 4, 1), nn.ReLU())
        self.excite = nn.Sequential(nn.Conv2d(4, 2 * channels, 1), nn.Hardsigmoid())
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.hardswish(self.deep(nn.functional.relu6(self.norm(self.wide(x)))))
        z: Tensor = x + self.narrow(y * self.excite(self.squeeze(y)))
        return z


class Mixed(nn.Module):
    """Branches, pooling at the edge, a channel shuffle, odd sizes: 3x21x17 to 7."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.SiLU())
        self.block = Block(8)
        self.left = nn.Sequential(nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(8, 6, (3, 1), padding=(1, 0)))
        self.right = nn.Sequential(nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), nn.GELU())
        self.shuffle = nn.ChannelShuffle(2)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(14 * 6, 7))

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        y: Tensor = self.head(self.shuffle(torch.cat([self.left(x), self.right(x)], 1)))
        return y


@cache
def model(name: str) -> tuple[nn.Module, Graph]:
    torch.manual_seed(0)
    shape = {"mixed": (3, 21, 17), "lenet5": (1, 28, 28)}.get(name, (3, 64, 64))
    made = Mixed().eval() if name == "mixed" else make(name, shape=shape, classes=10)
    return made, capture(made, torch.zeros(1, *shape))


def images(graph: Graph, number: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((number, *graph.input.shape), np.float32)


def lenet(strategy: Strategy | None = None, devices: int = 2) -> Program:
    return divide(model("lenet5")[1], strategy or Horizontal(), devices)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of LeNet-5 on two devices."""
    out = tmp_path_factory.mktemp("kept") / "bundle"
    write(lenet(), out, model="lenet5", plan=PLAN)
    return out


@pytest.fixture
def copied(kept: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    shutil.copytree(kept, tmp_path / "bundle")
    return tmp_path / "bundle"


def runs(part: DevicePart) -> list[RunSegment]:
    return [step for step in part.steps if isinstance(step, RunSegment)]


# --- results ----------------------------------------------------------------------------------------------------

PLANS: list[tuple[str, Strategy | list[Strategy], int]] = [
    ("lenet5", Vertical(), 2),
    ("lenet5", Horizontal(), 8),
    ("torchvision:resnet18", Vertical(), 3),
    ("torchvision:resnet18", Horizontal(), 3),
    ("torchvision:resnet18", Data((2, 2)), 4),
    ("mixed", Vertical(), 1),
    ("mixed", Vertical(), 4),
    ("mixed", Horizontal(), 3),
    ("mixed", Horizontal(exchange="layer"), 2),
    ("mixed", Horizontal("in_channels"), 3),
    ("mixed", Horizontal("rows"), 3),
    ("mixed", Horizontal("columns"), 2),
    ("mixed", Data((1, 2)), 2),
    ("mixed", Data((2, 2), halo="none"), 4),
    ("mixed", [Data((2, 1), until="stem"), Horizontal("in_channels", sums="scatter")], 3),
]


@pytest.mark.parametrize(("name", "strategy", "devices"), PLANS, ids=[f"plan{i}" for i in range(len(PLANS))])
def test_a_bundle_computes_what_the_model_does_for_any_batch(
    name: str, strategy: Strategy, devices: int, tmp_path: Path
) -> None:
    whole, graph = model(name)
    program = divide(graph, strategy, devices)
    given = images(graph, 5)

    made = write(program, tmp_path / "bundle", model=name, plan=PLAN)
    together = engine.run(tmp_path / "bundle", given)
    alone = engine.run(tmp_path / "bundle", given, batch=1)

    with torch.inference_mode():
        x = torch.from_numpy(given)
        expected = (whole(x) if program.exact else local.run(program, x)).numpy()
    bound = 1e-4 * max(1.0, float(np.abs(expected).max()))
    assert made.manifest.check.largest_difference <= 1e-4
    assert np.abs(together - expected).max() <= bound
    assert np.abs(alone - expected).max() <= bound
    assert made.manifest.exact == program.exact


def test_a_star_is_routed_through_its_hub(tmp_path: Path) -> None:
    whole, graph = model("mixed")
    given = images(graph, 2)

    made = write(divide(graph, Horizontal(), 3, routing="star"), tmp_path / "b", model="mixed", plan=PLAN)

    targets = {step.target for step in made.parts["edge1"].steps if isinstance(step, SendShare)}
    assert targets == {"edge0"}
    with torch.inference_mode():
        assert np.allclose(engine.run(tmp_path / "b", given), whole(torch.from_numpy(given)).numpy(), atol=1e-4)


def test_a_model_that_amplifies_rounding_is_accepted(tmp_path: Path) -> None:
    class Chaos(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.sigmoid(self.head(x.flatten(1)))
            for _ in range(22):
                y = 3.99 * y * (1 - y)
            return y

    torch.manual_seed(0)
    graph = capture(Chaos().eval(), torch.zeros(1, 1, 8, 8))

    made = write(divide(graph, Vertical(), 1), tmp_path / "b", model="chaos", plan=PLAN)

    assert made.manifest.check.largest_difference > made.manifest.check.tolerance


def test_the_normalisation_is_part_of_the_bundle(tmp_path: Path) -> None:
    whole, _ = model("mixed")
    graph = capture(whole, torch.zeros(1, 3, 21, 17), mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    given = images(graph, 2)

    write(divide(graph, Horizontal("rows"), 2), tmp_path / "b", model="mixed", plan="made here")

    x = (torch.from_numpy(given) - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.6, 0.7])[
        :, None, None
    ]
    with torch.inference_mode():
        assert np.allclose(engine.run(tmp_path / "b", given), whole(x).numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x1_0", "densenet121"])
@pytest.mark.parametrize("strategy", [Vertical(), Horizontal(), Horizontal("rows"), Data()])
def test_models_that_people_use(name: str, strategy: Strategy, tmp_path: Path) -> None:
    whole, graph = model(f"torchvision:{name}")
    given = images(graph, 2)

    write(divide(graph, strategy, 4), tmp_path / "b", model=name, plan=PLAN)

    with torch.inference_mode():
        expected = whole(torch.from_numpy(given)).numpy()
    bound = 1e-4 * max(1.0, float(np.abs(expected).max()))
    assert np.abs(engine.run(tmp_path / "b", given) - expected).max() <= bound


def test_running_brings_neither_torch_nor_onnx(kept: Path) -> None:
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom cloven.runtime.bundle import engine\n"
        f"made = engine.run(Path({str(kept)!r}), np.zeros((3, 1, 28, 28), np.float32))\n"
        "print(made.shape, {'torch', 'onnx'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "(3, 10) set()"


@pytest.mark.parametrize("wrong", [np.zeros((1, 1, 28, 27), np.float32), np.zeros((1, 1, 28, 28))])
def test_images_of_another_shape_or_type_are_refused(wrong: NDArray[Any], kept: Path, tmp_path: Path) -> None:
    with pytest.raises(ClovenError, match=r"expected float32 \(n, 1, 28, 28\)"):
        engine.run(kept, wrong)
    with pytest.raises(ClovenError, match=r"expected float32 \(n, 1, 28, 28\)"):
        write(lenet(), tmp_path / "b", model="lenet5", plan=PLAN, images=wrong)
    assert left(tmp_path) == []


# --- content ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Vertical(), Horizontal(), Data((2, 2))])
def test_transfers_are_those_of_the_program(strategy: Strategy, tmp_path: Path) -> None:
    program = divide(model("mixed")[1], strategy, 4)

    made = write(program, tmp_path / "bundle", model="mixed", plan=PLAN)

    crossings = {
        kind: {
            (step.transfer, device, step.value, step.share, step.shape, step.bytes, step.step)
            for device, part in made.parts.items()
            for step in part.steps
            if isinstance(step, kind)
        }
        for kind in (SendShare, ReceiveShare)
    }
    for kind, end in ((SendShare, "source"), (ReceiveShare, "target")):
        assert crossings[kind] == {
            (t.id, getattr(t, end), t.value, t.share, t.shape, t.bytes, t.step) for t in program.transfers
        }
    assert all(4 * count(step[3]) == step[5] for step in crossings[SendShare])


def test_steps_keep_the_global_order_and_every_part_says_what_it_has(kept: Path) -> None:
    parts = read(kept).parts

    for part in parts.values():
        numbers = [step.step for step in part.steps]
        assert numbers == sorted(set(numbers))
    assert parts["edge0"].image == SentImage(value="input", shape=(1, 28, 28))
    assert parts["edge0"].output is not None
    assert parts["edge0"].output.shape == (10,)
    assert parts["edge1"].image is None
    assert parts["edge1"].output is None


@pytest.mark.parametrize(("name", "strategy"), [("mixed", Vertical()), ("torchvision:resnet18", Vertical())])
def test_one_op_is_one_node_and_nothing_is_folded(name: str, strategy: Strategy, tmp_path: Path) -> None:
    graph = model(name)[1]

    made = write(divide(graph, strategy, 3), tmp_path / "bundle", model=name, plan=PLAN)

    nodes = Counter(
        node.op_type
        for path in (tmp_path / "bundle").rglob("*.onnx")
        for node in onnx.load(path, load_external_data=False).graph.node
    )
    kinds = Counter(op.kind for op in graph.ops)
    assert nodes["Conv"] == kinds["conv2d"]
    assert nodes["BatchNormalization"] == kinds["batch_norm"]
    assert nodes["Gemm"] == kinds["linear"]
    assert all(len(runs(part)) <= 2 for part in made.parts.values())


def test_every_weight_is_there_once_as_raw_float32(tmp_path: Path) -> None:
    graph = model("torchvision:resnet18")[1]

    write(divide(graph, Data((1, 2)), 2), tmp_path / "bundle", model="resnet18", plan=PLAN)

    weights = np.fromfile(tmp_path / "bundle" / "edge0" / "weights.bin", "<f4")
    first = next(op.params["weight"] for op in graph.ops if op.kind == "conv2d")
    assert np.array_equal(weights[: first.size], first.ravel())
    assert weights.nbytes <= 1.001 * sum(op.param_bytes for op in graph.ops)


def test_writing_twice_writes_the_same(kept: Path, tmp_path: Path) -> None:
    again = write(lenet(), tmp_path / "again", model="lenet5", plan=PLAN)

    assert again.manifest == read(kept).manifest
    assert again.manifest.plan == PLAN
    assert again.manifest.made_with["onnx"] == onnx.__version__


def test_a_device_that_computes_nothing_has_a_part_all_the_same(tmp_path: Path) -> None:
    program = divide(model("lenet5")[1], Vertical(("conv1", "conv2")), ["a", "b", "c"])
    idle = replace(program, devices=(*program.devices, "d"), parts={**program.parts, "d": ()})

    made = write(idle, tmp_path / "bundle", model="lenet5", plan=PLAN)

    assert made.parts["d"].steps == ()
    assert engine.run(tmp_path / "bundle", images(idle.graph, 1)).shape == (1, 10)


def test_names_of_devices_become_folders_that_every_system_can_have() -> None:
    assert file_names(["edge0", "../up", "Edge0", "a b", "a_b", "", "x-8", "x", "X"]) == [
        "edge0",
        "___up",
        "Edge0-2",
        "a_b",
        "a_b-4",
        "_",
        "x-8",
        "x",
        "X-9",
    ]


# --- segments ---------------------------------------------------------------------------------------------------


def test_a_vertical_part_of_a_chain_is_one_segment() -> None:
    program = lenet(Vertical(), 3)

    assert [len(segments(program, device)) for device in program.devices] == [1, 1, 1]


@pytest.mark.parametrize("strategy", [Vertical(), Horizontal(), Horizontal("rows"), Data((2, 2))])
def test_segments_hold_every_computation_once_and_run_before_what_they_make_is_sent(strategy: Strategy) -> None:
    program = divide(model("mixed")[1], strategy, 4)
    for device in program.devices:
        cut = segments(program, device)
        steps = [c.step for segment in cut for c in segment.computes]
        made = {key: segment.step for segment in cut for key in segment.outputs}
        sent = [t for t in program.transfers if t.source == device]
        received = {t.step for t in program.transfers if t.target == device}

        assert steps == [s.step for s in program.parts[device] if hasattr(s, "macs")]
        for transfer in sent:
            pieces = [step for (value, _), step in made.items() if value == transfer.value]
            assert all(step != transfer.step for step in pieces)
        for segment in cut:
            first = segment.computes[0].step
            assert {key for c in segment.computes for key in c.reads} >= set(segment.inputs)
            assert not any(first < step < segment.step and _reads(segment, program, step) for step in received)


def _reads(segment: Any, program: Program, step: int) -> bool:
    """Return whether a segment reads the value received at a step."""
    (transfer,) = (t for t in program.transfers if t.step == step)
    return any(value == transfer.value for value, _ in segment.inputs)


# --- invalid bundles --------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_all_files_that_differ_are_missing_or_do_not_belong_are_named(copied: Path) -> None:
    flip(copied / "edge0" / "weights.bin")
    flip(copied / "edge1" / "segment-0.onnx")
    (copied / "edge1" / "part.json").unlink()
    (copied / "edge0" / "extra.txt").write_text("?")
    (copied / "edge0" / "segment-0.onnx").unlink()
    (copied / "edge0" / "segment-0.onnx").symlink_to(copied / "edge0" / "segment-1.onnx")

    with pytest.raises(ClovenError) as caught:
        read(copied)

    assert [problem.split(":")[0] for problem in caught.value.problems[:-1]] == [
        "edge0/extra.txt does not belong to the bundle",
        "edge0/segment-0.onnx is a link; expected a file",
        "edge0/weights.bin differs",
        "edge1/part.json is missing",
        "edge1/segment-0.onnx differs",
    ]
    assert "copy it again" in caught.value.problems[-1]


def test_a_device_needs_only_its_own_folder(copied: Path) -> None:
    shutil.rmtree(copied / "edge0")

    alone = read(copied, "edge1")

    assert list(alone.parts) == ["edge1"]
    assert alone.place("edge1") == copied / "edge1"
    with pytest.raises(ClovenError, match=r"edge0/part\.json is missing"):
        read(copied)
    with pytest.raises(ClovenError, match="no device 'edge7'; its devices are edge0, edge1"):
        read(copied, "edge7")
    flip(copied / "edge1" / "weights.bin")
    with pytest.raises(ClovenError, match=r"edge1/weights\.bin differs"):
        read(copied, "edge1")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "edge0/../../x", "c:\\x", "edge0\\x", "edge0//x", "."]
)
def test_names_that_lead_out_of_the_bundle_are_refused(name: str, copied: Path) -> None:
    edit(copied / "manifest.json", lambda d: d["files"].update({name: {"sha256": "0", "bytes": 1}}))

    with pytest.raises(ClovenError, match="lies outside of the bundle"):
        read(copied)


def test_a_segment_outside_of_the_folder_is_refused(copied: Path) -> None:
    part = copied / "edge0" / "part.json"
    at = [step["do"] for step in json.loads(part.read_text())["steps"]].index("run")
    edit(part, lambda d: d["steps"][at].update(segment="../edge1/segment-0.onnx"))
    listed = digest(part).model_dump()
    edit(copied / "manifest.json", lambda d: d["files"].update({"edge0/part.json": listed}))

    with pytest.raises(ClovenError, match=r"names '../edge1/segment-0.onnx', which the manifest does not list"):
        read(copied)


def rewritten(copied: Path, name: str, content: bytes) -> None:
    """Replace the content of a file, and its entry in the manifest."""
    (copied / name).write_bytes(content)
    listed = digest(copied / name).model_dump()
    edit(copied / "manifest.json", lambda d: d["files"].update({name: listed}))


def test_a_part_whose_output_has_another_shape_than_the_manifest_says_is_refused(copied: Path) -> None:
    last = next(p for p in copied.glob("*/part.json") if json.loads(p.read_text())["output"])
    part = json.loads(last.read_text())
    part["output"]["shape"] = [9]
    rewritten(copied, f"{last.parent.name}/part.json", json.dumps(part).encode())

    with pytest.raises(ClovenError, match=r"has the shape \(9,\); expected \(10,\), as in manifest.json"):
        read(copied)


def test_a_damaged_segment_is_refused_and_nothing_is_printed(
    copied: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = (copied / "edge0" / "segment-0.onnx").read_bytes()
    rewritten(copied, "edge0/segment-0.onnx", whole.replace(b"Conv", b"C\xffnv"))

    with pytest.raises(ClovenError, match="onnxruntime cannot load"):
        engine.session(copied / "edge0" / "segment-0.onnx")
    assert capfd.readouterr() == ("", "")


def test_another_version_and_a_folder_that_is_not_a_bundle_are_refused(copied: Path, tmp_path: Path) -> None:
    edit(copied / "manifest.json", lambda d: d.update(format=5))
    with pytest.raises(ClovenError, match="has format 5; this cloven reads 4"):
        read(copied)
    edit(copied / "manifest.json", lambda d: (d.update(format=4), d.pop("devices"), d.update(colour="red")))
    with pytest.raises(ClovenError, match="colour") as caught:
        read(copied)
    assert "devices" in str(caught.value)
    (copied / "manifest.json").write_text("{")
    with pytest.raises(ClovenError, match="is not valid JSON"):
        read(copied)
    with pytest.raises(ClovenError, match=r"is not a bundle: manifest\.json is missing"):
        read(tmp_path / "nothing")


# --- writing ----------------------------------------------------------------------------------------------------


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_ops_without_a_node_are_all_named_and_nothing_is_written(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)
            self.odd = nn.RReLU()
            self.head = nn.Linear(2 * 36, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.special.bessel_j0(self.conv(x))
            z: Tensor = self.head(torch.cumprod(y.flatten(1), 1))
            return z

    program = divide(capture(Odd().eval(), torch.zeros(1, 1, 8, 8)), Horizontal(), 2)

    with pytest.raises(ClovenError) as caught:
        write(program, tmp_path / "deep" / "bundle", model="odd", plan=PLAN)

    assert [p.split(" cannot")[0] for p in caught.value.problems[:-1]] == [
        "special_bessel_j0 (aten.special_bessel_j0.default, in the model itself)",
        "cumprod (aten.cumprod.default, in the model itself)",
    ]
    assert "`cloven run`" in caught.value.problems[-1]
    assert left(tmp_path) == []


def test_a_segment_that_computes_something_else_is_named_with_its_op(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = onnx_nodes.NODES["linear"]

    def wrong(model: ModelBuilder, attrs: Any, inputs: Any, params: Any) -> Value:
        return right(model, attrs, inputs, {**params, "bias": params["bias"] + 1})

    monkeypatch.setitem(onnx_nodes.NODES, "linear", wrong)
    linear = next(op.name for op in model("lenet5")[1].ops if op.kind == "linear")

    with pytest.raises(
        ClovenError, match=rf"edge1/segment-0.onnx differs from PyTorch by .* first op that differs is {linear} "
    ):
        write(lenet(Vertical(), 2), tmp_path / "bundle", model="lenet5", plan=PLAN)
    assert left(tmp_path) == []


def test_an_older_bundle_is_replaced_and_kept_where_writing_fails(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(copied / "edge0" / "weights.bin")

    made: Bundle = write(lenet(Vertical(), 1), copied, model="lenet5", plan=PLAN)

    assert read(copied) == made
    assert list(made.parts) == ["edge0"]
    assert left(copied) == ["edge0", "manifest.json"]
    monkeypatch.setattr(segment_check, "session", None)
    with pytest.raises(ClovenError, match=r"onnxruntime cannot run edge0/segment-0\.onnx"):
        write(lenet(), copied, model="lenet5", plan=PLAN)
    assert read(copied) == made
    assert left(tmp_path) == ["bundle"]


def test_a_folder_that_holds_anything_else_is_left_alone(copied: Path, tmp_path: Path) -> None:
    (copied / "edge0" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")

    with pytest.raises(ClovenError, match=r"also holds other files: edge0/notes.txt"):
        write(lenet(), copied, model="lenet5", plan=PLAN)
    with pytest.raises(ClovenError, match="is not a folder; expected a new folder, or a bundle to replace"):
        write(lenet(), tmp_path / "file", model="lenet5", plan=PLAN)
    with pytest.raises(ClovenError, match=r"holds 1 files and is not a bundle .* choose another folder"):
        write(lenet(), tmp_path / "other", model="lenet5", plan=PLAN)
    assert left(tmp_path) == ["bundle", "file", "other"]


def test_a_bundle_of_another_plan_is_replaced_only_if_asked_for(copied: Path) -> None:
    other = PLAN + "# another\n"

    with pytest.raises(ClovenError, match=r"holds a bundle of another plan: lenet5 on edge0, edge1; .* --force"):
        write(lenet(), copied, model="lenet5", plan=other)
    assert read(copied).manifest.plan == PLAN

    write(lenet(), copied, model="lenet5", plan=other, overwrite=True)
    assert read(copied).manifest.plan == other


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    write(lenet(Vertical(), 1), tmp_path / "empty", model="lenet5", plan=PLAN)

    assert read(tmp_path / "empty").manifest.image == (1, 28, 28)


def test_a_package_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(ClovenError, match=r"cloven\[edge\]"):
        engine.run(kept, np.zeros((1, 1, 28, 28), np.float32))


def test_a_pipe_in_place_of_a_file_is_not_waited_for(copied: Path) -> None:
    (copied / "edge1" / "part.json").unlink()
    os.mkfifo(copied / "edge1" / "part.json")

    with pytest.raises(ClovenError, match=r"edge1/part\.json differs: 0 bytes"):
        read(copied)


def test_a_bundle_is_not_written_to_a_link_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")

    with pytest.raises(ClovenError, match="is not a folder"):
        write(lenet(), tmp_path / "circle", model="lenet5", plan=PLAN)


def test_onnxruntime_keeps_and_sends_nothing_about_the_device(tmp_path: Path) -> None:
    """The official builds send events, with an identifier kept in the home folder, unless this is disabled."""
    shape = onnx.TensorProto.FLOAT, ["n"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["a"], ["b"])],
        "relu",
        [onnx.helper.make_tensor_value_info("a", *shape)],
        [onnx.helper.make_tensor_value_info("b", *shape)],
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "relu.onnx",
    )
    home = tmp_path / "home"
    home.mkdir()
    code = "import pathlib, cloven.runtime.bundle.engine as engine; engine.session(pathlib.Path('relu.onnx'))"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}

    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=kept | {"HOME": str(home)}, check=True)
    assert list(home.rglob("*")) == []
