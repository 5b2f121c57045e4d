"""A worker on 64-bit ARM, emulated by QEMU: it computes its part of an image beside a worker of this machine.

Debian's Python and the ready-made packages for that platform are downloaded for the test.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from safetensors.torch import save_file

from cloven.zoo.models import build
from tests.cli.processes import Process, process

ROOT = Path(__file__).parents[2]
PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
PROCESSOR = """processor\t: {number}
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""
"""A core of /proc/cpuinfo; before version 8.1, QEMU shows that of the host, at which onnxruntime crashes."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="Python for ARM comes from Debian's packages"),
]


def run(*command: object, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command in a folder, and return its output."""
    words, environment = [*map(str, command)], os.environ | dict(env or {})
    return subprocess.run(words, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, str]]:
    """Return the command of Python on ARM, and its environment."""
    folder = tmp_path_factory.mktemp("arm")
    for name in ("apt/lists/partial", "apt/archives/partial", "packages", "root/proc", "site"):
        (folder / name).mkdir(parents=True)
    (folder / "apt/status").touch()
    places = {"State::lists": "apt/lists", "Cache": "apt", "State::status": "apt/status"}
    own = [f"Dir::{name}={folder / place}" for name, place in places.items()]
    settings = [
        part for one in ("APT::Architecture=arm64", "APT::Architectures=arm64", *own) for part in ("-o", one)
    ]
    run("apt-get", *settings, "-qq", "update", folder=folder)
    needed = run("apt-get", *settings, "-s", "--no-install-recommends", "install", *PACKAGES, folder=folder)
    names = [line.split()[1].partition(":")[0] for line in needed.splitlines() if line.startswith("Inst ")]
    run("apt-get", *settings, "-qq", "download", *names, folder=folder / "packages")
    for package in (folder / "packages").iterdir():
        run("dpkg", "-x", package, folder / "root", folder=folder)
    if (emulator := shutil.which("qemu-aarch64-static")) is None:
        run("apt-get", "-qq", "download", "qemu-user-static", folder=folder)
        run("dpkg", "-x", next(folder.glob("qemu-*.deb")), folder / "qemu", folder=folder)
        emulator = str(folder / "qemu/usr/bin/qemu-aarch64-static")
    (folder / "root/proc/cpuinfo").write_text(
        "".join(PROCESSOR.format(number=i) for i in range(os.cpu_count() or 1))
    )
    (interpreter,) = (folder / "root/usr/bin").glob("python3.[0-9]*")
    version = interpreter.name.removeprefix("python")
    target = ("--target", folder / "site", "--only-binary=:all:", "--python-version", version)
    platforms = ("--platform", "manylinux_2_28_aarch64", "--platform", "manylinux2014_aarch64")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--ignore-installed")
    run(*pip, *target, *platforms, "-c", "constraints.txt", ".[edge,ascon]", folder=ROOT)
    environment = {"PYTHONHOME": str(folder / "root/usr"), "PYTHONPATH": str(folder / "site")}
    return [emulator, "-L", str(folder / "root"), str(interpreter)], environment


@pytest.fixture
def cluster(tmp_path: Path, python: tuple[list[str], dict[str, str]]) -> Iterator[Path]:
    """Yield a folder with a plan, and the addresses of a worker on ARM and of one on this machine."""
    model = build("lenet5", shape=(1, 28, 28), classes=10)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "own.safetensors"
    )
    options = ("--strategy", "horizontal", "--axis", "rows", "--devices", "2", "--weights", "own.safetensors")
    run(sys.executable, "-m", "cloven.cli", "plan", "lenet5", *options, "--out", "plan.toml", folder=tmp_path)
    run(sys.executable, "-m", "cloven.cli", "bundle", "plan.toml", "--out", "bundle", folder=tmp_path)
    command, environment = python
    listen = ("--listen", "127.0.0.1:0")
    with ExitStack() as stack:
        started: dict[str, Process] = {}
        for name, where in {"edge0": (command, environment), "edge1": ([sys.executable], {})}.items():
            worker = process(tmp_path, "worker", tmp_path / "bundle" / name, *listen, python=where[0], env=where[1])
            started[name] = stack.enter_context(worker)
        lines = [f'{n} = "{json.loads(worker.until("ready"))["listen"]}"\n' for n, worker in started.items()]
        (tmp_path / "cluster.toml").write_text("[devices]\n" + "".join(lines))
        yield tmp_path


def test_a_worker_on_arm_computes_its_part_of_the_images(cluster: Path) -> None:
    options = ("--cluster", "cluster.toml", "--data", "digits", "--limit", "20", "--verify", "--json")
    answered = json.loads(run(sys.executable, "-m", "cloven.cli", "run", "plan.toml", *options, folder=cluster))

    assert (answered["answered"], answered["failed"]) == (20, [])
    assert answered["check"]["equal"] is True


def test_the_emulated_machine_is_arm(python: tuple[list[str], dict[str, str]], tmp_path: Path) -> None:
    command, environment = python
    code = "import platform, onnxruntime, numba; print(platform.machine())"
    assert run(*command, "-c", code, folder=tmp_path, env=environment) == "aarch64\n"
