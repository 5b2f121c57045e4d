"""The shapes of the shares in each message of a link, as a listener who knows them gives them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cloven.errors import ClovenError

if TYPE_CHECKING:
    from cloven.graph.box import Shape

MessageShapes = Mapping[int, Sequence[tuple[int, ...]]]
"""The shapes that a listener knows: by message, those of the shares in it, in order."""


def message_shapes(texts: tuple[str, ...]) -> MessageShapes:
    """Return the shapes in each message from ``0=6x14x14`` and ``1=16x5x5+84``; none from ``inferred``.

    Raises:
        ClovenError: with each text that has another form.
    """
    if texts == ("inferred",):
        return {}
    wrong = [text for text in texts if not re.fullmatch(r"\d+=\d+(x\d+x\d+)?(\+\d+(x\d+x\d+)?)*", text)]
    problems = [
        f"--shape is {text!r}; expected MESSAGE=SHAPE such as 0=6x14x14 or 1=84, or only inferred" for text in wrong
    ]
    given = Counter(int(text.partition("=")[0]) for text in texts if text not in wrong)
    problems += [
        f"--shape names message {ordinal} {count} times; give all its shapes at once, such as 0=6x14x14+84"
        for ordinal, count in given.items()
        if count > 1
    ]
    if problems:
        raise ClovenError(problems)
    found: dict[int, list[Shape]] = {}
    for text in texts:
        ordinal, shapes = text.split("=")
        found[int(ordinal)] = [tuple(map(int, shape.split("x"))) for shape in shapes.split("+")]
    return found
