"""The genetic search on a space that is small enough to know its best divisions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import cloven
from cloven.advising.alternatives import Pricing
from cloven.advising.candidates import space
from cloven.advising.genetic import Proposals, proposed
from cloven.advising.leakage import LeakageLedger
from cloven.zoo.named import make
from tests.advising.test_advise import board, cluster, wire

LEDGER = LeakageLedger(("probe",), None)
SLOW, FAST = board(1e6), board(4e6)


@pytest.fixture(scope="module")
def lenet() -> cloven.Graph:
    torch.manual_seed(0)
    return cloven.capture(make("lenet5", shape=(1, 28, 28), classes=10, weights=None), torch.zeros(1, 1, 28, 28))


def test_proposals_are_nearly_as_good_as_the_best_of_all_divisions(lenet: cloven.Graph) -> None:
    pytest.importorskip("pymoo")
    where = cluster(wire(1e8), SLOW, board(2e6), FAST)
    whole, _ = space(lenet, where)
    pricing = Pricing(lenet, where, "latency")

    found = proposed(whole, pricing, LEDGER, cloven.Limits())

    every = [one.value for candidate in whole.candidates() if (one := pricing.alternative(candidate)) is not None]
    best = min(one.value for candidate in found if (one := pricing.alternative(candidate)) is not None)
    assert best <= 1.05 * min(every)


def test_the_same_proposals_are_made_again(lenet: cloven.Graph) -> None:
    pytest.importorskip("pymoo")
    where = cluster(wire(1e8), SLOW, FAST)
    whole, _ = space(lenet, where)

    first, second = (proposed(whole, Pricing(lenet, where, "latency"), LEDGER, cloven.Limits()) for _ in range(2))

    assert first == second


def test_a_large_space_is_thinned_to_cuts_with_few_bytes(lenet: cloven.Graph) -> None:
    whole, thinned = space(lenet, cluster(wire(1e8), SLOW, FAST), most=60)

    assert thinned.size <= 60 < whole.size
    assert set(thinned.places) < set(whole.places)


def test_pixels_are_predicted_to_fade_with_depth_on_a_device_that_is_not_trusted(lenet: cloven.Graph) -> None:
    where = cluster(wire(1e8), SLOW, FAST, trusted=False)
    whole, _ = space(lenet, where)
    pricing = Pricing(lenet, where, "latency")
    search = Proposals(whole, pricing, LEDGER, cloven.Limits())
    early, late = (
        pricing.alternative(
            replace(
                next(whole.candidates()), strategies=(cloven.Vertical((cut.after,)),), devices=("edge0", "edge1")
            )
        )
        for cut in (whole.places[0], whole.places[-1])
    )

    assert early is not None
    assert late is not None
    assert search.predicted(early)[0] > search.predicted(late)[0]
