"""The attack of Rajasekar et al. (2024, III-C and V-D1): a conditional GAN from captured tensors to images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloven.attacks.adapt import Adaptor
from cloven.attacks.attack import BatchedAttack
from cloven.attacks.convolutions import Convolution, Doubled
from cloven.attacks.hyperparameters import COUNT, NUMBER, POSITIVE, check_fields
from cloven.attacks.knowledge import PAIRS, Knowledge, Shape, needed
from cloven.attacks.networks import QUICK, Stem, cropped, resized, scale_of, scales
from cloven.attacks.trainer import (
    DescribedReconstructor,
    Fitting,
    Machine,
    Rate,
    Rebuilt,
    Training,
    TrainingSchedule,
    seeded,
    under,
)

BETAS = (0.5, 0.999)
"""Adam's, of pix2pix (Isola et al. 2017)."""

HALVINGS = 2
"""The number of times that the generator's encoder halves its input."""

CHECKED = 64
"""The most pairs on which a generator is checked for collapse."""

ALIKE = 0.1
"""A generator has collapsed if its images differ from each other by less than this share of what real ones do."""

SURE = 0.02
"""A discriminator is saturated if its loss is below this; one that guesses has a loss of log 2 = 0.69."""


@dataclass(frozen=True)
class CGAN(BatchedAttack):
    """A generator, trained against a discriminator that sees the captured tensors and a real or generated image.

    Rajasekar et al. state the generator (an encoder-decoder with two residual blocks), the discriminator (a
    down-sampler, then a series of convolutional blocks), the binary cross-entropy, 200 epochs and 1000 images. The
    other choices are ours, most of them from pix2pix (Isola et al. 2017):

    - the networks: see `Generator` and `Discriminator`;
    - the discriminator is conditional: it sees the captured tensors beside the image, and judges each patch;
    - Adam with betas 0.5 and 0.999, a learning rate of 2e-4 for the first half of the epochs that then falls to 0,
      and batches of 16;
    - ``pixel``, the weight of the mean absolute error: 0 since the paper has no such term (pix2pix: 100);
    - ``width``, the number of channels at the size of the image; each halving doubles it, up to 8 times.
    """

    name: ClassVar[str] = "cgan"
    epochs: int = 200
    learning_rate: float = 2e-4
    batch: int = 16
    pixel: float = 0.0
    width: int = 16

    def __post_init__(self) -> None:
        check_fields(self, epochs=COUNT, learning_rate=POSITIVE, batch=COUNT, pixel=NUMBER, width=COUNT)

    @property
    def label(self) -> str:
        """See `BatchedAttack`."""
        return f"{self.name}-l1" if self.pixel else self.name

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Adversaries:
        """See `BatchedAttack`."""
        pairs = needed(knowledge.pairs, self.name, PAIRS)

        def make() -> nn.ModuleList:
            adaptor = Adaptor(pairs, knowledge.places)
            made = nn.Sequential(adaptor, Generator(adaptor.shapes, pairs.image, self.width))
            return nn.ModuleList([made, Discriminator(adaptor.shapes, pairs.image, self.width)])

        schedule, rate = TrainingSchedule(self.epochs, self.batch), halfway(self.learning_rate)
        maker, judge = seeded(make, generator).children()
        return Adversaries(
            Fitting(maker, pairs, schedule, loss=F.l1_loss, rate=rate, machine=machine),
            Fitting(judge, pairs, schedule, loss=F.binary_cross_entropy_with_logits, rate=rate, machine=machine),
            self.pixel,
        )


def halfway(rate: float) -> Rate:
    """Return a rate that is constant in the first half of the training, and then falls linearly to 0."""
    return lambda progress: rate * min(1.0, 2 * (1 - progress))


