"""The commands in normal use: output, files and exit codes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cloven.papers.s1.setup import layers_of
from cloven.partition import plan as plans
from cloven.partition.plan import parse
from cloven.runtime.bundle import engine
from cloven.runtime.check import compare
from cloven.zoo.datasets import load
from cloven.zoo.images import split
from cloven.zoo.models import build
from tests.cli.conftest import Run
from tests.models import lenet5


def test_inspect_shows_every_op_and_every_cut(cloven: Run) -> None:
    done = cloven("inspect", "lenet5")
    shown = json.loads(cloven("inspect", "lenet5", "--json").out)

    assert done.code == 0
    assert len(shown["cuts"]) == len(shown["ops"]) - 1
    assert all(op["op"] in done.out for op in shown["ops"])
    (pool2,) = [cut for cut in shown["cuts"] if cut["after"] == "pool2"]
    assert pool2["tensors"] == [{"value": "pool2", "shape": [16, 5, 5], "bytes": 1600}]
    assert (pool2["macs_before"], pool2["macs_after"]) == (357_600, 58_920)


def test_the_papers_layer_numbers_are_names_of_cuts(cloven: Run) -> None:
    shown = json.loads(cloven("plan", "lenet5", "--strategy", "vertical", "--cuts", "2,3,5", "--json").out)

    assert [row["value"] for row in shown["transfers"]] == ["conv2.1", "pool2", "flatten"]
    assert [row["bytes"] for row in shown["transfers"]] == [6400, 1600, 480]
    assert list(layers_of("lenet5")) == ["conv2", "pool2", "flatten"]


@pytest.mark.parametrize(
    "options",
    [
        ("--strategy", "vertical", "--cuts", "conv2,pool2"),
        ("--strategy", "vertical", "--devices", "8"),
        ("--strategy", "horizontal", "--axis", "out_channels", "--devices", "4"),
        ("--strategy", "horizontal", "--devices", "8", "--routing", "star"),
        ("--strategy", "data", "--grid", "2x2", "--until", "pool1"),
        ("--strategy", "data", "--devices", "8"),
    ],
)
def test_a_written_plan_runs_and_equals_the_whole_model(cloven: Run, here: Path, options: tuple[str, ...]) -> None:
    planned = cloven("plan", "lenet5", *options, "--out", "plan.toml", "--json")
    done = cloven("run", "plan.toml", "--data", "digits", "--verify", "--json")
    result = json.loads(done.out)

    assert (planned.code, done.code) == (0, 0), done.err
    assert result["equal"] is True
    assert result["bytes_sent"] == 180 * json.loads(planned.out)["bytes"]
    assert result["accuracy"] == result["whole_accuracy"] >= 0.95
    assert {p.name for p in here.iterdir()} == {"plan.toml"}


def test_tiles_without_halo_say_that_they_are_not_the_model_and_how_accurate_they_are(
    cloven: Run, here: Path
) -> None:
    planned = cloven("plan", "lenet5", "--strategy", "data", "--grid", "2x2", "--until", "3", "--halo", "none",
                     "--out", "plan.toml")  # fmt: skip
    done = cloven("run", "plan.toml", "--data", "digits", "--verify", "--json")
    result = json.loads(done.out)

    assert "NOT the model's" in planned.out
    assert done.code == 1
    assert result["equal"] is False
    assert f"accuracy {result['accuracy']:.4f} instead of {result['whole_accuracy']:.4f}" in done.err
    assert "its tiles have no halo" in done.err


def test_a_dry_run_lists_every_slice_and_tile_and_writes_nothing(cloven: Run, here: Path) -> None:
    cells = json.loads(cloven("audit", "--dry-run", "--view", "paper", "--json").out)["cells"]
    count = {s: sum(c["strategy"] == s for c in cells) for s in ("vertical", "horizontal", "data")}

    assert count == {"vertical": 3, "horizontal": 12, "data": 4}
    assert not list(here.iterdir())


def test_an_enclave_is_listened_to_at_every_cut(cloven: Run) -> None:
    enclave = ("audit", "--strategy", "enclave", "--dry-run", "--json")
    own = json.loads(cloven(*enclave, "--cuts", "conv1,pool2").out)["cells"]
    papers = json.loads(cloven(*enclave, "resnet20", "--cuts", "s2").out)["cells"]

    assert [(cell["view"], cell["seen"]) for cell in own] == [("full", ["conv1.1"]), ("full", ["pool2"])]
    assert [cell["observation_bytes"] for cell in papers] == [
        4 * n for n in (16 * 784, 16 * 784, 32 * 196, 64 * 49)
    ]
    assert all(cell["crosses"] for cell in [*own, *papers])


def test_version_is_printed(cloven: Run) -> None:
    done = cloven("--version")

    assert done.code == 0
    assert done.out.startswith("cloven 0.")


def test_a_report_needs_a_finished_run(cloven: Run, here: Path) -> None:
    done = cloven("report", ".")

    assert done.code == 2
    assert "holds no summary.json; give the folder of an audit that has ended" in done.err


# --- every kind of plan ---------------------------------------------------------------------------------------


def links(shown: dict[str, Any]) -> dict[str, int]:
    """Return the bytes of each link between devices."""
    rows = [row for row in shown["links"] if "coordinator" not in row["link"]]
    return {" > ".join(row["link"]): row["bytes"] for row in rows}


@pytest.mark.parametrize(
    ("options", "title", "values", "devices"),
    [
        # LeNet-5's pairs: conv1 and conv2, conv3 and dense1; dense2 alone.
        (
            ("--strategy", "horizontal", "--axis", "fused", "--devices", "2"),
            "horizontal, fused pairs, 2 devices",
            {"input": 784, "conv2.0.partial@1": 1600, "pool2": 400, "dense1.0.partial@1": 84, "dense1.1": 84,
             "dense2": 5},
            2,
        ),
        # The image has one channel, so conv1 is not divided; the first device adds the partial sums.
        (
            ("--strategy", "horizontal", "--axis", "in_channels", "--devices", "2"),
            "horizontal, input channels, 2 devices",
            {"pool1": 588, "conv2.0.partial@1": 1600, "pool2": 200, "conv3.0.partial@1": 120, "flatten": 60,
             "dense1.0.partial@1": 84, "dense1.1": 42, "dense2.partial@1": 10},
            2,
        ),
        (
            ("--strategy", "horizontal", "--axis", "in_channels", "--sums", "scatter", "--devices", "2"),
            "horizontal, input channels, 2 devices",
            {"conv1.0.partial@0": 2352, "conv2.0.partial@0": 800, "conv2.0.partial@1": 800,
             "conv3.0.partial@0": 60, "conv3.0.partial@1": 60, "dense1.0.partial@0": 42, "dense1.0.partial@1": 42,
             "dense2.partial@0": 5, "dense2.partial@1": 5, "dense2": 5},
            2,
        ),
        (
            ("--strategy", "horizontal", "--from", "conv1", "--until", "pool2", "--devices", "2"),
            "one device, edge0 up to conv1; then horizontal, output channels up to pool2, 2 devices",
            {"pool1": 1176, "pool2": 200},
            2,
        ),
        (
            ("--strategy", "data", "--grid", "2x2", "--until", "pool1", "--then", "horizontal"),
            "data, 2x2 grid up to pool1; then horizontal, output channels, 4 devices",
            {"input": 3 * 256, "pool1": 3 * 1176, "pool2": 3 * 400, "flatten": 3 * 120, "dense1.1": 3 * 84,
             "dense2": 8},
            4,
        ),
        (
            ("--strategy", "vertical", "--cuts", "pool1,pool2", "--inside", "2:2"),
            "one device, edge0 up to pool1; then horizontal, output channels up to pool2; "
            "then one device, edge3, 4 devices",
            {"pool1": 2 * 1176, "pool2": 400},
            4,
        ),
        (
            ("--strategy", "vertical", "--cuts", "2", "--then", "horizontal", "--devices", "2"),
            "one device, edge0 up to conv2; then horizontal, output channels, 2 devices",
            {"pool2": 400, "flatten": 120, "dense1.1": 84, "dense2": 5},
            2,
        ),
        # Star routing as in Stahl et al.: each worker receives the whole map, also its own half.
        (
            ("--strategy", "horizontal", "--devices", "2", "--routing", "star", "--no-reuse"),
            "horizontal, output channels, 2 devices",
            {"input": 784, "pool1": 588, "pool1.join": 1176, "pool2": 200, "pool2.join": 400, "flatten": 60,
             "flatten.join": 120, "dense1.1": 42, "dense1.1.join": 84, "dense2": 5},
            2,
        ),
    ],
)  # fmt: skip
def test_a_plan_of_every_kind_says_what_crosses_and_is_written_as_it_runs(
    cloven: Run, here: Path, options: tuple[str, ...], title: str, values: dict[str, int], devices: int
) -> None:
    done = cloven("plan", "lenet5", *options, "--out", "plan.toml", "--json")
    shown = json.loads(done.out)
    sent: dict[str, int] = {}
    for row in shown["transfers"]:
        sent[row["value"]] = sent.get(row["value"], 0) + row["bytes"] // 4

    assert done.code == 0
    assert shown["plan"] == title
    assert shown["exact"] is True
    assert sent == values
    assert shown["bytes"] == 4 * sum(values.values()) == sum(links(shown).values())
    assert [d["device"] for d in shown["devices"]] == [f"edge{i}" for i in range(devices)]
    assert sum(d["macs"] - d["recomputed_macs"] for d in shown["devices"]) == 416_520
    plan = parse((here / "plan.toml").read_text())
    assert plan.title() == title
    graph = lenet5()
    found = compare(plans.compile(graph, plan), graph, torch.rand(2, 1, 28, 28))
    assert found.equal, found.why()
    assert found.bytes_an_image == shown["bytes"]


# --- running on a picture, on data ----------------------------------------------------------------------------

FIELDS = {
    "plan", "weights", "images", "accuracy", "whole_accuracy", "agreement", "max_difference", "bound", "rounding",
    "spread", "decided_differently", "exact_plan", "bytes_an_image", "bytes_sent", "equal", "inexact", "unjudged",
}  # fmt: skip


def test_a_plan_runs_on_one_picture(cloven: Run, here: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    cloven("plan", "lenet5", "--strategy", "horizontal", "--devices", "3", "--out", "plan.toml")

    done = cloven("run", "plan.toml", "--input", "photo.png", "--verify", "--json")
    found = json.loads(done.out)

    assert done.code == 0
    assert set(found) == FIELDS
    assert (found["images"], found["weights"], found["equal"]) == (1, "random", True)
    assert found["accuracy"] is found["whole_accuracy"] is found["rounding"] is None
    assert found["agreement"] == 1.0
    assert found["bytes_sent"] == found["bytes_an_image"]
    assert done.err.splitlines() == ["equal to the whole model on 1 images"]
    assert {p.name for p in here.iterdir()} == {"photo.png", "plan.toml"}


def test_a_plan_runs_on_data_and_says_what_it_ran(cloven: Run, here: Path) -> None:
    cloven("plan", "lenet5", "--strategy", "vertical", "--cuts", "pool2", "--out", "plan.toml")

    found = json.loads(cloven("run", "plan.toml", "--data", "digits", "--json").out)
    table = cloven("run", "plan.toml", "--data", "digits").out

    assert set(found) == FIELDS
    assert (found["images"], found["max_difference"], found["equal"]) == (180, 0.0, True)
    assert (found["bytes_an_image"], found["bytes_sent"]) == (1600, 180 * 1600)
    assert found["accuracy"] == found["whole_accuracy"] > 0.9
    assert found["weights"].startswith("trained on")
    assert "bytes an image" in table


def test_weights_from_a_file_are_those_that_run(cloven: Run, here: Path) -> None:
    torch.manual_seed(5)
    model = build("lenet5", shape=(1, 28, 28), classes=10)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, "mine.safetensors")
    options = ("--strategy", "vertical", "--cuts", "conv2", "--weights", "mine.safetensors")
    cloven("plan", "lenet5", *options, "--out", "plan.toml")

    found = json.loads(cloven("run", "plan.toml", "--data", "digits", "--verify", "--json").out)

    assert found["weights"] == "mine.safetensors"
    assert found["accuracy"] < 0.5  # the weights are not trained
    assert 'weights = "mine.safetensors"' in (here / "plan.toml").read_text()


# --- models by other names ------------------------------------------------------------------------------------


def test_a_model_of_torchvision_is_divided_by_its_name(cloven: Run, here: Path) -> None:
    size, cuts = ("--input-size", "3x64x64", "--classes", "10"), ("--cuts", "layer1,layer3.0.conv1")
    done = cloven("plan", "torchvision:resnet18", *size, "--strategy", "vertical", *cuts, "--json")
    shown = json.loads(done.out)

    assert done.code == 0
    # A cut inside a block carries the block's input too.
    assert [(row["value"], row["shape"]) for row in shown["transfers"]] == [
        ("layer1.1.relu.relu_2", [64, 16, 16]),
        ("layer3.0.conv1", [256, 4, 4]),
        ("layer2.1.relu.relu_2", [128, 8, 8]),
    ]


def test_a_factory_in_the_working_folder_is_a_model(
    cloven: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "my_own_net.py").write_text(
        "from torch import nn\n\n\ndef small():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))\n"
    )
    monkeypatch.syspath_prepend(here)

    done = cloven("plan", "my_own_net:small", "--input-size", "3x8x8", "--classes", "2", "--strategy", "horizontal",
                  "--json")  # fmt: skip

    assert [row["value"] for row in json.loads(done.out)["transfers"]] == ["input", "2", "2", "3"]


def test_a_class_of_a_package_is_a_model(cloven: Run, here: Path) -> None:
    done = cloven("plan", "tests.partition.test_tiles:Gated", "--input-size", "3x16x16", "--strategy", "data",
                  "--grid", "1x2", "--until", "two", "--classes", "5", "--json")  # fmt: skip

    assert [row["value"] for row in json.loads(done.out)["transfers"]] == [
        "input", "gate.avgpool.partial@1", "gate.scale_activation", "two",
    ]  # fmt: skip


# --- bundles --------------------------------------------------------------------------------------------------


def test_a_bundle_holds_what_its_manifest_says_and_runs_without_pytorch(cloven: Run, here: Path) -> None:
    cloven("plan", "lenet5", "--strategy", "data", "--grid", "1x2", "--until", "pool2", "--out", "plan.toml")
    done = cloven("bundle", "plan.toml", "--data", "digits", "--out", "made", "--json")
    shown = json.loads(done.out)
    manifest = json.loads((here / "made/manifest.json").read_text())
    files = {str(p.relative_to(here / "made")) for p in (here / "made").rglob("*") if p.is_file()}

    assert done.code == 0
    assert set(manifest["files"]) == files - {"manifest.json"}
    for name, entry in manifest["files"].items():
        content = (here / "made" / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (entry["sha256"], entry["bytes"])
    assert [d["device"] for d in shown["devices"]] == ["edge0", "edge1"]
    for device in shown["devices"]:
        mine = [p for p in (here / "made" / device["folder"]).rglob("*") if p.is_file()]
        assert (device["files"], device["bytes"]) == (len(mine), sum(p.stat().st_size for p in mine))
    assert 0 <= shown["check"]["largest_difference"] <= shown["check"]["tolerance"]
    assert manifest["plan"] == (here / "plan.toml").read_text()

    # It contains the trained CNN, with the same classes as `cloven run`.
    ran = json.loads(cloven("run", "plan.toml", "--data", "digits", "--json").out)
    _, _, test = split(load("digits", shape=(1, 28, 28)), seed=0)
    made = engine.run(here / "made", test.tensor().numpy())
    assert made.shape == (180, 10)
    assert float((made.argmax(1) == test.labels).mean()) == ran["accuracy"]


def test_a_bundle_of_another_plan_is_replaced_only_with_force(cloven: Run, here: Path) -> None:
    cloven("plan", "lenet5", "--strategy", "vertical", "--cuts", "conv2", "--out", "plan.toml")
    cloven("plan", "lenet5", "--strategy", "horizontal", "--devices", "3", "--out", "other.toml")

    first = cloven("bundle", "plan.toml", "--out", "made")
    refused = cloven("bundle", "other.toml", "--out", "made")
    forced = cloven("bundle", "other.toml", "--out", "made", "--force")

    assert (first.code, refused.code, forced.code) == (0, 2, 0)
    assert "the bundle contains random weights" in first.err
    assert "made holds a bundle of another plan: lenet5 on edge0, edge1; " in refused.err
    assert {p.name for p in (here / "made").iterdir()} == {"manifest.json", "edge0", "edge1", "edge2"}
    assert {p.name for p in here.iterdir()} == {"made", "plan.toml", "other.toml"}
