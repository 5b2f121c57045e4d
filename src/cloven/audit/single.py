"""One audit of one observation, from Python: what `cloven.audit(...)` does."""

from __future__ import annotations

from torch import Tensor

from cloven.attack.decoder import Decoder
from cloven.audit.captured import Heard
from cloven.audit.cell import Cell, attack
from cloven.audit.finding import Finding
from cloven.audit.material import prepare
from cloven.graph.graph import Graph
from cloven.zoo.images import Images


def audit(
    graph: Graph,
    seen: Heard,
    decoder: Decoder,
    *,
    auxiliary: Images | Tensor,
    victims: Images | Tensor,
    domain: Images | Tensor | None = None,
    seed: int = 0,
) -> Finding:
    """What an attack rebuilds of the victims from what a listener sees.

    Args:
        graph: the whole model; its classes are what agreement is measured by.
        seen: what `observe` gave, or the capture that `cloven.audit.captured.read` did.
        decoder: the attack.
        auxiliary: what the attacker trains on, ``(n, C, H, W)`` float32 in [0, 1].
        victims: what is scored, likewise; none of them may be among the auxiliary images.
        domain: images like the victims, for the floor of the domain's mean image (left out: the victims).
        seed: of the batches, the initial weights, the shuffled pairs and the intervals.

    Raises:
        ClovenError: for images that do not fit the model or are in both sets, and for an empty observation.
    """
    material = prepare(graph, [seen], auxiliary=auxiliary, victims=victims, domain=domain)
    return attack(Cell(seen, decoder, seed), material)