# --- networks ---------------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """A residual block of two 3x3 convolutions; at first it changes nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels, momentum=QUICK)
        self.second = Convolution(channels, channels)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, channels, H, W)`` of the same."""
        changed: Tensor = self.second(F.relu(self.norm(self.first(F.relu(x))), inplace=True))
        return x + changed


class Generator(nn.Module):
    """A generator: an encoder that halves its input twice, two residual blocks, and a decoder up to the image.

    All captured tensors enter at the scale of the finest among them, however small; the encoder stops at a side of
    `COARSEST` pixels. The decoder adds the encoder's map at each scale that both have.
    """

    COARSEST = 2

    def __init__(self, shapes: Sequence[Shape], image: Shape, width: int) -> None:
        super().__init__()
        self.sizes = scales(image, self.COARSEST)
        self.first = _finest(shapes, scales(image))
        bottom = min(self.first + HALVINGS, len(self.sizes) - 1)
        channels = [_channels(width, k) for k in range(bottom + 1)]
        self.stem = Stem(shapes, self.sizes[self.first], channels[self.first])
        self.norm = nn.BatchNorm2d(channels[self.first])
        self.downs = nn.ModuleList(Convolution(a, b, 2) for a, b in pairwise(channels[self.first :]))
        self.blocks = nn.Sequential(ResidualBlock(channels[bottom]), ResidualBlock(channels[bottom]))
        self.ups = nn.ModuleList(Doubled(b, a) for a, b in reversed(list(pairwise(channels))))
        self.norms = nn.ModuleList(nn.BatchNorm2d(a) for a in reversed(channels[:-1]))
        self.out = Convolution(channels[0], image[0])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return ``(n, *image)`` in [0, 1] of maps ``(n, C, H, W)`` and vectors ``(n, numbers)``."""
        x = F.relu(self.norm(self.stem(maps)))
        encoded = {}
        for scale, down in enumerate(self.downs, self.first):
            encoded[scale] = x
            x = F.relu(down(x))
        x = self.blocks(x)
        for scale, up, norm in zip(reversed(range(len(self.ups))), self.ups, self.norms, strict=True):
            x = cropped(up(x), self.sizes[scale])
            x = F.relu(norm(x + encoded[scale] if scale in encoded else x))
        return torch.sigmoid(self.out(x))


