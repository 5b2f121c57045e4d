"""Learning curves: the scores of attacks with fewer pairs and with less training."""

from __future__ import annotations

from collections.abc import Sequence

from cloven.attacks.attack import Attack
from cloven.attacks.epochs import with_epochs
from cloven.auditing.aggregate import AttackedCase, difference
from cloven.auditing.finding import Metric, ScoreRange
from cloven.auditing.ranges import POSSIBLE, mean_range, share_range
from cloven.auditing.store import Store
from cloven.auditing.summary import CurvePoint, LearningCurve, Over, Rise, RiseShows

SHARES = (0.25, 0.5)
"""The shares of the pairs, and of the training time, at which a learning curve is measured, besides all of them."""

NEGLIGIBLE = 0.02
"""The largest upper end of the interval of a rise, from half to all, that counts as none (an equivalence test)."""


def fewer(pairs: int) -> list[int]:
    """Return the numbers of pairs of a learning curve, except the last, which is all pairs."""
    return [n for n in dict.fromkeys(max(2, int(share * pairs)) for share in SHARES) if n < pairs]


def shorter(attack: Attack, took: int | None) -> dict[float, Attack]:
    """Return an attack with less training, by the share of the epochs that it ``took``; None if that is unknown.

    The result is empty for an attack without ``epochs``, and for one that took a single epoch.
    """
    found: dict[float, Attack] = {}
    for share in SHARES:

        def part(own: int | None, share: float = share) -> int | None:
            known = [epochs for epochs in (own, took) if epochs is not None]
            return max(1, int(share * min(known))) if known else None

        less = with_epochs(attack, part)
        if took != 1 and less != attack:
            found = {other: one for other, one in found.items() if one != less} | {share: less}
    return found


def curves(every: Sequence[AttackedCase], store: Store) -> list[LearningCurve]:
    """Return the scores of each attack on each observation against the pairs, and against its training time."""
    groups: dict[tuple[str, str], dict[tuple[int, float], AttackedCase]] = {}
    for one in every:
        groups.setdefault((one.case.name, one.attack), {})[one.pairs, one.time] = one
    found: list[LearningCurve] = []
    for (name, attack), members in groups.items():
        pairs, time = most = max(members)
        whole, target = members[most], members[most].case.target
        images = store.cell(whole.keys[0]).ssim is not None
        along: dict[Over, list[AttackedCase]] = {
            "pairs": [members[key] for key in sorted(members) if key[1] == time],
            "training": [members[key] for key in sorted(members) if key[0] == pairs],
        }
        for over, ordered in along.items():
            if len(ordered) > 1:
                found.append(
                    LearningCurve(
                        observation=name,
                        attack=attack,
                        strategy=target.strategy,
                        label=whole.case.label,
                        layers=whole.case.layers,
                        transform=target.transform,
                        over=over,
                        points=tuple(_point(one, store) for one in ordered),
                        ssim=_rise(ordered, "ssim", store) if images else None,
                        agreement=_rise(ordered, "agreement", store),
                    )
                )
    return found


def _rise(ordered: Sequence[AttackedCase], metric: Metric, store: Store) -> Rise:
    """Return the difference of a score between the last two points."""
    rise = difference(ordered[-1].keys, ordered[-2].keys, metric, store)
    return Rise(**rise.model_dump(), shows=rise_shown(rise))


def rise_shown(rise: ScoreRange) -> RiseShows:
    """Return what the interval of a rise shows; a wide interval about 0 shows neither ``rises`` nor ``none``."""
    if rise.high <= NEGLIGIBLE:
        return "none"
    return "rises" if rise.low > 0 else "undecided"


def _point(one: AttackedCase, store: Store) -> CurvePoint:
    cells = [store.cell(key) for key in one.keys]
    counts = [count for cell in cells if cell.training for count in cell.training.epochs if count is not None]
    return CurvePoint(
        pairs=one.pairs,
        time=one.time,
        epochs=sum(counts) / len(counts) if counts else None,
        ssim=mean_range(store.scores(one.keys, "ssim"), POSSIBLE["ssim"]) if cells[0].ssim is not None else None,
        agreement=share_range(store.scores(one.keys, "agreement")),
    )
