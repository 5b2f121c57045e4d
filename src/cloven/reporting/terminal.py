"""The drawing of a divided model as text: devices, links, and what leaks at each."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from cloven.auditing.summary import Summary
from cloven.reporting import words
from cloven.reporting.levels import LIMITS, Leak, LeakLimit, Level
from cloven.reporting.overview import Row, Station, Tap, drawn

BAR = 20
"""The width of a scale from 0 to 100 % leakage, in letters."""
STYLES = {Level.NOTHING: "dim", Level.TRACE: "yellow", Level.PART: "dark_orange", Level.MOST: "bold red"}


def text(summary: Summary) -> RenderableType:
    """Return the drawing of an audit for a terminal, without pictures."""
    rows = drawn(summary)
    shown: list[RenderableType] = [
        Text(words.clean(f"{summary.model} on {summary.data}", 120), style="bold"),
        Text(),
    ]
    if not summary.verdict.given:
        shown.append(Text(f"No verdict is given: {words.clean(summary.verdict.reason)}\n", style="bold red"))
    if not rows:
        shown.append(Text("Nothing that was attacked crosses a link."))
    for row in rows:
        shown += _row(row, titled=len(rows) > 1)
    limits = words.listed([words.share(limit) for limit in LIMITS])
    shown.append(
        Text(
            "Leakage by the strongest attack tried, with its 95 % interval: 0 % is the best guess without the "
            f"link, 100 % a perfect copy. Limits of the words: {limits}. "
            "A stronger attack may learn more.",
            style="dim",
        )
    )
    return Group(*shown)


def _row(row: Row, *, titled: bool) -> Iterator[RenderableType]:
    if titled:
        yield Text(words.clean(words.capital(row.title), 120), style="bold underline")
    yield Text(f"{row.sentence}\n")
    if row.hops:
        for number, station in enumerate(row.stations):
            yield _station(station)
            if number < len(row.hops):
                yield from _hop(row.hops[number])
    else:
        for station in row.stations:
            yield _station(station)
    for tap in row.taps:
        yield Text()
        yield from _scores(tap, "")
    yield Text()


def _station(station: Station) -> RenderableType:
    name = Text(words.clean(station.name, 32), style="bold")
    trusted = " (trusted)" if station.trusted else ""
    return Panel.fit(Text.assemble(name, trusted, f"  {station.computes}"), padding=(0, 1))


def _hop(tap: Tap) -> Iterator[RenderableType]:
    yield from _scores(tap, "  │  ")
    yield Text("  ▼")


def _scores(tap: Tap, before: str) -> Iterator[RenderableType]:
    """Yield a place, what is learned there, and its figures."""
    lock = f", encrypted ({words.listed(tap.protection)})" if tap.protection else ""
    lines = [Text.assemble((tap.name, "bold"), f", {words.clean(tap.cut, 60)}, {words.size(tap.bytes)}{lock}")]
    if tap.silent:
        lines.append(Text("not attacked", style="dim"))
    if tap.learns:
        lines.append(Text(f"{words.capital(tap.learns)}.", style=STYLES[max(tap.levels)]))
    if tap.attacked and tap.encrypted:
        lines.append(Text("Without the encryption it would leak:", style="dim"))
    for name, score, leak, step in (
        ("image", "SSIM", tap.pixels, tap.steps[0]),
        ("class", "agreement", tap.labels, tap.steps[1]),
    ):
        if leak is not None:
            lines += _figures(name, score, leak, step)
    if tap.raw:
        lines.append(Text(f"{words.share(tap.raw)} of the image's pixels cross as they are"))
    yield from (Text.assemble((before, "dim"), line) for line in lines)


def _figures(name: str, score: str, leak: Leak | LeakLimit, step: Level) -> tuple[Text, Text]:
    """Return a leakage on a scale from 0 to 100 %, and the score that it is computed from."""
    low, high = leak.span
    start = min(BAR - 1, int(BAR * low / 100))
    end = max(start + 1, min(BAR, round(BAR * high / 100)))
    bar = "·" * start + "━" * (end - start) + "·" * (BAR - end)
    scale = Text.assemble(f"{name} ", (bar, STYLES[step]), f" {leak.shown}")
    return scale, Text(f"      {words.clean(leak.origin(score), 90)}", style="dim")
