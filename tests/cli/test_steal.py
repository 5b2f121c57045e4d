"""``cloven run --steal``: workers of a whole bundle, the table of what each received, and the record."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cloven as cloven_api
from cloven.runtime.cluster.task_record import TaskRecord
from tests.cli.conftest import Run
from tests.cli.processes import Process
from tests.models import lenet5
from tests.partition.test_equivalence import lenet

IMAGES = 6


def test_a_run_says_which_worker_received_how_much_of_the_images(
    cloven: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(IMAGES):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{i}.png")
    assert (
        cloven(
            "plan",
            "lenet5",
            "--strategy",
            "data",
            "--grid",
            "2x2",
            "--transform",
            "image=uint8",
            "--out",
            "plan.toml",
        ).code
        == 0
    )
    assert cloven("bundle", "plan.toml", "--out", "bundle").code == 0
    unnamed = cloven("worker", "bundle")
    assert (unnamed.code, unnamed.err.count("give --name or --keys")) == (2, 1)

    names = ["left", "right"]
    listen = ("--listen", "127.0.0.1:0")
    made = [Process(tmp_path, "worker", "bundle", "--name", name, *listen) for name in names]
    try:
        lines = [f'{n} = "{json.loads(w.until("ready"))["listen"]}"\n' for n, w in zip(names, made, strict=True)]
        Path("cluster.toml").write_text("[devices]\n" + "".join(lines))
        options = ("plan.toml", "--input", "photos", "--cluster", "cluster.toml", "--steal", "--verify")
        found = cloven("run", *options, "--record", "tasks.json", "--json")
        table = cloven("run", *options).out
    finally:
        for worker in made:
            worker.process.kill()
            worker.process.wait()

    assert found.code == 0, found.err
    shown = json.loads(found.out)
    assert shown["check"]["equal"]
    assert shown["answered"] == IMAGES
    workers = {row["worker"]: row for row in shown["workers"]}
    assert sum(row["tasks"] for row in workers.values()) == IMAGES * 5
    assert sum((Counter(row["devices"]) for row in workers.values()), Counter()) == {
        "edge0": 2 * IMAGES, "edge1": IMAGES, "edge2": IMAGES, "edge3": IMAGES,
    }  # fmt: skip
    assert "tasks received, and the pixels of an image" in table

    record = TaskRecord.model_validate_json(Path("tasks.json").read_text())
    program = cloven_api.compile(lenet5(), cloven_api.Plan.load("plan.toml"))
    observed = cloven_api.read_tasks("tasks.json", program)
    assert {one.device: round(one.raw_image, 4) for one in observed} == {
        name: row["most_pixels"] for name, row in workers.items()
    }
    (one, *_) = cloven_api.read_tasks("tasks.json", program, image=0)
    boxes = {(box.value, box.box) for task in record.tasks for box in task.inputs}
    assert {(seen.value, seen.share) for seen in one.seen} <= boxes
    with pytest.raises(cloven_api.ClovenError, match="no worker received image 99"):
        cloven_api.read_tasks("tasks.json", program, image=99)
    other = cloven_api.divide(lenet((3, 32, 32))[1], cloven_api.Vertical(), devices=1)
    with pytest.raises(cloven_api.ClovenError, match="is not the record of a run of this program"):
        cloven_api.read_tasks("tasks.json", other)
    assert {row.worker: row.model_dump() for row in record.workers()} == workers
    assert {link["link"][0] for link in shown["links"]} == {"coordinator", *workers}


def test_steal_is_for_workers_and_a_record_for_steal(cloven: Run) -> None:
    alone = cloven("run", "plan.toml", "--steal")
    assert (alone.code, alone.err) == (2, "cloven: --steal requires --cluster\n")

    recorded = cloven("run", "plan.toml", "--cluster", "cluster.toml", "--record", "tasks.json")
    assert (recorded.code, recorded.err) == (2, "cloven: --record requires --steal\n")
