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

from cloven.audit.captured import Heard
from cloven.audit.cases import Case
from cloven.audit.store import Store
from cloven.graph.box import text
from cloven.score.intervals import Interval, paired

SCHEMA = 1
LEAST_KAPPA = 0.3
"""Below this the CNN itself has learned too little for its classes to say anything about a reconstruction."""

LOWER_BOUND = "These are lower bounds: the attacker is S1's."
NEVER_MEASURED = (
    "Stronger attackers: one convolutional decoder a cell was trained, as S1 does; a residual network, a GAN, "
    "white-box refinement or more pairs can only rebuild more.",
    "Labels read straight from what is captured, without an image in between.",
    "Several links tapped at once, devices that are taken over, and active attackers.",
)
NOT_MEASURED = (
    "Scores inside a tile: a tile is a raw piece of the image, and nothing in it is hidden, whatever the score of "
    "the whole image says.",
    *NEVER_MEASURED,
    "An attacker who must guess shapes from bytes: here the shapes are given.",
    "Protected links: every link here is in clear.",
)


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
    devices = len(case.target.program.devices)
    return heard(case.cell.observation, case.target.strategy, devices, case.label, case.layers)


def heard(seen: Heard, strategy: str, devices: int | None, label: str, layers: Sequence[str]) -> dict[str, Any]:
    """An observation as a finding names it; ``devices`` is None where nobody knows how many there are."""
    return {
        "strategy": strategy,
        "devices": devices,
        "link": list(seen.link) if seen.link else None,
        "view": seen.view,
        "crosses": seen.crosses,
        "layers": list(layers),
        "label": label,
        "seen": [s.value for s in seen.seen],
        "share": [text(s.share) for s in seen.seen],
        "raw_image": seen.raw_image,
        "observation_bytes": seen.bytes,
    }


def row(seen: Mapping[str, Any], cell: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A cell's result with what was attacked, as ``summary.json`` lists it."""
    scores = {name: value for name, value in cell.items() if name not in ("key", "provenance")}
    return {"key": key, **seen, **scores}


def orderings(
    expected: Iterable[Expectation], cases: Sequence[Case], keys: Sequence[str], store: Store, *, seed: int
) -> list[dict[str, Any]]:
    """What a paper expects beside what the numbers show: paired differences over the victim images.

    A group (a strategy at a layer, in the paper's view) scores an image by the mean over its shares. ``shows``
    is ``holds`` where the whole interval of higher - lower lies above zero, ``fails`` where it lies below, else
    ``undecided``.
    """
    found = []
    for expectation in expected:
        sides = [
            _group(cases, keys, store, side, expectation.metric) for side in (expectation.higher, expectation.lower)
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


def _group(
    cases: Sequence[Case], keys: Sequence[str], store: Store, side: tuple[str, str | None], metric: str
) -> Tensor | None:
    """The scores ``(n,)`` of each victim image, mean over the shares of a strategy at a layer; None if absent."""
    strategy, layer = side
    scores = [
        store.tensors(key)[f"score/{metric}"]
        for case, key in zip(cases, keys, strict=True)
        if case.target.strategy == strategy
        and case.cell.observation.view == "paper"
        and (layer is None or case.layers == (layer,))
    ]
    return torch.stack(scores).to(torch.float64).mean(0) if scores else None


def verdict(
    model_kappa: float,
    findings: Sequence[Mapping[str, Any]],
    say: Callable[[Sequence[Mapping[str, Any]]], str] | None = None,
) -> dict[str, Any]:
    """The run in a sentence, or why there is none; ``say`` makes it from the findings that really cross.

    No verdict is given for a CNN with a kappa below 0.3: its classes say next to nothing about an image.
    """
    if model_kappa < LEAST_KAPPA:
        return {
            "given": False,
            "reason": f"the CNN's kappa on held-out images is {model_kappa:.2f}, below {LEAST_KAPPA}: it has "
            "learned too little for agreement with it to mean anything. Train it longer or give weights.",
            "sentence": None,
        }
    real = [f for f in findings if f["crosses"]]
    if not real:
        return {"given": False, "reason": "nothing that was looked at crosses a link", "sentence": None}
    return {"given": True, "reason": None, "sentence": (say or _most_and_least)(real)}


def _most_and_least(findings: Sequence[Mapping[str, Any]]) -> str:
    worst = max(findings, key=lambda f: max(f["leakage_above_floor"].values()))
    least = min(findings, key=lambda f: max(f["leakage_above_floor"].values()))
    return (
        f"Of what really crosses a link, {_named(worst)} leaks most ({leak(worst)}) and {_named(least)} least "
        f"({leak(least)}). {LOWER_BOUND}{_in_clear(findings)}"
    )


def _in_clear(findings: Sequence[Mapping[str, Any]]) -> str:
    """What scores of whole images cannot show: pieces of the image that cross as they are."""
    raw: dict[str, float] = {}
    for finding in findings:
        if finding["raw_image"]:
            raw[finding["strategy"]] = max(raw.get(finding["strategy"], 0.0), finding["raw_image"])
    said = [f"{strategy} up to {share:.0%}" for strategy, share in raw.items()]
    return f" Pixels of the image itself cross a link in clear: {', '.join(said)} of them." if said else ""


def _named(finding: Mapping[str, Any]) -> str:
    return f"{finding['strategy']} ({finding['label'].lower()}, {' to '.join(finding['link'])})"


def leak(finding: Mapping[str, Any]) -> str:
    """How far a finding is above its floors, in words."""
    above = finding["leakage_above_floor"]
    return f"above floor: SSIM {above['ssim']:.2f}, agreement {above['agreement']:.2f}"


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
