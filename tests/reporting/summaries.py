"""Made-up summaries with the shape of a real run: 3 vertical, 12 horizontal and 4 data findings on LeNet-5."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cloven.auditing.ranking import verdict
from cloven.auditing.summary import ObservationSummary, Summary
from cloven.reporting.findings import Sample
from cloven.reporting.page import render

LAYERS = (("Layer 2", "conv2", 10, 16), ("Layer 3", "pool2", 5, 16), ("Layer 5", "conv3", 1, 120))
SUITE = ("nearest", "probe", "screen", "decoder", "cgan", "residual")
TITLES = {
    "vertical": "vertical, cut after conv2, pool2 and conv3, 4 devices",
    "horizontal": "horizontal, output channels, 4 devices",
    "data": "data, 2 by 2 tiles without halo, 4 devices",
}
BASELINES = ("auxiliary mean", "domain mean", "black", "grey", "shuffled pairs", "modal class")


def summary(findings: int | None = None, **changes: Any) -> dict[str, Any]:
    """A realistic summary; ``findings`` repeats or cuts the typical 19."""
    typical = _findings()
    if findings is not None:
        typical = [_again(typical[i % len(typical)], i) for i in range(findings)]
    return {
        "schema_version": 6,
        "cloven": "0.1.0",
        "model": "lenet5",
        "data": "digits",
        "auxiliary": "photos",
        "model_accuracy": 0.98,
        "model_kappa": 0.977,
        "test_images": 180,
        "classes": 10,
        "input": [1, 28, 28],
        "seconds": 71.2,
        "threshold": 0.2,
        "versions": {"cloven": "0.1.0", "torch": "2.13.0", "python": "3.11.7", "threads": 1},
        "settings": {
            "queries": 2000,
            "epochs": 10,
            "threshold": 0.2,
            "seed": 0,
            "ssim": "ssim-wang11-valid-channelmean",
        },
        "attacker": {
            "sentence": "The listener taps one link, changes nothing, and may use the service like anybody else: "
            "he sends photographs of his own through it, records what crosses, and trains a decoder to undo it.",
            "knows": [
                "the shapes of what crosses the link",
                "the class that the service answers",
                "his own inputs",
            ],
            "does_not_know": ["the weights", "the architecture", "any image of the victim's domain"],
        },
        "verdict": {
            "given": True,
            "reason": None,
            "sentence": "Of what really crosses a link, layer 2 leaks most.",
        },
        "programs": _plans(),
        "findings": typical,
        "observations": observations(typical),
        "curves": [],
        "defences": [],
        "shapes": None,
        "capture": None,
        "judge": None,
        "orderings": _orderings(),
        "not_measured": [
            "stronger attackers (generative priors, white-box inversion): the numbers are lower bounds",
            "protected links: a listener on one sees only ciphertext, its length and its time",
            "listeners on more than one link, active attackers, compromised devices",
        ],
        "notes": [
            "Table 2's decoder for LeNet-5/CIFAR layer 5 does not compute; repaired by one inserted ConvT(15, 8).",
            "The decoder for horizontal shares is not given; Table 2's chain is used with the share's channels.",
        ],
    } | changes


def captured(*, protected: bool = False, **changes: Any) -> dict[str, Any]:
    """A summary of what a tap captured on one link: one finding, no plans."""
    link = ["10.0.0.1:40112", "[2001:db8::2]:7001"]
    finding = _findings()[0] | {"strategy": "captured", "devices": None, "link": link, "raw_image": None}
    finding |= {"label": "Protected link" if protected else "Plain link", "layers": ["message 0"], "view": "full"}
    capture = {
        "link": link,
        "protected": protected,
        "session": "ab" * 16,
        "bytes_an_image": 4704,
        "payload_bytes": 5_550_720,
        "images": 1180,
        "unmatched": {"captured.safetensors": 3, "images.safetensors": 12},
        "fingerprint": "0123456789abcdef" * 4,
        "notes": [],
        "messages": [{"message": "0", "type": "uint8" if protected else "float32", "shape": [6, 14, 14]}],
    }
    given = summary(findings=0, programs=[], orderings=[]) | {"findings": [finding], "capture": capture}
    return given | {"observations": observations([finding])} | changes


def laddered(layers: int = 4, attacks: Sequence[str] = SUITE, **changes: Any) -> dict[str, Any]:
    """A suite of attacks on some layers, cut one after another, with all that comes with it.

    The attacks on the first layer are under-trained, the probe makes no images, and the c-GAN has collapsed.
    """
    found = [
        _attacked(depth, attack, place, len(attacks))
        for depth in range(layers)
        for place, attack in enumerate(attacks)
    ]
    told = observations(found, ("converged", "still rises with more training", "not tested"))
    if len(told) > 1 and told[1]["own"]["pixels"]:
        told[0] = told[0] | _carried(told[0], told[1])
    given = summary(findings=0) | {
        "findings": found,
        "observations": told,
        "judge": {"name": "resnet18", "accuracy": 0.93},
    }
    shapes = {"hits": 3, "of": 4, "rows": [_guess(f["label"], hit=i > 0) for i, f in enumerate(found[:4])]}
    return given | {"curves": curves(found), "defences": defences(), "shapes": shapes} | changes


def _attacked(depth: int, attack: str, place: int, of: int) -> dict[str, Any]:
    """An attack at a depth; later ones are stronger."""
    layer = (f"Layer {depth + 1}", f"conv{depth + 1}", 14, 8)
    strength = (place + 1) / of * (0.9 - 0.17 * depth) * (0.6 if depth == 0 else 1)
    link = (f"edge{depth}", f"edge{depth + 1}")
    found = _finding("vertical", layer, 0.12 + 0.8 * strength, 0.05 + 0.8 * strength, link)
    found |= {"attack": attack, "key": f"{depth:032x}{place:032x}", "seeds": [0, 1, 2]}
    found["ssim"]["of_seeds"] = [found["ssim"]["mean"]] * 3
    found["judge"] = {**_score(0.1 + 0.6 * strength, 0.06), "baseline": 0.11}
    if attack == "cgan":
        found["notes"] = ["collapsed: all reconstructions are alike"]
    if attack == "paste":
        found["inside"] = {"ssim": None, "psnr": 31.2, "coverage": 0.25}
    if attack == "probe":
        found |= {"ssim": None, "psnr": None, "identified": None, "judge": None, "training": None}
        found["leakage"]["ssim"] = None
        found["baselines"] = {name: one | {"ssim": None} for name, one in found["baselines"].items()}
    return found


def only(*findings: dict[str, Any]) -> dict[str, Any]:
    """The typical summary with these findings alone."""
    return summary() | {"findings": list(findings), "observations": observations(findings)}


def observations(
    found: Sequence[dict[str, Any]], converged: Sequence[str] = ("not tested",)
) -> list[dict[str, Any]]:
    """The strongest attack on each observation, nothing carried over."""
    attacked: dict[str, list[dict[str, Any]]] = {}
    for finding in found:
        attacked.setdefault(finding["observation"], []).append(finding)
    kept = ("observation", "strategy", "label", "layers", "link", "links", "view", "crosses", "transform")
    told = []
    for i, rows in enumerate(attacked.values()):
        shown = {"converged": converged[i % len(converged)]}
        scores = {"pixels": _strongest(rows, "ssim"), "labels": _strongest(rows, "agreement")}
        own = {axis: score and score | shown for axis, score in scores.items()}
        told.append(
            {
                **{name: rows[0][name] for name in kept},
                "attacks": [row["attack"] for row in rows],
                "labels_read": True,
                "own": own,
                "counts": own,
                "flags": [],
            }
        )
    return told


def _strongest(rows: Sequence[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    scored = [row for row in rows if row[metric]]
    known = [one[metric] for row in scored for one in row["baselines"].values() if one[metric] is not None]
    if not known:
        return None
    best = max(scored, key=lambda row: row[metric]["mean"])
    return axis_score(best["attack"], best[metric], max(known))


def axis_score(attack: str, score: dict[str, Any], baseline: float) -> dict[str, Any]:
    """A score against its baseline."""
    parts = {part: score[part] for part in ("mean", "low", "high")}
    leaked = {part: max(0.0, (value - baseline) / (1 - baseline)) for part, value in parts.items()}
    found = {"attack": attack, **parts, "baseline": baseline, "held_out": None, "leakage": leaked}
    return found | {"carried_from": None, "carried_layers": []}


def _carried(own: dict[str, Any], deep: dict[str, Any]) -> dict[str, Any]:
    most = deep["own"]["pixels"]
    carried = most | {"carried_from": deep["observation"], "carried_layers": deep["layers"]}
    flag = (
        f"SSIM: residual (0.49) is under-trained here: {most['attack']} reads {most['mean']:.2f} deeper, at conv2"
    )
    counts = own["counts"] | {"pixels": carried}
    return {"counts": counts, "flags": [f"{flag}, which follows from what is seen here"]}


def document(given: dict[str, Any]) -> Summary:
    """A made-up summary as the document that it is; ranked as a real one."""
    told = [ObservationSummary.model_validate_json(json.dumps(one)) for one in given["observations"]]
    ranked: list[Any] = []
    if given["verdict"]["given"]:
        ranked = [one.model_dump(mode="json") for one in verdict(None, [], told).rankings]
    said = {"reason": None, "sentence": None, **given["verdict"], "rankings": ranked}
    return Summary.model_validate_json(json.dumps({**given, "verdict": said}))


def page(given: dict[str, Any], pictures: Mapping[str, Sequence[Sample]] | None = None) -> str:
    """The page of a made-up summary."""
    return render(document(given), pictures or {})


def curves(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Three points for each finding; every other curve still rises."""
    kept = ("observation", "attack", "strategy", "label", "layers", "transform")
    return [
        {name: finding[name] for name in kept}
        | {
            "over": over,
            "points": [
                {
                    "pairs": round(2000 * share) if over == "pairs" else 2000,
                    "time": share if over == "training" else 1.0,
                    "epochs": 10 * (share if over == "training" else 1.0),
                    **{m: _less(finding[m], part) for m in ("ssim", "agreement")},
                }
                for share, part in ((0.25, 0.6), (0.5, 0.8), (1.0, 1.0))
            ],
            **{m: _rise(significant=i % 2 > 0) if finding[m] else None for m in ("ssim", "agreement")},
        }
        for i, finding in enumerate(found)
        for over in (("pairs",) if finding["attack"] == "probe" else ("pairs", "training"))
    ]


