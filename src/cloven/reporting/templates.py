"""The environment of the pages' templates, with filters that write numbers in words."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

from cloven.errors import require
from cloven.reporting import digest, levels, series, words

if TYPE_CHECKING:
    from jinja2 import Environment


OPEN_ROWS = 40
"""A table of more rows starts folded."""

MOST_ACROSS = 5
"""Of more devices, a chain is drawn downwards."""


def fingerprint(script: str) -> str:
    """Return the hash by which a page's policy allows a script, ``sha256-...``."""
    return f"sha256-{b64encode(sha256(script.encode('utf-8')).digest()).decode('ascii')}"


@cache
def environment() -> Environment:
    """Return the environment of all templates; text is escaped, and a missing name is an error."""
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise require("audit", error) from error
    folder = files("cloven.reporting")
    made = Environment(
        autoescape=True,
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for filter_ in (
        words.bounds,
        words.capital,
        words.clean,
        words.count,
        words.duration,
        words.interval,
        words.listed,
        words.number,
        words.percent,
        words.plural,
        words.shape,
        words.share,
        words.signed,
        words.size,
        words.spread,
        words.tiny,
    ):
        made.filters[filter_.__name__] = filter_
    made.filters["fingerprint"] = fingerprint
    made.filters["drawn"] = Markup  # for our own SVG only
    made.globals.update(
        named=series.named,
        seen_at=series.where,
        colour=digest.colour,
        standing=digest.standing,
        size=words.size,
        steps=levels.ranges(),
        limits=levels.LIMITS,
        most_across=MOST_ACROSS,
        open_rows=OPEN_ROWS,
        metrics={"agreement": "agreement", "ssim": "SSIM"},
    )
    return made
