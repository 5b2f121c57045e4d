"""The summary of a run: findings with their context, the orderings that the numbers show, what was not measured."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cloven.auditing.captured import Heard
from cloven.auditing.cases import Case, Where
from cloven.auditing.store import Store
from cloven.graph.box import text
from cloven.partition.observe import Observation
from cloven.score.baselines import leakage
from cloven.score.intervals import Interval, clustered, paired, wilson

SCHEMA = 3
LEAST_KAPPA = 0.3
"""Below this the CNN itself has learned too little for its classes to say anything about a reconstruction."""

LOWER_BOUND = "These are lower bounds: a stronger attacker rebuilds more."
STRONG = {
    "residual": "a residual network",
    "cgan": "a conditional GAN",
    "refine": "white-box refinement",
    "probe": "labels read straight from what is captured",
}
"""What is missing from a result where an attack was not tried."""


def missing(attacks: Sequence[str]) -> list[str]:
    """What stronger attackers were left out."""
    left = [what for name, what in STRONG.items() if not any(a.startswith(name) for a in attacks)]
    return [f"Stronger attackers, who can only rebuild more: {', '.join(left)} (--attacks)."] if left else []


ALWAYS = ("Devices that are taken over, and active attackers.",)


def not_measured(attacks: Sequence[str], where: Where, knows: str) -> list[str]:
    """What an audit with these settings does not say."""
    found = missing(attacks)
    if "full" not in where.views and not where.colluding:
        found.append("All that a link carries: only the shares that the paper counts were attacked (--view both).")
    elif not where.every_link:
        found.append(
            "All that other links carry: of each plan the links between the first two devices (--links all)."
        )
    if not where.colluding:
        found.append("Several links tapped at once (--colluding).")
    if knows != "inferred":
        found.append("An attacker who must guess shapes from bytes: here the shapes are given (--shape inferred).")
    return [*found, *ALWAYS, "Protected links: every link here is in clear."]


@dataclass(frozen=True, eq=False)
class Result:
    """An attack on a case with so many pairs, and the keys of its cells, one a seed."""

    case: Case
    attack: str
    pairs: int
    keys: tuple[str, ...]


def scores(keys: Sequence[str], store: Store, metric: str) -> Tensor:
    """The scores ``(seeds, n)`` of each victim image."""
    return torch.stack([store.tensors(key)[f"score/{metric}"] for key in keys]).to(torch.float64)


@dataclass(frozen=True)
class Expectation:
    """What a paper says of two groups of observations: the first gives the higher score.

    A side is (strategy, layer); layer None takes every layer of that strategy.
    """

    claim: str
    source: str
    sentence: str
    higher: tuple[str, str | None]
    lower: tuple[str, str | None]
    metric: Literal["agreement", "ssim"] = "agreement"


def context(case: Case) -> dict[str, Any]:
    """What is listened to where: the part of a finding that is known before any attack."""
    target = case.target
    devices = len(target.program.devices)
    return heard(case.observation, target.strategy, devices, case.label, case.layers, target.transform)


def heard(
    seen: Heard, strategy: str, devices: int | None, label: str, layers: Sequence[str], transform: str = "none"
) -> dict[str, Any]:
    """An observation as a finding names it; ``devices`` is None where nobody knows how many there are."""
    return {
        "strategy": strategy,
        "devices": devices,
        "link": list(seen.link) if seen.link else None,
        "links": [list(link) for link in (seen.links if isinstance(seen, Observation) else [seen.link])],
        "transform": transform,
        "view": seen.view,
        "crosses": seen.crosses,
        "layers": list(layers),
        "label": label,
        "seen": [s.value for s in seen.seen],
        "share": [text(s.share) for s in seen.seen],
        "raw_image": seen.raw_image,
        "observation_bytes": seen.bytes,
    }


def row(
    seen: Mapping[str, Any], attack: str, name: str, keys: Sequence[str], store: Store, threshold: float
) -> dict[str, Any]:
    """A result with what was attacked, as ``summary.json`` lists it: one seed's, or the mean over several.

    Intervals of several seeds are over images and seeds. ``above_threshold`` is the share of images whose
    SSIM, the mean over seeds, exceeds the threshold.
    """
    cells = [store.cell(key) for key in keys]
    found = {name: value for name, value in cells[0].items() if name not in ("key", "provenance")}
    if len(cells) > 1:
        found |= _over_seeds(keys, cells, store)
    if found["ssim"]:
        above = scores(keys, store, "ssim").mean(0) > threshold
        found["ssim"]["above_threshold"] = asdict(wilson(int(above.sum()), len(above)))
    seeds = [cell["provenance"]["seed"] for cell in cells]
    return {
        "key": keys[0], "keys": list(keys), "observation": name, **seen, **found, "attack": attack, "seeds": seeds,
    }  # fmt: skip


def _over_seeds(keys: Sequence[str], cells: Sequence[Mapping[str, Any]], store: Store) -> dict[str, Any]:
    found: dict[str, Any] = {"seconds": sum(cell["seconds"] for cell in cells)}
    for metric in ("agreement", "ssim", "psnr"):
        if cells[0][metric]:
            each = scores(keys, store, metric)
            found[metric] = asdict(clustered(each, seed=0)) | {"of_seeds": each.mean(1).tolist()}
    if cells[0]["ssim"]:
        found["ssim"]["p95"] = _mean([cell["ssim"]["p95"] for cell in cells])
    found["kappa"] = _mean([cell["kappa"] for cell in cells])
    found["floors"] = {
        name: {
            metric: None if floor[metric] is None else max(cell["floors"][name][metric] for cell in cells)
            for metric in floor
        }
        for name, floor in cells[0]["floors"].items()
    }
    found["leakage_above_floor"] = {
        metric: None
        if found.get(metric) is None
        else leakage(found[metric]["mean"], _highest(found["floors"], metric))
        for metric in ("ssim", "agreement")
    }
    for name in ("judge", "inside"):
        if cells[0][name]:
            found[name] = {
                part: None if value is None else _mean([cell[name][part] for cell in cells])
                for part, value in cells[0][name].items()
            }
    found["notes"] = list(dict.fromkeys(note for cell in cells for note in cell["notes"]))
    return found


def _highest(floors: Mapping[str, Mapping[str, float | None]], metric: str) -> float:
    return max(value for floor in floors.values() if (value := floor[metric]) is not None)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def orderings(
    expected: Iterable[Expectation], results: Sequence[Result], store: Store, *, seed: int
) -> list[dict[str, Any]]:
    """What a paper expects of its decoder beside what the numbers show: paired differences over the victim images.

    A group (a strategy at a layer, in the paper's view) scores an image by the mean over its shares and seeds.
    ``shows`` is ``holds`` where the whole interval of higher - lower lies above zero, ``fails`` where it lies
    below, else ``undecided``.
    """
    found = []
    for expectation in expected:
        sides = [
            _group(results, store, side, expectation.metric) for side in (expectation.higher, expectation.lower)
        ]
        if any(side is None for side in sides):
            continue
        higher, lower = (side for side in sides if side is not None)
        difference = paired(higher, lower, seed=seed)
        found.append(
            {
                "claim": expectation.claim,
                "source": expectation.source,
                "sentence": expectation.sentence,
                "metric": expectation.metric,
                "expected": "positive",
                "difference": asdict(difference),
                "shows": shows(difference),
            }
        )
    return found


def shows(difference: Interval) -> str:
    """Whether a difference that is expected to be positive is: holds, fails or undecided."""
    if difference.low > 0:
        return "holds"
    return "fails" if difference.high < 0 else "undecided"


def _group(results: Sequence[Result], store: Store, side: tuple[str, str | None], metric: str) -> Tensor | None:
    """The scores ``(n,)`` of each victim image, mean over the shares of a strategy at a layer; None if absent."""
    strategy, layer = side
    found = [
        scores(result.keys, store, metric).mean(0)
        for result in results
        if result.attack == "decoder"
        and result.case.target.strategy == strategy
        and result.case.target.transform == "none"
        and result.case.observation.view == "paper"
        and (layer is None or result.case.layers == (layer,))
    ]
    return torch.stack(found).mean(0) if found else None


def verdict(
    model_kappa: float | None,
    findings: Sequence[Mapping[str, Any]],
    verdicts: Sequence[Mapping[str, Any]] = (),
    say: Callable[[Sequence[Mapping[str, Any]]], str] | None = None,
) -> dict[str, Any]:
    """The run in a sentence, or why there is none; ``say`` makes it from the findings that really cross.

    No verdict is given for a CNN with a kappa below 0.3: its classes say next to nothing about an image.
    """
    if model_kappa is not None and model_kappa < LEAST_KAPPA:
        return {
            "given": False,
            "reason": f"the CNN's kappa on held-out images is {model_kappa:.2f}, below {LEAST_KAPPA}: it has "
            "learned too little for agreement with it to mean anything. Train it longer or give weights.",
            "sentence": None,
        }
    real = [f for f in findings if f["crosses"]]
    if not real:
        return {"given": False, "reason": "nothing that was looked at crosses a link", "sentence": None}
    sentence = say(real) if say else _most_and_least(real, [v for v in verdicts if v["crosses"]])
    return {"given": True, "reason": None, "sentence": sentence}


def _most_and_least(findings: Sequence[Mapping[str, Any]], verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Of each observation the strongest attack counts, and what follows from it."""
    worst, least = (choose(verdicts, key=_worst) for choose in (max, min))
    flagged = sum(bool(v["flags"]) for v in verdicts)
    open_ = sum(v["converged"] == "not converged" for v in verdicts)
    doubts = [
        f"{count} of {len(verdicts)} observations {what}"
        for count, what in (
            (flagged, "are attacked better from a deeper one: the attacks on them are under-trained"),
            (open_, "have a learning curve that still rises"),
        )
        if count
    ]
    doubt = f" {'; '.join(doubts)}." if doubts else ""
    return (
        f"Of what really crosses a link, {_named(worst)} leaks most ({_said(worst)}) and {_named(least)} least "
        f"({_said(least)}). {LOWER_BOUND}{doubt}{_in_clear(findings)}"
    )


def counts(verdict: Mapping[str, Any], metric: str) -> Mapping[str, Any] | None:
    """The score of an observation that counts: the strongest attack's, or what was carried over."""
    found: Mapping[str, Any] | None = verdict["carried"][metric] or verdict["strongest"][metric]
    return found


def _worst(verdict: Mapping[str, Any]) -> float:
    return max(float(score["above"]) for metric in ("ssim", "agreement") if (score := counts(verdict, metric)))


def _said(verdict: Mapping[str, Any]) -> str:
    found = [(name, counts(verdict, metric)) for metric, name in (("ssim", "SSIM"), ("agreement", "agreement"))]
    return ", ".join(f"{name} {_above(score)} by {score['attack']}" for name, score in found if score)


def _above(score: Mapping[str, Any]) -> str:
    return f"{score['above']:.2f} above its floor" if score["above"] > 0 else "not above its floor"


def _in_clear(findings: Sequence[Mapping[str, Any]]) -> str:
    """What scores of whole images cannot show: pieces of the image that cross as they are."""
    raw: dict[str, float] = {}
    for finding in findings:
        if finding["raw_image"]:
            raw[finding["strategy"]] = max(raw.get(finding["strategy"], 0.0), finding["raw_image"])
    said = [f"{strategy} up to {share:.0%}" for strategy, share in raw.items()]
    return f" Pixels of the image itself cross a link in clear: {', '.join(said)} of them." if said else ""


def _named(found: Mapping[str, Any]) -> str:
    links = [found["link"]] if found["link"] else found["links"]
    where = " with ".join(" to ".join(link) for link in links)
    how = "" if found["transform"] == "none" else f", {found['transform']}"
    return f"{found['strategy']} ({found['label'].lower()}, {where}{how})"


def leak(finding: Mapping[str, Any]) -> str:
    """How far a finding is above its floors, in words."""
    found = finding["leakage_above_floor"]
    named = (("SSIM", found["ssim"]), ("agreement", found["agreement"]))
    return ", ".join(f"{name} {_above({'above': value})}" for name, value in named if value is not None)


def versions(jobs: int) -> dict[str, Any]:
    """What the numbers were computed with."""
    return {
        "cloven": metadata.version("cloven"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": 1,
        "jobs": jobs,
    }
