"""``cloven plan --transform``: plans, runs, refusals and messages."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.cli.conftest import Run
from tests.runtime.lab.programs import root

LENET = ("plan", "lenet5", "--strategy", "vertical", "--cuts", "conv2,pool2", "--out", "plan.toml")


def test_a_plan_with_transforms_is_written_and_shown(cloven: Run, here: Path) -> None:
    done = cloven(*LENET, "--transform", "float16", "--transform", "edge1-edge2=int8")
    shown = json.loads(cloven(*LENET, "--transform", "float16", "--transform", "edge1-edge2=int8", "--json").out)

    assert done.code == 0
    assert "transform" in done.out
    assert "The result is NOT the model's (its links carry float16, int8); `cloven run --verify`" in done.out
    assert [row["transform"] for row in shown["transfers"]] == ["float16", "int8"]
    assert [row["bytes"] for row in shown["links"]] == [3136, 3200, 408, 40]
    assert tomllib.loads((here / "plan.toml").read_text())["transform"] == {
        "default": "float16",
        "links": {"edge1-edge2": "int8"},
    }


def test_a_plan_without_transforms_says_nothing_of_them(cloven: Run, here: Path) -> None:
    assert "transform" not in cloven(*LENET).out
    assert "transform" not in (here / "plan.toml").read_text()


def test_all_that_is_wrong_with_transforms_is_said_at_once(cloven: Run, here: Path) -> None:
    done = cloven(*LENET, "--transform", "gzip", "--transform", "edge0-edge1=topk:2", "--transform", "a-b=int8",
                  "--protect", "rot13")  # fmt: skip

    assert done.code == 2
    assert "Traceback" not in done.err
    for message in (
        "transform.default: expected none, float16, int8, topk:0.1, noise:0.5, dropout:0.3 (got 'gzip')",
        "transform.links.edge0-edge1: topk takes a number between 0 and 1, such as topk:0.1 (got 'topk:2')",
        "transform.links: 'a-b' is not a link; expected two of edge0, edge1, edge2 joined by a hyphen",
        "(got 'rot13')",
    ):
        assert message in done.err, done.err
    assert not list(here.iterdir())


def test_a_plan_with_transforms_runs_and_does_not_verify(cloven: Run, here: Path) -> None:
    cloven(*LENET, "--transform", "noise:3")
    done = cloven("run", "plan.toml", "--data", "digits", "--json")
    checked = cloven("run", "plan.toml", "--data", "digits", "--verify")
    found = json.loads(done.out)

    assert (done.code, checked.code) == (0, 1)
    assert found["accuracy"] < found["whole_accuracy"]
    assert 0 < found["agreement"] < 1
    assert found["inexact"] == ["its links carry noise:3"]
    assert found["bytes_sent"] == found["images"] * found["bytes_an_image"]
    assert "NOT equal to the whole model" in checked.err
    assert f"accuracy {found['accuracy']:.4f} instead of {found['whole_accuracy']:.4f}" in checked.err
    assert "(its links carry noise:3)" in checked.err
    assert json.loads(cloven("run", "plan.toml", "--data", "digits", "--json").out) == found


REFUSED = "cloven: the plan transforms links with topk:0.1, but workers send only none, float16, int8; change"


def test_workers_are_not_given_a_plan_with_transforms_that_they_cannot_send(cloven: Run, here: Path) -> None:
    cloven(*LENET, "--transform", "edge0-edge1=topk:0.1")
    addresses = (f'edge{i} = "127.0.0.1:700{i}"' for i in range(3))
    (here / "cluster.toml").write_text("\n".join(["insecure = true", "[devices]", *addresses]))

    bundled = cloven("bundle", "plan.toml", "--out", "bundle")
    trained = cloven("bundle", "plan.toml", "--out", "bundle", "--data", "digits")
    sent = cloven("run", "plan.toml", "--cluster", "cluster.toml", "--data", "digits")
    served = cloven("serve", "plan.toml", "--cluster", "cluster.toml")
    lab = cloven("lab", "plan.toml", "--data", "digits")

    for done in (bundled, trained, sent, served, lab):
        assert done.code == 2
        assert REFUSED in done.err, done.err
        assert "Traceback" not in done.err
    for done in (bundled, trained):
        assert len(done.err.splitlines()) == 1
    assert {p.name for p in here.iterdir()} == {"plan.toml", "cluster.toml"}


@root
def test_a_laboratory_sends_a_quarter_of_the_bytes_and_its_tap_reads_them(cloven: Run, here: Path) -> None:
    cloven(
        "plan", "lenet5", "--strategy", "horizontal", "--devices", "2", "--transform", "int8", "--out", "plan.toml"
    )

    done = cloven("lab", "plan.toml", "--data", "digits", "--limit", "20", "--tap", "edge0-edge1", "--json")
    found = json.loads(done.out)
    there = found["tap"]["links"][0]
    ends = ("--source", "10.77.0.2", "--target", "10.77.0.3", "--numbers", "int8", "--out", "pairs")
    read = cloven("tap", "--read", "lab/link.pcapng", *ends)

    assert (done.code, read.code) == (0, 0), (done.err, read.err)
    assert (found["check"]["equal"], found["check"]["inexact"]) == (False, ["its links carry int8"])
    assert found["accuracy"] > 0.9
    assert "NOT equal to the whole model" in done.err
    # Five shares of 784, 588, 200, 60 and 42 numbers, with 8 bytes more each.
    assert there["payload"] == there["table"] == 20 * (1674 + 5 * 8)
    assert (found["tap"]["differing"], found["tap"]["unexpected"]) == (0, [])
    assert_same(load_file("pairs/captured.safetensors"), load_file("lab/pairs/captured.safetensors"))


def assert_same(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> None:
    assert one.keys() == other.keys()
    assert all(array.tobytes() == other[name].tobytes() for name, array in one.items())
