"""The commands of an enclave, from sealing to the opened result."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image

from cloven.enclave.sealed_folder import measured, opened
from cloven.runtime.capture import capture
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.folders import decode_picture
from cloven.zoo.named import make
from tests.cli.conftest import Run

INSIDE = ("--cuts", "conv2", "--until", "dense1")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that keeps the files of the first test for the others."""
    return tmp_path_factory.mktemp("once") / "kept"


@pytest.fixture
def sealed(cloven: Run, here: Path, once: Path) -> Path:
    """A sealed LeNet-5 whose last layer is inside, its owner's key, and a sealed picture; a copy for each test."""
    if once.exists():
        copytree(once, here, dirs_exist_ok=True)
        return here / "sealed"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)).save("photo.png")
    torch.manual_seed(3)
    torch.save(make("lenet5", shape=(1, 28, 28), classes=10).state_dict(), "w.pth")
    for words in (
        ("plan", "lenet5", "--strategy", "enclave", *INSIDE, "--weights", "w.pth", "--out", "plan.toml"),
        ("plan", "lenet5", "--strategy", "vertical", "--cuts", "conv2,pool2", "--out", "three.toml"),
        ("enclave", "seal", "plan.toml", "--owner-key", "owner.key", "--out", "sealed"),
        ("enclave", "seal-input", "sealed", "photo.png", "--owner-key", "owner.key", "--out", "photo.sealed"),
    ):
        assert cloven(*words).code == 0, words
    copytree(here, once)
    return here / "sealed"


def logits() -> list[float]:
    """Return the logits of the whole model for the picture."""
    model = make("lenet5", shape=(1, 28, 28), classes=10)
    model.load_state_dict(torch.load("w.pth", weights_only=True))
    graph = capture(model, torch.zeros(1, 1, 28, 28))
    image = torch.tensor(decode_picture(Path("photo.png").read_bytes(), (1, 28, 28)))[None].float() / 255
    found: list[float] = evaluate(graph, image, [graph.output])[graph.output][0].tolist()
    return found


def test_the_owner_opens_what_the_whole_model_says(cloven: Run, sealed: Path) -> None:
    assert (sealed.parent / "owner.key").stat().st_mode & 0o77 == 0
    program = [sys.executable, "-c", "from cloven.cli import main; main()"]
    words = [*program, "enclave", "run", "sealed", "--input", "photo.sealed", "--out", "out"]
    with subprocess.Popen(words, stdout=-1, stderr=-1, text=True) as runs:
        assert runs.stderr is not None
        line = runs.stderr.readline()
        (to,) = re.findall(r"--to (\S+) ", line)
        ask = ("enclave", "release", "sealed", "--owner-key", "owner.key", "--to", to, "--accept", "simulated")
        wrong = cloven(*ask, "--expect", f"simulated:{'0' * 64}")
        assert wrong.code == 2
        assert "0" * 64 in wrong.err
        right = cloven(*ask, "--expect", f"simulated:{measured(opened(sealed))}")
        out, err = runs.communicate(timeout=60)

    assert right.code == 0, right.err
    assert "simulated: the process claims this measurement itself" in right.err
    assert runs.returncode == 0, err
    assert "simulated" in out
    assert "outside in clear: the weights of the rear, conv2.1" in out
    (run,) = re.findall("the run is ([0-9a-f]{64})", right.err)
    opens = ("enclave", "open", "sealed", "out/photo.result", "--owner-key", "owner.key", "--run")
    (row,) = json.loads(cloven(*opens, run, "--input", "photo.png", "--json").out)
    for options, said in (
        ((run, "--input", "w.pth"), "photo.result is not the result of w.pth"),
        (("0" * 64, "--input", "photo.sealed"), "photo.result is a result of another run"),
        ((run, "--input", "out"), "must both be folders, or both be files"),
    ):
        refused = cloven(*opens, *options)
        assert refused.code == 2
        assert said in refused.err
    assert row["logits"] == logits()
    steps = json.loads((sealed.parent / "out" / "trace.json").read_text())["trace"]
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_owner_and_runner_in_one_and_json(cloven: Run, sealed: Path) -> None:
    done = cloven("enclave", "run", "sealed", "--input", "photo.sealed", "--owner-key", "owner.key", "--json")

    found = json.loads(done.out)
    assert done.code == 0, done.err
    assert found["result"] == "sealed"
    assert found["results"] == [{"input": "photo.sealed", "logits": None, "file": None}]
    assert found["handed_over"] == {"values": ["conv2.1"], "shapes": [[16, 10, 10]], "bytes": 6400}