def _rise(*, significant: bool) -> dict[str, Any]:
    low = 0.012 if significant else -0.012
    return {
        "mean": 0.031,
        "low": low,
        "high": 0.05,
        "covers": "images only",
        "shows": "rises" if significant else "undecided",
    }


def _less(score: dict[str, float] | None, share: float) -> dict[str, float] | None:
    return score and {part: share * score[part] for part in ("mean", "low", "high")}


def defences() -> list[dict[str, Any]]:
    """Two plans, each with four transforms."""
    kinds = (
        ("none", 0.98, 8464, 0.6),
        ("float16", 0.98, 4232, 0.6),
        ("int8", 0.975, 2116, 0.52),
        ("noise 0.5", 0.91, 8464, 0.2),
    )
    rows = []
    for strategy, drop in (("vertical", 0.0), ("data", 0.07)):
        for name, accuracy, held, leak in kinds:
            score = axis_score("residual", _score(leak - drop, 0.03), 0.1)
            rows.append(
                {
                    "strategy": strategy,
                    "title": f"{strategy}, 4 devices",
                    "transform": name,
                    "accuracy": accuracy - drop / 10,
                    "agreement_with_the_model": accuracy,
                    "bytes": held,
                    "most": {"pixels": score, "labels": score},
                }
            )
    return rows


