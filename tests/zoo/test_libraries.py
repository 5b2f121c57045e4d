"""Models of torchvision and timm: the input that their weights expect, and their download."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cloven.errors import ClovenError
from cloven.zoo.libraries import published
from cloven.zoo.named import make, normalisation, usual

SMALL = (3, 64, 64)


@pytest.mark.parametrize(
    ("name", "side", "mean"),
    [
        ("torchvision:resnet50", 224, 0.485),
        ("torchvision:inception_v3", 299, 0.485),
        ("timm:inception_v3", 299, 0.5),
        ("timm:efficientnet_b0", 224, 0.485),
    ],
)
def test_what_a_library_says_of_its_weights_is_what_a_plan_takes(name: str, side: int, mean: float) -> None:
    known, wanted = published(name), normalisation(name, None)

    assert known is not None
    assert usual(name) == ((3, side, side), 1000)
    assert wanted is not None
    assert wanted[0][0] == mean


def test_torchvision_s_own_weights_are_downloaded_once_and_read_without_unpickling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(url: str, path: str, **_: object) -> None:
        asked.append(url)
        torch.manual_seed(1)
        torch.save(make("torchvision:squeezenet1_1", shape=SMALL, classes=1000).state_dict(), path)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    models = [
        make("torchvision:squeezenet1_1", shape=SMALL, classes=1000, weights=Path("pretrained")) for _ in range(2)
    ]
    torch.manual_seed(1)
    expected = make("torchvision:squeezenet1_1", shape=SMALL, classes=1000)

    assert len(asked) == 1
    assert asked[0].endswith(".pth")
    for model in models:
        for a, b in zip(model.state_dict().values(), expected.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_weights_that_cannot_be_had_are_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)

    with pytest.raises(ClovenError, match="cannot be downloaded: no route to host; download it elsewhere"):
        make("torchvision:squeezenet1_1", shape=SMALL, classes=1000, weights=Path("pretrained"))
    with pytest.raises(ClovenError, match="has weights for 1000 classes; got 10"):
        make("torchvision:squeezenet1_1", shape=SMALL, classes=10, weights=Path("pretrained"))
    with pytest.raises(ClovenError, match="lenet5 has no pretrained weights"):
        make("lenet5", shape=(1, 28, 28), classes=10, weights=Path("pretrained"))
    with pytest.raises(ClovenError, match=r"torchvision has no model 'resnet5'; did you mean resnet5"):
        make("torchvision:resnet5", shape=SMALL, classes=10)
