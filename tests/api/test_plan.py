"""`cloven.Plan`: a division as a file, compiled with `cloven.compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import cloven

PLAN = """
version = 1
devices = ["camera", "server"]

[model]
name = "mynet:make"
input = [3, 12, 12]
classes = 5

[strategy]
kind = "vertical"
cuts = ["1"]
"""


def plan(folder: Path, text: str = PLAN) -> cloven.Plan:
    path = folder / "plan.toml"
    path.write_text(text)
    return cloven.Plan.load(path)


def test_a_plan_is_loaded_compiled_and_saved(tmp_path: Path, model: cloven.Graph) -> None:
    loaded = plan(tmp_path)
    loaded.save(tmp_path / "copy.toml")

    assert cloven.Plan.load(str(tmp_path / "copy.toml")) == loaded
    assert cloven.compile(model, loaded).links == (("camera", "server"),)
    assert repr(loaded) == "Plan for mynet:make: vertical, cut after 1, 2 devices"


def test_a_plan_is_written_in_python_as_in_a_file(tmp_path: Path) -> None:
    loaded = plan(tmp_path)
    made = cloven.Plan(model=loaded.model, strategy=cloven.Vertical(cuts=["1"]), devices=["camera", "server"])

    assert made == loaded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"strategy": "vertical"},
            "strategy: expected a strategy, such as cloven.Vertical(cuts=['layer1']) (got 'vertical')",
        ),
        ({"strategy": []}, "strategy: expected one or more strategies (got [])"),
        ({"devices": "camera"}, "devices: 'str' instances are not allowed as a Sequence value (got 'camera')"),
        ({"routing": "ring"}, "routing: input should be 'direct' or 'star' (got 'ring')"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    given = {"model": plan(tmp_path).model, "strategy": cloven.Vertical(), "devices": ["a", "b"], **arguments}

    with pytest.raises(cloven.ClovenError) as caught:
        cloven.Plan(**given)

    assert str(caught.value) == message


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    loaded = plan(tmp_path)

    with pytest.raises(cloven.ClovenError, match="folder"):
        loaded.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.toml"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[3, 12, 12]", "[3, 8, 8]", r"the plan is for images of \(3, 8, 8\); the model takes \(3, 12, 12\)"),
        ("classes = 5", "classes = 10", "the plan is for a model of 10 classes; the model has 5 outputs"),
        (
            "classes = 5",
            'classes = 5\nfingerprint = "00ff"',
            "the plan is for another model: its fingerprint is 00ff",
        ),
        ('"camera"', '"cam:era"', "a device is named 'cam:era'; expected printable text without '->' and ':'"),
    ],
)
def test_a_plan_of_another_model_is_refused(
    tmp_path: Path, model: cloven.Graph, old: str, new: str, message: str
) -> None:
    with pytest.raises(cloven.ClovenError, match=message):
        cloven.compile(model, plan(tmp_path, PLAN.replace(old, new)))


@pytest.mark.parametrize("numbers", ["mean = [0.5, 0.5, 0.5]", "mean = [0.5]\nstd = [0.5]"])
def test_a_normalisation_that_is_not_one_is_refused(tmp_path: Path, numbers: str) -> None:
    with pytest.raises(cloven.ClovenError, match="mean and std must be given together, with one number for each"):
        plan(tmp_path, PLAN.replace("classes = 5", f"classes = 5\n{numbers}"))


def test_a_plan_keeps_the_models_normalisation(tmp_path: Path) -> None:
    numbers = "mean = [0.5, 0.4, 0.3]\nstd = [0.25, 0.2, 0.5]"
    loaded = plan(tmp_path, PLAN.replace("classes = 5", f"classes = 5\n{numbers}"))
    loaded.save(tmp_path / "copy.toml")

    assert numbers in (tmp_path / "copy.toml").read_text()


def test_a_plan_with_the_models_fingerprint_is_compiled(tmp_path: Path, model: cloven.Graph) -> None:
    named = PLAN.replace("classes = 5", f'classes = 5\nfingerprint = "{model.fingerprint}"')

    assert cloven.compile(model, plan(tmp_path, named)).devices == ("camera", "server")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plan": "plan.toml"}, "plan is 'plan.toml'; expected a plan, as cloven.Plan.load(path) returns"),
        (
            {"model": torch.nn.ReLU()},
            "model is a ReLU; expected the graph that cloven.capture(model, example) returns",
        ),
    ],
)
def test_a_wrong_type_is_answered_in_one_sentence(
    tmp_path: Path, model: cloven.Graph, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(cloven.ClovenError) as caught:
        cloven.compile(**{"model": model, "plan": plan(tmp_path), **arguments})

    assert str(caught.value) == message


def test_a_plan_without_a_model_is_compiled_for_any_that_fits(tmp_path: Path, model: cloven.Graph) -> None:
    head, table = PLAN.split("[model]")
    bare = plan(tmp_path, head + "[strategy]" + table.split("[strategy]")[1])
    bare.save(tmp_path / "copy.toml")

    assert cloven.compile(model, bare).links == (("camera", "server"),)
    assert cloven.Plan.load(tmp_path / "copy.toml") == bare
    assert repr(bare) == "Plan for any model: vertical, cut after 1, 2 devices"
    with pytest.raises(
        cloven.ClovenError, match=r"the plan names no model; add a \[model\] table to it, or give --m"
    ):
        _ = bare.named_model


def test_plans_and_strategies_take_ten_lines(net: torch.nn.Module, tmp_path: Path) -> None:
    model = cloven.capture(net, torch.zeros(1, 3, 12, 12))
    cloven.Plan(strategy=cloven.Vertical(["1"]), devices=["camera", "server"]).save(tmp_path / "plan.toml")
    program = cloven.compile(model, cloven.Plan.load(tmp_path / "plan.toml"))

    assert program.devices == ("camera", "server")
