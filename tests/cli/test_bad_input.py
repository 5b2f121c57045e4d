"""Invalid input: exit code 2, one clear message with all errors, no traceback, no files written."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from shutil import copytree, ignore_patterns

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import JsonValue

from cloven.auditing.store import read_document, write_document
from cloven.zoo.models import build
from tests.cli.conftest import Done, Run
from tests.partition.texts import THREE_MISTAKES


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
    (folder / "bad.png").write_text("this is not an image")
    (folder / "worse.jpg").write_bytes(b"")


def divided(folder: Path) -> None:
    for name in ("train/cat/1.png", "val/cat/1.png"):
        picture(folder / name)


def empty(folder: Path) -> None:
    folder.mkdir()


def truncated(folder: Path) -> None:
    folder.mkdir()
    for half, n in (("train", 20), ("t10k", 10)):
        images = struct.pack(">IIII", 0x803, n, 28, 28) + bytes(n * 784)
        (folder / f"{half}-images-idx3-ubyte").write_bytes(images[:-100] if half == "train" else images)
        (folder / f"{half}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, n) + bytes(n))


def nothing(_: Path) -> None:
    """Do nothing: the folder does not exist."""


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
        (divided, ("--data", "folder:there"), ("there: contains train, val, which", "such as folder:there/train")),
        (truncated, ("--data", "mnist:there"), ("train-images-idx3-ubyte", "expected 15,696 bytes, got 15,596")),
        (empty, ("--data", "mnist:there"), ("there",)),
        (empty, ("--data", "cifar10:there"), ("there",)),
        (nothing, ("--data", "mnist"), ("mnist:",)),
        (nothing, ("--data", "imagenet:there"), ("imagenet", "cifar10", "digits", "folder", "mnist")),
        (nothing, ("--auxiliary", "digits"), ("auxiliary images are also victim images",)),
        (nothing, ("--layers", "conv2,convv9"), ("no layer or op is named 'convv9'; the nearest names are",)),
        (nothing, ("--strategies", "diagonal"), ("no strategy is named 'diagonal'; choose from vertical",)),
        (nothing, ("--strategy", "enclave,data"), ("--strategies enclave excludes other strategies",)),
        (nothing, ("--strategy", "enclave"), ("name them with --cuts, such as --cuts conv1,conv2, or --cuts s2",)),
        (
            nothing,
            ("--layers", "s2"),
            ("Rajasekar et al. (2024) do not cut 'lenet5'; choose from torchvision:vgg16",),
        ),
        (nothing, ("--view", "side"), ("--view is 'side'; choose from both, paper, full",)),
        (nothing, ("--devices", "5"), ("devices is 5, which has no grid of tiles; choose from 2, 4, 8",)),
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
    done = cloven("audit", "lenet6", "--strategies", "diagonal,vertical", "--queries", "1", "--victims", "3",
                  "--data", "mnist:nowhere", "--auxiliary", "folder:nobody")  # fmt: skip

    refused(
        done, "no strategy is named 'diagonal'", "queries is 1; expected 2 or more", "victims is 3; expected 20"
    )
    refused(done, "unknown model 'lenet6'; did you mean lenet5?", "nowhere", "nobody")
    assert done.err.count("cloven: ") == 6
    assert not list(here.iterdir())


def test_an_unknown_model_is_refused_with_the_known_ones(cloven: Run, here: Path) -> None:
    for command in (("inspect", "lenet6"), ("audit", "lenet6"), ("plan", "lenet6", "--strategy", "vertical")):
        refused(cloven(*command), "lenet6", "lenet5")
    assert not list(here.iterdir())


def test_an_input_size_that_the_model_cannot_take_is_refused(cloven: Run, here: Path) -> None:
    refused(cloven("inspect", "lenet5", "--input-size", "1x8x8"), "8")
    refused(cloven("inspect", "lenet5", "--input-size", "28x28"), "--input-size is '28x28'; expected 3 numbers")


def test_a_plan_file_with_three_mistakes_names_all_three(cloven: Run, here: Path) -> None:
    (here / "plan.toml").write_text(THREE_MISTAKES)

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

    refused(done, "--grid requires --strategy data", "routing", "cut 'conv1' does not come after cut 'pool2'")
    assert not list(here.iterdir())


def test_a_plan_that_cannot_be_read_or_written_is_an_error(cloven: Run, here: Path) -> None:
    refused(cloven("run", "nowhere.toml", "--data", "digits"), "cannot read nowhere.toml")
    (here / "file").write_text("")
    done = cloven("plan", "lenet5", "--strategy", "horizontal", "--devices", "2", "--out", "file/plan.toml")
    refused(done, "cannot write file/plan.toml")
    assert [p.name for p in here.iterdir()] == ["file"]


def test_data_with_another_number_of_classes_than_the_plan_is_refused(cloven: Run, here: Path) -> None:
    cloven("plan", "lenet5", "--strategy", "vertical", "--cuts", "conv2", "--classes", "5", "--out", "plan.toml")

    refused(
        cloven("run", "plan.toml", "--data", "digits"), "digits has 10 classes; expected 5, as in the plan's model"
    )


def test_wrong_usage_is_exit_code_2(cloven: Run) -> None:
    assert cloven("audit", "--epochs", "0").code == 2
    assert cloven("plan", "lenet5").code == 2
    assert cloven("fly").code == 2


# --- plans ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (("--strategy", "diagonal"), ("'diagonal'",)),
        (
            ("--strategy", "vertical", "--cuts", "pool2,conv2,conv1", "--devices", "2"),
            (
                "the strategy takes 4 devices; got 2",
                "cut 'conv2' does not come after cut 'pool2'",
                "cut 'conv1' does not come after cut 'conv2'",
            ),
        ),
        (
            ("--strategy", "vertical", "--cuts", "2,33,s2:1"),
            (
                "lenet5 has no layer 33: Mehrafrooz et al. (2025) number its layers 0 to 7",
                "s2:1: Rajasekar et al. (2024) number the layers of torchvision:vgg16",
            ),
        ),
        (("--strategy", "horizontal", "--shares", "0.5,0.3"), ("add up to 0.8; expected fractions that",)),
        (("--strategy", "horizontal", "--shares", "1,nan"), ("shares are [1.0, nan]; expected numbers of",)),
        (
            ("--strategy", "horizontal", "--shares", "1,-1,0", "--devices", "2"),
            ("the strategy takes 3 devices; got 2", "shares are [1.0, -1.0, 0.0]; expected numbers of at least 0"),
        ),
        (
            ("--strategy", "horizontal", "--axis", "filters", "--exchange", "never", "--sums", "nowhere"),
            ("(got 'filters')", "(got 'never')", "(got 'nowhere')"),
        ),
        (
            ("--strategy", "horizontal", "--devices", "500", "--no-reuse"),
            ("500 devices, but the widest layer has 120 output channels", "reuse is false, which requires routing"),
        ),
        (("--strategy", "data", "--grid", "29x29"), ("no layer of this model can be divided into a 29x29 grid",)),
        (
            ("--strategy", "data", "--grid", "15x15", "--until", "pool1"),
            ("'pool1' has shape (6, 14, 14) and cannot be divided into a 15x15 grid", "layer that can be is conv1"),
        ),
        (("--strategy", "data", "--grid", "0x2"), ("the grid is 0x2; expected 1x1 or more",)),
        (
            ("--strategy", "data", "--grid", "2", "--shares", "a,b", "--halo", "some", "--cuts", "conv1"),
            (
                "--grid is '2'; expected 2 numbers such as 2x2",
                "--shares is 'a,b'; expected numbers such as 2,1,1",
                "(got 'some')",
                "--cuts requires --strategy vertical; got data",
            ),
        ),
        (
            ("--strategy", "vertical", "--cuts", "conv1", "--inside", "3:2", "--axis", "rows"),
            ("--inside is '3:2'; expected PART:DEVICES with a part from 1 to 2",),
        ),
        (
            ("--strategy", "data", "--then", "up", "--inside", "1:2"),
            ("--then is 'up'; choose vertical or horizontal", "--then requires --until", "--inside requires"),
        ),
        (
            ("--strategy", "horizontal", "--from", "conv3", "--until", "conv2"),
            ("'conv2' does not come after 'conv3'",),
        ),
        (
            ("--strategy", "horizontal", "--routing", "star", "--weights", "nowhere.pth", "--halo", "none"),
            ("nowhere.pth: there is no such file", "--halo requires --strategy data"),
        ),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_all_that_is_wrong(
    cloven: Run, here: Path, options: tuple[str, ...], messages: tuple[str, ...]
) -> None:
    done = cloven("plan", "lenet5", *options, "--out", "plan.toml")

    refused(done, *messages)
    assert all(line.startswith("cloven: ") for line in done.err.splitlines())
    assert not list(here.iterdir())


# --- models and weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "messages"),
    [
        ("torchvision:resnt18", ("torchvision has no model 'resnt18'; did you mean resnet18",)),
        ("torchvision:qqq", ("torchvision has no model 'qqq'; torchvision has",)),
        ("timm:resnt18", ("timm has no model 'resnt18'; did you mean resnet18",)),
        ("nowhere.at.all:net", ("nowhere.at.all cannot be imported: No module named 'nowhere'",)),
        ("tests.partition.test_tiles:Nothing", ("tests.partition.test_tiles has no function or class 'Nothing'",)),
        ("tests.partition.test_tiles:measured", ("measured(), called without arguments, fails",)),
        ("tests.partition.test_tiles:gated", ("gated() returns a Graph; expected a torch.nn.Module",)),
        (":net", (":net: a module without a name cannot be imported",)),
        ("..up:net", ("..up:net: ..up cannot be imported",)),
        ("lenet5:", ("unknown model 'lenet5:'; did you mean lenet5?",)),
    ],
)
def test_a_model_that_is_not_there_is_refused_by_name(
    cloven: Run, here: Path, model: str, messages: tuple[str, ...]
) -> None:
    done = cloven("plan", model, "--strategy", "vertical", "--out", "plan.toml")

    refused(done, *messages)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def net(:", "broken_net cannot be imported: invalid syntax"),
        ("raise RuntimeError('no such device')", "broken_net cannot be imported: no such device"),
        ("def net():\n    raise KeyError('weights')", "net(), called without arguments, fails: 'weights'"),
        ("def net():\n    return [1]", "net() returns a list; expected a torch.nn.Module"),
    ],
)
def test_a_factory_of_ones_own_that_fails_is_an_error(
    cloven: Run, here: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    (here / "broken_net.py").write_text(code)
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "broken_net", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    refused(cloven("plan", "broken_net:net", "--strategy", "vertical", "--out", "plan.toml"), message)
    assert [p.name for p in here.iterdir()] == ["broken_net.py"]


def test_images_that_a_model_cannot_take_are_refused(cloven: Run, here: Path) -> None:
    grey = cloven("plan", "torchvision:resnet18", "--input-size", "1x64x64", "--strategy", "vertical")
    small = cloven("plan", "mobilenet_v1", "--input-size", "3x16x16", "--strategy", "vertical")

    refused(grey, "torchvision:resnet18 takes images of 3 channels; got 1")
    refused(small, "mobilenet_v1: got images of 16 x 16, expected at least 32 x 32; enlarge them")


class Harmful:
    """An object that writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, ("was_run", "w"))


