"""The tables of ``cloven audit``: what is listened to, and what the attacks found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cloven.cli.printing import NARROW, interval, print_text, table

if TYPE_CHECKING:
    from cloven.reporting.verdicts import Reading

Row = Mapping[str, Any]

FEW = 20
"""The largest number of flags, and of notes, that are printed; all are in the report."""


def print_observations(rows: Sequence[Row]) -> None:
    """Print what an audit would look at, and the attacks on it."""
    changed = any(row["transform"] != "none" for row in rows)
    planned = any(row.get("attacks") for row in rows)
    shown = []
    for row in rows:
        transform = [row["transform"]] if changed else []
        attacks = [", ".join(row.get("attacks", ()))] if planned else []
        sent = "yes" if row["crosses"] else "never"
        shares = "; ".join(f"{value} {share}" for value, share in zip(row["seen"], row["share"], strict=True))
        where = [row["strategy"], row["label"], row["view"], _link(row)]
        shown.append([*where, *transform, sent, row["observation_bytes"], *attacks, shares])
    columns = ["strategy", "where", "view", "link", *(["transform"] if changed else []), "sent", "bytes"]
    columns += [*(["attacks"] if planned else []), "shares"]
    table(f"{len(rows)} observations; nothing was trained or written", columns, shown)


def print_summary(found: Row) -> None:
    """Print an audit: the verdict, of each observation the strongest attack, the orderings, and remarks."""
    from cloven.reporting.verdicts import UNTESTED, verdicts

    verdict = found["verdict"]
    print_text(verdict["sentence"] if verdict["given"] else f"No verdict: {verdict['reason']}")
    known = found["model_accuracy"] is not None and found["model_kappa"] is not None
    accuracy = f"accuracy {found['model_accuracy']:.1%}, kappa {found['model_kappa']:.2f}" if known else "no labels"
    seen = verdicts(found)
    tested = any(one.row["converged"] != UNTESTED for one in seen)
    rows = []
    for one in seen:
        scores = [_reading(one.readings["ssim"]), _reading(one.readings["agreement"])]
        rows.append([_observed(one.row), *scores, *([one.row["converged"]] if tested else [])])
    table(
        f"{found['model']} on {found['data']} ({accuracy})\nthe strongest attack on each observation: mean [95 %]",
        ["observation", "SSIM", "agreement", *(["more pairs"] if tested else [])],
        rows,
        width=NARROW,
    )
    if found["orderings"]:
        table(
            "S1's expectations, and what the numbers show",
            ["claim", "statement", "difference", "shows"],
            [[o["claim"], o["sentence"], interval(o["difference"]), o["shows"]] for o in found["orderings"]],
            width=NARROW,
        )
    for line in _remarks(found, [one.row for one in seen]):
        print_text(line)


def _observed(row: Row) -> str:
    """Return what was seen, in two lines."""
    transform = "" if row["transform"] == "none" else f", {row['transform']}"
    sent = "" if row["crosses"] else ", never sent"
    return f"{row['strategy']}, {row['label']}{transform}\n{_link(row)}, {row['view']}{sent}"


def _reading(reading: Reading | None) -> str:
    """Return a score in two lines: mean and interval; its baseline, and whose it is."""
    if reading is None:
        return "not scored"
    score = reading.score
    baseline = "no baseline" if score["floor"] is None else f"baseline {score['floor']:.2f}"
    whose = f"{score['attack']}, carried over" if reading.carried else score["attack"]
    return f"{interval(score)}\n{baseline}, {whose}"


def _remarks(found: Row, rows: Sequence[Row]) -> Iterator[str]:
    """Return what else should be known: under-trained attacks, notes on attacks, guessed shapes."""
    flags = [f"{row['strategy']}, {row['label']}: {flag}" for row in rows for flag in row["flags"]]
    notes = [
        f"{f['strategy']}, {f['label']}, {f['attack']}: {note}" for f in found["findings"] for note in f["notes"]
    ]
    for kind, lines in (("flag", flags), ("note", notes)):
        distinct = list(dict.fromkeys(lines))
        yield from (f"{kind}: {line}" for line in distinct[:FEW])
        if len(distinct) > FEW:
            yield f"{kind}: {len(distinct) - FEW:,} more are in the report"
    shapes = found["shapes"]
    if shapes and shapes["hits"] is not None:
        yield f"shapes guessed from bytes: {shapes['hits']:,} of {shapes['of']:,} are right"


def _link(row: Row) -> str:
    links = [row["link"]] if row["link"] else row["links"]
    return " + ".join(" > ".join(link) for link in links if link) or "no link"
