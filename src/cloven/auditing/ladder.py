"""The ladder of attacks by name, weakest to strongest, and which of them an observation can be attacked with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from cloven.attacks.attack import Attack
from cloven.attacks.cgan import CGAN
from cloven.attacks.decoder import Decoder
from cloven.attacks.layers import Chain
from cloven.attacks.provenance import is_white_box
from cloven.attacks.refine import Refine
from cloven.attacks.registry import NAMED, load
from cloven.attacks.residual import Residual
from cloven.auditing.captured import Heard
from cloven.errors import tried
from cloven.partition.observe import Observation

NAMES = tuple(NAMED)
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
        found: list[str] = []
        for name in self.names:
            tried(partial(load, name), found)
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
        every = {name: self._set(load(name), chain) for name in self.names}
        fitting = {name: a for name, a in every.items() if shown or name not in OF_TILES}
        return [a for a in fitting.values() if knowable or not is_white_box(a)]

    def _set(self, attack: Attack, chain: Chain | None) -> Attack:
        """Return an attack that trains as long as the ladder says, and a decoder with the paper's layers."""
        epochs = self.epochs
        match attack:
            case Decoder():
                return replace(attack, layers=chain, epochs=epochs or attack.epochs)
            case Residual():
                return replace(attack, epochs=epochs or attack.epochs)
            case CGAN():
                return replace(attack, epochs=self.gan_epochs)
            case Refine():
                return replace(attack, start=self._set(attack.start, chain))
        return attack


USUAL = Ladder()
"""S1's decoder, and the labels."""