@pytest.mark.slow
def test_results_in_clear_are_kept_with_the_trace(cloven: Run, sealed: Path) -> None:
    key = ("--owner-key", "owner.key")
    for words in (
        ("plan", "lenet5", "--strategy", "enclave", "--cuts", "conv2", "--weights", "w.pth", "--out", "ends.toml"),
        ("enclave", "seal", "ends.toml", *key, "--out", "ends"),
        ("enclave", "seal-input", "ends", "photo.png", *key, "--out", "ends.sealed"),
        ("enclave", "run", "ends", "--input", "ends.sealed", *key, "--out", "answer"),
    ):
        assert cloven(*words).code == 0, words

    (row,) = json.loads(Path("answer/trace.json").read_text())["results"]
    assert row == {
        "input": "ends.sealed",
        "logits": pytest.approx(logits(), abs=1e-5),
        "file": "answer/ends.json",
    }
    assert json.loads(Path("answer/ends.json").read_text()) == row
    opens = ("enclave", "open", "ends", "answer/photo.result", *key, "--input", "photo.png", "--run", "0" * 64)
    assert "the results left it in clear: they are in the .json files" in cloven(*opens).err


@pytest.mark.slow
def test_an_input_that_the_enclave_refuses_is_named(cloven: Run, sealed: Path) -> None:
    """A picture that is not sealed, and one that is sealed for another folder."""
    key = ("--owner-key", "owner.key")
    cloven("enclave", "seal", "plan.toml", *key, "--out", "other")
    cloven("enclave", "seal-input", "other", "photo.png", *key, "--out", "others.sealed")
    for name in ("photo.png", "others.sealed"):
        done = cloven("enclave", "run", "sealed", "--input", name, *key)

        assert done.code == 2
        assert f"cloven: {name}: " in done.err


def test_a_manifest_of_it_is_printed(cloven: Run, sealed: Path) -> None:
    import tomllib

    done = cloven("enclave", "manifest", "sealed")

    assert done.code == 0, done.err
    found = tomllib.loads(done.out)
    assert found["sgx"]["remote_attestation"] == "dcap"
    assert found["sgx"]["debug"] is False
    assert "cloven.enclave.trusted" in found["loader"]["argv"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("seal", "plan.toml", "--owner-key", "owner.key", "--out", "sealed"), "sealed exists and is not empty"),
        (("seal", "three.toml", "--owner-key", "new.key", "--out", "other"), "3 devices (edge0, edge1, edge2)"),
        (
            ("seal-input", "sealed", "none.png", "--owner-key", "owner.key", "--out", "x"),
            "none.png: no such file",
        ),
        (("seal-input", "sealed", "plan.toml", "--owner-key", "owner.key", "--out", "x"), "plan.toml: the picture"),
        (("run", "sealed", "--input", "none.sealed"), "none.sealed: no such file"),
        (("run", "sealed", "--input", "photo.sealed", "--backend", "sgx"), "the backend is 'sgx'"),
        (("run", "sealed", "--input", "photo.sealed", "--handover", "mail"), "not support a hand-over by mail"),
        (("run", "sealed", "--input", "photo.sealed", "--memory", "3G"), "power of two: 2G or 4G"),
        (("run", "sealed", "--input", "photo.sealed", "--out", "sealed"), "sealed exists and is not empty"),
        (("run", "plan.toml", "--input", "photo.sealed"), "plan.toml is not a sealed folder"),
        (
            (
                "open",
                "sealed",
                "photo.sealed",
                "--owner-key",
                "owner.key",
                "--input",
                "photo.png",
                "--run",
                "0" * 64,
            ),
            "it was changed, or sealed with another key",
        ),
        (("release", "sealed", "--owner-key", "w.pth", "--to", "127.0.0.1:1", "--expect", "0" * 64), "owner's key"),
        (
            ("run", "sealed", "--input", "photo.sealed", "--backend", "gramine-sgx"),
            "gramine-sgx is not on the PATH",
        ),
        (("manifest", "sealed", "--memory", "3G"), "power of two: 2G or 4G"),
        (("manifest", "sealed", "--attestation", "epid"), "choose dcap or none"),
    ],
)
def test_what_cannot_be_meant_is_one_message(cloven: Run, sealed: Path, words: tuple[str, ...], said: str) -> None:
    done = cloven("enclave", *words)

    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (sealed.parent / "new.key").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--cuts", "conv1,conv2"), "one cut, or none to run all layers inside; got 2"),
        (("--cuts", "conv2", "--devices", "3"), "two devices; got 3"),
        (("--until", "dense1"), "without a cut, all layers run in the enclave"),
        (("--cuts", "conv2", "--then", "horizontal"), "--strategy enclave takes neither --then nor --from"),
        (("--cuts", "conv2", "--grid", "2x2"), "--grid requires --strategy data"),
    ],
)
def test_an_enclaves_plan_has_one_cut(cloven: Run, options: tuple[str, ...], said: str) -> None:
    done = cloven("plan", "lenet5", "--strategy", "enclave", *options)

    assert done.code == 2
    assert said in done.err
