"""Bad input: exit code 2, one clear message with all mistakes, no traceback, nothing written."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Done, Run


def picture(path: Path, side: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = abs(hash(path.name)) % 2**31
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def one_pixel(folder: Path) -> None:
    for i in range(3):
        picture(folder / f"{i}.png", side=1)


def no_images(folder: Path) -> None:
    picture(folder / "good.png")
    (folder / "bad.png").write_text("this is no image")
    (folder / "worse.jpg").write_bytes(b"")


def empty(folder: Path) -> None:
    folder.mkdir()


def truncated(folder: Path) -> None:
    folder.mkdir()
    for half, n in (("train", 20), ("t10k", 10)):
        images = struct.pack(">IIII", 0x803, n, 28, 28) + bytes(n * 784)
        (folder / f"{half}-images-idx3-ubyte").write_bytes(images[:-100] if half == "train" else images)
        (folder / f"{half}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, n) + bytes(n))


def nothing(_: Path) -> None:
    """The folder does not exist."""


def refused(done: Done, *messages: str) -> None:
    assert done.code == 2, done
    assert "Traceback" not in done.err
    for message in messages:
        assert message in done.err, done.err


@pytest.mark.parametrize(
    ("make", "option", "messages"),
    [
        (nothing, ("--auxiliary", "folder:there"), ("there",)),
        (empty, ("--auxiliary", "folder:there"), ("there",)),
        (one_pixel, ("--auxiliary", "folder:there"), ("1 x 1 pixels",)),
        (no_images, ("--auxiliary", "folder:there"), ("bad.png", "worse.jpg")),
        (truncated, ("--data", "mnist:there"), ("train-images-idx3-ubyte", "expected 15,696 bytes, got 15,596")),
        (empty, ("--data", "mnist:there"), ("there",)),
        (empty, ("--data", "cifar10:there"), ("there",)),
        (nothing, ("--data", "mnist"), ("mnist:",)),
        (nothing, ("--data", "imagenet:there"), ("imagenet", "cifar10", "digits", "folder", "mnist")),
        (nothing, ("--auxiliary", "digits"), ("auxiliary images are also victim images",)),
        (nothing, ("--layers", "conv2,convv9"), ("no layer or op is named 'convv9'; the nearest names are",)),
        (nothing, ("--strategies", "diagonal"), ("no strategy is named 'diagonal'; choose from vertical",)),
        (nothing, ("--view", "side"), ("--view is 'side'; choose from both, paper, full",)),
        (nothing, ("--devices", "5"), ("5 devices have no usual grid of tiles; choose from 2, 4, 8",)),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_an_audit_refuses_what_it_cannot_use(
    cloven: Run,
    here: Path,
    make: Callable[[Path], None],
    option: tuple[str, ...],
    messages: tuple[str, ...],
    dry: bool,
) -> None:
    make(here / "there")
    before = sorted(here.rglob("*"))

    done = cloven("audit", *option, "--out", "out", *(["--dry-run"] if dry else []))

    refused(done, *messages)
    assert sorted(here.rglob("*")) == before


def test_several_wrong_settings_are_named_together(cloven: Run, here: Path) -> None:
    done = cloven("audit", "lenet6", "--strategies", "diagonal,vertical", "--pairs", "1", "--victims", "3",
                  "--data", "mnist:nowhere", "--auxiliary", "folder:nobody")  # fmt: skip

    refused(done, "no strategy is named 'diagonal'", "pairs is 1; expected 2 or more", "victims is 3; expected 20")
    refused(done, "unknown model 'lenet6'; did you mean lenet5?", "nowhere", "nobody")
    assert len(done.err.splitlines()) == 6
    assert not list(here.iterdir())


def test_an_unknown_model_is_refused_with_the_known_ones(cloven: Run, here: Path) -> None:
    for command in (("inspect", "lenet6"), ("audit", "lenet6"), ("plan", "lenet6", "--strategy", "vertical")):
        refused(cloven(*command), "lenet6", "lenet5")
    assert not list(here.iterdir())


def test_an_input_size_that_the_model_cannot_take_is_refused(cloven: Run, here: Path) -> None:
    refused(cloven("inspect", "lenet5", "--input-size", "1x8x8"), "8")
    refused(cloven("inspect", "lenet5", "--input-size", "28x28"), "--input-size is '28x28'; expected 3 numbers")


PLAN = """
version = 1
devices = ["a", "b", "a"]
colour = "red"
[model]
name = "lenet5"
input = [1, 28, 28]
classes = 10
[strategy]
kind = "vertical"
cuts = ["conv2", "convv1"]
"""


def test_a_plan_file_with_three_mistakes_names_all_three(cloven: Run, here: Path) -> None:
    (here / "plan.toml").write_text(PLAN)

    refused(
        cloven("run", "plan.toml", "--data", "digits"),
        "colour is not a known entry (got 'red')",
        "two devices are named a",
        "no layer or op is named 'convv1'",
    )
    assert [p.name for p in here.iterdir()] == ["plan.toml"]


def test_a_plan_on_the_command_line_names_all_that_is_wrong(cloven: Run, here: Path) -> None:
    options = ("--cuts", "pool2,conv1", "--grid", "2x2", "--routing", "mesh", "--out", "plan.toml")

    done = cloven("plan", "lenet5", "--strategy", "vertical", *options)

    refused(done, "--grid belongs to --strategy data", "routing", "cut 'conv1' does not come after cut 'pool2'")
    assert not list(here.iterdir())


def test_a_plan_that_cannot_be_read_or_written_is_an_error(cloven: Run, here: Path) -> None:
    refused(cloven("run", "nowhere.toml", "--data", "digits"), "cannot read the plan nowhere.toml")
    (here / "file").write_text("")
    done = cloven("plan", "lenet5", "--strategy", "horizontal", "--devices", "2", "--out", "file/plan.toml")
    refused(done, "cannot write file/plan.toml")
    assert [p.name for p in here.iterdir()] == ["file"]


def test_data_with_another_number_of_classes_than_the_plan_is_refused(cloven: Run, here: Path) -> None:
    cloven("plan", "lenet5", "--strategy", "vertical", "--cuts", "conv2", "--classes", "5", "--out", "plan.toml")

    refused(cloven("run", "plan.toml", "--data", "digits"), "digits has 10 classes; the plan's model has 5")


def test_wrong_usage_is_exit_code_2(cloven: Run) -> None:
    assert cloven("audit", "--epochs", "0").code == 2
    assert cloven("plan", "lenet5").code == 2
    assert cloven("fly").code == 2
