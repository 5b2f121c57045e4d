"""The verdict: what leaks most and least on each axis, ties, and audits without a verdict."""

from __future__ import annotations

from typing import Any

import pytest

from cloven.auditing.finding import Axis, ScoreRange, SeedsRange
from cloven.auditing.ranking import gate, rank, verdict
from cloven.auditing.summary import AxisScore, AxisScores, HigherScore, ObservationSummary


def score(high: float, /, **changes: Any) -> AxisScore:
    """Return a score whose upper limit of leakage is ``high``."""
    leaked = ScoreRange(mean=max(0.0, high - 0.05), low=max(0.0, high - 0.1), high=high)
    scored = {"attack": "decoder", "mean": 0.3, "low": 0.25, "high": 0.35, "baseline": 0.1, "held_out": None}
    return AxisScore(**{**scored, "leakage": leaked, **changes})


def observed(name: str, pixels: float | None, labels: float | None = None, **changes: Any) -> ObservationSummary:
    scores = AxisScores(
        pixels=None if pixels is None else score(pixels), labels=None if labels is None else score(labels)
    )
    given = {
        "observation": name, "strategy": "vertical", "label": "Layer 2", "layers": ("conv2",), "link": ("a", name),
        "links": (("a", name),), "view": "full", "crosses": True, "transform": "none", "attacks": ("decoder",),
        "labels_read": True, "own": scores, "counts": scores, "flags": (),
    }  # fmt: skip
    return ObservationSummary(**{**given, **changes})


def ends(axis: Axis, *observations: ObservationSummary) -> tuple[Any, Any]:
    ranking = rank(observations, axis)
    return tuple(end and (end.leakage, end.observations) for end in (ranking.most, ranking.least))  # type: ignore[return-value]


def test_each_axis_has_an_order_of_its_own() -> None:
    first, second = observed("b", 0.62, 0.2), observed("c", 0.10, 0.9)

    assert ends("pixels", first, second) == ((0.62, ("b",)), (0.10, ("c",)))
    assert ends("labels", first, second) == ((0.9, ("c",)), (0.2, ("b",)))


def test_what_is_shown_as_equal_is_tied_and_named_so() -> None:
    observations = [observed("b", 0.621), observed("c", 0.619), observed("d", 0.1)]

    assert ends("pixels", *observations) == ((0.62, ("b", "c")), (0.1, ("d",)))
    said = verdict(None, [], observations).sentence
    assert said is not None
    assert "Pixels: vertical (layer 2, a to b) and vertical (layer 2, a to c) leak most, up to 62%" in said
    assert "vertical (layer 2, a to d) least, 10%" in said


def test_protected_links_are_ranked_apart() -> None:
    hidden, exposed = observed("b", 0.9, protection=("mtls",)), observed("c", 0.1)
    found = verdict(None, [], [hidden, exposed])

    assert [ranking.most and ranking.most.observations for ranking in found.rankings] == [("c",), None]
    assert [ranking.most and ranking.most.observations for ranking in found.protected] == [("b",), None]
    assert found.sentence is not None
    assert "1 of 2 observations are on protected links, where a listener sees only ciphertext." in found.sentence
    assert "Without the protection: Pixels: vertical (layer 2, a to b) leaks up to 90%" in found.sentence


def test_where_all_links_are_protected_nothing_leaks_to_a_listener() -> None:
    said = verdict(None, [], [observed("b", 0.9, protection=("mtls",))]).sentence

    assert said is not None
    assert said.startswith("All observations are on protected links, where a listener sees only ciphertext. ")


def test_nothing_is_most_and_least_at_once() -> None:
    observations = [observed("b", 0.62), observed("c", 0.62)]

    assert ends("pixels", *observations) == ((0.62, ("b", "c")), None)
    assert ends("pixels", observations[0]) == ((0.62, ("b",)), None)
    said = verdict(None, [], observations).sentence
    assert said is not None
    assert "all 2 observations leak alike, up to 62% of the possible gain" in said
    assert "least" not in said


def test_labels_that_were_not_read_are_not_ranked() -> None:
    read, unread = observed("b", 0.6, 0.5), observed("c", 0.6, 0.01, labels_read=False)

    assert ends("labels", read, unread) == ((0.5, ("b",)), None)
    assert rank([read, unread], "labels").unranked == ("c",)
    said = verdict(None, [], [read, unread]).sentence
    assert said is not None
    assert "1 more is not ranked: no attack that reads labels (such as probe) was tried." in said
    nothing = verdict(None, [], [observed("c", 0.6, 0.0, labels_read=False)]).sentence
    assert nothing is not None
    assert "Labels: not ranked, since no attack that reads labels (such as probe) was tried." in nothing


