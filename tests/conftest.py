"""What all tests share: hypothesis without deadlines, one thread, and a cache of their own."""

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
gc.set_threshold(
    20_000, 20, 50
)  # exports make objects by the million: a collection every 700 takes a tenth of the time
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # what a shell starts in the background; tests send Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Trained models of the tests are kept apart from the user's; processes that test side by side share them."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    os.environ["CLOVEN_CACHE"] = str(shared / "cache")


@pytest.fixture(autouse=True, scope="module")
def _collected_once() -> None:
    """The garbage collector leaves alone what is there: with PyTorch a full collection takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data() -> str:
    """The folder with the real data sets, for slow tests."""
    if not (folder := os.environ.get("CLOVEN_DATA")):
        pytest.skip("CLOVEN_DATA names no folder with the data sets")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