class Discriminator(nn.Module):
    """A discriminator of the patches of an image, given its captured tensors; positive for a real image.

    A down-sampler of convolutions with stride 2, then `BLOCKS` convolutional blocks, then a verdict per patch.
    """

    FINEST = 12
    """The image is halved until its shorter side is at most this long."""
    BLOCKS = 2

    def __init__(self, shapes: Sequence[Shape], image: Shape, width: int) -> None:
        super().__init__()
        sizes = scales(image)
        self.size = sizes[0]
        self.stem = Stem(shapes, sizes[_finest(shapes, sizes)], max(1, width // 2))
        channels = [_channels(width, k + 1) for k in range(len(scales(image, self.FINEST)) - 1)]
        channels = [image[0] + self.stem.channels, *(channels or [width])]
        self.downs = nn.ModuleList(Convolution(a, b, 2) for a, b in pairwise(channels))
        self.blocks = nn.ModuleList(Convolution(channels[-1], channels[-1]) for _ in range(self.BLOCKS))
        self.out = Convolution(channels[-1], 1)

    def forward(self, images: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Return verdicts ``(n, 1, h, w)`` on images ``(n, C, H, W)``; each row of ``maps`` may serve several."""
        seen = resized(self.stem(maps), self.size)
        x = torch.cat([images, torch.cat([seen] * (len(images) // len(seen)))], 1)
        for layer in (*self.downs, *self.blocks):
            x = F.leaky_relu(layer(x), 0.2)
        verdicts: Tensor = self.out(x)
        return verdicts


def _finest(shapes: Sequence[Shape], sizes: Sequence[tuple[int, int]]) -> int:
    return min(scale_of(shape, sizes) for shape in shapes)


def _channels(width: int, scale: int) -> int:
    return width * min(1 << scale, 8)


# --- training ---------------------------------------------------------------------------------------------------


class Adversaries:
    """A generator (the maker) and a discriminator (the judge) in training; in each step the judge learns first."""

    def __init__(self, maker: Fitting, judge: Fitting, pixel: float) -> None:
        self.maker, self.judge, self.pixel = maker, judge, pixel
        self.pairs, self.schedule, self.machine = maker.pairs, maker.schedule, maker.machine
        for group in (*maker.optimiser.param_groups, *judge.optimiser.param_groups):
            group["betas"] = BETAS
        self.sureness, self.seen = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        """The sum and number of the discriminator's losses: in this epoch, and in the one before."""

    def step(self, index: Tensor, captured: Sequence[Tensor], images: Tensor, progress: float) -> None:
        """See `Trainee`."""
        rate = self.maker.rate(progress)
        for group in (*self.maker.optimiser.param_groups, *self.judge.optimiser.param_groups):
            group["lr"] = rate
        self.maker.network.train()
        images = images.to(self.maker.machine.device)
        with torch.enable_grad():
            maps, made = self._made(captured)
            self._judge(maps, images, made.detach())
            self._make(maps, images, made)

    def _made(self, captured: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return captured tensors as maps, and the images that are generated from them."""
        adaptor, generator = self.maker.network.children()
        with self.maker.machine.autocast():
            maps = adaptor([z.to(self.maker.machine.device) for z in captured])
            made: Tensor = generator(maps)
        return maps, made.float()

    def _verdicts(self, maps: Sequence[Tensor], images: Tensor) -> Tensor:
        with self.judge.machine.autocast():
            verdicts: Tensor = self.judge.network(images.contiguous(memory_format=torch.channels_last), maps)
        return verdicts.float()

    def _judge(self, maps: Sequence[Tensor], images: Tensor, made: Tensor) -> None:
        self.judge.optimiser.zero_grad()
        verdicts = self._verdicts(maps, torch.cat([images, made]))
        right = torch.zeros_like(verdicts)
        right[: len(images)] = 1
        loss = self.judge.loss(verdicts, right)
        loss.backward()
        self.judge.optimiser.step()
        self.sureness += torch.tensor([float(loss.detach()), 1.0])

    def _make(self, maps: Sequence[Tensor], images: Tensor, made: Tensor) -> None:
        self.maker.optimiser.zero_grad()
        self.judge.network.requires_grad_(False)
        verdicts = self._verdicts(maps, made)
        loss = self.judge.loss(verdicts, torch.ones_like(verdicts)) + self.pixel * self.maker.loss(made, images)
        loss.backward()
        self.judge.network.requires_grad_(True)
        self.maker.optimiser.step()

    def ended(self, epoch: int) -> bool:
        """See `Trainee`."""
        self.seen, self.sureness = self.sureness, torch.zeros(2, dtype=torch.float64)
        return self.maker.ended(epoch)

    def state(self) -> dict[str, Tensor]:
        """See `Trainee`."""
        made = {f"maker/{name}": value for name, value in self.maker.state().items()}
        judged = {f"judge/{name}": value for name, value in self.judge.state().items()}
        return {**made, **judged, "seen": self.seen}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Trainee`."""
        for head, one in (("maker", self.maker), ("judge", self.judge)):
            one.restore(under(head, state))
        self.seen = state["seen"]

    def finish(self, training: Training | None) -> DescribedReconstructor:
        """See `Trainee`."""
        made = Rebuilt(self.maker.network.eval(), self.maker.machine, training=training)
        captured, images = self.pairs.first(CHECKED)
        total, number = self.seen.tolist()
        return replace(made, notes=collapse(made(captured), images, total / max(1, number)))


def collapse(made: Tensor, images: Tensor, loss: float) -> tuple[str, ...]:
    """Return warnings about a generator: of images ``(n, C, H, W)`` that it made, and the real ones.

    ``loss`` is that of the discriminator in the last epoch.
    """
    if len(images) < 2:
        return ()
    spread = [float(x.float().std(0, correction=0).mean()) for x in (made, images)]
    share = spread[0] / max(spread[1], 1e-12)
    found = []
    if share < ALIKE:
        found.append(f"collapsed: its images differ from each other by {share:.0%} of what real ones do")
    if loss < SURE:
        found.append(f"saturated: the discriminator tells every image apart (its loss is {loss:.3f})")
    return tuple(found)
