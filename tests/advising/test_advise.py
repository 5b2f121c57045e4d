"""Advice on small models and clusters, compared with a brute-force search."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from itertools import combinations, permutations

import pytest
import torch

import cloven
from cloven.advising.alternatives import Pricing
from cloven.advising.candidates import Candidate, space
from cloven.advising.leakage import AttackImages, LeakageLedger
from cloven.advising.search import Budget
from cloven.auditing.suite import AttackSuite
from cloven.cost.cluster import ClusterDevice, ClusterLink
from cloven.cost.profile import (
    CipherTime,
    ComputeCost,
    DeviceProfile,
    LinkProfile,
    MemorySize,
    MessageCost,
    Transmission,
)

FREE = MessageCost(origin="measured", send=0.0, receive=0.0, send_byte=0.0, receive_byte=0.0)
SMALL = 16_500
"""Bytes of memory that suffice for half of the model, but not for all of it."""

ATTACKS: list[cloven.attacks.Attack | str] = [cloven.attacks.Decoder(epochs=1), "probe"]


def board(speed: float, memory: int = 10**9, cipher: float = 1e-6) -> DeviceProfile:
    return DeviceProfile(
        name=f"{speed:g} MAC/s",
        compute=ComputeCost(origin="measured", macs_per_second=speed),
        messages=FREE,
        ciphers={"aes-128-gcm": CipherTime(origin="measured", message=cipher, byte=0.0)},
        memory=MemorySize(origin="measured", worker=1000, available=memory),
    )


def wire(bandwidth: float, delay: float = 0.0) -> LinkProfile:
    return LinkProfile(name="wire", transmission=Transmission(origin="measured", bandwidth=bandwidth, delay=delay))


def cluster(
    link: LinkProfile, *devices: DeviceProfile, trusted: bool = True, exposed: bool = True
) -> cloven.Cluster:
    parties = {f"edge{i}": ClusterDevice(profile, trusted or i == 0) for i, profile in enumerate(devices)}
    return cloven.Cluster(parties, default=ClusterLink(link, exposed=exposed))


@pytest.fixture(scope="module")
def model() -> cloven.Graph:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(4, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 36, 10),
    )
    return cloven.capture(net, torch.zeros(1, 1, 12, 12))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    coarse = torch.rand(160, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(12, 12), mode="bilinear")


def advised(model: cloven.Graph, cluster: cloven.Cluster, images: torch.Tensor, **options: object) -> cloven.Advice:
    arguments = {"auxiliary": images[:100], "victims": images[100:], "attacks": ATTACKS, **options}
    return cloven.advise(model, cluster, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "where",
    [
        cluster(wire(1e9), board(1e6), board(1e6)),
        cluster(wire(1e5), board(1e6), board(4e6)),
        cluster(wire(1e6, delay=1e-3), board(1e6), board(2e6), board(8e6)),
    ],
    ids=["alike", "slow link", "three speeds"],
)
def test_the_advice_is_the_best_of_all_vertical_divisions(
    where: cloven.Cluster, model: cloven.Graph, images: torch.Tensor
) -> None:
    """The brute-force search has every cut after every layer, and every order of devices."""
    layers = ["0", "1", "2", "3", "4", "5"]
    latencies = []
    for number in range(len(where.devices)):
        for cuts in combinations(layers, number):
            for devices in permutations(where.devices, number + 1):
                program = cloven.divide(model, cloven.Vertical(cuts), devices)
                cost = cloven.estimate(program, where)
                assert cost.latency is not None
                latencies.append(cost.latency)

    advice = advised(model, replace(where, default=replace(where.default, exposed=False)), images)

    assert advice.cost is not None
    assert advice.cost.latency is not None
    assert advice.cost.latency <= min(latencies) + 1e-12


def test_a_fast_device_is_worth_a_fast_link_and_not_a_slow_one(model: cloven.Graph, images: torch.Tensor) -> None:
    where = cluster(wire(1e9), board(1e6, memory=SMALL), board(1e8, memory=SMALL), exposed=False)

    advice = advised(model, where, images)

    assert advice.plan is not None
    assert len(advice.plan.devices) == 2  # neither device has enough memory for the whole model
    assert any("memory" in one.reason for one in advice.rejected)


def test_a_link_that_leaks_more_than_the_limit_is_encrypted(model: cloven.Graph, images: torch.Tensor) -> None:
    where = cluster(wire(1e9), board(1e6, memory=SMALL), board(1e6, memory=SMALL))

    advice = advised(model, where, images, limits=cloven.Limits(pixel_leakage=0.0, label_leakage=0.0))

    assert advice.program is not None
    assert all(advice.program.protection.of(*link) != "none" for link in advice.program.links)
    assert advice.leakage("pixels") == advice.leakage("labels") == 0.0


def test_without_limits_only_the_coordinators_links_are_encrypted(
    model: cloven.Graph, images: torch.Tensor
) -> None:
    where = cluster(wire(1e9), board(1e6, memory=SMALL), board(1e6, memory=SMALL))

    advice = advised(model, where, images)

    assert advice.program is not None
    assert advice.results is not None  # the link in clear was attacked nevertheless
    assert {advice.program.protection.of(*link) for link in advice.program.links} == {"none"}
    assert advice.program.protection.of("coordinator", advice.program.source) == "aes-128-gcm"


def test_a_device_that_is_not_trusted_reads_what_is_encrypted(model: cloven.Graph, images: torch.Tensor) -> None:
    where = cluster(wire(1e9), board(1e6), board(1e9), trusted=False)

    advice = advised(model, where, images, limits=cloven.Limits(pixel_leakage=0.0, label_leakage=0.0))

    assert advice.plan is not None
    assert advice.plan.devices == ("edge0",)
    assert any("device edge1 is not trusted" in one.reason for one in advice.rejected)


def test_an_inner_link_is_no_tap(model: cloven.Graph, images: torch.Tensor) -> None:
    where = cluster(wire(1e9), board(1e6, memory=SMALL), board(1e6, memory=SMALL), exposed=False)

    advice = advised(model, where, images, limits=cloven.Limits(pixel_leakage=0.0))

    assert advice.report.leakage == ()
    assert advice.program is not None
    assert advice.program.protection == cloven.Plan(strategy=cloven.Vertical(("1",)), devices=("a", "b")).protection


def test_relaxing_a_limit_never_makes_the_plan_slower(model: cloven.Graph, images: torch.Tensor) -> None:
    where = cluster(wire(1e6), board(1e6, memory=SMALL), board(1e6, memory=SMALL), board(1e6))
    latencies = []
    for leakage in (0.0, 0.5, 1.0):
        cost = advised(model, where, images, limits=cloven.Limits(pixel_leakage=leakage)).cost
        assert cost is not None
        assert cost.latency is not None
        latencies.append(cost.latency)

    assert latencies == sorted(latencies, reverse=True)


def test_a_slow_link_moves_the_cut_to_a_smaller_tensor(model: cloven.Graph, images: torch.Tensor) -> None:
    """The second device is faster, and both have too little memory for the whole model."""
    bytes_sent = []
    for bandwidth in (1e9, 1e5):
        devices = board(1e6, memory=SMALL), board(4e6, memory=SMALL)
        advice = advised(model, cluster(wire(bandwidth), *devices, exposed=False), images)
        assert advice.program is not None
        bytes_sent.append(sum(transfer.bytes for transfer in advice.program.transfers))

    assert bytes_sent[1] < bytes_sent[0]


def test_less_memory_on_a_device_gives_it_less(model: cloven.Graph, images: torch.Tensor) -> None:
    used = []
    for memory in (10**9, 14_000, 8_000):
        where = cluster(wire(1e9), board(1e6), board(4e6, memory=memory), exposed=False)
        cost = advised(model, where, images).cost
        assert cost is not None
        used.append(sum(device.memory or 0 for device in cost.devices if device.device == "edge1"))

    assert used == sorted(used, reverse=True)
    assert used[0] > used[-1]


def test_a_cheaper_cipher_never_encrypts_less(model: cloven.Graph, images: torch.Tensor) -> None:
    limits = cloven.Limits(pixel_leakage=0.3)
    encrypted = []
    for seconds in (1e-2, 1e-4, 0.0):
        devices = [board(1e6, memory=SMALL, cipher=seconds) for _ in range(2)]
        cost = advised(model, cluster(wire(1e9), *devices), images, limits=limits).cost
        assert cost is not None
        hidden = sum(link.bytes for link in cost.links if link.protection != "none")
        encrypted.append(hidden / cost.traffic)  # another division may send less

    assert encrypted == sorted(encrypted)


def test_each_link_has_the_cheapest_cipher_that_both_of_its_ends_have(model: cloven.Graph) -> None:
    fast, slow = (
        CipherTime(origin="measured", message=1e-6, byte=0.0),
        CipherTime(origin="measured", message=1e-3, byte=0.0),
    )
    both = board(1e6).model_copy(update={"ciphers": {"aes-128-gcm": fast, "ascon-aead128": slow}})
    other = board(2e6).model_copy(update={"ciphers": {"ascon-aead128": slow}})
    pricing = Pricing(model, cluster(wire(1e9), both, both, other), "latency")
    division = pricing.alternative(Candidate((cloven.Vertical(("1", "4")),), ("edge0", "edge1", "edge2")))
    assert division is not None

    protection = pricing.encrypting(division, division.program.links).protection

    assert protection.of("edge0", "edge1") == "aes-128-gcm"
    assert protection.of("edge1", "edge2") == "ascon-aead128"


def test_a_device_without_a_cipher_only_blocks_divisions_that_need_one(
    model: cloven.Graph, images: torch.Tensor
) -> None:
    mute = board(1e9).model_copy(update={"ciphers": {}})

    advice = advised(model, cluster(wire(1e9), board(1e6), mute), images)

    assert advice.plan is not None
    assert advice.plan.devices[0] == "edge0"  # it receives the image, on a link that must be encrypted
    assert all("edge1" not in link for link in advice.plan.protection.links)
    assert any("ciphers" in sentence for sentence in advice.report.untested)


def test_each_winner_is_attacked_again_with_images_of_its_own(images: torch.Tensor) -> None:
    sets = AttackImages(images[:60], images[60:])

    used = [sets.searched(), *(sets.fresh(part) for part in range(sets.parts))]

    assert sets.parts == 2
    assert len(torch.cat([torch.as_tensor(part) for part in used]).unique(dim=0)) == len(
        images[60:]
    )  # no image is used twice


def test_labels_that_no_attack_reads_are_not_certified(model: cloven.Graph, images: torch.Tensor) -> None:
    where = cluster(wire(1e9), board(1e6, memory=SMALL), board(1e6, memory=SMALL))
    decoder = cloven.attacks.Decoder(epochs=1)

    advice = advised(model, where, images, attacks=[decoder], limits=cloven.Limits(label_leakage=0.9))

    assert advice.program is not None
    assert all(advice.program.protection.of(*link) != "none" for link in advice.program.links)


def test_an_attack_that_the_budget_cuts_short_certifies_nothing(model: cloven.Graph, images: torch.Tensor) -> None:
    where = cluster(wire(1e9), board(1e6, memory=SMALL), board(1e6, memory=SMALL))
    endless = cloven.attacks.Decoder(epochs=10**6)
    loose = cloven.Limits(pixel_leakage=0.99, label_leakage=0.99)

    advice = advised(model, where, images, attacks=[endless, "probe"], limits=loose, budget=6.0)

    assert advice.program is not None
    assert all(advice.program.protection.of(*link) != "none" for link in advice.program.links)


def test_leakage_that_was_not_measured_has_a_reason_and_no_attack(
    model: cloven.Graph, images: torch.Tensor
) -> None:
    where = cluster(wire(1e9), board(1e6, memory=SMALL), board(1e6, memory=SMALL))

    advice = advised(model, where, images, attacks=[cloven.attacks.Decoder(epochs=1)])

    leaks = {(one.tap, one.axis): one for one in advice.report.leakage}
    labels, pixels = leaks["edge0->edge1", "labels"], leaks["edge0->edge1", "pixels"]
    assert (labels.leakage, labels.attack, labels.reason) == (1.0, None, "no attack that reads labels")
    assert labels.origin == "counted in full: no attack that reads labels"
    assert (pixels.attack, pixels.reason) == ("decoder", "")
    assert leaks["coordinator->edge0", "pixels"].origin == "none needed: it is sent as it is"


def test_progress_ends_with_all_that_was_begun(model: cloven.Graph, images: torch.Tensor) -> None:
    devices = [board(1e6, memory=SMALL, cipher=0.1) for _ in range(2)]
    calls: dict[str, list[tuple[int, int]]] = {}

    def report(stage: str, done: int, every: int) -> None:
        calls.setdefault(stage, []).append((done, every))

    advised(model, cluster(wire(1e9), *devices), images, limits=cloven.Limits(pixel_leakage=0.9), progress=report)

    assert "attacking" in calls
    for counts in calls.values():
        assert all(done <= every for done, every in counts)
        assert counts[-1][0] == counts[-1][1]


def test_a_budget_does_not_change_when_it_is_asked() -> None:
    budget = Budget(time.monotonic() + 100, spent=10, attacks=1)

    assert not budget.allows(1000)
    assert budget.allows(1)


def test_a_device_that_was_not_attacked_to_the_end_is_said_to_count(
    model: cloven.Graph, images: torch.Tensor
) -> None:
    where = cluster(wire(1e9), board(1e6), board(1e9), trusted=False)
    endless = cloven.attacks.Decoder(epochs=10**6)
    loose = cloven.Limits(pixel_leakage=0.99, label_leakage=0.99)

    advice = advised(model, where, images, attacks=[endless, "probe"], limits=loose, budget=6.0)

    reasons = [one.reason for one in advice.report.compared]
    assert any("counts as reading everything: decoder did not finish" in reason for reason in reasons)


def test_without_a_plan_the_nearest_division_says_which_limit_to_relax(
    model: cloven.Graph, images: torch.Tensor
) -> None:
    advice = advised(model, cluster(wire(1e9), board(1e6)), images, limits=cloven.Limits(latency=1e-6))

    assert advice.report.nearest is not None
    assert advice.report.nearest.division == "all of it on edge0"
    (limit,) = advice.report.nearest.limits
    assert re.fullmatch(r"latency: [\d.]+ m?s instead of 1 µs", limit)


def test_the_report_has_the_named_divisions_and_the_cuts(model: cloven.Graph, images: torch.Tensor) -> None:
    report = advised(model, cluster(wire(1e9), board(1e6), board(2e6)), images).report

    named = {name for one in report.compared for name in one.names}
    assert {"everything on one device", "every link encrypted", "min-cut (DADS)"} <= named
    assert [one.chosen for one in report.compared].count(True) == 1
    assert [cut.share for cut in report.cuts] == sorted(cut.share for cut in report.cuts)


def test_limits_that_no_division_can_meet_are_refused_together(model: cloven.Graph, images: torch.Tensor) -> None:
    where = cloven.Cluster({"edge0": ClusterDevice(board(1e6), trusted=False)}, default=ClusterLink(wire(1e9)))

    with pytest.raises(cloven.ClovenError) as caught:
        advised(model, where, images, limits=cloven.Limits(memory=10, energy=1.0, pixel_leakage=0.2))

    problems = "\n".join(caught.value.problems)
    assert "no device of the cluster is trusted" in problems
    assert "the limit on memory is 10 bytes" in problems
    assert "energy requires a table [power]" in problems


def test_limits_that_nothing_meets_are_answered_without_a_plan(model: cloven.Graph, images: torch.Tensor) -> None:
    advice = advised(model, cluster(wire(1e9), board(1e6)), images, limits=cloven.Limits(latency=1e-6))

    assert advice.plan is None
    assert advice.report.reason == "No plan meets the limits."
    assert "latency is" in advice.rejected[0].reason


def test_the_assumptions_of_the_nearest_division_are_said_without_a_plan(
    model: cloven.Graph, images: torch.Tensor
) -> None:
    guess = ComputeCost(origin="assumed", macs_per_second=1e6)
    where = cluster(wire(1e9), board(1e6).model_copy(update={"compute": guess}))

    report = advised(model, where, images, limits=cloven.Limits(latency=1e-6)).report

    assert report.plan is None
    assert any("[compute]" in sentence for sentence in report.assumptions)


@pytest.mark.parametrize("minimise", ["latency", "traffic"])
def test_what_a_cluster_lacks_is_named_for_every_objective(
    minimise: str, model: cloven.Graph, images: torch.Tensor
) -> None:
    where = cloven.Cluster({"edge0": ClusterDevice(board(1e6))})

    report = advised(model, where, images, minimise=minimise).report

    assert report.reason == "The cost of no division is known."
    assert any("has no profile; name one in the cluster file" in sentence for sentence in report.untested)


def test_a_profile_that_lacks_a_number_recommends_nothing(model: cloven.Graph, images: torch.Tensor) -> None:
    silent = board(1e6).model_copy(update={"messages": None})

    advice = advised(model, cluster(wire(1e9), silent), images)

    assert advice.plan is None
    assert advice.report.reason == "The cost of no division is known."
    assert advice.rejected[0].reason == "its cost is unknown"
    assert any("[messages]" in sentence for sentence in advice.report.untested)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limits": 3}, "limits"),
        ({"minimise": "cost"}, "minimise is 'cost'; expected one of latency, throughput, energy, traffic"),
        ({"budget": 0}, "budget must be a number of seconds above 0, got 0"),
        ({"victims": torch.rand(10, 1, 12, 12)}, "there are 10 victim images; expected at least 40"),
        ({"attacks": []}, "attacks are missing"),
    ],
)
def test_wrong_arguments_are_named(
    options: dict[str, object], message: str, model: cloven.Graph, images: torch.Tensor
) -> None:
    with pytest.raises(cloven.ClovenError, match=message):
        advised(model, cluster(wire(1e9), board(1e6)), images, **options)


def test_all_wrong_arguments_are_named_together(model: cloven.Graph, images: torch.Tensor) -> None:
    with pytest.raises(cloven.ClovenError) as caught:
        advised(model, cluster(wire(1e9), board(1e6)), images, jobs=0, budget=-1, attacks=["prob"])

    assert caught.value.problems == (
        "budget must be a number of seconds above 0, got -1",
        "no attack is named 'prob'; did you mean probe, mlp-probe?",
        "jobs is 0; expected 1 or more",
    )


def test_impossible_limits_are_named_together() -> None:
    with pytest.raises(cloven.ClovenError) as caught:
        cloven.Limits(latency=-1.0, pixel_leakage=2.0)

    assert caught.value.problems == (
        "latency must be a number above 0, got -1",
        "pixel_leakage must be between 0 and 1, got 2",
    )


def test_interchangeable_devices_are_tried_once(model: cloven.Graph) -> None:
    _, alike = space(model, cluster(wire(1e9), board(1e6), board(1e6)))
    _, unlike = space(model, cluster(wire(1e9), board(1e6), board(1.01e6)))

    assert 2 * len(list(alike.candidates())) == len(list(unlike.candidates()))


def test_measured_times_decide_between_divisions_of_similar_estimates(
    model: cloven.Graph, images: torch.Tensor
) -> None:
    """The second device is estimated to be faster; executed, the first one is."""
    where = cluster(wire(1e4), board(1e6), board(1.05e6), exposed=False)
    executed: list[tuple[str, ...]] = []

    def run(plan: cloven.Plan, program: cloven.Program) -> float:
        executed.append(program.devices)
        return 0.1 if program.devices == ("edge0",) else 0.2

    advice = advised(model, where, images, measure=run)

    assert advice.plan is not None
    assert advice.plan.devices == ("edge0",)
    assert len(executed) <= 5
    (chosen,) = [one for one in advice.report.compared if one.chosen]
    assert chosen.measured_latency == 0.1
    assert advice.report.executed[0] == chosen
    assert len(advice.report.executed) == len(executed)
    assert "were executed; this one is the fastest: 100 ms, estimated" in advice.report.reason


def test_a_division_that_is_too_slow_when_executed_is_not_recommended(
    model: cloven.Graph, images: torch.Tensor
) -> None:
    where = cluster(wire(1e9), board(1e6), exposed=False)

    advice = advised(model, where, images, limits=cloven.Limits(latency=1.0), measure=lambda plan, program: 2.0)

    assert advice.plan is None
    assert advice.report.nearest is not None
    assert advice.report.nearest.limits == ("latency when executed: 2 s instead of 1 s",)
    assert "takes 2 s when executed" in advice.rejected[0].reason


def test_only_the_attacks_that_an_audit_lacks_are_run(
    model: cloven.Graph, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit has the probe, and a decoder with other hyper-parameters."""
    seen = cloven.observe(cloven.divide(model, cloven.Vertical(("2",)), 2))
    other: list[cloven.attacks.Attack | str] = [cloven.attacks.Decoder(epochs=2), "probe"]
    results = cloven.audit(seen, other, auxiliary=images[:100], victims=images[100:120])
    ledger = LeakageLedger(ATTACKS, AttackImages(images[:100], images[120:]))
    run: list[tuple[str, ...]] = []

    def audited(observations: object, attacks: list[cloven.attacks.Attack | str], **options: object) -> object:
        run.append(AttackSuite(tuple(attacks)).names)
        return cloven.audit(observations, attacks, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("cloven.advising.leakage.audit", audited)

    assert ledger.take(results, model) == (1, 1)
    assert not ledger.known
    ledger.attack(seen, 60)
    ledger.attack(seen, 60)

    assert run == [("decoder",)]
    assert len(ledger.known) == 1


def test_what_an_audit_measured_bounds_the_leakage_of_shallower_cuts(
    model: cloven.Graph, images: torch.Tensor
) -> None:
    deep = cloven.observe(cloven.divide(model, cloven.Vertical(("4",)), 2))
    results = cloven.audit(deep, "screen", auxiliary=images[:100], victims=images[100:])
    ledger = LeakageLedger(("screen",), None)
    division = Pricing(model, cluster(wire(1e9), board(1e6), board(1e6)), "latency").alternative(
        Candidate((cloven.Vertical(("1",)),), ("edge0", "edge1"))
    )
    assert division is not None
    (shallow,) = [tap for tap in division.taps if tap.name == "edge0->edge1"]
    assert ledger.at_least(shallow)["pixels"].leakage == 0.0

    ledger.take(results, model)

    found = results.observations[0].counts.pixels
    assert found is not None
    assert ledger.at_least(shallow)["pixels"].leakage == found.leakage.high > 0


def test_an_audit_is_used_in_the_advice(model: cloven.Graph, images: torch.Tensor) -> None:
    where = cluster(wire(1e9), board(1e6, memory=SMALL), board(1e6, memory=SMALL))
    seen = cloven.observe(cloven.divide(model, cloven.Vertical(("2",)), 2))
    results = cloven.audit(seen, "probe", auxiliary=images[:100], victims=images[100:120])

    advice = advised(model, where, images, victims=images[120:], results=results)

    assert "The given audit has 1 attack of the suite on 1 observation" in advice.report.method


def test_an_audit_of_another_model_is_refused(model: cloven.Graph, images: torch.Tensor) -> None:
    other = cloven.capture(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 4)), torch.zeros(1, 1, 16, 16)
    )
    small = torch.nn.functional.interpolate(images, size=(16, 16))
    seen = cloven.observe(cloven.divide(other, cloven.Vertical(("0",)), 2))
    results = cloven.audit(seen, "probe", auxiliary=small[:100], victims=small[100:130])

    with pytest.raises(cloven.ClovenError) as caught:
        advised(model, cluster(wire(1e9), board(1e6)), images, results=results)

    assert len(caught.value.problems) == 2
