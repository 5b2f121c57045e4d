"""Verdicts: of each observation the strongest attack, what deeper ones say of it, and whether it has converged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cloven.auditing.cases import Case
from cloven.auditing.store import Store
from cloven.auditing.summary import Result, counts, scores
from cloven.partition.determine import determines
from cloven.score.intervals import paired

METRICS = ("ssim", "agreement")
RISES = 0.005
"""A smaller rise of a score between half of the pairs and all of them counts as none."""
RISING, FLAT, UNTESTED = "not converged", "converged", "not tested"

Row = Mapping[str, Any]


def curves(results: Sequence[Result], store: Store) -> list[dict[str, Any]]:
    """The score of each attack on each observation against the number of pairs, and whether it still rises.

    It does where the whole interval of the paired difference between all pairs and half of them lies above 0 and
    the mean above `RISES`.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.case.name, result.attack), []).append(result)
    found = []
    for (name, attack), members in groups.items():
        ordered = sorted({r.pairs: r for r in members}.values(), key=lambda r: r.pairs)
        if len(ordered) < 2:
            continue
        case = ordered[0].case
        found.append(
            {
                "observation": name,
                "attack": attack,
                "strategy": case.target.strategy,
                "label": case.label,
                "layers": list(case.layers),
                "transform": case.target.transform,
                "points": [_point(r, store) for r in ordered],
                **_rise(ordered[-2], ordered[-1], store),
            }
        )
    return found


def _point(result: Result, store: Store) -> dict[str, Any]:
    cells = [store.cell(key) for key in result.keys]
    means = {
        metric: {part: sum(cell[metric][part] for cell in cells) / len(cells) for part in ("mean", "low", "high")}
        if cells[0][metric]
        else None
        for metric in METRICS
    }
    return {"pairs": result.pairs, **means}


def _rise(less: Result, more: Result, store: Store) -> dict[str, Any]:
    """The paired difference of the leading score between two numbers of pairs."""
    metric = "ssim" if "score/ssim" in store.tensors(more.keys[0]) else "agreement"
    a, b = (scores(result.keys, store, metric).mean(0) for result in (more, less))
    difference = paired(a, b, seed=0)
    rising = difference.low > 0 and difference.mean > RISES
    return {"metric": metric, "rise": asdict(difference), "converged": RISING if rising else FLAT}


def verdicts(
    results: Sequence[Result], rows: Sequence[Row], curve: Sequence[Row], store: Store
) -> list[dict[str, Any]]:
    """For each observation the maximum over the ladder, and the running maximum from the deepest one on.

    What is seen deeper holds nothing that is not in what determines it. Where it scores higher all the same, the
    higher score is carried over; and where the difference is no chance (its paired interval lies above 0), it is
    said that the attacks on the shallower are under-trained.
    """
    cases: dict[str, Case] = {}
    of: dict[str, dict[str, Row]] = {}
    keys: dict[tuple[str, str], Sequence[str]] = {}
    for result, row in zip(results, rows, strict=True):
        first = cases.get(result.case.name)
        if first is None or not first.observation.crosses:  # of equal observations one that a link carries
            cases[result.case.name] = result.case
        of.setdefault(result.case.name, {})[result.attack] = row
        keys[result.case.name, result.attack] = result.keys
    found = {name: _strongest(name, case, list(of[name].values())) for name, case in cases.items()}
    rises = {(c["observation"], c["attack"]): c["converged"] for c in curve}

    def beyond_chance(metric: str, deeper: tuple[str, str], here: tuple[str, str]) -> bool:
        a, b = (scores(keys[side], store, metric).mean(0) for side in (deeper, here))
        return paired(a, b, seed=0).low > 0

    for name, case in cases.items():
        deeper = [found[other] for other, deep in cases.items() if other != name and _below(case, deep)]
        best = found[name]["strongest"]["ssim"] or found[name]["strongest"]["agreement"]
        found[name] |= _carried(found[name], deeper, beyond_chance)
        found[name]["converged"] = rises.get((name, best["attack"]), UNTESTED)
    return list(found.values())


