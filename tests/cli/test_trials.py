"""The first steps of a new user, and what the answers must contain."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Run

OWN = """
from torch import nn


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def own(here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a module with a model for images of any size and 10 classes; return its name for the command line."""
    (here / "mynet.py").write_text(OWN)
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return "mynet:net"


# --- the help -----------------------------------------------------------------------------------------------------


def test_the_help_fits_80_columns_and_is_in_groups(cloven: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    commands, audit = cloven("--help").out, cloven("audit", "--help").out

    assert all(title in commands for title in ("Divide a model:", "Run it:", "Measure what leaks:"))
    assert all(
        title in audit for title in ("Images:", "Model:", "Observations:", "Attacks:", "Computing:", "Options:")
    )
    assert max(len(line) for line in [*commands.splitlines(), *audit.splitlines()]) <= 80


def test_every_option_is_explained_and_means_the_same_everywhere() -> None:
    import typer.main

    from cloven.cli import app

    program = typer.main.get_command(app)
    seen: dict[str, set[str]] = {}
    for words, command in commands(program):
        for parameter in command.params:  # type: ignore[attr-defined]
            assert parameter.help or "--help" in parameter.opts, (words, parameter.name)
            for flag in parameter.opts:
                if flag in SHARED:
                    seen.setdefault(flag, set()).add(parameter.help)

    assert {flag: len(helps) for flag, helps in seen.items()} == dict.fromkeys(SHARED, 1)


SHARED = set(
    "--weights --classes --mean --std --input-size --window --deadline --fallback --limit --seed --json --device "
    "--jobs --disk --backend --accelerator --handover --threads --keys --listen --numbers".split()
)
"""Options of several commands."""


def commands(command: object, words: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    """Return all subcommands of a command with their names on the command line."""
    below = getattr(command, "commands", None)
    if not below:
        return [(words, command)]
    return [found for name, one in below.items() for found in commands(one, (*words, name))]


# --- plan ---------------------------------------------------------------------------------------------------------


def test_a_plan_lists_the_coordinators_links_and_seconds(cloven: Run) -> None:
    options = ("plan", "lenet5", "--strategy", "vertical", "--cuts", "conv2", "--bandwidth", "1mbit")
    shown, table = json.loads(cloven(*options, "--json").out), cloven(*options).out
    links = {tuple(row["link"]): (row["shares"], row["bytes"], row["seconds"]) for row in shown["links"]}

    assert links == {
        ("coordinator", "edge0"): (1, 3136, 8 * 3136 / 1e6),
        ("edge0", "edge1"): (1, 6400, 8 * 6400 / 1e6),
        ("edge1", "coordinator"): (1, 40, 8 * 40 / 1e6),
    }
    for line in (r"coordinator > edge0 +1 +3,136 +0\.0251", r"edge1 > coordinator +1 +40 +0\.0003"):
        assert re.search(line, table), table
    assert "a worker process takes about 100 MB more" in " ".join(table.split())


def test_a_plan_has_a_line_for_each_link_and_transfers_on_request(cloven: Run) -> None:
    options = ("plan", "lenet5", "--strategy", "horizontal", "--devices", "4")
    short, long = cloven(*options).out, cloven(*options, "--transfers").out
    shares = json.loads(cloven(*options, "--json").out)["transfers"]

    assert [line.split()[3] for line in short.splitlines() if "edge0 > edge1" in line] == ["5"]
    assert "flatten" not in short
    assert sum(line.split()[1:3] == ["edge0", "edge1"] for line in long.splitlines() if len(line.split()) > 3) == 5
    assert len(shares) == 54


def test_a_bandwidth_that_is_none_is_refused(cloven: Run) -> None:
    done = cloven("plan", "lenet5", "--strategy", "vertical", "--bandwidth", "fast", "--grid", "2x2")

    assert done.code == 2
    assert "the bandwidth is 'fast'; expected a number and bit, kbit, mbit or gbit" in done.err
    assert "--grid requires --strategy data" in done.err


# --- own models ---------------------------------------------------------------------------------------------------


def test_the_classes_of_an_own_model_are_its_own(cloven: Run, here: Path, own: str) -> None:
    size = ("--input-size", "3x8x8", "--strategy", "vertical", "--cuts", "1", "--out", "plan.toml")
    done = cloven("plan", own, *size)
    wrong = cloven("plan", own, *size, "--classes", "1000")

    assert done.code == 0
    assert tomllib.loads((here / "plan.toml").read_text())["model"]["classes"] == 10
    assert "mynet:net is given images in [0, 1]; if it was trained on normalised images, give --mean" in done.err
    assert wrong.code == 2
    assert "the plan is for a model of 1000 classes; the model has 10 outputs" in wrong.err


def test_an_own_model_requires_the_size_of_its_images(cloven: Run, own: str) -> None:
    done = cloven("plan", own, "--strategy", "vertical", "--mean", "0.5,0.5,0.5")

    assert done.code == 2
    assert "mynet:net requires --input-size: the size of one image, such as 3x32x32" in done.err
    assert "--mean requires --std" in done.err


def test_a_plan_keeps_the_normalisation_and_runs_with_it(cloven: Run, here: Path, own: str) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), (200, 10, 60)).save("photo.png")
    size = ("--input-size", "3x8x8", "--strategy", "vertical", "--cuts", "1", "--out", "plan.toml")
    done = cloven("plan", own, *size, "--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.2")
    model = tomllib.loads((here / "plan.toml").read_text())["model"]
    ran = cloven("run", "plan.toml", "--input", "photo.png", "--verify")

    assert (done.code, done.err.count("normalised")) == (0, 0)
    assert (model["mean"], model["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.2])
    assert ran.code == 0
    assert ran.err.splitlines()[-1] == "equal to the whole model on 1 images"
    assert re.search(r"equal to the whole model +yes", ran.out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", "a,b,c", "--std", "1,1,1"), "--mean is 'a,b,c'; expected numbers such as 0.5,0.5,0.5"),
        (("--mean", "0.5", "--std", "0.5"), "mean"),
        (("--std", "0.5,0.5,0.5"), "--std requires --mean"),
    ],
)
def test_a_normalisation_that_cannot_be(cloven: Run, own: str, options: tuple[str, ...], message: str) -> None:
    done = cloven("plan", own, "--input-size", "3x8x8", "--strategy", "vertical", *options)

    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


# --- plans without a model ----------------------------------------------------------------------------------------


@pytest.fixture
def unnamed(cloven: Run, here: Path) -> Path:
    """Return the path of a plan without its [model] table."""
    cloven("plan", "lenet5", "--strategy", "vertical", "--cuts", "conv2", "--out", "named.toml")
    text = (here / "named.toml").read_text()
    (here / "plan.toml").write_text(re.sub(r"\[model\]\n(.+\n)+\n", "", text))
    return here / "plan.toml"


def test_a_plan_without_a_model_takes_the_one_that_is_given(cloven: Run, here: Path, unnamed: Path) -> None:
    ran = cloven("run", "plan.toml", "--model", "lenet5", "--data", "digits", "--verify", "--json")
    bundled = cloven("bundle", "plan.toml", "--model", "lenet5", "--out", "bundle")
    other = cloven("run", "plan.toml", "--model", "resnet20", "--data", "digits")

    assert (ran.code, json.loads(ran.out)["accuracy"] > 0.9) == (0, True)
    assert (bundled.code, json.loads((here / "bundle" / "manifest.json").read_text())["model"]) == (0, "lenet5")
    assert other.code == 2
    assert "no layer or op is named 'conv2'" in other.err


@pytest.mark.parametrize("command", ["run", "bundle", "serve", "lab"])
def test_a_plan_without_a_model_requires_one(cloven: Run, unnamed: Path, command: str) -> None:
    more = {"bundle": ("--out", "bundle"), "serve": ("--cluster", "cluster.toml")}.get(
        command, ("--input", "x.png")
    )
    missing = cloven(command, "plan.toml", *more)
    twice = cloven(command, "named.toml", *more, "--model", "resnet20")

    assert (missing.code, twice.code) == (2, 2)
    assert "plan.toml names no model; give one with --model, or add a [model] table" in missing.err
    assert "named.toml is a plan for lenet5, got --model resnet20; leave --model out" in twice.err


def test_options_of_the_model_count_more_than_the_plans(cloven: Run, here: Path, own: str) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), (200, 10, 60)).save("photo.png")
    cloven("plan", own, "--input-size", "3x8x8", "--strategy", "vertical", "--cuts", "1", "--out", "plan.toml")
    plain = cloven("bundle", "plan.toml", "--out", "plain")
    other = cloven("bundle", "plan.toml", "--out", "other", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2")
    wrong = cloven(
        "run", "plan.toml", "--input", "photo.png", "--classes", "3", "--mean", "0.5,0.5", "--std", "1,1"
    )

    assert (plain.code, other.code) == (0, 0)
    plans = [json.loads((here / name / "manifest.json").read_text())["plan"] for name in ("plain", "other")]
    assert ["mean = [0.5, 0.5, 0.5]" in plan for plan in plans] == [False, True]
    assert wrong.code == 2
    assert "--mean has 2 numbers; expected 3, one for each channel" in wrong.err


# --- audits -------------------------------------------------------------------------------------------------------


GREY = OWN.replace("Conv2d(3,", "Conv2d(1,")
AUDIT = ("--data", "digits", "--strategies", "vertical", "--view", "full", "--dry-run")


@pytest.fixture
def grey(own: str, here: Path) -> str:
    """Return the same model for grey images."""
    (here / "mynet.py").write_text(GREY)
    return own


def test_an_own_model_is_attacked_at_the_size_of_the_data(cloven: Run, grey: str) -> None:
    done = cloven("audit", grey, *AUDIT, "--layers", "1", "--json")
    (cell,) = json.loads(done.out)["cells"]

    assert done.code == 0
    assert (cell["seen"], cell["observation_bytes"]) == (["1"], 4 * 4 * 26 * 26)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "name some of its layers with --layers: 0, 1, 2, 3, 4"),
        (("--layers", "1", "--classes", "1000"), "mynet:net has 10 outputs, got 1,000 classes"),
        (("--layers", "1", "--mean", "0.5"), "--mean requires --std"),
        (("--layers", "1", "--model", "lenet5"), "--model requires a plan without a [model] table"),
        (("--strategies", "enclave"), "requires the layers to cut after; name them with --cuts"),
    ],
)
def test_an_audit_that_cannot_be_says_what_to_give(
    cloven: Run, grey: str, options: tuple[str, ...], message: str
) -> None:
    done = cloven("audit", grey, *AUDIT, *options)

    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_plan_without_a_model_is_audited_with_one(cloven: Run, unnamed: Path) -> None:
    done = cloven("audit", "plan.toml", "--model", "lenet5", "--dry-run", "--json")
    missing = cloven("audit", "plan.toml", "--dry-run")

    assert [cell["observation_bytes"] for cell in json.loads(done.out)["cells"]] == [6400]
    assert missing.code == 2
    assert "plan.toml names no model; give one with --model" in missing.err