def weights_of_another_model(path: Path) -> None:
    torch.save(build("lenet5", shape=(3, 32, 32), classes=5).state_dict(), path)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"conv1.0.weight": Harmful()}))


def pickled_by_torch(path: Path) -> None:
    torch.save({"conv1.0.weight": Harmful()}, path)


def a_whole_model(path: Path) -> None:
    torch.save(build("lenet5", shape=(1, 28, 28), classes=10), path)


def not_finite(path: Path) -> None:
    state = build("lenet5", shape=(1, 28, 28), classes=10).state_dict()
    state["dense2.bias"][3] = torch.nan
    torch.save({"state_dict": state}, path)


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


@pytest.mark.parametrize(
    ("make", "name", "messages"),
    [
        (weights_of_another_model, "w.pth", ("(6, 3, 5, 5) not (6, 1, 5, 5)", "belongs to another model")),
        (pickled, "w.pth", ("w.pth",)),
        (
            pickled,
            "w.pkl",
            ("w.pkl: is refused: it contains objects that weights do not need", "nothing in it was run"),
        ),
        (pickled_by_torch, "w.pth", ("w.pth: is refused: it names", "nothing in it was run")),
        (a_whole_model, "w.pt", ("w.pt: is refused: it names cloven.zoo.models.LeNet5",)),
        (noise, "w.safetensors", ("w.safetensors: is damaged, or does not hold weights",)),
        (not_finite, "w.ckpt", ("w.ckpt: 1 entry with NaN or infinity: dense2.bias (1 of 10 values)",)),
        (pointer, "w.pth", ("w.pth: is a Git LFS pointer, not the file itself; run: git lfs pull",)),
        (os.mkfifo, "w.pth", ("w.pth: it is a pipe or a device; expected a regular file",)),
        (Path.mkdir, "w.pth", ("w.pth: it is a folder; expected a regular file",)),
    ],
)
def test_weights_that_are_not_this_models_or_could_run_code_are_refused(
    cloven: Run, here: Path, make: Callable[[Path], None], name: str, messages: tuple[str, ...]
) -> None:
    make(here / name)

    refused(
        cloven(
            "plan", "lenet5", "--weights", name, "--strategy", "vertical", "--cuts", "conv1", "--out", "plan.toml"
        ),
        *messages,
    )
    assert [p.name for p in here.iterdir()] == [name]


