"""One audit of one observation, from Python: what `cloven.audit(...)` does."""

from __future__ import annotations

import torch
from torch import Tensor

from cloven.attacks.attack import Attack
from cloven.attacks.registry import load
from cloven.auditing.captured import Capture, Heard
from cloven.auditing.cell import Cell, Knows, attack
from cloven.auditing.finding import Finding
from cloven.auditing.material import SETS, prepare, recorded_names
from cloven.errors import ClovenError
from cloven.graph.box import slices
from cloven.graph.graph import Graph
from cloven.partition.observe import Observation
from cloven.runtime.torch_engine import evaluate
from cloven.runtime.transmission import sent
from cloven.zoo.images import Images

ALONE = "alone"
"""What a simulation of one observation with transforms is called."""


def audit(
    graph: Graph,
    seen: Heard,
    attacker: Attack | str,
    *,
    auxiliary: Images | Tensor,
    victims: Images | Tensor,
    domain: Images | Tensor | None = None,
    judge: tuple[str, Graph] | None = None,
    seed: int = 0,
    knows: Knows = "shapes",
) -> Finding:
    """What an attack rebuilds of the victims from what a listener sees.

    Args:
        graph: the whole model; its classes are what agreement is measured by.
        seen: what `observe` gave, or the capture that `cloven.auditing.captured.read` did. Of transforms, only
            those of the link itself are applied: what others before it did to the numbers is not known here.
        attacker: the attack, or its name; see `cloven.attacks.load`.
        auxiliary: what the attacker trains on, ``(n, C, H, W)`` float32 in [0, 1].
        victims: what is scored, likewise; none of them may be among the auxiliary images.
        domain: images like the victims, for the floor of the domain's mean image (left out: the victims).
        judge: the name and graph of a second classifier, for a second agreement.
        seed: of the batches, the initial weights, the shuffled pairs and the intervals.
        knows: whether the attacker knows where shares lie (``places``), or only their shapes.

    Raises:
        ClovenError: for an observation of another model, for images that do not fit the model or are in both
            sets, and where the attack cannot work.
    """
    if isinstance(seen, Observation) and _print(seen.model or seen.graph) != _print(graph):
        raise ClovenError(
            "the observation is of another model than the graph; expected the graph that its program was "
            "compiled from"
        )
    recorded = _transformed(seen, auxiliary, victims)
    material = prepare(
        graph, [seen], auxiliary=auxiliary, victims=victims, domain=domain, judge=judge, recorded=recorded
    )
    return attack(Cell(seen, load(attacker), seed, knows, recorded=ALONE if recorded else ""), material)


def _print(graph: Graph) -> str:
    return graph.fingerprints[graph.output]


def _transformed(seen: Heard, auxiliary: Images | Tensor, victims: Images | Tensor) -> dict[str, Tensor]:
    """What is seen of both sets, after the link's own transforms; nothing where there are none."""
    if isinstance(seen, Capture) or all(s.transform.exact for s in seen.seen):
        return {}
    images = [x.tensor() if isinstance(x, Images) else x for x in (auxiliary, victims)]
    values = evaluate(seen.graph, torch.cat(images), {s.value for s in seen.seen})
    made: dict[str, Tensor] = {}
    for name, share in zip(recorded_names(seen, ALONE), seen.seen, strict=True):
        tensor = sent(share, seen.graph, values[share.value][slices(share.share)])
        made |= {f"{name}/{of}": t for of, t in zip(SETS, tensor.split([len(x) for x in images]), strict=True)}
    return made
