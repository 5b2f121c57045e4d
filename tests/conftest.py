"""The settings of all tests: hypothesis without deadlines, one thread, and a separate cache."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import cloven.runtime.cluster  # noqa: F401 - before any test imports gRPC, which is then kept from TLS 1.2

settings.register_profile("cloven", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("cloven")
torch.set_num_threads(1)
# Exports of PyTorch make objects by the million, and hardly any are garbage in a cycle.
gc.set_threshold(20_000, 20, 50)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # what a shell starts in the background; tests send Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cache the trained models of the tests in a separate folder that parallel test processes share."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    os.environ["CLOVEN_CACHE"] = str(shared / "cache")


@pytest.fixture(autouse=True, scope="module")
def _collected_once() -> None:
    """Exclude existing objects from garbage collection, which takes half a second with PyTorch loaded."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data() -> str:
    """Return the folder with the real data sets, for slow tests."""
    if not (folder := os.environ.get("CLOVEN_DATA")):
        pytest.skip("CLOVEN_DATA names no folder with the data sets")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
