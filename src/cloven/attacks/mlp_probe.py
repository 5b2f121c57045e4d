"""The label probe with one hidden layer, on means of maps over several grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from cloven.attacks.drawing import Dropout
from cloven.attacks.embedding import Embedding, standard
from cloven.attacks.hyperparameters import COUNT, check_fields
from cloven.attacks.knowledge import Pairs, SharePlace
from cloven.attacks.trained_probe import Committee, TrainedProbe


@dataclass(frozen=True)
class MLPProbe(TrainedProbe):
    """A multilayer perceptron from captured numbers to the class that the service answered.

    Maps are averaged to grids of 4 x 4, 2 x 2 and 1 (spatial pyramid pooling, Lazebnik et al. 2006), with at most
    ``numbers`` numbers in all, each standardised. There is one layer of ``hidden`` units.
    """

    name: ClassVar[str] = "mlp-probe"
    epochs: int = 15
    learning_rate: float = 1e-3
    members: int = 4
    numbers: int = 4096
    hidden: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, numbers=COUNT, hidden=COUNT)

    def network(self, pairs: Pairs, places: Sequence[SharePlace] | None, classes: int) -> nn.Module:
        """See `TrainedProbe`."""
        embedding = Embedding(pairs, places, self.numbers, finest=4, pyramid=True)
        mean, deviation = standard(embedding.all(pairs))

        def member() -> nn.Module:
            drop, hidden = Dropout(self.dropout), nn.Linear(len(mean), self.hidden)
            return nn.Sequential(drop, hidden, nn.ReLU(), Dropout(self.dropout), nn.Linear(self.hidden, classes))

        standardised = Standardised(mean, deviation)
        return nn.Sequential(embedding, standardised, Committee(member() for _ in range(self.members)))


class Standardised(nn.Module):
    """Standardises numbers to mean 0 and deviation 1."""

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, values: Tensor) -> Tensor:
        """Return ``(n, numbers)``."""
        return (values - self.get_buffer("mean")) / self.get_buffer("deviation")