def _guess(label: str, *, hit: bool) -> dict[str, Any]:
    found = {"strategy": "vertical", "label": label, "seen": "conv1", "shape": [8, 14, 14], "hit": hit}
    return found | {"guess": [8, 14, 14] if hit else [4, 28, 14], "type": "float32", "layout": "chw"}


def samples(summary: dict[str, Any], side: int = 28) -> dict[str, list[Sample]]:
    """Three synthetic samples for every finding: a disc, and the disc blurred by noise."""
    kept = {}
    for index, finding in enumerate(summary["findings"]):
        rng = np.random.default_rng(index)
        kept[finding["key"]] = [
            _sample(rng, role, summary["input"][0], side, noise)
            for role, noise in (("worst", 0.8), ("best", 0.1), ("median", 0.4))
        ]
    return kept


def _sample(rng: np.random.Generator, role: str, channels: int, side: int, noise: float) -> Sample:
    y, x = np.mgrid[:side, :side]
    ring = np.abs(np.hypot(x - side / 2, y - side / 2) - rng.uniform(0.15, 0.35) * side) < 0.08 * side
    original = np.repeat(ring[None] * 255.0, channels, axis=0)
    rebuilt = (1 - noise) * original + noise * rng.uniform(0, 255, original.shape)
    return Sample(role, 1 - noise, noise < 0.5, original.astype(np.uint8), rebuilt.astype(np.uint8))


def _score(mean: float, width: float) -> dict[str, float]:
    return {"mean": mean, "low": max(0.0, mean - width), "high": min(1.0, mean + width)}


