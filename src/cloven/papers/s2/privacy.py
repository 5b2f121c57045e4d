"""S2's privacy study (Sect. V-D, Figs. 4 to 7): what is rebuilt behind every partition point, and where to cut.

An enclave that is cut at a point hands over what the link of a pipeline cut there carries, so all points are links
of one plan, and their features come from one forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloven.attacks.trainer import CPU, Machine
from cloven.auditing.cases import Taps
from cloven.auditing.finding import Finding
from cloven.auditing.settings import AuditSettings, Simulation
from cloven.auditing.settings import Study as AuditStudy
from cloven.auditing.subject import Subject
from cloven.auditing.suite import AttackSuite
from cloven.auditing.summary import Summary
from cloven.errors import ClovenError
from cloven.papers.points import MOBILENETS, points
from cloven.papers.s2.published import THRESHOLD, optimal
from cloven.zoo.named import usual

TOLERANCE = 0.03
"""By how much later points may exceed the threshold, where S2's own choice overlooks some (requirement S2-33)."""
RULES = ("strict", "tolerant", "floor")
"""S2's rule, the same with `TOLERANCE`, and one of ours: SSIM stays below what is scored by knowing nothing.

A blank grey picture can have an SSIM of more than S2's threshold with a photograph: then S2's rule asks for less
than nothing, and says only which attacks are worse than a blank picture.
"""
ATTACKS = ("cgan", "residual")
"""S2's attacker, and the strong learned inverse that it does not have."""

STAND_INS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("resnet20", "resnet56"), ("conv1", "layer1", "layer2", "layer3")),
    **dict.fromkeys(MOBILENETS, ("conv1_relu", *(f"conv_pw_{k}_relu" for k in (1, 3, 5, 11, 13)))),
}
"""Where models are cut that S2 does not have: after each stage, as long as maps have one size."""


@dataclass(frozen=True)
class Amount:
    """How much of everything.

    Attributes:
        queries: auxiliary images (S2: 1,000 with their feature maps).
        victims: images that are scored; S2 does not say.
        gan_epochs: of the c-GAN (S2: 200).
        epochs: of the strong attack; None for its usual.
        side: pixels that images have at most, and then the c-GAN has its epochs for 32 x 32 and fewer for more;
            None for what the model usually takes.
    """

    queries: int
    victims: int
    gan_epochs: int
    epochs: int | None
    side: int | None


AMOUNTS: Mapping[str, Amount] = {"full": Amount(1000, 200, 200, None, None), "desk": Amount(1000, 200, 90, 6, 96)}