def _below(case: Case, deep: Case) -> bool:
    return (case.target.recorded == deep.target.recorded == "") and determines(case.observation, deep.observation)


def _strongest(name: str, case: Case, rows: Sequence[Row]) -> dict[str, Any]:
    best: dict[str, Any] = {}
    for metric in METRICS:
        scored = [row for row in rows if row[metric]]
        top = max(scored, key=lambda row: row[metric]["mean"], default=None)
        best[metric] = None if top is None else _score(top, metric)
    seen = case.observation
    return {
        "observation": name,
        "strategy": case.target.strategy,
        "label": case.label,
        "layers": list(case.layers),
        "link": list(seen.link) if seen.link else None,
        "links": [list(link) for link in seen.links],
        "view": seen.view,
        "crosses": seen.crosses,
        "transform": case.target.transform,
        "attacks": [row["attack"] for row in rows],
        "strongest": best,
    }


def _score(row: Row, metric: str) -> dict[str, Any]:
    floors = [floor[metric] for floor in row["floors"].values() if floor[metric] is not None]
    return {
        "attack": row["attack"],
        **{part: row[metric][part] for part in ("mean", "low", "high")},
        "floor": max(floors),
        "above": row["leakage_above_floor"][metric],
    }


def _carried(
    own: Row, deeper: Sequence[Row], beyond_chance: Callable[[str, tuple[str, str], tuple[str, str]], bool]
) -> dict[str, Any]:
    """The running maximum of each score, and a flag where it is a deeper observation's and that is no chance."""
    carried: dict[str, Any] = {}
    flags: list[str] = []
    for metric in METRICS:
        carried[metric] = None
        mine = own["strongest"][metric]
        others = [(d, d["strongest"][metric]) for d in deeper if d["strongest"][metric]]
        source, most = max(others, key=lambda pair: pair[1]["mean"], default=(None, None))
        if source is None or most is None or (mine is not None and mine["mean"] >= most["mean"]):
            continue
        carried[metric] = {**most, "from": source["observation"], "layers": source["layers"]}
        there, here = (source["observation"], most["attack"]), (own["observation"], mine["attack"] if mine else "")
        if mine is None or beyond_chance(metric, there, here):
            shown = f"{mine['mean']:.2f} by {mine['attack']}" if mine else "nothing"
            flags.append(
                f"{_NAMES[metric]}: {shown} here, {most['mean']:.2f} by {most['attack']} deeper, at "
                f"{', '.join(source['layers'])}, which follows from what is seen here: the attacks here are "
                "under-trained"
            )
    return {"carried": carried, "flags": flags}


_NAMES = {"ssim": "SSIM", "agreement": "agreement"}


def defences(plans: Sequence[Row], every: Sequence[Case], found: Sequence[Row]) -> list[dict[str, Any]]:
    """What each transform costs and hides: accuracy, bytes and the most that any link leaks, side by side."""
    return list(_defences(plans, every, found))


def _defences(plans: Sequence[Row], every: Sequence[Case], found: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for plan in plans:
        names = {case.name for case in every if case.target.title == plan["title"]}
        mine = [
            v for v in found
            if v["observation"] in names and v["crosses"] and v["transform"] == plan["transform"]
        ]  # fmt: skip
        scored = {
            metric: max(
                (score for v in mine if (score := counts(v, metric)) is not None),
                key=lambda score: score["above"], default=None,
            )
            for metric in METRICS
        }  # fmt: skip
        yield {
            "strategy": plan["strategy"],
            "title": plan["title"],
            "transform": plan["transform"],
            "accuracy": plan["accuracy"],
            "agreement_with_the_model": plan["agreement"],
            "bytes": sum(transfer["bytes"] for transfer in plan["transfers"]),
            **scored,
        }
