"""The strongest attacks as tables for LaTeX, with the rules of the package booktabs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from cloven.auditing.ranking import place_of
from cloven.auditing.summary import AxisScore, Summary
from cloven.reporting import words
from cloven.reporting.depths import CutObservation, by_cut, observed

MEANINGS = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",
    "[": "{[}",  # at the start of a row it would be an argument of the line break before it
    "]": "{]}",
    "*": "{*}",
    "-": "-{}",  # two hyphens would become a dash
    "`": "{`}",
    "\N{MINUS SIGN}": "$-$",
    "\N{NO-BREAK SPACE}": "~",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{RIGHTWARDS ARROW}": r"$\to$",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
}
"""The characters that mean something else to LaTeX, or nothing, and their notations."""

ARROW = "-{}\\textgreater{}"
"""An escaped ``->``, as between the devices of a link."""

HEAD = r"% Requires \usepackage{booktabs}."
BEGIN = r"""\begin{table}
  \centering
  \caption{%s}
  \label{tab:%s}
  \begin{tabular}{@{}lllrrllrr@{}}
    \toprule
    & \multicolumn{4}{c}{Pixels} & \multicolumn{4}{c@{}}{Labels} \\
    \cmidrule(lr){2-5} \cmidrule(l){6-9}
    Observation & Attack & SSIM & Baseline & Leakage (\%%) & Attack & Agreement & Baseline & Leakage (\%%) \\
"""
END = r"""    \bottomrule
  \end{tabular}
\end{table}
"""


def latex(summaries: Sequence[Summary]) -> str:
    """Return a table for each model and data set: the strongest attacks, grouped by strategy and cut.

    Scores and leakage have their 95 % intervals. The text can be included with ``\\input``.
    """
    found: dict[tuple[str, str], list[Summary]] = {}
    for summary in summaries:
        found.setdefault((summary.model, summary.data), []).append(summary)
    return "\n".join([HEAD, *(_table(members, number) for number, members in enumerate(found.values(), 1))])


def escaped(text: str) -> str:
    """Return someone else's text as LaTeX prints it, on one line."""
    return "".join(MEANINGS.get(letter, letter) for letter in words.clean(text)).replace(ARROW, r"$\to$")


def _table(summaries: Sequence[Summary], number: int) -> str:
    """Return the table of the audits of one model and data set."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{summaries[0].model}-{summaries[0].data}").strip("-")
    several = len({summary.auxiliary for summary in summaries}) > 1
    divided: dict[str, list[CutObservation]] = {}
    for one in observed(summaries):
        divided.setdefault(one.observation.strategy, []).append(one)
    lines = [
        line
        for strategy, found in divided.items()
        for cut, members in by_cut(found).items()
        for line in _group(f"{strategy}, {cut}", members, several=several)
    ]
    body = "".join(f"    {line}\n" for line in lines)
    return BEGIN % (escaped(_caption(summaries)), f"{name}-{number}") + body + END


def _caption(summaries: Sequence[Summary]) -> str:
    first = summaries[0]
    covers = words.listed(list(dict.fromkeys(summary.covers for summary in summaries)))
    told = (
        f"Leakage of {first.model} on {first.data}: the strongest attack on each observation, chosen on held-out "
        f"pairs; mean [95 % interval] over {covers}. The baseline is the score of the best guess without the "
        "observation; leakage = (score - baseline) / (1 - baseline)."
    )
    reasons = dict.fromkeys(summary.verdict.reason for summary in summaries if not summary.verdict.given)
    told += "".join(f" No verdict is given: {reason}" for reason in reasons)
    if any(one.protected for summary in summaries for one in summary.observations):
        told += " Scores of encrypted links are those without the encryption."
    return told


def _group(name: str, members: Sequence[CutObservation], *, several: bool) -> Iterator[str]:
    """Yield the rows of a cut; they name the attacker's images if the table has ``several`` sets of them."""
    yield r"\midrule"
    yield rf"\multicolumn{{9}}{{@{{}}l@{{}}}}{{\emph{{{escaped(words.capital(name))}}}}} \\"
    for member in members:
        one = member.observation
        parts = [
            place_of(one),
            *([one.transform] if one.transform != "none" else []),
            *([] if one.crosses else ["never sent"]),
            *([f"{member.summary.auxiliary} as auxiliary images"] if several else []),
        ]
        entries = [escaped(", ".join(parts)), *_scored(one.counts.pixels), *_scored(one.counts.labels)]
        yield " & ".join(entries) + r" \\"


def _scored(score: AxisScore | None) -> list[str]:
    """Return the four entries of an axis: attack, score, baseline, leakage."""
    if score is None:
        return ["--"] * 4
    attack = f"{score.attack} (deeper)" if score.carried_from else score.attack
    low, mean, high = (round(100 * value) for value in (score.leakage.low, score.leakage.mean, score.leakage.high))
    shown = words.interval(score), words.number(score.baseline), f"{mean} [{low}, {high}]"
    return [escaped(entry) for entry in (attack, *shown)]
