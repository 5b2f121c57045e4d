"""White-box refinement: from another attack's reconstruction by gradient descent through the front of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from cloven.attacks.attack import COUNT, Attack, BatchedAttack, Json, check, counted, listed, positive
from cloven.attacks.chained import Chained
from cloven.attacks.decoder import Decoder
from cloven.attacks.knowledge import FRONT, PAIRS, Front, Knowledge, LabelReader, Pairs, Shape, needed
from cloven.attacks.provenance import label_of, name_of, settings_of
from cloven.attacks.trainer import CHUNK, DescribedReconstructor, Learned, Machine, Training, cycle
from cloven.attacks.unbatched import begun
from cloven.errors import ClovenError


@dataclass(frozen=True)
class Refine(BatchedAttack):
    """Change the image until the model's front makes of it what was captured (He et al. 2019, rMLE).

    From the reconstruction of ``start``, Adam on the pixels for ``steps`` steps: the squared distance of features,
    each captured tensor divided by its variance, and ``smoothness`` times the total variation. Needs the weights.
    Of ``learning_rates`` the one counts that is best on the attacker's own last pairs; if none improves the start
    there, the start stands: deep features fit many images, and most of them are worse.
    """

    name: ClassVar[str] = "refine"
    white_box: ClassVar[bool] = True
    start: Attack = field(default_factory=Decoder)
    steps: int = 100
    learning_rates: tuple[float, ...] = (0.02, 0.005)
    smoothness: float = 1e-3

    def __post_init__(self) -> None:
        check(
            ("steps", self.steps, counted, COUNT),
            (
                "learning_rates",
                self.learning_rates,
                listed(positive),
                "positive numbers",
            ),
            ("smoothness", self.smoothness, lambda share: share >= 0, "0 or more"),
        )

    @property
    def label(self) -> str:
        """See `BatchedAttack`."""
        return self.name if isinstance(self.start, Decoder) else f"{self.name}-{label_of(self.start)}"

    def settings(self, captured: Sequence[Shape], image: Shape) -> dict[str, Json]:
        """See `BatchedAttack`."""
        own = {k: v for k, v in asdict(self).items() if k != "start"}
        return {**own, "start": {"attack": name_of(self.start), **settings_of(self.start, captured, image)}}

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Chained:
        """See `BatchedAttack`; a `ClovenError` without the model's front."""
        pairs, front = needed(knowledge.pairs, self.name, PAIRS), needed(knowledge.front, self.name, FRONT)
        start = begun(self.start, knowledge, generator, machine)
        return Chained(start, lambda learned: self._refined(learned, pairs, front))

    def _refined(self, start: Learned, pairs: Pairs, front: Front) -> _Refined:
        """Return the refinement with the learning rate that is best on the attacker's own last pairs."""
        if isinstance(start, LabelReader):
            raise ClovenError(f"{name_of(self.start)} rebuilds no images; refine starts from one that does")
        captured, _ = pairs.first(CHUNK)
        scales = tuple(float(1 / (z.var(correction=0) + 1e-12)) for z in captured)
        own = torch.arange(max(0, len(pairs) - TRIED), len(pairs))

        def error(refined: _Refined) -> float:
            return float((refined(pairs.captured.take(own)) - pairs.images[own]).square().mean())

        rates = (0.0, *self.learning_rates)
        return min((_Refined(self, start, front, scales, rate) for rate in rates), key=error)


@dataclass(frozen=True, eq=False)
class _Refined:
    attack: Refine
    start: DescribedReconstructor
    front: Front
    scales: tuple[float, ...]
    """One over the variance of each captured tensor."""
    rate: float

    @property
    def parameters(self) -> int:
        return self.start.parameters

    @property
    def training(self) -> Training | None:
        return self.start.training

    @property
    def notes(self) -> Sequence[str]:
        stands = () if self.rate else ("refinement did not improve the attacker's own images; its start stands",)
        return (*self.start.notes, *stands)

    def __call__(self, captured: Sequence[Tensor]) -> Tensor:
        if not self.rate:
            return self.start(captured)
        chunks = zip(self.start(captured).split(BATCH), *(z.split(BATCH) for z in captured), strict=True)
        return torch.cat([self._refined(first, list(rest)) for first, *rest in chunks])

    def _refined(self, start: Tensor, captured: list[Tensor]) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = start.clone().requires_grad_()
            wanted = [z.clone() for z in captured]
            optimiser = torch.optim.Adam([x], fused=True)
            rate = cycle(self.rate, 0.1)
            for step in range(self.attack.steps):
                optimiser.param_groups[0]["lr"] = rate(step / self.attack.steps)
                optimiser.zero_grad()
                self._distance(x, wanted).backward()
                optimiser.step()
                with torch.no_grad():
                    x.clamp_(0, 1)
        return x.detach()

    def _distance(self, x: Tensor, wanted: Sequence[Tensor]) -> Tensor:
        """Return the distance, summed over images: an image's course does not depend on those beside it."""
        made = self.front(x)
        features = [
            s * (a - b).square().flatten(1).mean(1).sum() for s, a, b in zip(self.scales, made, wanted, strict=True)
        ]
        rough = [x.diff(dim=axis).square().add(1e-8).sqrt().flatten(1).mean(1).sum() for axis in (2, 3)]
        return sum(features, start=self.attack.smoothness * (rough[0] + rough[1]))


TRIED = 50
"""Own pairs on which learning rates are compared."""
BATCH = 50
"""Images refined at a time."""
