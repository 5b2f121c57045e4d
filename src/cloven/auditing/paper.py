"""A paper's part in an audit: its decoders, what it expects to see, and what it leaves open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cloven.attacks.layers import Chain
from cloven.auditing.aggregate import Expectation
from cloven.auditing.cases import ChainFor
from cloven.graph.box import Shape


def no_chain(_layer: str, _crossing: Shape, _image: Shape) -> Chain | None:
    """Return None: there is no decoder of a paper's."""
    return None


def _no_notes(_image: Shape) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Paper:
    """A paper's part in an audit; by default it has none.

    ``chain_for`` gives its decoder for a layer, the shape (C, H, W) of what crosses and that of the image, if it
    has one; ``layers`` are those that it listens at (path -> label); ``notes`` says, for the image's shape, what
    was done otherwise than it is printed.
    """

    chain_for: ChainFor = no_chain
    layers: Mapping[str, str] = field(default_factory=dict)
    expected: tuple[Expectation, ...] = ()
    notes: Callable[[Shape], Sequence[str]] = _no_notes


NO_PAPER = Paper()