def test_weights_and_plan_that_are_both_wrong_are_named_together(cloven: Run, here: Path) -> None:
    (here / "plan.toml").write_text(THREE_MISTAKES.replace("classes = 10", 'classes = 10\nweights = "gone.pth"'))

    refused(
        cloven("run", "plan.toml", "--data", "digits"),
        "colour is not a known entry (got 'red')",
        "gone.pth: there is no such file",
    )


# --- runs and bundles -----------------------------------------------------------------------------------------


def planned(cloven: Run) -> None:
    done = cloven("plan", "lenet5", "--strategy", "vertical", "--cuts", "conv2", "--out", "plan.toml")
    assert done.code == 0


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ((), ("give either --data SPEC or --input PICTURE",)),
        (("--data", "digits", "--input", "photo.png"), ("give either --data SPEC or --input PICTURE",)),
        (("--input", "nowhere.png"), ("nowhere.png",)),
        (("--input", "plan.toml"), ("plan.toml",)),
        (("--input", "there"), ("there",)),
        (("--data", "imagenet:nowhere"), ("imagenet", "cifar10", "digits", "folder", "mnist")),
    ],
)
def test_a_run_without_images_is_refused(
    cloven: Run, here: Path, options: tuple[str, ...], messages: tuple[str, ...]
) -> None:
    planned(cloven)
    picture(here / "photo.png")
    (here / "there").mkdir()
    before = sorted(here.rglob("*"))

    refused(cloven("run", "plan.toml", *options), *messages)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("name", ["there", "there/file", "plan.toml", "plan.toml/below"])
