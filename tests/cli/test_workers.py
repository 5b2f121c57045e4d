"""The commands for several machines in normal use: workers, their answers, and the end of all processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import nn

from cloven.partition.plan import ModelSpec
from cloven.runtime.cluster import link_echo
from cloven.runtime.lab import lab_folder, laboratory
from cloven.runtime.lab.network import Network
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.models import build
from tests.cli.conftest import Run, _captured_anew
from tests.cli.processes import Process, process, workers
from tests.runtime.lab.programs import root

BYTES = {"edge0-edge1": 6400, "edge1-edge2": 1600}
"""What crosses for one image."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working folder with plan.toml, a bundle, cluster.toml and photos."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module", autouse=True)
def made(place: Path) -> Iterator[dict[str, Process]]:
    """Run the workers of the bundle."""
    torch.manual_seed(0)
    model = build("lenet5", shape=(1, 28, 28), classes=10)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, place / "mine.safetensors")
    (place / "photos").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "photos" / f"{i}.png")
    before = Path.cwd()
    os.chdir(place)
    try:
        cloven("plan", "lenet5", "--strategy", "vertical", "--cuts", "conv2,pool2", "--weights", "mine.safetensors",
               "--out", "plan.toml")  # fmt: skip
        cloven("bundle", "plan.toml", "--out", "bundle")
        with workers(place, place / "bundle") as started:
            yield started
    finally:
        os.chdir(before)


def cloven(*args: str) -> None:
    """Run a command in this process, for fixtures of the module."""
    from cloven.cli import app

    app(args, standalone_mode=False)


