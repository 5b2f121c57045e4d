"""Audits of a user's own model, `module:factory`, with the size of the data and the classes of the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Run, cloven

__all__ = ["cloven"]

MODULE = """
import torch

def net(outputs=10):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, stride=2)]
    rest = [torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16, outputs)]
    return torch.nn.Sequential(*layers, *rest)

def one_class():
    made = net()
    with torch.no_grad():
        made[-1].bias[3] += 100
    return made

def five():
    return net(5)
"""

FEW = ("--auxiliary", "photos", "--queries", "60", "--victims", "30", "--judge", "none", "--jobs", "1")
CUT = ("--layers", "1", "--strategies", "vertical", "--view", "full", "--attacks", "nearest")


@pytest.fixture
def here(here: Path) -> Path:
    """Work in a folder with a module of models, and pictures of 24 pixels with and without labels."""
    (here / "mynet.py").write_text(MODULE)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 24, 24, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        for folder in (here / "bare", here / "ten" / str(i % 10)):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{i}.png")
    return here


def test_images_have_the_size_of_the_data_and_classes_are_the_models(cloven: Run, here: Path) -> None:
    done = cloven("audit", "mynet:net", "--data", "folder:ten", *FEW, *CUT, "--out", "run")
    assert done.code == 0, done.err
    summary = json.loads((here / "run" / "summary.json").read_text())

    assert summary["input"] == [3, 24, 24]
    assert summary["classes"] == 10
    assert "The normalisation of mynet:net is unknown" in done.err
    assert done.err.startswith("loading images and model: 0 of 1")


def test_a_normalisation_that_is_given_needs_no_warning(cloven: Run, here: Path) -> None:
    given = ("--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2")
    done = cloven("audit", "mynet:net", "--data", "folder:ten", *FEW, *CUT, *given, "--out", "run")

    assert done.code == 0, done.err
    assert "No normalisation" not in done.err


def test_labels_of_another_number_of_classes_are_refused(cloven: Run, here: Path) -> None:
    done = cloven("audit", "mynet:five", "--data", "folder:ten", *FEW, *CUT, "--out", "run")

    assert done.code == 2
    assert "mynet:five has 5 outputs, but folder:ten has 10 classes; give the images that the model" in done.err
    assert not (here / "run").exists()


def test_another_number_of_classes_than_the_models_is_refused(cloven: Run, here: Path) -> None:
    done = cloven("audit", "mynet:net", "--classes", "1000", "--data", "folder:bare", *FEW, *CUT, "--out", "run")

    assert done.code == 2
    assert "mynet:net has 10 outputs, got 1,000 classes; give the number of outputs" in done.err


def test_without_labels_a_model_that_gives_one_class_gets_no_verdict(cloven: Run, here: Path) -> None:
    done = cloven("audit", "mynet:one_class", "--data", "folder:bare", *FEW, *CUT, "--out", "run")
    assert done.code == 0, done.err
    summary = json.loads((here / "run" / "summary.json").read_text())

    assert not summary["verdict"]["given"]
    assert "gives one class to 100% of the victim images, more than half" in " ".join(done.out.split())


def test_without_layers_those_of_the_model_are_listed(cloven: Run, here: Path) -> None:
    done = cloven("audit", "mynet:net", "--data", "folder:bare", *FEW, "--attacks", "nearest", "--out", "run")

    assert done.code == 2
    assert "mynet:net has no default layers to observe; name some of its layers with --layers: 0, 1, 2" in done.err
