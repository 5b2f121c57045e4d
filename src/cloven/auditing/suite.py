"""Attack suites: the attacks of an audit, and the choice of those that work on an observation."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import partial
from itertools import chain as joined
from typing import Any

from cloven.attacks.attack import Attack
from cloven.attacks.augmented import Augmented
from cloven.attacks.cgan import CGAN
from cloven.attacks.decoder import Decoder
from cloven.attacks.ensemble import Ensemble
from cloven.attacks.epochs import with_epochs
from cloven.attacks.layers import Chain
from cloven.attacks.provenance import is_white_box, label_of, name_of
from cloven.attacks.rear import ModelRear
from cloven.attacks.refine import Refine
from cloven.attacks.registry import GROUPS, NAMED, load
from cloven.auditing.captured import Observed
from cloven.errors import tried
from cloven.partition.determine import ops_behind
from cloven.partition.observe import Observation

NAMES = tuple(NAMED)
"""The names of the attacks in cloven."""

OF_TILES = {"paste", "enlarge", "inpaint"}
"""The attacks on pieces of the image that are sent in clear."""


@dataclass(frozen=True)
class AttackSuite:
    """The attacks of an audit: names, or attacks with their own hyper-parameters.

    A name that stands for several attacks, such as ``refine``, is replaced by their names. ``epochs`` and
    ``gan_epochs`` apply to the named attacks, and to the attacks that they start from; None stands for each
    attack's own number.
    """

    attacks: tuple[Attack | str, ...] = ("decoder", "probe")
    epochs: int | None = None
    gan_epochs: int = 200

    def __post_init__(self) -> None:
        named = ((one,) if not isinstance(one, str) else GROUPS.get(one, (one,)) for one in self.attacks)
        object.__setattr__(self, "attacks", tuple(joined.from_iterable(named)))

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each attack; those of one name also have the hyper-parameters that are not the defaults."""
        every = [load(attack) for attack in self.attacks]
        labels = [label_of(attack) for attack in every]
        return tuple(
            label if labels.count(label) == 1 else f"{label} {_changed(attack)}".strip()
            for label, attack in zip(labels, every, strict=True)
        )

    @property
    def white_box(self) -> tuple[str, ...]:
        """The names of the attacks that need the model's weights."""
        every = zip(self.names, self.attacks, strict=True)
        return tuple(name for name, attack in every if is_white_box(load(attack)))

    def problems(self) -> list[str]:
        """Return every problem of the suite."""
        found: list[str] = []
        for attack in self.attacks:
            tried(partial(load, attack), found)
        if found:  # only attacks have names
            return found
        found += [] if self.attacks else [f"attacks are missing; choose from {', '.join([*NAMES, *GROUPS])}"]
        given = [one if isinstance(one, str) else name for one, name in zip(self.attacks, self.names, strict=True)]
        for name in dict.fromkeys(name for name in given if given.count(name) > 1):
            groups = [f" ({group} stands for {', '.join(of)})" for group, of in GROUPS.items() if name in of]
            found.append(f"attack {name!r} is given {given.count(name)} times{''.join(groups)}; give it once")
        for name, value in (("epochs", self.epochs), ("gan-epochs", self.gan_epochs)):
            found += [f"{name} is {value}; expected 1 or more"] if value is not None and value < 1 else []
        return found

    def on(self, observed: Observed, chain: Chain | None, *, tiles: bool | None = None) -> dict[str, Attack]:
        """Return the attacks that work on an observation, by their names.

        Args:
            observed: the observation.
            chain: a paper's decoder for it, if there is one.
            tiles: whether pieces of the image are seen, if the observation itself does not say.
        """
        shown = bool(observed.raw_image) if tiles is None else tiles
        knowable = isinstance(observed, Observation) and bool(observed.seen)
        enough = isinstance(observed, Observation) and ops_behind(observed) is not None
        every = ((name, self._set(one, chain)) for name, one in zip(self.names, self.attacks, strict=True))
        return {
            name: attack
            for name, attack in every
            if (shown or name_of(attack) not in OF_TILES)
            and (knowable or not is_white_box(attack))
            and (enough or not isinstance(attack, ModelRear))
        }

    def _set(self, given: Attack | str, chain: Chain | None) -> Attack:
        """Return an attack; one that is given by name gets the suite's epochs and a paper's layers."""
        if not isinstance(given, str):
            return given
        attack = _layered(load(given), chain)
        epochs = self.gan_epochs if isinstance(attack, CGAN) else self.epochs
        return attack if epochs is None else with_epochs(attack, lambda _: epochs)


def _layered(attack: Attack, chain: Chain | None) -> Attack:
    """Return an attack with a paper's layers, if it is a decoder or starts from one."""
    match attack:
        case Decoder():
            return replace(attack, layers=chain)
        case Refine():
            return replace(attack, start=_layered(attack.start, chain))
        case Augmented() | Ensemble():
            return replace(attack, attack=_layered(attack.attack, chain))
    return attack


def _changed(attack: Attack) -> str:
    """Return the hyper-parameters that are not the defaults: ``epochs=3``."""
    if not is_dataclass(attack):
        return ""
    given = ((f, getattr(attack, f.name)) for f in fields(attack))
    return ", ".join(f"{f.name}={value}" for f, value in given if value != _usual(f))


def _usual(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


USUAL = AttackSuite()
"""The default suite: the decoder of Mehrafrooz et al. (2025), and a probe for labels."""
