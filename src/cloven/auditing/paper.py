"""What a paper says of the model of a study: its decoders, what it expects to see, and what it leaves open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cloven.attacks.layers import Chain
from cloven.auditing.cases import ChainFor
from cloven.auditing.summary import Expectation
from cloven.graph.box import Shape


def no_chain(_layer: str, _crossing: Shape, _image: Shape) -> Chain | None:
    """No decoder of a paper's."""
    return None


def _no_notes(_image: Shape) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Paper:
    """A paper's part in a study; by default it has none.

    ``chain_for`` gives its decoder for a layer, the shape (C, H, W) of what crosses and that of the image, if it
    has one; ``notes`` says, for the image's shape, what was done otherwise than it is printed.
    """

    chain_for: ChainFor = no_chain
    expected: tuple[Expectation, ...] = ()
    notes: Callable[[Shape], Sequence[str]] = _no_notes


NO_PAPER = Paper()