def test_a_bundle_is_not_written_over_what_is_no_bundle(cloven: Run, here: Path, name: str) -> None:
    planned(cloven)
    (here / "there").mkdir()
    (here / "there/file").write_text("mine")
    before = {path: path.read_text() for path in here.rglob("*") if path.is_file()}

    refused(cloven("bundle", "plan.toml", "--out", name), name)
    assert {path: path.read_text() for path in here.rglob("*") if path.is_file()} == before


def test_a_bundle_of_a_wrong_plan_is_refused_with_all_that_is_wrong(cloven: Run, here: Path) -> None:
    (here / "plan.toml").write_text(THREE_MISTAKES)

    refused(
        cloven("bundle", "plan.toml", "--out", "made"),
        "colour is not a known entry (got 'red')",
        "two devices are named a",
        "no layer or op is named 'convv1'",
    )
    assert [p.name for p in here.iterdir()] == ["plan.toml"]


# --- what the system refuses ----------------------------------------------------------------------------------


@contextmanager
def disk(place: Path, options: str) -> Iterator[Path]:
    """Mount a small file system, which requires root."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def remounted(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def own_weights(path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(build("lenet5", shape=(1, 28, 28), classes=10).state_dict(), path)
    return path


AUDIT = ("audit", "lenet5", "--auxiliary", "same", "--strategies", "vertical", "--layers", "conv1", "--attacks",
         "nearest", "--queries", "50", "--victims", "20", "--judge", "none", "--jobs", "1")  # fmt: skip
"""An audit of a second, which keeps 1.3 MB of features meanwhile."""


def test_an_audit_on_a_full_disk_is_stopped_and_goes_on(cloven: Run, here: Path) -> None:
    weights = own_weights(here / "w.pth")
    with disk(here / "small", "size=4k") as small:
        audit = (*AUDIT, "--weights", weights, "--out", small / "run")
        for size, message in (
            ("12k", "cannot keep 940,800 bytes of captured numbers in"),
            ("1004k", "cannot keep 376,320 bytes of captured numbers in"),
            ("1524k", "cloven: cannot write "),
        ):
            remounted(small, f"size={size}")
            refused(cloven(*audit), message, "No space left on device; free some space there")
            assert [path.name for path in small.rglob(".*")] == [".lock"]  # no features, no incomplete files
        remounted(small, "size=8m")
        assert cloven(*audit).code == 0


def test_places_that_cannot_be_written(cloven: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command that writes names the path and the reason, and leaves no incomplete file."""
    monkeypatch.setenv("CLOVEN_CACHE", "place/cache")
    own_weights(here / "w.pth")
    planned(cloven)
    commands: tuple[tuple[str, ...], ...] = (
        (*AUDIT, "--weights", "w.pth", "--out", "place/run"),
        (
            "audit",
            "lenet5",
            "--queries",
            "50",
            "--victims",
            "20",
            "--out",
            "run",
        ),  # the trained CNN is written to the cache
        ("plan", "lenet5", "--strategy", "vertical", "--cuts", "conv1", "--out", "place/plan.toml"),
        ("bundle", "plan.toml", "--out", "place/bundle"),
        ("keys", "new", "edge0", "edge1", "--out", "place/keys"),
        ("report", "place/old"),
    )
    with disk(here / "place", "size=1m") as place:
        assert cloven(*AUDIT, "--weights", "w.pth", "--out", "old").code == 0
        copytree("old", place / "old", ignore=ignore_patterns(".lock"))
        before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        with (place / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, 4096 * os.statvfs(place).f_bavail)
        for options, reason in (("size=1m", "No space left on device"), ("ro", "Read-only file system")):
            remounted(place, options)
            for command in commands:
                refused(cloven(*command), "place/", reason)
        after = [path for path in place.rglob("*") if path.is_file() and path.name not in (".lock", "ballast")]
        assert {path: path.read_bytes() for path in after} == before


