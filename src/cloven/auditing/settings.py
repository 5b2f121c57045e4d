"""The settings of an audit: the attacks, and the source of the observations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from cloven.attacks.trainer import CPU, Machine
from cloven.auditing.captured import LEAST
from cloven.auditing.cases import Taps
from cloven.auditing.cell import Knows
from cloven.auditing.features import BUDGET, Precision
from cloven.auditing.subject import Subject
from cloven.auditing.suite import USUAL, AttackSuite
from cloven.partition.data import GRIDS
from cloven.partition.plan import Plan
from cloven.partition.transform import Transform
from cloven.runtime.message_shapes import MessageShapes
from cloven.zoo.models import MODELS, unknown

STRATEGIES = ("vertical", "horizontal", "data")


@dataclass(frozen=True)
class AuditSettings:
    """The attacks of an audit and their settings, for simulated and captured observations alike.

    Attributes:
        suite: the attacks.
        knows: the attacker's knowledge of the layout of observations.
        seeds: the seeds; each attack is trained once with each.
        curve: whether attacks are also trained with fewer pairs and for fewer epochs.
        attack_seconds: the limit on the CPU or GPU seconds of each training of an attack; None for no limit. It
            does not limit what an attack computes for each image that it attacks.
        threshold: the SSIM above which an image counts as recognisable.
        machine: the processor and precision of the training.
        precision: the precision of the captured numbers.
        disk: the largest number of bytes of captured numbers to keep.
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
        """Yield every problem of the settings."""
        yield from self.suite.problems()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            yield f"seeds are {list(self.seeds)}; expected one or more, each once"
        if self.attack_seconds is not None and not 0 < self.attack_seconds < inf:
            yield f"attack seconds are {self.attack_seconds}; expected a positive number"
        if not 0 < self.threshold < 1:
            yield f"threshold is {self.threshold}; expected an SSIM between 0 and 1"


@dataclass(frozen=True)
class Simulation:
    """Simulated observations: of one plan, or of a model divided by each of several strategies.

    Attributes:
        taps: the places to observe.
        plan: the division; None for one division by each of ``strategies``.
        strategies: names from `STRATEGIES`.
        devices: the number of devices for horizontal and data partitioning.
        defences: the transforms to compare, each on all links; if empty, links have the transforms of the plan.
    """

    taps: Taps
    plan: Plan | None = None
    strategies: tuple[str, ...] = STRATEGIES
    devices: int = 4
    defences: tuple[Transform, ...] = ()


@dataclass(frozen=True)
class Recording:
    """Observations that a tap recorded in a folder; ``shapes`` are the shapes of messages that the attacker knows.

    ``layers`` are the layers for which a paper has decoders; a recording does not say which layer it is of.
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
    """An audit by name: its model and images, the source of its observations, and its attacks."""

    subject: Subject
    source: Simulation | Recording
    settings: AuditSettings = AuditSettings()

    def problems(self) -> list[str]:
        """Return every problem that shows without reading an image."""
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
            found.append("--shape inferred requires float32 numbers; leave it out, or leave out the transforms")
        if source.plan is not None:
            return found
        if "data" in source.strategies and source.devices not in GRIDS:
            known = ", ".join(str(n) for n in GRIDS if n > 1)
            found.append(f"devices is {source.devices}, which has no grid of tiles; choose from {known}")
        if subject.training is not None and subject.weights is not None:
            found.append("a model with weights is not trained here; leave out one of the two")
        if ":" not in subject.model and subject.model not in MODELS:
            found.append(f"{unknown(subject.model)}, torchvision:NAME, timm:NAME or package.module:factory")
        return found
