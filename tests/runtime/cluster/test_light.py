"""The memory and the packages that a worker needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.runtime.cluster.machines import cluster, machines, send, with_keys
from tests.runtime.cluster.plans import accounted, bundled, images, keys

IMPORTED = """
import cloven.cli, cloven.runtime.cluster.worker, cloven.runtime.cluster.metrics
import cloven.runtime.cluster.logs, cloven.runtime.bundle.engine, cloven.runtime.bundle.schedule
import cloven.runtime.link.identity, cryptography.hazmat.primitives.ciphers.aead
"""
"""All that a worker imports before its part is loaded."""

REPORTED = """
import pathlib, re, sys
print(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
print(*{name.split(".")[0] for name in sys.modules})
"""

HEAVY = {"torch", "onnx", "matplotlib", "sklearn", "PIL", "torchvision", "timm", "scipy", "fastapi"}


def test_what_a_worker_imports_takes_little_memory_and_no_torch() -> None:
    code = IMPORTED + REPORTED

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    kilobytes, *packages = done.stdout.split()

    assert int(kilobytes) < 150e3
    assert not HEAVY & set(packages)


def test_a_worker_that_has_answered_is_light_too(tmp_path: Path) -> None:
    """After LeNet-5, no heavy library is mapped into the memory of a worker."""
    bundle = bundled("lenet5", "pair", "aes-256-gcm")
    with machines(bundle, tmp_path, with_keys(keys(), "--insecure")) as made:
        found = send(bundle, cluster(tmp_path, made, keys(), insecure=True), images("lenet5", 8))
        maps = {name: Path(f"/proc/{machine.process.pid}/maps").read_text() for name, machine in made.items()}
        memory = {name: machine.memory() for name, machine in made.items()}

    assert not accounted(found)
    for name, text in maps.items():
        assert "onnxruntime" in text
        assert not [word for word in ("libtorch", "/torch/", "/onnx/", "matplotlib", "/scipy/") if word in text]
        assert memory[name] < 250e6