@dataclass(frozen=True)
class Study:
    """What is asked for; ``weights`` are the model's own: of an untrained one nothing could be said."""

    model: str
    data: str
    auxiliary: str
    weights: Path
    amount: Amount
    attacks: tuple[str, ...] = ATTACKS
    seeds: int = 1
    machine: Machine = CPU
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: what the model usually takes, or as much of it as there is time for."""
        channels, *sides = usual(self.model).shape
        height, width = (min(side, self.amount.side or side) for side in sides)
        return channels, height, width

    @property
    def gan_epochs(self) -> int:
        """Of the c-GAN: where time is short, in inverse proportion to an image's pixels."""
        epochs, (_, height, width) = self.amount.gan_epochs, self.shape
        return epochs if self.amount.side is None else max(1, epochs * 32**2 // (height * width))


def cuts(model: str) -> dict[str, str]:
    """The partition points of a model, from the first on: path -> label.

    Raises:
        ClovenError: for a model that neither S2 nor `STAND_INS` cuts.
    """
    own = {point.path: f"Layer {point.number}" for point in points(model, "S2")}
    found = own or {path: path for path in STAND_INS.get(model, ())}
    if not found:
        known = ", ".join(["torchvision:vgg16", "torchvision:resnet50", "torchvision:efficientnet_b0", *STAND_INS])
        raise ClovenError(f"S2 does not cut {model!r}; choose from {known}")
    return found


def settings(study: Study) -> AuditStudy:
    """The study as an audit: one pipeline cut at every point, tapped at every link."""
    layers = cuts(study.model)
    subject = Subject(
        model=study.model,
        data=study.data,
        auxiliary=study.auxiliary,
        queries=study.amount.queries,
        victims=study.amount.victims,
        weights=study.weights,
        shape=study.shape,
        classes=usual(study.model).classes,
        judge="none",
        seed=study.seed,
    )
    return AuditStudy(
        subject,
        Simulation(Taps(layers, ("full",), every_link=True), strategies=("vertical",), devices=len(layers) + 1),
        AuditSettings(
            suite=AttackSuite(study.attacks, study.amount.epochs, study.gan_epochs),
            seeds=study.seeds,
            seed=study.seed,
            threshold=THRESHOLD,
            machine=study.machine,
        ),
    )


def document(study: Study, summary: Summary) -> dict[str, Any]:
    """What the summary of such an audit says of where to cut, by each attack and by the strongest at each point.

    Where the audit gives no verdict, as of a model that has learned too little, no point is named. ``rule`` is that
    of the plan: S2's own, or where knowing nothing already scores more than its threshold, `RULES`' ``floor``.
    """
    layers = list(cuts(study.model).items())
    number = {f"edge{i}": i for i in range(len(layers))}  # the link from edge0 carries the first cut
    made = [(number[row.link[0]], row) for row in summary.findings if row.ssim is not None and row.link]
    made.sort(key=lambda pair: (pair[0], pair[1].attack))
    rows = [
        {
            "point": point + 1,
            "label": layers[point][1],
            "path": layers[point][0],
            "attack": row.attack,
            "ssim": row.ssim.model_dump(mode="json") if row.ssim else None,
            "floor": (row.baseline("ssim") or ("", 0.0))[1],
            "bytes": row.observation_bytes,
            "key": row.key,
        }
        for point, row in made
    ]
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    by_attack = {name: [row for row in rows if row["attack"] == name] for name in attacks}
    best: dict[int, tuple[float, int]] = {}  # of each point, chosen on pairs that train nothing
    for place, (point, one) in enumerate(made):
        best[point] = max(best.get(point, (float("-inf"), place)), (_chosen_by(one), place))
    strongest = [rows[place] for _, (_, place) in sorted(best.items())]
    said = summary.verdict.given
    chosen = {
        name: _chosen(found, layers) if said else dict.fromkeys(RULES)
        for name, found in [*by_attack.items(), ("strongest", strongest)]
    }
    highest = max((found[1] for _, row in made if (found := row.baseline("ssim"))), default=0.0)
    rule = "strict" if highest < THRESHOLD else "floor"
    return {
        "paper": "S2",
        "figure": "7",
        "model": study.model,
        "weights": study.weights.name,
        "data": study.data.partition(":")[0],
        "auxiliary": study.auxiliary.partition(":")[0],
        "shape": list(study.shape),
        "model_accuracy": summary.model_accuracy,
        "model_kappa": summary.model_kappa,
        "queries": summary.settings["queries"],
        "victims": summary.test_images,
        "gan_epochs": study.gan_epochs,
        "threshold": THRESHOLD,
        "tolerance": TOLERANCE,
        "rows": rows,
        "optimal": chosen,
        "rule": rule,
        "plan": chosen["strongest"][rule],
        "no_verdict": summary.verdict.reason,
        "attack_seconds": round(sum(row.seconds for row in summary.findings), 1),
    }


def _chosen_by(row: Finding) -> float:
    """Return the SSIM on held-out pairs; on the victims where there was nothing to choose from."""
    if row.held_out is not None and row.held_out.ssim is not None:
        return row.held_out.ssim
    return row.ssim.mean if row.ssim is not None else float("-inf")


def _chosen(found: Sequence[Mapping[str, Any]], layers: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The point by each of `RULES`; None where no point stays low enough."""
    scores = [row["ssim"]["mean"] for row in found]
    above = [max(-1.0, score - row["floor"]) for score, row in zip(scores, found, strict=True)]
    numbers = optimal(scores), optimal(scores, tolerance=TOLERANCE), optimal(above, 0.0)
    named = zip(RULES, numbers, strict=True)
    return {rule: {"point": p, "path": layers[p - 1][0]} if p else None for rule, p in named}


def table_3(times: Mapping[str, Any], scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """S2's Table III of our own: for each attacker's choice, what it saves of the time of the model all inside.

    Args:
        times: the document of Fig. 3, which has this model.
        scores: the document of Fig. 7, as `document` makes it.

    Returns:
        A row for each attacker and rule; its point and times are None where no point stays low enough.
    """
    timed = {row["cut"]: row for row in times["rows"] if row["model"] == scores["model"]}
    found = []
    for attack, rules in scores["optimal"].items():
        for rule, chosen in rules.items():
            at = timed[chosen["path"] if chosen else None]
            found.append(
                {
                    "attack": attack,
                    "rule": rule,
                    "point": chosen["point"] if chosen else None,
                    "path": chosen["path"] if chosen else None,
                    "full_seconds": at["beside"],
                    "partitioned_seconds": at["median"] if chosen else None,
                    "reduction_percent": at["reduction_percent"] if chosen else None,
                    "ratio": at["ratio"] if chosen else None,
                }
            )
    return found
