"""The procedure of Mehrafrooz et al. (2025) as a plain PyTorch script: record a cut, train its decoder, score it.

It is what `benchmarks/figure5c.py` compares cloven with. It is written in the usual way: a forward hook records
the outputs of a layer, a `DataLoader` shuffles the pairs, PyTorch's own layers and Adam train the decoder, and
scikit-image computes the SSIM of one image after another. The layers of each decoder are those of Table 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from cloven.attacks.layers import Chain, Conv, ConvT, ReLU, Up, View
from cloven.graph.box import Shape
from cloven.papers.s1.setup import DEVICES
from cloven.papers.s1.table2 import TILE, DecoderRow, printed

BATCH, RATE = 64, 1e-3


@dataclass(frozen=True)
class Bar:
    """The scores ``(shares, n)`` of a strategy at a layer: whether the CNN's class is kept, and the SSIM."""

    agreement: Tensor
    ssim: Tensor


@dataclass(frozen=True)
class Cut:
    """The tensors that one link carries: a part of a layer's output, or of the image if the layer is None."""

    strategy: str
    label: str
    layer: str | None
    part: Callable[[Tensor], Tensor]


def cuts(name: str, image: Shape) -> Iterator[tuple[Cut, DecoderRow]]:
    """Yield the cuts of Fig. 5 with their rows of Table 2: whole layers, slices of channels, quarters of images."""
    for row in printed(name):
        if not row.takes(image):
            continue
        label = f"Layer {row.number}"
        if row.number == TILE:
            for i in range(DEVICES):
                yield Cut("data", label, None, partial(quarter, number=i)), row
            continue
        yield Cut("vertical", label, row.layer, lambda z: z), row
        for i in range(DEVICES):
            yield Cut("horizontal", label, row.layer, partial(slice_of, number=i)), row


def slice_of(captured: Tensor, number: int) -> Tensor:
    """Return one of four slices of the channels ``(n, C, ...)``."""
    return captured.chunk(DEVICES, 1)[number]


def quarter(images: Tensor, number: int) -> Tensor:
    """Return one of four tiles of images ``(n, C, H, W)``."""
    return images.chunk(2, 2)[number // 2].chunk(2, 3)[number % 2]


def decoder(chain: Chain) -> nn.Sequential:
    """Return a decoder of PyTorch's layers."""
    layers: list[nn.Module] = []
    for layer in chain:
        match layer:
            case View():
                layers.append(nn.Unflatten(1, (layer.channels, layer.height, layer.width)))
            case Up():
                layers.append(nn.Upsample((layer.height, layer.width)))
            case Conv():
                layers.append(nn.Conv2d(layer.inputs, layer.outputs, 3, padding=1))
            case ConvT():
                sizes = (layer.kernel, layer.stride, layer.padding, layer.output_padding)
                layers.append(nn.ConvTranspose2d(layer.inputs, layer.outputs, *sizes))
            case ReLU():
                layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def record(model: nn.Module, cut: Cut, images: Tensor) -> Tensor:
    """Return the vectors ``(n, ...)`` of a cut for images ``(n, C, H, W)``."""
    if cut.layer is None:
        return cut.part(images)
    found: list[Tensor] = []
    layer = model.get_submodule(cut.layer)
    handle = layer.register_forward_hook(lambda _, __, output: found.append(cut.part(output).detach()))
    with torch.no_grad():
        for batch in images.split(BATCH):
            model(batch)
    handle.remove()
    return torch.cat(found)


def train(network: nn.Module, captured: Tensor, images: Tensor, epochs: int) -> None:
    """Train a decoder on pairs."""
    pairs = DataLoader(TensorDataset(captured, images), BATCH, shuffle=True)
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    for _ in range(epochs):
        for vectors, wanted in pairs:
            optimiser.zero_grad()
            F.mse_loss(network(vectors), wanted).backward()
            optimiser.step()


def reconstruct(network: nn.Module, captured: Tensor) -> Tensor:
    """Return the reconstructions, ``(n, C, H, W)`` in [0, 1], rounded to 8 bits."""
    with torch.no_grad():
        made = torch.cat([network(batch) for batch in captured.split(BATCH)])
    return (made.clamp(0, 1) * 255).round() / 255


def classify(model: nn.Module, images: Tensor) -> Tensor:
    """Return the classes ``(n,)`` that the CNN gives to images."""
    with torch.no_grad():
        return torch.cat([model(batch).argmax(1) for batch in images.split(BATCH)])


def ssim(made: Tensor, images: Tensor) -> Tensor:
    """Return the SSIM of each image ``(n,)``, with the window of Wang et al. (2004)."""
    from skimage.metrics import structural_similarity

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(made.numpy(), images.numpy(), strict=True)
    return torch.tensor([structural_similarity(a, b, data_range=1, channel_axis=0, **settings) for a, b in pairs])


def attacked(
    model: nn.Module, name: str, auxiliary: Tensor, victims: Tensor, *, epochs: int, seed: int
) -> dict[tuple[str, str], Bar]:
    """Return the bars of Fig. 5 by strategy and layer, one decoder for each link that can be tapped.

    Args:
        model: the attacked CNN, which takes images in [0, 1].
        name: its name, such as ``lenet5``.
        auxiliary: the attacker's images ``(n, C, H, W)`` in [0, 1].
        victims: the images that are attacked.
        epochs: the epochs of each decoder.
        seed: the seed of the initial weights and of the order of the pairs.
    """
    torch.manual_seed(seed)
    found: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {}
    truth = classify(model, victims)
    image = tuple(victims.shape[1:])
    for cut, row in cuts(name, image):
        captured = record(model, cut, auxiliary)
        network = decoder(row.chain(tuple(captured.shape[1:]), image))
        train(network, captured, auxiliary, epochs)
        made = reconstruct(network, record(model, cut, victims))
        scores = (classify(model, made) == truth).double(), ssim(made, victims).double()
        found.setdefault((cut.strategy, cut.label), []).append(scores)
    return {
        key: Bar(*(torch.stack(scores) for scores in zip(*shares, strict=True))) for key, shares in found.items()
    }
