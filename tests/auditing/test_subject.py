"""The subject of an audit: the images for training, the images that are scored, the judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cloven.auditing.subject import Subject, judge_of, load_images, ready
from cloven.errors import ClovenError
from cloven.zoo.images import Images
from cloven.zoo.models import build

WHO = Subject("lenet5", "digits", "photos", queries=50, victims=40)


def quiet(*_: object) -> None:
    """Ignore progress."""


def test_a_model_that_is_trained_here_has_s1s_split() -> None:
    images = load_images(WHO)

    assert (len(images.training), len(images.victims), len(images.auxiliary)) == (1437, 40, 50)
    assert not set(images.training.digests()) & set(images.victims.digests())
    assert images.classes == 10


def test_the_same_data_set_gives_an_attacker_images_that_are_not_scored() -> None:
    images = load_images(replace(WHO, auxiliary="same"))

    assert len(images.auxiliary) == 50
    assert not set(images.auxiliary.digests()) & set(images.victims.digests())
    assert set(images.auxiliary.sources) <= set(images.training.sources)


def test_weights_of_ones_own_are_scored_on_the_sets_own_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(build("lenet5", shape=(1, 28, 28), classes=10).state_dict(), weights)
    sources = tuple(f"{'t10k' if i % 3 == 0 else 'train'}[{i}]" for i in range(90))
    pixels = np.random.default_rng(0).integers(0, 256, (90, 1, 28, 28), dtype=np.uint8)
    whole = Images("mnist", pixels, np.arange(90) % 10, tuple("0123456789"), sources)
    monkeypatch.setattr("cloven.auditing.subject.load", lambda *_, **__: whole)
    images = load_images(Subject("lenet5", "mnist:x", "same", 20, weights=weights, shape=(1, 28, 28), classes=10))

    assert all(source.startswith("t10k") for source in images.victims.sources)
    assert len(images.victims) == 30
    assert all(source.startswith("train") for source in (*images.training.sources, *images.auxiliary.sources))
    assert len(images.auxiliary) == 20


def test_a_set_that_has_parts_of_its_own_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (120, 1, 28, 28), dtype=np.uint8)
    part = np.arange(120) // 50  # 50 for training, 50 for validation, 20 for tests
    whole = Images("windows", pixels, np.arange(120) % 10, tuple("0123456789"), tuple(map(str, range(120))), part)
    monkeypatch.setattr("cloven.auditing.subject.load", lambda *_, **__: whole)
    trained = load_images(replace(WHO, auxiliary="same", victims=None))
    given = load_images(Subject("torchvision:resnet18", "windows", "same", 20, shape=(1, 28, 28), classes=1000))

    for images in (trained, given):
        assert {int(source) for source in images.victims.sources} == set(range(100, 120))
    assert {int(source) for source in trained.training.sources} == set(range(50))
    assert {int(source) for source in given.training.sources} == set(range(100))
    assert given.training.labels is None


def test_a_set_without_labels_does_for_a_model_with_weights_and_not_for_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (240, 1, 28, 28), dtype=np.uint8)
    bare = Images("folder:x", pixels, None, (), tuple(map(str, range(240))))
    monkeypatch.setattr("cloven.auditing.subject.load", lambda *_, **__: bare)

    with pytest.raises(ClovenError, match="has no labels, but the CNN is trained on them"):
        load_images(replace(WHO, data="folder:x"))
    known = Subject("torchvision:resnet18", "folder:x", "same", 20, shape=(1, 28, 28), classes=10)
    images = load_images(known)
    assert images.victims.labels is None
    assert judge_of(known, images, quiet) is None
    with pytest.raises(ClovenError, match="the judge small has no weights, and folder:x has no labels"):
        judge_of(replace(known, judge="small"), images, quiet)


def test_the_judge_is_another_model_that_knows_the_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOVEN_CACHE", str(tmp_path))
    monkeypatch.setattr("cloven.auditing.subject.JUDGE_IMAGES", 300)
    monkeypatch.setattr("cloven.auditing.subject.EPOCHS", 2)
    images = load_images(WHO)
    auto = judge_of(WHO, images, quiet)

    assert auto is not None
    assert auto[0] == "small"
    assert auto[1].by_name[auto[1].output].shape == (10,)
    assert judge_of(replace(WHO, judge="none"), images, quiet) is None
    save_file(build("lenet5", shape=(1, 28, 28), classes=10).state_dict(), tmp_path / "w.safetensors")
    given = judge_of(replace(WHO, judge=f"lenet5={tmp_path}/w.safetensors"), images, quiet)
    assert given is not None
    assert given[0] == "lenet5"


def test_the_graph_of_a_model_with_weights_has_them(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = build("lenet5", shape=(1, 28, 28), classes=10)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    who = replace(WHO, weights=tmp_path / "w.safetensors", shape=(1, 28, 28), classes=10)
    graph = ready(who, load_images(who), quiet)

    assert torch.equal(torch.tensor(graph.by_name[graph.find("dense2")].params["bias"]), model.dense2.bias.detach())  # type: ignore[union-attr,operator]