def _findings() -> list[dict[str, Any]]:
    found = []
    for depth, layer in enumerate(LAYERS):
        found.append(
            _finding(
                "vertical", layer, 0.86 - 0.21 * depth, 0.71 - 0.22 * depth, (f"edge{depth}", f"edge{depth + 1}")
            )
        )
    for depth, layer in enumerate(LAYERS):
        for share in range(4):
            drop = 0.19 + 0.05 * share
            link = (f"edge{share}", f"edge{(share + 1) % 4}")
            found.append(
                _finding("horizontal", layer, 0.86 - 0.21 * depth - drop, 0.66 - 0.2 * depth - drop, link, share)
            )
    for tile in range(4):
        tapped = ("edge0", f"edge{tile}") if tile else None
        found.append(
            _finding("data", ("Layer 1", "input", 14, 1), 0.14 + 0.035 * tile, 0.12 + 0.02 * tile, tapped, tile)
        )
    return found


def _finding(
    strategy: str,
    layer: tuple[str, str, int, int],
    agreement: float,
    ssim: float,
    link: tuple[str, str] | None,
    share: int = 0,
) -> dict[str, Any]:
    label, module, side, channels = layer
    rng = random.Random(f"{strategy}{label}{share}")
    parts = 4 if strategy == "horizontal" else 1
    held = channels // parts
    baselines: dict[str, dict[str, float | None]] = {
        name: {"ssim": round(rng.uniform(0.005, 0.06), 4), "agreement": round(rng.uniform(0.08, 0.12), 4)}
        for name in BASELINES
    }
    baselines["domain mean"]["ssim"] = 0.112
    baselines["modal class"] = {"ssim": None, "agreement": 0.1167}
    low = max(float(one["agreement"] or 0) for one in baselines.values())
    agreement, ssim = max(agreement, 0.1), max(ssim, 0.03)
    return {
        "key": f"{rng.getrandbits(256):064x}",
        "keys": [],
        "raw_image": 0.0,
        "observation": f"{rng.getrandbits(128):032x}",
        "plan": TITLES[strategy],
        "strategy": strategy,
        "devices": 4,
        "link": list(link) if link else None,
        "links": [list(link)] if link else [],
        "transform": "none",
        "seen": [module],
        "view": "full" if strategy == "vertical" else "paper",
        "crosses": strategy == "vertical"
        or (share > 0 if strategy == "data" else share == 0 or label == "Layer 2"),
        "layers": [module],
        "label": label,
        "share": [f"{share * held}:{(share + 1) * held}, 0:{side}, 0:{side}"],
        "observation_bytes": 4 * held * side * side,
        "attack": "decoder",
        "parameters": 1233 + 977 * share,
        "pairs": 2000,
        "victims": 180,
        "agreement": _score(agreement, 0.058),
        "kappa": (agreement - 0.1) / 0.9,
        "ssim": {
            **_score(ssim, 0.024),
            "p95": min(1.0, ssim + 0.17),
            "above_threshold": _score(min(1, 2 * ssim), 0.07),
        },
        "identified": {**_score(max(0.02, ssim), 0.04), "candidates": 100, "baseline": 0.01},
        "psnr": {"mean": 9 + 11 * ssim, "low": 8.7 + 11 * ssim, "high": 9.3 + 11 * ssim},
        "baselines": baselines,
        "held_out": None,
        "leakage": {"ssim": (ssim - 0.112) / 0.888, "agreement": (agreement - low) / (1 - low)},
        "training": {"processor": "CPU", "seconds": 28.4, "epochs": [3], "ended": ["budget"]},
        "wall_seconds": 2.1 + share,
        "seeds": [0],
        "judge": None,
        "inside": None,
        "notes": [],
    }


def _again(finding: dict[str, Any], index: int) -> dict[str, Any]:
    """The same finding at another layer, with a key of its own."""
    return finding | {
        "key": f"{index:064x}",
        "observation": f"{index:032x}",
        "label": f"Layer {index // 3 + 1}",
        "layers": [f"block{index // 3}.conv"],
    }