OUTPUTS = pytest.mark.parametrize(
    "args", [("inspect", "lenet5", "--json"), ("inspect", "lenet5"), ("--version",), ("--help",)]
)


@OUTPUTS
def test_an_output_that_cannot_be_written(
    cloven: Run, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        refused(cloven(*args), "cloven: cannot write the output or a file: No space left on device; free some")


@pytest.mark.parametrize("args", [("inspect", "lenet5", "--json"), ("inspect", "lenet5")])
def test_an_output_that_nobody_reads(cloven: Run, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        refused(cloven(*args), "cloven: the output was closed before all of it was written")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_process_whose_output_cannot_be_written(unbuffered: str) -> None:
    """Python does not print another error at its exit."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cloven.cli", "--version"], stdout=full, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered}, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("options", ["--help", "--version", "audit --help"])
def test_a_process_whose_reader_has_gone(options: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "cloven.cli", *options.split()], stdout=writer, stderr=subprocess.PIPE, text=True,
        check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (2, "cloven: the output was closed before all of it was written\n")


STREAMS = """
import os, subprocess, sys
from cloven.cli import main
sys.argv = ["cloven", "keys", "renew", "."]
try:
    main()
finally:
    with open("found", "w") as found:
        seen = [subprocess.run(["test", "-e", f"/proc/self/fd/{n}"]).returncode for n in range(3)]
        found.write(f"{found.fileno() > 2} {seen}")
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_process_whose_standard_streams_are_closed(tmp_path: Path, closed: str) -> None:
    """No file gets the descriptor of a closed stream, also in child processes; no message mixes with output."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, STREAMS], cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert (tmp_path / "found").read_text() == "True [0, 0, 0]"


def test_a_second_audit_in_the_same_folder(cloven: Run, here: Path) -> None:
    own_weights(here / "w.pth")
    audit = (*AUDIT, "--weights", "w.pth", "--out", "run")
    assert cloven(*audit).code == 0
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    with (here / "run/.lock").open("ab") as first:
        flock(first, LOCK_EX)
        refused(cloven(*audit), "another audit is running in run; wait until it has ended")
        assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
    assert cloven(*audit).code == 0


@pytest.mark.parametrize("name", ["summary.json", "cells/*.json", "cells/*.safetensors"])
def test_a_study_that_was_edited(cloven: Run, here: Path, name: str) -> None:
    own_weights(here / "w.pth")
    audit = (*AUDIT, "--weights", "w.pth", "--out", "run")
    assert cloven(*audit).code == 0
    (path,) = (here / "run").glob(name)
    path.write_bytes(path.read_bytes().replace(b'"mean": 0.', b'"mean": 0.9') + b"\0" * (path.suffix != ".json"))

    refused(cloven("report", "run"), str(path.relative_to(here)), "run ", "audit")
    if name != "summary.json":
        refused(cloven(*audit), str(path.relative_to(here)), "delete", "run the audit again")
        path.unlink()
        path.with_suffix(".json").unlink(missing_ok=True)
    assert cloven(*audit).code == 0
    assert cloven("report", "run").code == 0


def test_a_study_that_was_damaged(cloven: Run, here: Path) -> None:
    """For any damaged file, the report names the file and what to do."""
    own_weights(here / "w.pth")
    assert cloven(*AUDIT, "--weights", "w.pth", "--out", "run").code == 0
    for name in ("summary.json", "cells/*.json", "cells/*.safetensors"):
        (path,) = (here / "run").glob(name)
        content = path.read_bytes()
        damages: dict[str, Callable[[Path], object]] = {
            "missing": lambda path: None,
            "empty": Path.touch,
            "broken off": lambda path: path.write_bytes(b'{"key": '),
            "a folder": Path.mkdir,
            "a pipe": os.mkfifo,
            "a link to nothing": lambda path: path.symlink_to("nowhere"),
        }
        for damage in damages.values():
            path.unlink()
            damage(path)
            refused(
                cloven("report", "run"),
                "run",
                "audit",
                *([] if "summary" in name else [str(path.relative_to(here)), "delete"]),
            )
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            path.write_bytes(content)
    assert cloven("report", "run").code == 0


def test_a_summary_that_others_wrote(cloven: Run, here: Path) -> None:
    """The digest may be right, but the content is not as expected."""
    own_weights(here / "w.pth")
    assert cloven(*AUDIT, "--weights", "w.pth", "--out", "run").code == 0
    whole = read_document(here / "run/summary.json", "")
    for name in ("findings", "observations", "programs", "attacker", "settings"):
        rest = {k: v for k, v in whole.items() if k != name}
        changed: dict[str, JsonValue] = {**rest, name: [[1, None]]}
        for other in (rest, changed):
            write_document(here / "run/summary.json", other)
            refused(cloven("report", "run"), "summary.json does not hold what this version", "run the same audit")


def test_names_cannot_steer_the_terminal(cloven: Run, tmp_path: Path) -> None:
    done = cloven("report", tmp_path / "a\x1b[31m\rb")

    assert done.code == 2
    assert "a\\x1b[31m\\rb" in done.err
    assert "\x1b" not in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--devices", 10**9), "expected at most 4096"),
        (("--devices", 2, "--weights", "\udcff.pth"), "not valid Unicode"),
        (("--devices", 2, "--out", ""), "cannot write ."),
    ],
)
def test_plans_with_odd_values(cloven: Run, options: tuple[object, ...], message: str) -> None:
    done = cloven("plan", "lenet5", "--strategy", "horizontal", *options)

    assert (done.code, message in done.err) == (2, True)


def test_divisions_cannot_be_executed_on_workers_that_run_another_plan(cloven: Run, tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.toml"
    cluster.write_text('[devices]\nedge0 = { address = "192.168.1.10:7001", profile = "cortex-a7" }\n')

    done = cloven("advise", "--cluster", cluster, "--measure", "--minimise", "traffic", "--out", tmp_path / "out")

    assert done.code == 2
    assert "--measure requires --minimise latency, got traffic" in done.err
    assert "has addresses of workers (edge0). A worker holds the bundle of one plan" in done.err
    assert not (tmp_path / "out").exists()