@pytest.fixture(autouse=True)
def _inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def finite(text: str) -> Any:
    """Parse JSON strictly, without the NaN and Infinity that Python accepts."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def sums(found: Any) -> dict[str, int]:
    return {"-".join(row["link"]): row["bytes"] for row in found["links"]}


# --- links ----------------------------------------------------------------------------------------------------


def test_the_links_of_the_workers_are_measured_and_used(
    cloven: Run, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_echo, "REPETITIONS", 1)
    file = tmp_path / "cluster.toml"
    file.write_text((place / "cluster.toml").read_text() + "[links]\nedge0-edge1 = { exposed = false }\n")
    done = cloven("profile", "--links", file, "--out", tmp_path / "links")
    _, _, entries = done.out.partition("[links]")
    links = tomllib.loads(f"[links]{entries}")["links"]

    assert done.code == 0
    assert "Mbit/s" in done.out
    assert len(links) == 6
    assert links["edge0-edge1"] == {"profile": "links/edge0-edge1.toml", "exposed": False}
    assert links["coordinator-edge2"] == {"profile": "links/coordinator-edge2.toml"}
    file.write_text((place / "cluster.toml").read_text() + f"[links]{entries}")
    estimated = finite(cloven("estimate", "plan.toml", "--cluster", file, "--json").out)
    assert all(link["busy"] > 0 for link in estimated["links"])
    assert not any("transmission" in line for line in estimated["assumptions"])


def test_links_that_cannot_be_measured_are_an_error_with_every_reason(cloven: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "cluster.toml", tmp_path / "links"
    file.write_text('[devices]\nedge0 = "127.0.0.1:1"\nedge1 = "127.0.0.1:2"\n')
    done = cloven("profile", "--links", file, "--out", out)

    assert (done.code, done.out) == (2, "")
    assert "edge0: cannot be reached (127.0.0.1:1)" in done.err
    assert "edge1: cannot be reached (127.0.0.1:2)" in done.err
    assert not out.exists()


def test_what_is_measured_is_either_a_device_or_links(cloven: Run, tmp_path: Path) -> None:
    nothing = cloven("profile")
    both = cloven("profile", "bundle/edge0", "--links", "cluster.toml", "--name", "mine", "--out", "plan.toml")

    assert (nothing.code, both.code) == (2, 2)
    assert "nothing to measure; expected folders of devices in bundles, or --links" in nothing.err
    assert "--links requires no BUNDLE/DEVICE" in both.err
    assert "--name requires BUNDLE/DEVICE" in both.err
    assert "--out is plan.toml, which is not a folder" in both.err


# --- estimated and measured costs -----------------------------------------------------------------------------


def test_an_estimate_is_compared_with_a_run(cloven: Run, tmp_path: Path, place: Path) -> None:
    file = tmp_path / "cluster.toml"
    addresses = tomllib.loads((place / "cluster.toml").read_text())["devices"].items()
    lines = [f'{name} = {{ address = "{at}", profile = "x86-core" }}\n' for name, at in addresses]
    file.write_text(f'[devices]\n{"".join(lines)}[links]\ndefault = {{ profile = "loopback" }}\n')
    command = ("estimate", "plan.toml", "--cluster", file, "--measure", "--images", 6, "--window", 2)
    table, document = cloven(*command), cloven(*command, "--json")
    found = finite(document.out)

    assert (table.code, document.code) == (0, 0)
    assert "measured / estimated" in table.out
    assert "edge2: memory" in table.out
    assert found["estimated"]["latency"] == found["latency"]["estimated"]
    assert (found["images"], found["streamed"]) == (6, 8)
    assert found["traffic"]["estimated"] == found["traffic"]["measured"]
    for cost in (found["latency"], found["throughput"]):
        assert 0 < cost["low"] <= cost["measured"] <= cost["high"]
        assert cost["ratio"] == pytest.approx(cost["measured"] / cost["estimated"])
    for device in found["devices"]:
        assert 0 < device["busy"]["measured"] < 1
        assert 1e7 < device["memory"]["measured"] < 1e9


def test_costs_that_are_unknown_are_measured_and_have_no_ratio(cloven: Run) -> None:
    done = cloven("estimate", "plan.toml", "--cluster", "cluster.toml", "--measure", "--images", 5, "--json")
    found = finite(done.out)

    assert done.code == 0
    assert found["latency"]["measured"] > 0
    assert (found["latency"]["estimated"], found["latency"]["ratio"]) == (None, None)


def test_a_cluster_without_addresses_says_what_to_add(cloven: Run, tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[devices]\nedge0 = { profile = "x86-core" }\nedge1 = "127.0.0.1:1"\n')
    done = cloven("estimate", "plan.toml", "--cluster", file, "--measure")
    alone = cloven("estimate", "plan.toml", "--cluster", file, "--images", 9)

    assert (done.code, alone.code, done.out) == (2, 2, "")
    assert 'the address of edge0 is missing: add edge0 = "HOST:PORT" to [devices]' in done.err
    assert "the address of edge2 is missing" in done.err
    assert "--images requires --measure" in alone.err


# --- what is answered -----------------------------------------------------------------------------------------


def test_a_folder_of_pictures_is_classified_and_verified(cloven: Run) -> None:
    done = cloven("run", "plan.toml", "--cluster", "cluster.toml", "--input", "photos", "--verify", "--json")
    found = finite(done.out)

    assert done.code == 0
    assert (found["images"], found["answered"], found["failed"]) == (5, 5, [])
    assert [row["image"] for row in found["classes"]] == [f"{i}.png" for i in range(5)]
    assert {row["class"] for row in found["classes"]} <= set(range(10))
    assert found["check"]["equal"] is True
    assert "equal to the whole model on 5 images" in done.err
    assert sums(found).items() >= {name: 5 * count for name, count in BYTES.items()}.items()
    assert {row["protection"] for row in found["links"]} == {"none"}
    assert not any(row["tls"] for row in found["links"])


def test_a_table_says_the_same(cloven: Run) -> None:
    done = cloven("run", "plan.toml", "--cluster", "cluster.toml", "--input", "photos", "--limit", "3")

    assert done.code == 0
    assert "check" not in done.out
    assert done.out.count(".png") == 3
    for words in ("latency, ms", "edge0 > edge1", "19,200", "protection", "+- ms", "compute"):
        assert words in done.out, done.out


def test_a_data_set_of_the_attackers_and_of_victims_is_sent_and_kept(cloven: Run, tmp_path: Path) -> None:
    done = cloven("run", "plan.toml", "--cluster", "cluster.toml", "--data", "digits", "--limit", "6", "--verify",
                  "--auxiliary", "photos", "--queries", "4", "--sent", tmp_path / "pairs", "--json")  # fmt: skip
    found = finite(done.out)
    sent = load_file(tmp_path / "pairs" / "images.safetensors")

    assert done.code == 0
    assert (found["images"], found["check"]["images"], len(found["classes"])) == (10, 10, 6)
    assert all(row["image"].startswith("digits") for row in found["classes"])
    assert 0 <= found["accuracy"] <= 1
    assert sent["auxiliary"].tolist() == [True] * 4 + [False] * 6
    assert sent["input"].tolist() == list(range(10))
    assert sent["image"].shape == (10, 1, 28, 28)
    assert sent["logits"].argmax(1).tolist()[4:] == [row["class"] for row in found["classes"]]


def test_answers_of_another_model_are_not_verified(cloven: Run, tmp_path: Path, place: Path) -> None:
    """The weights file has changed since the bundle was written."""
    other = build("lenet5", shape=(1, 28, 28), classes=10).state_dict()
    keep = (place / "mine.safetensors").read_bytes()
    try:
        save_file({name: value.contiguous() for name, value in other.items()}, "mine.safetensors")
        done = cloven("run", "plan.toml", "--cluster", "cluster.toml", "--input", "photos", "--verify", "--json")
    finally:
        (place / "mine.safetensors").write_bytes(keep)

    assert done.code == 1
    assert finite(done.out)["check"]["equal"] is False
    assert "NOT equal to the whole model: largest difference" in done.err


def many(place: Path, count: int) -> Path:
    """Write a folder of many pictures."""
    place.mkdir()
    for i in range(count):
        os.link("photos/0.png", place / f"{i}.png")
    return place


def test_weights_that_nobody_gave_are_the_same_in_every_process() -> None:
    """`run --verify` compares with the model of `bundle`, which may have run on another machine."""
    spec = ModelSpec(name="lenet5", input=(1, 28, 28), classes=10)
    one = _captured_anew(spec)
    torch.rand(3)
    image = torch.rand(2, 1, 28, 28)
    first, second = (evaluate(graph, image, [graph.output])[graph.output] for graph in (one, _captured_anew(spec)))

    assert torch.equal(first, second)


def test_images_that_fail_are_named_and_exit_code_1_says_so(tmp_path: Path) -> None:
    command = ("run", "plan.toml", "--cluster", tmp_path / "cluster.toml", "--input", many(tmp_path / "many", 600))
    with workers(tmp_path, Path("bundle")) as made:
        with process(tmp_path, *command, "--json") as run:
            run.until("sending: 60 of 600")
            made["edge1"].process.kill()
            done = run.done()
        others = [made[name].interrupt() for name in ("edge0", "edge2")]
    found = finite(done.out)
    told = [line for line in done.err.splitlines() if line.startswith("image ")]

    assert done.code == 1
    assert found["answered"] == 600 - len(found["failed"]) == len(found["classes"]) >= 60
    assert all("edge1" in failure["reason"].partition(":")[0] for failure in found["failed"])
    assert len(told) == 5
    assert told[0].startswith(f"image {found['failed'][0]['image']}, {found['failed'][0]['name']}: ")
    assert f"and {len(found['failed']) - 5} more images failed" in done.err
    for other in others:  # Ctrl-C ends a worker as SIGTERM does
        assert (other.code, json.loads(other.err.splitlines()[-1])["event"]) == (0, "stopped")


@pytest.mark.slow
def test_what_a_worker_that_died_took_along_is_sent_again_and_verified(tmp_path: Path) -> None:
    photos, file = many(tmp_path / "many", 2000), tmp_path / "cluster.toml"
    with workers(tmp_path, Path("bundle")) as made:
        address = json.loads(made["edge1"].until("ready"))["listen"]
        options = ("--verify", "--retry", "--json")
        with process(tmp_path, "run", "plan.toml", "--cluster", file, "--input", photos, *options) as run:
            run.until("sending: 200 of 2000")
            made["edge1"].process.kill()
            with process(tmp_path, "worker", "bundle/edge1", "--listen", address):
                done = run.done()
    found = finite(done.out)

    assert (done.code, found["answered"], found["failed"]) == (0, 2000, [])
    assert found["check"]["equal"] is True
    assert "equal to the whole model on 2000 images" in done.err


def test_links_that_are_protected_say_so(cloven: Run, tmp_path: Path) -> None:
    options = ("--protect", "chacha20-poly1305", "--protect", "edge0-edge1=mtls", "--weights", "mine.safetensors")
    cloven("plan", "lenet5", "--strategy", "vertical", "--cuts", "conv2", *options, "--out", tmp_path / "plan.toml")
    made = [
        cloven("keys", "new", "edge0", "edge1", "--out", tmp_path / "keys"),
        cloven("bundle", tmp_path / "plan.toml", "--out", tmp_path / "bundle"),
    ]
    assert [done.code for done in made] == [0, 0]
    with workers(tmp_path, tmp_path / "bundle", keys=tmp_path / "keys"):
        command = ("run", tmp_path / "plan.toml", "--cluster", tmp_path / "cluster.toml", "--input", "photos")
        found, shown = finite(cloven(*command, "--json").out), cloven(*command)
        (tmp_path / "cluster.toml").write_text((tmp_path / "cluster.toml").read_text().partition("\n")[2])
        without = cloven(*command)

    assert found["answered"] == 5
    assert {"-".join(row["link"]): row["protection"] for row in found["links"]} == {
        "coordinator-edge0": "chacha20-poly1305", "edge0-edge1": "mtls", "edge1-coordinator": "chacha20-poly1305",
    }  # fmt: skip
    assert all(row["tls"] for row in found["links"])
    assert "chacha20-poly1305 in TLS" in shown.out
    assert [line.split()[3] for line in shown.out.splitlines() if "edge0 > edge1" in line] == ["TLS"]
    assert without.code == 2
    assert all(name in without.err for name in ("edge0: ", "edge1: "))


def test_the_service_answers_a_picture_and_ends_well(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join("zero one two three four five six seven eight nine".split()))
    options = ("--listen", "127.0.0.1:0", "--class-names", tmp_path / "names.txt")
    with process(tmp_path, "serve", "plan.toml", "--cluster", "cluster.toml", *options) as service:
        url = service.until("ready: ").split()[1]
        picture = Path("photos/0.png").read_bytes()
        with urlopen(Request(f"{url}/classify", picture, {"Content-Type": "image/png"}), timeout=30) as answer:
            said = json.loads(answer.read())
        with urlopen(f"{url}/health", timeout=30) as answer:
            health = json.loads(answer.read())
        done = service.interrupt()

    assert said["name"] == "zero one two three four five six seven eight nine".split()[said["class"]]
    assert health["ready"] is True
    assert done.code == 0
    assert "Traceback" not in done.err


# --- Ctrl-C ---------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_a_run_that_waits_for_workers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lines = "".join(f'edge{i} = "127.0.0.{i + 1}:{silent.getsockname()[1]}"\n' for i in range(3))
        (tmp_path / "cluster.toml").write_text(f"[devices]\n{lines}")
        with process(
            tmp_path, "run", "plan.toml", "--cluster", tmp_path / "cluster.toml", "--input", "photos"
        ) as run:
            silent.settimeout(30)
            silent.accept()[0].close()
            done = run.interrupt()

    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines() == ["stopped"]


def test_ctrl_c_ends_a_run_amid_images(tmp_path: Path, made: dict[str, Process]) -> None:
    photos, worker = many(tmp_path / "many", 600), made["edge2"].process
    command = ("run", "plan.toml", "--cluster", "cluster.toml", "--input", photos, "--window", "1")
    with process(tmp_path, *command) as run:
        run.until("sending: 60 of 600")
        worker.send_signal(signal.SIGSTOP)
        try:
            time.sleep(0.3)
            done = run.interrupt()
        finally:
            worker.send_signal(signal.SIGCONT)

    assert done.code == 130
    assert done.err.splitlines()[-1] == "stopped"
    assert "Traceback" not in done.err


@root
def test_ctrl_c_ends_a_tap_that_has_written_its_file(tmp_path: Path, cloven: Run) -> None:
    capture, pairs = tmp_path / "link.pcapng", tmp_path / "pairs"
    edge1 = tomllib.loads(Path("cluster.toml").read_text())["devices"]["edge1"]
    port = edge1.rpartition(":")[2]
    with process(tmp_path, "tap", "--interface", "lo", "--port", port, "--out", capture, "--json") as tap:
        tap.until("listening on lo")
        done = cloven("run", "plan.toml", "--cluster", "cluster.toml", "--input", "photos")
        ended = tap.interrupt()
    read = cloven("tap", "--read", capture, "--target", edge1, "--out", pairs)

    assert (done.code, ended.code, read.code) == (0, 0, 0)
    assert finite(ended.out)["packets"] > 10
    assert [line.split()[2] for line in read.out.splitlines() if "6,400 x 5" in line] == ["plain"]
    assert read.err.splitlines()[-1].endswith(f"wrote the messages of 5 images to {pairs / 'captured.safetensors'}")
    assert load_file(pairs / "captured.safetensors")["0"].shape == (5, 1600)


# --- the laboratory -------------------------------------------------------------------------------------------


@root
def test_ctrl_c_ends_a_laboratory_and_nothing_is_left(
    cloven: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets: list[Network] = []

    def stop(_: laboratory.Experiment, net: Network) -> None:
        nets.append(net)
        raise KeyboardInterrupt

    monkeypatch.setattr(laboratory, "send", stop)
    done = cloven("lab", "plan.toml", "--input", "photos", "--tap", "edge0-edge1", "--out", tmp_path / "lab")

    assert (done.code, done.out, done.err) == (130, "", "stopped\n")
    assert [process.poll() is not None for process in nets[0].started] == [True] * 4  # three workers and the tap
    assert not any(Path(f"/proc/{party.pid}").exists() for party in nets[0].parties.values())
    assert lab_folder.problems(tmp_path / "lab") == []


@root
@pytest.mark.slow
def test_the_readmes_laboratory(cloven: Run, tmp_path: Path) -> None:
    """Run a trained LeNet-5 with a delay and a tap, twice into one folder, but never over other files."""
    out, plan = tmp_path / "lab", tmp_path / "plan.toml"
    options = ("--protect", "ascon-aead128", "--protect", "edge0-edge1=none")
    cloven("plan", "lenet5", "--strategy", "vertical", "--cuts", "conv2,pool2", *options, "--out", plan)
    command = ("lab", plan, "--data", "digits", "--auxiliary", "photos", "--queries", "10", "--limit", "30",
               "--bandwidth", "100mbit", "--delay", "2ms", "--tap", "edge0-edge1", "--out", out)  # fmt: skip
    found, again = finite(cloven(*command, "--json").out), cloven(*command)
    (out / "notes.txt").write_text("mine")
    refused = cloven(*command)
    there = next(row for row in found["tap"]["links"] if row["table"])

    assert (found["images"], found["answered"], found["check"]["equal"]) == (40, 40, True)
    assert found["accuracy"] > 0.9
    assert (there["payload"], there["table"], found["tap"]["differing"]) == (40 * 6400, 40 * 6400, 0)
    assert all(row["ms"] > 2 for row in found["links"])
    assert again.code == 0, again.err
    assert "equal to the whole model on 40 images" in again.err
    assert "ascon-aead128" in again.out
    assert (refused.code, (out / "notes.txt").read_text()) == (2, "mine")
    assert (out / "pairs" / "captured.safetensors").exists()