def _plans() -> list[dict[str, Any]]:
    chain = [
        (a, f"edge{i}", f"edge{i + 1}", shape)
        for i, (a, shape) in enumerate((("conv2", [16, 10, 10]), ("pool2", [16, 5, 5]), ("conv3", [120, 1, 1])))
    ]
    vertical = [
        _transfer(value, source, target, shape, 3 * i + 4) for i, (value, source, target, shape) in enumerate(chain)
    ]
    ring = [(f"edge{a}", f"edge{b}") for a in range(4) for b in range(4) if a != b]
    horizontal = [
        _transfer(value, source, target, [held, side, side], 10 * step + i)
        for step, (value, held, side) in enumerate(
            (("input", 1, 28), ("pool1", 2, 14), ("pool2", 4, 5), ("conv3", 30, 1))
        )
        for i, (source, target) in enumerate(ring)
    ]
    tiles = [_transfer("input", "edge0", f"edge{tile}", [1, 14, 14], tile) for tile in (1, 2, 3)]
    tiles += [_transfer("pool2", f"edge{tile}", "edge0", [16, 2, 2], 20 + tile) for tile in (1, 2, 3)]
    return [
        _plan(
            "vertical",
            TITLES["vertical"],
            vertical,
            [_counted(t, True) for t in vertical],
        ),
        _plan(
            "horizontal",
            TITLES["horizontal"],
            horizontal,
            [_counted(_transfer("conv2", a, b, [4, 10, 10], 0), False) for a, b in ring[:12]],
        ),
        _plan("data", TITLES["data"], tiles, [_counted(t, True) for t in tiles[:3]])
        | {"exact": False, "accuracy": 0.911, "max_difference": 3.4},
    ]


def _plan(
    strategy: str, title: str, transfers: list[dict[str, Any]], counted: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "devices": 4,
        "title": title,
        "exact": True,
        "transform": "none",
        "accuracy": 0.98,
        "agreement": 1.0,
        "max_difference": 0.0 if strategy == "vertical" else 1.2e-6,
        "parts": [
            {"device": f"edge{i}", "trusted": False, "layers": [{"name": f"conv{i + 1}", "shape": [8, 14, 14]}]}
            for i in range(4)
        ],
        "links": _links(transfers),
        "transfers": transfers,
        "counted": counted,
    }


def _links(transfers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The links of some transfers, and that of the image."""
    links = dict.fromkeys((t["source"], t["target"]) for t in transfers)
    sums = {("coordinator", "edge0"): [3136]}
    sums |= {link: [t["bytes"] for t in transfers if (t["source"], t["target"]) == link] for link in links}
    return [
        {
            "link": list(link),
            "shares": len(sent),
            "bytes": sum(sent),
            "seconds": None,
            "protection": "none",
            "transforms": [],
        }
        for link, sent in sums.items()
    ]


def _transfer(value: str, source: str, target: str, shape: list[int], step: int) -> dict[str, Any]:
    held = 4
    for side in shape:
        held *= side
    share = ", ".join(f"0:{side}" for side in shape)
    return {
        "source": source,
        "target": target,
        "value": value,
        "share": share,
        "shape": shape,
        "bytes": held,
        "step": step,
    }


def _counted(transfer: dict[str, Any], crosses: bool) -> dict[str, Any]:
    kept = {name: transfer[name] for name in ("value", "share", "bytes")}
    return {"link": [transfer["source"], transfer["target"]], **kept, "crosses": crosses}


def _orderings() -> list[dict[str, Any]]:
    rows = (
        (
            "S1-42",
            "At layer 2, vertical gives more agreement than horizontal",
            "Mehrafrooz et al., Sect. 5.2.1",
            0.265,
            0.19,
            0.335,
            "holds",
        ),
        (
            "S1-42",
            "At layer 2, vertical gives more agreement than data",
            "Mehrafrooz et al., Sect. 5.2.1",
            0.668,
            0.59,
            0.74,
            "holds",
        ),
        (
            "S1-43",
            "At layer 5, horizontal gives more agreement than data",
            "Mehrafrooz et al., Sect. 5.2.1 and 6",
            -0.061,
            -0.104,
            -0.02,
            "fails",
        ),
        (
            "S1-44",
            "Vertical: layer 2 gives more agreement than layer 3",
            "Mehrafrooz et al., Sect. 5.2.2",
            0.21,
            0.13,
            0.29,
            "holds",
        ),
        (
            "S1-44",
            "Horizontal: layer 3 gives more agreement than layer 5",
            "Mehrafrooz et al., Sect. 5.2.2",
            0.038,
            -0.012,
            0.09,
            "undecided",
        ),
    )
    return [
        {
            "claim": claim,
            "sentence": sentence,
            "source": source,
            "metric": "agreement",
            "difference": {"mean": mean, "low": low, "high": high},
            "expected": "positive",
            "shows": shows,
        }
        for claim, sentence, source, mean, low, high, shows in rows
    ]
