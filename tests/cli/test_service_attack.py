"""Attack a running service in the laboratory: a user taps a link, as in Mehrafrooz et al. (2025), section 4."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import cloven
from cloven.auditing.finding import Finding
from cloven.auditing.results import Results
from cloven.runtime.capture import capture
from cloven.zoo.datasets import load
from cloven.zoo.images import split
from cloven.zoo.models import build
from cloven.zoo.training import fit
from tests.cli.processes import process
from tests.runtime.lab.programs import root

QUERIES = 300
SHAPE = (1, 28, 28)
CONV2 = "0=16x10x10"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a LeNet-5 that knows digits, and two plans of it, with and without protection."""
    folder = tmp_path_factory.mktemp("service")
    training, _, _ = split(load("digits", shape=SHAPE), seed=0)
    torch.manual_seed(0)
    model = build("lenet5", shape=SHAPE, classes=10)
    fit(model, training, epochs=6, seed=0)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "w.safetensors")
    text = f"""version = 1
devices = ["edge0", "edge1"]
[model]
name = "lenet5"
input = [1, 28, 28]
classes = 10
weights = "{folder / "w.safetensors"}"
[strategy]
kind = "vertical"
cuts = ["conv2"]
"""
    (folder / "plan.toml").write_text(text)
    (folder / "protected.toml").write_text(text + '[protection]\ndefault = "aes-128-gcm"\n')
    return folder


@contextmanager
def laboratory(place: Path, plan: str) -> Iterator[tuple[list[str], str, Path]]:
    """Yield the prefix of commands in the coordinator's network, the service's URL and the recording."""
    out = place / f"lab-{plan}"
    options = ("--data", "digits", "--limit", "20", "--serve", "--tap", "edge0-edge1", "--out", out)
    with process(place, "lab", place / plan, *options) as lab:
        words = shlex.split(lab.until("to attack: ").partition("to attack: ")[2].splitlines()[0])
        yield words[: words.index("cloven")], words[words.index("--service") + 1], Path(words[-1])
        assert lab.interrupt().code == 0


def attacked(place: Path, plan: str, *options: str) -> Finding:
    """Return the finding of an attack on the service of a plan."""
    out = place / f"out-{plan}"
    with laboratory(place, plan) as (inside, url, recording):
        command = ["attack", "--service", url, "--pcap", str(recording), "--auxiliary", "photos", "--queries",
                   str(QUERIES), "--attacks", "decoder", "--out", str(out), *options]  # fmt: skip
        held = subprocess.run(
            [*inside, sys.executable, "-c", SECOND_USER, url], capture_output=True, text=True, check=True
        )
        assert json.loads(held.stdout) == [201, 201, 423, 401]
        done = subprocess.run(
            [*inside, sys.executable, "-m", "cloven.cli", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    (finding,) = Results.load(out).findings
    return finding


def guessing(finding: Finding) -> float:
    """Return the best agreement of a guess without the observation."""
    return max(one.agreement for one in finding.baselines.values())


SECOND_USER = """
import httpx, json, sys
with httpx.Client(base_url=sys.argv[1]) as http:
    first, second = (http.post("/slot") for _ in range(2))
    image = {"content": bytes(4 * 784), "headers": {"Content-Type": "application/octet-stream"}}
    tokens = [{"Authorization": "Bearer " + slot.json()["token"]} for slot in (second, first)]
    answers = [http.post("/classify", content=image["content"], headers=image["headers"] | more)
               for more in (tokens[0], {})]
    for token in tokens:
        http.delete("/slot", headers=token)
print(json.dumps([first.status_code, second.status_code, *(answer.status_code for answer in answers)]))
"""


@pytest.mark.slow
@root
def test_a_user_with_a_tap_reconstructs_what_the_simulated_audit_does(place: Path) -> None:
    real = attacked(place, "plan.toml", "--shape", CONV2, "--seeds", "3")

    model = build("lenet5", shape=SHAPE, classes=10)
    model.load_state_dict(load_file(place / "w.safetensors"))
    plan = cloven.Plan.load(place / "plan.toml")
    program = cloven.compile(capture(model, torch.zeros(1, *SHAPE)), plan)
    simulated = cloven.audit(
        cloven.observe(program, links=["edge0->edge1"]),
        "decoder",
        auxiliary=load("photos", shape=SHAPE, limit=QUERIES),
        victims=split(load("digits", shape=SHAPE), seed=0)[2],
        seeds=3,
    )
    (expected,) = simulated.summary.findings
    assert real.victims == expected.victims
    for score in ("agreement", "ssim"):
        ours, theirs = getattr(real, score), getattr(expected, score)
        assert ours.low <= theirs.mean <= ours.high
    assert real.agreement.low > guessing(real)


@pytest.mark.slow
@root
def test_on_a_protected_link_the_user_learns_nothing(place: Path) -> None:
    real = attacked(place, "protected.toml")

    assert real.label == "Protected link"
    assert real.agreement.low <= guessing(real)
