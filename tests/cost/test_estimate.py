"""Estimates of a divided model, against closed formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import cloven
from cloven.cost.cluster import ClusterDevice, ClusterLink
from cloven.cost.estimate import Estimator
from cloven.cost.profile import (
    CipherTime,
    ComputeCost,
    DeviceProfile,
    LinkProfile,
    MemorySize,
    MessageCost,
    Power,
    Transmission,
    TransmissionEnergy,
    scaled,
)
from cloven.cost.tasks import Workload
from cloven.cost.timeline import SteadyRate
from cloven.partition.protection import Protection

SPEED, BANDWIDTH, DELAY = 1e6, 8e5, 0.25
FREE = MessageCost(origin="measured", send=0.0, receive=0.0, send_byte=0.0, receive_byte=0.0)
BOARD = DeviceProfile(
    name="board",
    compute=ComputeCost(origin="measured", macs_per_second=SPEED),
    messages=FREE,
    memory=MemorySize(origin="measured", worker=1000),
    power=Power(origin="measured", idle=1.0, busy=3.0),
)
WIRE = LinkProfile(
    name="wire",
    transmission=Transmission(origin="measured", bandwidth=BANDWIDTH, delay=DELAY),
    energy=TransmissionEnergy(origin="measured", byte=0.0),
)


@pytest.fixture(scope="module")
def model() -> cloven.Graph:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 2, 3, padding=1),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 10),
    )
    return cloven.capture(net, torch.zeros(1, 1, 8, 8))


@pytest.fixture(scope="module")
def program(model: cloven.Graph) -> cloven.Program:
    return cloven.divide(model, cloven.Vertical(cuts=["1"]), devices=2)


def cluster(board: DeviceProfile | None = BOARD, wire: LinkProfile | None = WIRE) -> cloven.Cluster:
    devices = {name: ClusterDevice(board) for name in ("coordinator", "edge0", "edge1")}
    return cloven.Cluster(devices, default=ClusterLink(wire))


def test_the_latency_is_the_sum_of_what_follows_each_other(program: cloven.Program) -> None:
    macs = sum(program.macs(device) for device in program.devices)
    traffic = 4 * (64 + 4 * 64 + 10)  # the image, the cut, the answer: float32

    cost = cloven.estimate(program, cluster())

    assert cost.traffic == traffic
    assert cost.latency == pytest.approx(macs / SPEED + 8 * traffic / BANDWIDTH + 3 * DELAY)
    assert cost.unknown == cost.assumptions == ()
    assert [step.name for step in cost.critical][-1] == "edge1->coordinator: transmitted"


def test_the_throughput_is_that_of_the_slowest_device_or_link(program: cloven.Program) -> None:
    computing = [program.macs(device) / SPEED for device in program.devices]
    sending = [8 * 4 * numbers / BANDWIDTH for numbers in (64, 4 * 64, 10)]

    cost = cloven.estimate(program, cluster(), window=256)

    assert cost.throughput == pytest.approx(1 / max(computing + sending))


def test_one_image_in_flight_is_answered_before_the_next(program: cloven.Program) -> None:
    cost = cloven.estimate(program, cluster(), window=1)

    assert cost.latency is not None
    assert cost.throughput == pytest.approx(1 / cost.latency)


def test_energy_is_that_of_waiting_and_of_computing(program: cloven.Program) -> None:
    cost = cloven.estimate(program, cluster())

    assert cost.latency is not None
    for device in cost.devices:
        seconds = program.macs(device.device) / SPEED
        assert device.busy == pytest.approx(seconds)
        assert device.energy == pytest.approx(cost.latency * 1.0 + seconds * 2.0)


def test_memory_is_the_worker_the_weights_and_the_values(program: cloven.Program) -> None:
    first, _ = cloven.estimate(program, cluster()).devices

    weights, values = 4 * (4 * 9 + 4), 4 * (2 * 4 * 64)  # conv's output, and that of its activation
    rearranged = 4 * (64 + 4 * 64)  # the image and the output of the segment
    assert first.memory == 1000 + weights + values + rearranged


def test_a_runtime_takes_memory_for_operators_models_links_and_messages(program: cloven.Program) -> None:
    assert BOARD.memory is not None
    sizes = {"segment": 100, "operator": 10, "link": 7, "message": 2.0}
    more = cloven.estimate(
        program, cluster(BOARD.model_copy(update={"memory": BOARD.memory.model_copy(update=sizes)}))
    )
    once = cloven.estimate(program, cluster())

    received, sent = 4 * 64, max(link.bytes for link in once.links if link.source == "edge0")
    (first, _), (plain, _) = more.devices, once.devices
    assert first.memory is not None
    assert plain.memory is not None
    assert first.memory - plain.memory == 100 + 2 * 10 + 7 + 2 * (received + sent)


def test_loading_counts_if_it_needs_more_than_running(program: cloven.Program) -> None:
    loading = MemorySize(origin="measured", worker=1000, starting=400, loading=100.0)
    first = cloven.estimate(program, cluster(BOARD.model_copy(update={"memory": loading}))).devices[0]

    weights = 4 * (4 * 9 + 4)
    assert first.memory == 400 + weights + 100 * 3 * weights  # a convolution has three further copies


def test_an_operator_may_take_a_fixed_time_besides_its_multiply_accumulates(program: cloven.Program) -> None:
    slow = BOARD.model_copy(update={"compute": ComputeCost(origin="measured", operator=0.5, macs_per_second=SPEED)})
    even = BOARD.model_copy(update={"compute": ComputeCost(origin="measured", operator=0.5)})

    first, second = cloven.estimate(program, cluster(slow)).devices
    assert first.busy == pytest.approx(2 * 0.5 + program.macs("edge0") / SPEED)
    assert second.busy == pytest.approx(3 * 0.5 + program.macs("edge1") / SPEED)
    assert [device.busy for device in cloven.estimate(program, cluster(even)).devices] == [2 * 0.5, 3 * 0.5]


def test_a_device_that_pages_takes_longer_for_weights_that_do_not_fit(program: cloven.Program) -> None:
    weights = 4 * (4 * 9 + 4)
    paged = MemorySize(origin="measured", worker=1000, available=1000 + weights - 60, paging=0.01)

    first, _ = cloven.estimate(program, cluster(BOARD.model_copy(update={"memory": paged}))).devices

    assert first.busy == pytest.approx(program.macs("edge0") / SPEED + 60 * 0.01)
    assert first.available is None


def test_a_runtime_may_keep_several_copies_of_the_weights(program: cloven.Program) -> None:
    assert BOARD.memory is not None
    copies = BOARD.memory.model_copy(update={"weights": 3.0})
    more = cloven.estimate(program, cluster(BOARD.model_copy(update={"memory": copies}))).devices[0]
    once = cloven.estimate(program, cluster()).devices[0]

    assert more.memory is not None
    assert once.memory is not None
    assert more.memory == once.memory + 2 * Workload.of(program).usage[0].weight_bytes


def test_a_slower_device_takes_longer_to_compute_and_no_longer_to_send(program: cloven.Program) -> None:
    sending = BOARD.model_copy(update={"messages": FREE.model_copy(update={"send": 0.5})})
    fast, slow = (cloven.estimate(program, cluster(scaled(sending, speed))).devices for speed in (1.0, 0.5))

    for quick, late in zip(fast, slow, strict=True):
        assert quick.busy is not None
        assert late.busy is not None
        sends = 0.5  # one message of each device, to the next one or to the coordinator
        assert late.busy - sends == pytest.approx(2 * (quick.busy - sends))


def test_encryption_costs_what_the_profile_says(model: cloven.Graph) -> None:
    def latency(protection: Protection, board: DeviceProfile) -> float | None:
        plan = cloven.Plan(devices=("edge0", "edge1"), strategy=cloven.Vertical(("1",)), protection=protection)
        return cloven.estimate(cloven.compile(model, plan), cluster(board)).latency

    cipher = CipherTime(origin="measured", message=0.5, byte=0.0)
    board = BOARD.model_copy(update={"ciphers": {"aes-128-gcm": cipher}})
    clear = latency(Protection(), board)

    assert clear is not None
    assert latency(Protection(default="aes-128-gcm"), board) == pytest.approx(clear + 3 * 2 * 0.5)
    assert latency(Protection(links={"edge0-edge1": "aes-128-gcm"}), board) == pytest.approx(clear + 2 * 0.5)
    assert latency(Protection(default="ascon-128"), board) is None


def test_one_workload_serves_other_devices_and_protections(model: cloven.Graph) -> None:
    fast = BOARD.model_copy(update={"compute": ComputeCost(origin="measured", macs_per_second=3 * SPEED)})
    ciphered = fast.model_copy(update={"ciphers": {"mtls": CipherTime(origin="measured", message=0.5, byte=1e-4)}})
    devices = {name: ClusterDevice(ciphered) for name in ("coordinator", "one")} | {"other": ClusterDevice(BOARD)}
    mixed = cloven.Cluster(devices, default=ClusterLink(WIRE))
    strategy, protection = cloven.Vertical(cuts=["1"]), Protection(links={"coordinator-one": "mtls"})
    workload, estimator = Workload.of(cloven.divide(model, strategy, 2)), Estimator(mixed)

    for order in (("one", "other"), ("other", "one")):
        plan = cloven.Plan(devices=order, strategy=strategy, protection=protection)
        cost = cloven.estimate(cloven.compile(model, plan), mixed)
        assert estimator.estimate(workload, order, protection).cost == cost


def test_a_workload_takes_as_many_devices_as_its_program(program: cloven.Program) -> None:
    with pytest.raises(cloven.ClovenError, match="the program has 2 devices; got 1"):
        Estimator(cluster()).estimate(Workload.of(program), ["edge0"])


def test_links_of_one_medium_send_one_after_another(model: cloven.Graph) -> None:
    program = cloven.divide(model, cloven.Horizontal(), devices=2)
    apart = cluster()
    together = replace(apart, default=ClusterLink(WIRE, medium="radio"))

    slower, faster = (cloven.estimate(program, each, window=256).throughput for each in (together, apart))

    assert slower is not None
    assert faster is not None
    traffic = cloven.estimate(program, apart).traffic
    assert slower == pytest.approx(BANDWIDTH / 8 / traffic, rel=0.1)  # it waits for the delay now and then
    assert slower < faster


@pytest.mark.parametrize(
    ("board", "wire", "sentence"),
    [
        (None, WIRE, "edge0 has no profile"),
        (BOARD, None, "the link edge0-edge1 has no profile"),
        (BOARD.model_copy(update={"messages": None}), WIRE, "the profile of board has no table [messages]"),
    ],
)
def test_what_is_missing_is_unknown_and_never_zero(
    board: DeviceProfile | None, wire: LinkProfile | None, sentence: str, program: cloven.Program
) -> None:
    cost = cloven.estimate(program, cluster(board, wire))

    assert cost.latency is cost.throughput is cost.energy is None
    assert any(sentence in line for line in cost.unknown)
    assert "latency unknown" in repr(cost)


@pytest.mark.parametrize(("repeats", "sentences"), [(True, 0), (False, 1)])
def test_a_throughput_that_is_a_mean_is_said(
    repeats: bool, sentences: int, program: cloven.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloven.cost.estimate.steady_rate", lambda *_: SteadyRate(2.0, 1500, repeats))

    cost = cloven.estimate(program, cluster())

    assert cost.throughput == 2.0
    assert sum("mean over 1,500 simulated images" in text for text in cost.assumptions) == sentences


def test_what_is_lost_on_a_link_is_said_to_be_left_out(program: cloven.Program) -> None:
    lossy = WIRE.model_copy(update={"transmission": WIRE.transmission.model_copy(update={"loss": 0.03})})
    cost = cloven.estimate(program, cluster(wire=lossy))

    assert cost.latency == cloven.estimate(program, cluster()).latency
    assert cost.assumptions == ("3 % of the packets of wire are lost: the time to send them again is left out",)


def test_numbers_that_were_not_measured_are_named(program: cloven.Program) -> None:
    compute = ComputeCost(origin="source", note="data sheet, table 3", macs_per_second=SPEED)

    cost = cloven.estimate(program, cluster(BOARD.model_copy(update={"compute": compute})))

    assert cost.assumptions == ("[compute] of board is taken from a source: data sheet, table 3",)


def test_bad_arguments_are_named_together(program: cloven.Program) -> None:
    with pytest.raises(cloven.ClovenError) as caught:
        cloven.estimate(program, cloven.Cluster({"edge0": ClusterDevice(BOARD)}), window=0)

    assert caught.value.problems == (
        "the cluster has no device edge1; it has edge0",
        "window must be between 1 and 256, got 0",
    )
