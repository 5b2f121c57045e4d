"""A paper's part in an audit: its decoders, the orderings that it expects, and notes on deviations from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cloven.attacks.layers import Chain
from cloven.auditing.aggregate import Expectation
from cloven.auditing.cases import ChainFor
from cloven.graph.box import Shape


def no_chain(_layer: str, _crossing: Shape, _image: Shape) -> Chain | None:
    """Return None: the paper has no decoder for this layer."""
    return None


def _no_notes(_image: Shape) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Paper:
    """A paper's part in an audit; by default it has none.

    ``chain_for`` returns its decoder for a layer, a captured shape (C, H, W) and the image's shape, if it has one.
    ``layers`` are those whose outputs it observes (path -> label). ``notes`` returns, for the image's shape, the
    deviations from what the paper prints.
    """

    chain_for: ChainFor = no_chain
    layers: Mapping[str, str] = field(default_factory=dict)
    expected: tuple[Expectation, ...] = ()
    notes: Callable[[Shape], Sequence[str]] = _no_notes


NO_PAPER = Paper()
