"""``cloven run --fallback``: another plan answers when a device is lost; ``cloven worker`` with several bundles."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli import processes
from tests.cli.conftest import Run
from tests.cli.processes import Process, process

IMAGES = 1000
DEVICES = {"plan": ["edge0", "edge1", "edge2"], "small": ["edge0", "edge1"]}
"""The devices of the plans. Only edge2 is not in both."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with plan.toml, small.toml, a bundle of each, and photos."""
    from cloven.cli import app

    folder = tmp_path_factory.mktemp("material")
    (folder / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photos" / "0.png")
    for i in range(1, IMAGES):
        os.link(folder / "photos" / "0.png", folder / "photos" / f"{i}.png")
    for name, devices in DEVICES.items():
        file, made = folder / f"{name}.toml", folder / f"{name}-bundle"
        strategy = ("--strategy", "vertical", "--devices", str(len(devices)))
        app(["plan", "lenet5", *strategy, "--out", str(file)], standalone_mode=False)
        app(["bundle", str(file), "--out", str(made)], standalone_mode=False)
    return folder


@pytest.fixture(autouse=True)
def _inside(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(material)


@pytest.fixture
def workers(tmp_path: Path, material: Path) -> Iterator[dict[str, Process]]:
    """Run the workers, with their parts of both bundles; write the cluster file."""
    with processes.workers(tmp_path, material / "plan-bundle", others=[material / "small-bundle"]) as made:
        yield made


def test_a_run_says_how_many_images_each_plan_answered(tmp_path: Path, workers: dict[str, Process]) -> None:
    command = ("run", "plan.toml", "--cluster", tmp_path / "cluster.toml", "--fallback", "small.toml")
    with process(tmp_path, *command, "--input", "photos", "--json") as run:
        run.until(f"sending: 100 of {IMAGES}")
        workers["edge2"].process.kill()
        done = run.done()
    found = json.loads(done.out)

    assert (done.code, found["answered"], found["failed"]) == (0, IMAGES, [])
    assert [plan["devices"] for plan in found["plans"]] == list(DEVICES.values())
    assert sum(plan["images"] for plan in found["plans"]) == IMAGES
    assert found["plans"][0]["images"] >= 100
    told = "changed from the plan of edge0, edge1, edge2 to the plan of edge0, edge1: edge2 lost"
    assert done.err.count(told) == 1


def test_what_is_wrong_with_a_fallback_is_said_before_anything_is_sent(cloven: Run, tmp_path: Path) -> None:
    alone = cloven("run", "plan.toml", "--fallback", "small.toml")
    assert (alone.code, alone.err) == (2, "cloven: --fallback requires --cluster\n")

    (tmp_path / "cluster.toml").write_text("".join(["[devices]\n", 'edge0 = "127.0.0.1:1"\n']))
    cluster = ("run", "plan.toml", "--cluster", tmp_path / "cluster.toml", "--input", "photos")
    missing = cloven(*cluster, "--fallback", "nowhere.toml", "--fallback", "photos")
    assert missing.code == 2
    assert "nowhere.toml" in missing.err
    assert "photos" in missing.err
    assert "the address of edge2 is missing" in missing.err

    steal = cloven(*cluster, "--fallback", "small.toml", "--steal")
    assert (steal.code, "--fallback cannot be combined with --steal" in steal.err) == (2, True)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("plan-bundle/edge0", "plan-bundle/edge0"), "a bundle is given twice"),
        (
            ("plan-bundle/edge0", "small-bundle/edge1"),
            "the folders are of edge0, edge1; expected those of one",
        ),
        (("plan-bundle/edge0", "small-bundle/edge2"), "small-bundle/edge2 is not a device's folder of the bundle"),
        (("plan-bundle", "small-bundle"), "needs a name: give --name or --keys"),
    ],
)
def test_a_worker_has_its_own_part_of_each_bundle(cloven: Run, folders: tuple[str, ...], message: str) -> None:
    done = cloven("worker", *folders, "--listen", "127.0.0.1:0")

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err
