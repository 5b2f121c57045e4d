"""The ladder of attacks by name, weakest to strongest, and which of them an observation can be attacked with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cloven.attacks.attack import Attack
from cloven.attacks.cgan import CGAN
from cloven.attacks.decoder import Decoder
from cloven.attacks.layers import Chain
from cloven.attacks.nearest import Nearest
from cloven.attacks.probe import Probe
from cloven.attacks.refine import Refine
from cloven.attacks.residual import Residual
from cloven.attacks.screen import Screen
from cloven.attacks.tiles import Enlarge, Inpaint, Paste
from cloven.auditing.captured import Heard
from cloven.partition.observe import Observation

NAMES = (
    "nearest", "probe", "screen", "decoder", "residual", "cgan", "cgan-l1", "refine", "refine-residual",
    "paste", "enlarge", "inpaint",
)  # fmt: skip
"""What people call the attacks."""

OF_TILES = {"paste", "enlarge", "inpaint"}
"""Attacks on pieces of the image in clear."""


@dataclass(frozen=True)
class Ladder:
    """Which attacks, and how long they train; left out, each as long as is usual for it."""

    names: tuple[str, ...] = ("decoder", "probe")
    epochs: int | None = None
    gan_epochs: int = 200

    def problems(self) -> list[str]:
        """All that is wrong with it."""
        found = [f"no attack is named {n!r}; choose from {', '.join(NAMES)}" for n in self.names if n not in NAMES]
        found += [] if self.names else [f"no attack is named; choose from {', '.join(NAMES)}"]
        for name, value in (("epochs", self.epochs), ("gan-epochs", self.gan_epochs)):
            found += [f"{name} is {value}; expected 1 or more"] if value is not None and value < 1 else []
        return found

    def on(self, heard: Heard, chain: Chain | None, *, tiles: bool | None = None) -> list[Attack]:
        """The attacks on an observation.

        Args:
            heard: what is seen.
            chain: a paper's decoder for it, if there is one.
            tiles: whether pieces of the image are seen, where the observation itself does not say.
        """
        shown = bool(heard.raw_image) if tiles is None else tiles
        knowable = isinstance(heard, Observation) and bool(heard.seen)
        every = {name: self._attack(name, chain) for name in self.names}
        return [a for name, a in every.items() if (shown or name not in OF_TILES) and (knowable or not a.white_box)]

    def _attack(self, name: str, chain: Chain | None) -> Attack:
        long: dict[str, Any] = {} if self.epochs is None else {"epochs": self.epochs}
        match name:
            case "nearest":
                return Nearest()
            case "probe":
                return Probe()
            case "screen":
                return Screen()
            case "decoder":
                return Decoder(layers=chain, **long)
            case "residual":
                return Residual(**long)
            case "cgan":
                return CGAN(epochs=self.gan_epochs)
            case "cgan-l1":
                return CGAN(epochs=self.gan_epochs, pixel=100.0)
            case "refine":
                return Refine(Decoder(layers=chain, **long))
            case "refine-residual":
                return Refine(Residual(**long))
            case "paste":
                return Paste()
            case "enlarge":
                return Enlarge()
        return Inpaint(**long)


USUAL = Ladder()
"""S1's decoder, and the labels."""
