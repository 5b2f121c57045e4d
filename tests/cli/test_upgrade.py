"""``cloven upgrade``: the workers of a service take a new bundle while it serves, and go back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from cloven.zoo.models import build
from tests.cli.conftest import Run
from tests.cli.processes import process, workers


def written(cloven: Run, folder: Path, name: str, seed: int) -> None:
    """Write a plan and a bundle of LeNet-5 with random weights."""
    torch.manual_seed(seed)
    model = build("lenet5", shape=(1, 28, 28), classes=10)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / f"{name}.safetensors"
    )
    division = ("--strategy", "vertical", "--cuts", "conv2", "--weights", folder / f"{name}.safetensors")
    for words in (
        ("plan", "lenet5", *division, "--out", folder / f"{name}.toml"),
        ("bundle", folder / f"{name}.toml", "--out", folder / name),
    ):
        assert cloven(*words).code == 0


def asked(url: str, picture: bytes | None = None) -> Any:
    """Return the document of a response."""
    with urlopen(Request(url, picture, {"Content-Type": "image/png"} if picture else {}), timeout=30) as answer:
        return json.loads(answer.read())


def test_a_service_follows_an_upgrade_and_the_way_back(cloven: Run, tmp_path: Path) -> None:
    written(cloven, tmp_path, "first", 0)
    written(cloven, tmp_path, "second", 1)
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    picture = (tmp_path / "picture.png").read_bytes()
    file, listen = tmp_path / "cluster.toml", ("--listen", "127.0.0.1:0")
    answers = []
    with workers(tmp_path, tmp_path / "first", upgrades=tmp_path / "upgrades"):
        command = ("serve", tmp_path / "first.toml", "--cluster", file, *listen, "--follow-upgrades")
        with process(tmp_path, *command) as service:
            url = service.until("ready: ").split()[1]
            answers.append(asked(f"{url}/classify?scores=all", picture)["logits"])
            sent = cloven("upgrade", tmp_path / "second", "--cluster", file, "--json")
            line = service.until("changed from plan").split()
            answers.append(asked(f"{url}/classify?scores=all", picture)["logits"])
            health = asked(f"{url}/health")
            back = cloven("upgrade", "--rollback", "--cluster", file)
            service.until(f"changed from plan {health['plan'][:12]}")
            answers.append(asked(f"{url}/classify?scores=all", picture)["logits"])
            done = service.interrupt()
        again = cloven("upgrade", tmp_path / "second", "--cluster", file)
        old = cloven("run", tmp_path / "first.toml", "--cluster", file, "--input", tmp_path / "picture.png")
        new = cloven("run", tmp_path / "second.toml", "--cluster", file, "--input", tmp_path / "picture.png")

    summary = json.loads(sent.out)
    assert (sent.code, back.code, again.code, done.code) == (0, 0, 0, 0)
    assert [worker["outcome"] for worker in summary["workers"]] == ["upgraded", "upgraded"]
    assert health["plan"] == summary["plan"]
    assert summary["plan"].startswith(line[line.index("to") + 2].strip(","))
    assert health["upgrade"] == ""
    assert answers[0] == answers[2] != answers[1]
    assert old.code == 2
    assert "edge0 " in old.err
    assert "it was upgraded; use the plan of that upgrade, or go back on all workers" in old.err
    assert new.code == 0


def test_workers_that_cannot_be_upgraded_are_listed_with_their_reasons(cloven: Run, tmp_path: Path) -> None:
    written(cloven, tmp_path, "first", 0)
    file = tmp_path / "cluster.toml"
    file.write_text('[devices]\nedge0 = "127.0.0.1:1"\nedge1 = "127.0.0.1:2"\n')
    done = cloven("upgrade", tmp_path / "first", "--cluster", file, "--json")
    wrong = cloven("upgrade", tmp_path / "nothing", "--rollback", "--cluster", tmp_path / "none.toml")

    assert done.code == 1
    assert ["cannot be reached" in worker["reason"] for worker in json.loads(done.out)["workers"]] == [True, True]
    assert wrong.code == 2
    assert "expected either a bundle to send, or --rollback" in wrong.err
    assert "none.toml" in wrong.err
    assert "nothing is not a bundle" in wrong.err
