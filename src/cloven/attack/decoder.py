"""S1's attack: a convolutional decoder trained on pairs (S1 Sect. 4.2, 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloven.attack.layers import Chain, as_map, build, rule, text
from cloven.attack.pairs import Pairs, Reconstructor
from cloven.errors import ClovenError


@dataclass(frozen=True)
class Decoder:
    """A chain of layers from the captured map to the image.

    Adam, mean squared error, targets in [0, 1]; the output is clipped to [0, 1]. S1 states ten epochs and Adam;
    loss, learning rate and batch are those of the closest public recipe (He et al. 2019) and of decision.
    ``layers`` is the chain; left out, `rule` makes one for the shapes at hand.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    batch: int = 64
    layers: Chain | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value}; expected {expected}"
            for name, value, ok, expected in (
                ("epochs", self.epochs, self.epochs >= 1, "1 or more"),
                ("learning_rate", self.learning_rate, self.learning_rate > 0, "a positive number"),
                ("batch", self.batch, self.batch >= 1, "1 or more"),
            )
            if not ok
        ]
        if problems:
            raise ClovenError(problems)

    def settings(self) -> dict[str, Any]:
        """The hyper-parameters without the chain."""
        return {"epochs": self.epochs, "learning_rate": self.learning_rate, "batch": self.batch}

    def chain(self, captured: Sequence[tuple[int, ...]], image: tuple[int, ...]) -> Chain:
        """The layers for captured shapes and an image ``(C, H, W)``: the given ones, or the rule's."""
        return self.layers if self.layers is not None else rule(captured, image)

    def described(self, captured: Sequence[tuple[int, ...]], image: tuple[int, ...]) -> str:
        """All that the network is made of, in Table 2's notation."""
        chain = text(self.chain(captured, image))
        return chain if self.layers is not None else f"{chain} + Ridge"

    def fit(self, pairs: Pairs, *, generator: torch.Generator) -> Reconstructor:
        """Train; ``generator``'s seed fixes the initial weights.

        Without given layers, training starts from the best linear reading of each pixel (`_Ridge`): whatever
        lies in clear in what is captured, the image itself above all, is then not lost on a short training.

        Raises:
            ClovenError: where the given layers do not fit the captured tensors or the images.
        """
        shapes = [tuple(z.shape[1:]) for z in pairs.captured]
        image = tuple(pairs.images.shape[1:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            network: nn.Module = build(self.chain(shapes, image))
            _check_fit(network, [z[:1] for z in pairs.captured], image)
            if self.layers is None:
                network = _Ridge(network, pairs)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        for _, captured, images in pairs.batches(self.epochs, self.batch):
            optimiser.zero_grad()
            F.mse_loss(network(together(captured)), images).backward()
            optimiser.step()
        return _Decoded(network.eval())


class _Ridge(nn.Module):
    """A network added to a ridge regression of each pixel from the captured channels above it.

    The regression is solved in closed form, the network's last layer starts at zero.
    """

    PENALTY = 1e-6
    NUMBERS = 20_000_000
    """How many captured numbers the regression is solved on, at most: far more pixels than channels."""

    def __init__(self, network: nn.Module, pairs: Pairs) -> None:
        super().__init__()
        self.network, self.size = network, pairs.images.shape[2:]
        for parameter in list(network.parameters())[-2:]:
            nn.init.zeros_(parameter)
        channels = together([z[:1] for z in pairs.captured]).shape[1]
        count = max(1, self.NUMBERS // (channels * self.size.numel()))
        captured = self._sized(together([z[:count] for z in pairs.captured]))
        self.linear = nn.Conv2d(channels, pairs.images.shape[1], 1)
        z, x = (t.movedim(1, 3).flatten(0, 2).double() for t in (captured, pairs.images[:count]))
        centre, mean = z.mean(0), x.mean(0)
        z, x = z - centre, x - mean
        gram = z.T @ z / len(z)
        strength = self.PENALTY * gram.diagonal().mean().clamp(min=1e-12)
        weight = torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=z.dtype), z.T @ x / len(z))
        with torch.no_grad():
            self.linear.weight.copy_(weight.T[:, :, None, None])
            self.linear.bias.copy_(mean - centre @ weight)  # type: ignore[union-attr]

    def _sized(self, captured: Tensor) -> Tensor:
        return captured if captured.shape[2:] == self.size else _enlarged(captured, *self.size)

    def forward(self, captured: Tensor) -> Tensor:
        made: Tensor = self.network(captured) + self.linear(self._sized(captured))
        return made


@dataclass(frozen=True, eq=False)
class _Decoded:
    """A trained decoder as a reconstructor."""

    network: nn.Module
    batch: int = 512

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return sum(p.numel() for p in self.network.parameters())

    def __call__(self, captured: Sequence[Tensor]) -> Tensor:
        with torch.inference_mode():
            chunks = zip(*(z.split(self.batch) for z in captured), strict=True)
            return torch.cat([self.network(together(chunk)).clamp(0, 1) for chunk in chunks])


def together(captured: Sequence[Tensor]) -> Tensor:
    """Captured tensors ``(n, ...)`` as one map ``(n, C, H, W)``; see `layers.as_map`."""
    maps = [z if z.ndim == 4 else z.flatten(1)[:, :, None, None] for z in captured]
    _, height, width = as_map([tuple(m.shape[1:]) for m in maps])
    sized = [m if m.shape[2:] == (height, width) else _enlarged(m, height, width) for m in maps]
    # Channels last: the decoders' small convolutions run up to twice as fast.
    return torch.cat(sized, 1).contiguous(memory_format=torch.channels_last)


def _enlarged(z: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(z, size=(height, width), mode="nearest")


def _check_fit(network: nn.Module, captured: Sequence[Tensor], image: tuple[int, ...]) -> None:
    shape = tuple(together(captured).shape[1:])
    try:
        with torch.inference_mode():
            made = tuple(network(together(captured)).shape[1:])
    except RuntimeError as error:
        raise ClovenError(f"the decoder's layers do not take {shape}: {error}") from error
    if made != image:
        raise ClovenError(f"the decoder makes {made} from {shape}; the images are {image}")
