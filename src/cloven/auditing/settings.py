"""The settings of an audit: one frozen value that goes through the pipeline whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from cloven.attacks.trainer import CPU, Machine
from cloven.auditing.captured import LEAST, MessageShapes
from cloven.auditing.cases import Taps
from cloven.auditing.cell import Knows
from cloven.auditing.features import BUDGET, Precision
from cloven.auditing.subject import Subject
from cloven.auditing.suite import USUAL, AttackSuite
from cloven.partition.data import GRIDS
from cloven.partition.plan import Plan
from cloven.partition.transform import Transform
from cloven.zoo.models import MODELS, unknown

STRATEGIES = ("vertical", "horizontal", "data")


@dataclass(frozen=True)
class AuditSettings:
    """How observations are attacked, wherever they come from.

    Attributes:
        suite: the attacks.
        knows: what the attacker knows of what he sees.
        seeds: each attack is trained once with each.
        curve: whether attacks are also trained with fewer pairs and for fewer epochs.
        attack_seconds: of the CPU, or of the GPU, that each training of an attack may take; None for no limit. The
            time that an attack takes for each image that it attacks is not limited.
        threshold: the SSIM above which an image counts as recognisable.
        machine: on what attacks are trained.
        precision: of the numbers that are captured.
        disk: bytes of them that are kept.
    """

    suite: AttackSuite = USUAL
    knows: Knows = "shapes"
    seeds: tuple[int, ...] = (0,)
    curve: bool = False
    attack_seconds: float | None = None
    threshold: float = 0.2
    machine: Machine = CPU
    precision: Precision = "float32"
    disk: int = BUDGET

    def problems(self) -> Iterator[str]:
        """Return all that is wrong with the settings."""
        yield from self.suite.problems()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            yield f"seeds are {list(self.seeds)}; expected one or more, each once"
        if self.attack_seconds is not None and not 0 < self.attack_seconds < inf:
            yield f"attack seconds are {self.attack_seconds}; expected a positive number"
        if not 0 < self.threshold < 1:
            yield f"threshold is {self.threshold}; expected an SSIM between 0 and 1"


@dataclass(frozen=True)
class Simulation:
    """Observations that are simulated: of one plan, or of a model divided by each of some strategies.

    Attributes:
        taps: where to listen.
        plan: the one division; left out, one for each of ``strategies``.
        strategies: names of `STRATEGIES`.
        devices: of horizontal and data partitioning.
        defences: transforms to compare, each put on all links; none: those of the plan.
    """

    taps: Taps
    plan: Plan | None = None
    strategies: tuple[str, ...] = STRATEGIES
    devices: int = 4
    defences: tuple[Transform, ...] = ()


@dataclass(frozen=True)
class Recording:
    """Observations that a tap recorded, in a folder; ``shapes`` is what the attacker knows of the messages.

    ``layers`` are those that a paper has decoders for; a recording does not say which layer it is of.
    """

    folder: Path
    shapes: MessageShapes = field(default_factory=dict)
    layers: Sequence[str] = ()

    def shown(self) -> dict[str, str]:
        """Return the shape of each message as text."""
        texts: dict[str, str] = {}
        for ordinal in sorted(self.shapes):
            texts[str(ordinal)] = "+".join("x".join(map(str, shape)) for shape in self.shapes[ordinal])
        return texts


@dataclass(frozen=True)
class Study:
    """An audit by name: its model and images, the source of its observations, and how they are attacked."""

    subject: Subject
    source: Simulation | Recording
    settings: AuditSettings = AuditSettings()

    def problems(self) -> list[str]:
        """Return all that is wrong with it, before any image is looked at."""
        subject, source = self.subject, self.source
        least: dict[str, tuple[int | None, int]] = {
            "queries": (subject.queries, LEAST["auxiliary"]),
            "victims": (subject.victims, LEAST["victim"]),
            "devices": (source.devices if isinstance(source, Simulation) else None, 2),
        }
        found = [
            f"{name} is {value}; expected {limit} or more"
            for name, (value, limit) in least.items()
            if value is not None and value < limit
        ]
        found += self.settings.problems()
        if isinstance(source, Recording):
            return found
        found += [
            f"no strategy is named {name!r}; choose from {', '.join(STRATEGIES)}, enclave"
            for name in source.strategies
            if name not in STRATEGIES
        ]
        if self.settings.knows == "inferred" and source.defences:
            found.append("shapes are inferred from float32 numbers; leave out the transforms, or --shape inferred")
        if source.plan is not None:
            return found
        if "data" in source.strategies and source.devices not in GRIDS:
            known = ", ".join(str(n) for n in GRIDS if n > 1)
            found.append(f"{source.devices} devices have no usual grid of tiles; choose from {known}")
        if subject.training is not None and subject.weights is not None:
            found.append("a model with weights is not trained here; leave out one of the two")
        if ":" not in subject.model and subject.model not in MODELS:
            found.append(f"{unknown(subject.model)}, torchvision:NAME, timm:NAME or package.module:factory")
        return found
