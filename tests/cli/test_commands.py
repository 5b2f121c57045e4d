"""The commands as a person uses them: what they print, write and return."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloven.papers.s1 import layers_of
from tests.cli.conftest import Run


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
    assert f"accuracy {result['accuracy']:.4f} against {result['whole_accuracy']:.4f}" in done.err
    assert "its tiles have no halo" in done.err


def test_a_dry_run_lists_every_slice_and_tile_and_writes_nothing(cloven: Run, here: Path) -> None:
    cells = json.loads(cloven("audit", "--dry-run", "--view", "paper", "--json").out)["cells"]
    count = {s: sum(c["strategy"] == s for c in cells) for s in ("vertical", "horizontal", "data")}

    assert count == {"vertical": 3, "horizontal": 12, "data": 4}
    assert not list(here.iterdir())


def test_version_is_printed(cloven: Run) -> None:
    done = cloven("--version")

    assert done.code == 0
    assert done.out.startswith("cloven 0.")


def test_a_report_needs_a_finished_run(cloven: Run, here: Path) -> None:
    done = cloven("report", ".")

    assert done.code == 2
    assert "holds no summary.json; give the folder of an audit that has ended" in done.err