def test_labels_that_leak_without_an_attack_that_reads_them_are_ranked_most_and_never_least() -> None:
    leaking, hardly = observed("b", 0.6, 0.9, labels_read=False), observed("c", 0.6, 0.1, labels_read=False)
    read = observed("d", 0.6, 0.5)

    assert ends("labels", leaking) == ((0.9, ("b",)), None)
    assert ends("labels", leaking, hardly) == ((0.9, ("b",)), None)
    assert ends("labels", leaking, hardly, read) == ((0.9, ("b",)), (0.5, ("d",)))
    assert rank([leaking, hardly, read], "labels").unranked == ("c",)


def test_what_does_not_leak_is_said_to_give_nothing() -> None:
    said = verdict(None, [], [observed("b", 0.0), observed("c", 0.5)]).sentence

    assert said is not None
    assert "vertical (layer 2, a to b) least, nothing beyond the best guess" in said


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.12, 0.2, "has 0.10)"),
        (0.05, 0.2, "has 0.10, which is within chance of it)"),
        (0.01, 0.05, "has 0.10, which is better)"),
    ],
)
def test_an_attack_is_compared_with_the_best_guess(low: float, high: float, words: str) -> None:
    scores = AxisScores(pixels=score(0.0).model_copy(update={"low": low, "high": high}), labels=None)
    said = verdict(None, [], [observed("b", 0.0, counts=scores)]).sentence

    assert said is not None
    assert words in said


@pytest.mark.parametrize(
    ("label", "words"),
    [("All that EdgeA gets", "(all that EdgeA gets, "), ("Mixed_5b", "(Mixed_5b, ")],
)
def test_names_keep_their_capitals(label: str, words: str) -> None:
    said = verdict(None, [], [observed("b", 0.5, label=label)]).sentence

    assert said is not None
    assert words in said


def test_what_no_link_carries_is_not_in_the_verdict() -> None:
    found = verdict(None, [], [observed("b", 0.9, crosses=False), observed("c", 0.1, 0.2)])

    assert [ranking.most.observations for ranking in found.rankings if ranking.most] == [("c",), ("c",)]
    assert verdict(None, [], [observed("b", 0.9, crosses=False)]).reason == (
        "none of the attacked observations is sent over a link"
    )


def test_the_sentence_names_an_attack_that_is_higher_on_the_victims_than_the_chosen_one() -> None:
    higher = HigherScore(attack="rmle", mean=0.92, difference=SeedsRange(mean=0.16, low=-0.9, high=1.2))
    scores = AxisScores(pixels=score(0.8, attack="refine-labels", held_out=0.5, exceeded_by=higher), labels=None)
    said = verdict(None, [], [observed("b", 0.8, counts=scores, own=scores)]).sentence

    assert said is not None
    assert "by refine-labels, which was chosen on held-out pairs; rmle has 0.92 on the victims; the best" in said
    assert "significantly" not in said, "the interval of the difference is wide"


def test_doubts_are_part_of_the_sentence() -> None:
    pixels = score(0.9, carried_from="c", converged="still rises with more training")
    higher = HigherScore(attack="residual", mean=0.4, difference=SeedsRange(mean=0.1, low=0.05, high=0.15))
    own = AxisScores(pixels=score(0.8, held_out=0.5, exceeded_by=higher), labels=None)
    counts = AxisScores(pixels=pixels, labels=score(0.9, converged="converged"))
    found = verdict(None, [], [observed("b", 0.9, 0.9, own=own, counts=counts)]).sentence

    assert found is not None
    assert "1 of 1 observations have a lower score than a deeper one that follows from them" in found
    assert (
        "1 of 1 observations have an attack that scores significantly higher on the victims than the one" in found
    )
    assert "Learning curves of the 2 strongest attacks: converged (1), still rises with more training (1)." in found
    assert "These are lower bounds" in found


@pytest.mark.parametrize(
    ("kappa", "largest", "reason"),
    [
        (0.95, 0.9, None),
        (0.12, 0.1, "kappa on held-out images is 0.12, below 0.3"),
        (None, 0.5, None),
        (None, 0.87, "gives one class to 87% of the victim images, more than half"),
    ],
)
def test_a_model_that_has_learned_too_little_gets_no_verdict(
    kappa: float | None, largest: float, reason: str | None
) -> None:
    why = gate(kappa, largest)

    assert (why is None) == (reason is None)
    assert (reason or "") in (why or "")
    assert verdict(why, [], [observed("b", 0.9)]).given == (reason is None)
