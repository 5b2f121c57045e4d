"""A cell: one attack on one observation with one seed. Its result depends on nothing else."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cloven.attack.decoder import Decoder
from cloven.attack.pairs import Pairs
from cloven.audit.captured import Heard
from cloven.audit.finding import Finding
from cloven.audit.material import Material
from cloven.score.agreement import agreement, kappa
from cloven.score.floors import shuffled_floor
from cloven.score.intervals import bootstrap, wilson
from cloven.score.similarity import CONVENTION, psnr, quantise, ssim
from cloven.threads import one_thread

SCHEMA = 1
"""Goes up when a change makes other numbers from the same cell."""

FEATURES = "float32"
"""The type of captured numbers."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One attack on one observation with one seed; ``knows`` is what the attacker knows of what he sees."""

    observation: Heard
    attack: Decoder
    seed: int = 0
    knows: Literal["shapes", "numbers"] = "shapes"

    def provenance(self, material: Material) -> dict[str, Any]:
        """All that can change a number of this cell; the key is its hash."""
        shapes = [s.shape for s in self.observation.seen]
        return {
            "schema": SCHEMA,
            "observation": self.observation.fingerprint,
            "attack": "decoder",
            "settings": self.attack.settings(),
            "layers": self.attack.described(shapes, material.classifier.input.shape),
            "knows": self.knows,
            "seed": self.seed,
            "features": FEATURES,
            "autocast": False,
            "ssim": CONVENTION,
            **material.hashes,
        }

    def key(self, material: Material) -> str:
        """The name of the cell's result."""
        canonical = json.dumps(self.provenance(material), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def attack(cell: Cell, material: Material) -> Finding:
    """Train the attack on the auxiliary images, rebuild the victims, score.

    The order of the batches depends on the auxiliary images and the seed, the initial weights on the key alone.

    Raises:
        ClovenError: where the observation is empty or holds no finite numbers.
    """
    start, key = time.perf_counter(), cell.key(material)
    with one_thread():
        auxiliary, victims = material.tensors["auxiliary"], material.tensors["victims"]
        order = _number(f"{material.hashes['auxiliary']}/{cell.seed}")
        pairs = Pairs(material.captured(cell.observation, "auxiliary"), auxiliary, order)
        reconstruct = cell.attack.fit(pairs, generator=torch.Generator().manual_seed(_number(key)))
        made = quantise(reconstruct(material.captured(cell.observation, "victims")))
        classes, guessed = material.tensors["classes"], material.classify(made)
        scores = {
            "ssim": ssim(made, victims),
            "psnr": psnr(made, victims),
            "agreement": agreement(guessed, classes),
        }
        shuffled = shuffled_floor(victims, classes, made, guessed, seed=cell.seed)
    hits = int(scores["agreement"].sum())
    return Finding(
        key=key,
        attack="decoder",
        pairs=len(auxiliary),
        victims=len(victims),
        parameters=reconstruct.parameters,
        observation_bytes=cell.observation.bytes,
        agreement=wilson(hits, len(victims)),
        kappa=kappa(guessed, classes, material.classifier.by_name[material.classifier.output].shape[0]),
        ssim=bootstrap(scores["ssim"], seed=cell.seed),
        ssim_p95=float(torch.quantile(scores["ssim"], 0.95)),
        psnr=bootstrap(scores["psnr"], seed=cell.seed),
        floors=(*material.floors, shuffled),
        seconds=round(time.perf_counter() - start, 3),
        provenance=cell.provenance(material),
        scores={name: values.to(torch.float32) for name, values in scores.items()},
        samples=_samples(scores["ssim"], victims, made),
    )


def _number(text: str) -> int:
    """A seed from a text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)


def _samples(scores: Tensor, victims: Tensor, made: Tensor) -> dict[str, Tensor]:
    """The best, the median and the worst image by SSIM, beside their originals, as 8-bit pixels."""
    order = scores.argsort(descending=True)
    chosen = order[torch.tensor([0, len(order) // 2, len(order) - 1])]
    to_pixels: Callable[[Tensor], Tensor] = lambda t: (t[chosen] * 255).round().to(torch.uint8)  # noqa: E731
    return {"index": chosen, "originals": to_pixels(victims), "reconstructions": to_pixels(made)}
