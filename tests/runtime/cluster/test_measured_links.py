"""Links between running workers are measured if all are free, and only for parties of the plan."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from pydantic import ValidationError

from cloven.cost.cluster import Cluster, ClusterDevice
from cloven.errors import ClovenError
from cloven.runtime.cluster import link_echo
from cloven.runtime.cluster.channels import ECHO
from cloven.runtime.cluster.protocol import VERSION, LinkMeasurement, MeasureRequest, TransferTimes
from cloven.runtime.cluster.worker_client import measure
from cloven.runtime.link.identity import read
from cloven.runtime.link_profile import LinkMeasurements, measured, measured_link
from tests.runtime.cluster.machines import Machine, cluster, coordinator, machines, send, with_keys, within
from tests.runtime.cluster.plans import accounted, bundled, images, keys, plan_of

PLAIN = bundled("lenet5", "pair")
MUTUAL = bundled("lenet5", "pair", "mtls")
PAIRS = [("coordinator", "edge0"), ("coordinator", "edge1"), ("edge0", "edge1")]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    with machines(PLAIN, tmp_path_factory.mktemp("workers")) as made:
        yield made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator's own measurements take less time."""
    monkeypatch.setattr(link_echo, "ROUNDS", 5)
    monkeypatch.setattr(link_echo, "REPETITIONS", 1)


def silent(*_: object) -> None:
    """Report no progress."""


def of(made: dict[str, Machine]) -> Cluster:
    return Cluster({name: ClusterDevice(address=machine.address) for name, machine in made.items()})


# --- the measurement --------------------------------------------------------------------------------------------


def sane(found: LinkMeasurements) -> None:
    """Check the figures of links inside a machine."""
    assert found.failed == ()
    assert [link.link for link in found.measured] == PAIRS
    for link in found.measured:
        costs = link.profile.transmission
        assert costs.origin == "measured"
        assert costs.bandwidth == pytest.approx(min(link.forth, link.back), rel=1e-3)
        assert 1e6 < costs.bandwidth < 1e12
        assert 0 <= costs.delay <= link.round_trip / 2 < 1


def test_every_pair_is_measured(workers: dict[str, Machine], quick: None) -> None:
    found = measured(of(workers), silent)

    sane(found)
    assert "no TLS" in found.measured[0].profile.transmission.note


def test_with_keys_it_is_measured_over_mutual_tls(tmp_path: Path, quick: None) -> None:
    with machines(MUTUAL, tmp_path, with_keys(keys())) as made:
        found = measured(Cluster.load(cluster(tmp_path, made, keys())), silent)

        sane(found)
        assert "mTLS" in found.measured[2].profile.transmission.note
        assert not accounted(send(MUTUAL, tmp_path / "cluster.toml", images("lenet5", 4)))


def test_the_costs_follow_from_the_times() -> None:
    """16 KiB take 1.6384 ms on a link of 80 Mbit/s."""
    times = LinkMeasurement(
        round_trip=0.0045,
        processor=0.0005,
        payload=2**14,
        loaded_trip=0.0045 + 0.0016384 + 0.0002,
        forth=TransferTimes(bytes=10**6, seconds=0.1045, quarter_seconds=0.0295),
        back=TransferTimes(bytes=10**6, seconds=0.0545, quarter_seconds=0.0170),
    )
    found = measured_link(("a", "b"), times, tls=False)
    costs = found.profile.transmission

    assert (found.forth, found.back) == pytest.approx((80e6, 160e6))
    assert (costs.bandwidth, costs.delay, costs.message) == pytest.approx((80e6, 0.002, 0.0002))


def test_times_without_a_bandwidth_are_an_error() -> None:
    same = TransferTimes(bytes=10**6, seconds=0.1, quarter_seconds=0.1)
    times = LinkMeasurement(round_trip=0.1, processor=0, payload=1, loaded_trip=0.1, forth=same, back=same)

    with pytest.raises(ClovenError, match="its times vary too much; measure again"):
        measured_link(("a", "b"), times, tls=False)


# --- refusals ---------------------------------------------------------------------------------------------------


def test_every_worker_that_cannot_be_used_is_named(workers: dict[str, Machine]) -> None:
    wrong = {
        "edge0": ClusterDevice(address="127.0.0.1:1"),
        "edge1": ClusterDevice(address=workers["edge0"].address),
        "edge2": ClusterDevice(),
    }
    with pytest.raises(ClovenError) as caught:
        measured(Cluster(wrong), silent)

    first, second = caught.value.problems
    assert first.startswith("edge0: cannot be reached (127.0.0.1:1)")
    assert "is the worker of edge0; expected edge1" in second


def test_addresses_are_required() -> None:
    with pytest.raises(ClovenError, match=r'no device has an address: add lines such as edge0 = "HOST:PORT"'):
        measured(Cluster({"edge0": ClusterDevice()}), silent)


def test_nothing_is_measured_during_a_run(workers: dict[str, Machine], tmp_path: Path) -> None:
    """Neither by the command, nor by a worker that is asked directly, nor by its other end."""
    edge0, edge1 = workers["edge0"], workers["edge1"]
    asked = MeasureRequest(cloven=VERSION, party="edge1", address=edge1.address)

    async def run() -> list[str]:
        said: list[str] = []
        async with coordinator(plan_of(PLAIN), cluster(tmp_path, workers)):
            for attempt in (
                asyncio.to_thread(measured, of(workers), silent),
                measure("edge0", edge0.address, None, asked),
                link_echo.measured(("coordinator", "edge1"), edge1.address, None, lambda: None),
            ):
                with pytest.raises(ClovenError) as caught:
                    await attempt
                said += caught.value.problems
        return said

    said = within(60, run())
    assert len(said) == 4
    assert all("busy with run" in problem for problem in said)


def test_a_run_ends_a_measurement(workers: dict[str, Machine], tmp_path: Path) -> None:
    asked = MeasureRequest(cloven=VERSION, party="edge1", address=workers["edge1"].address)

    async def run() -> str:
        measuring = asyncio.create_task(measure("edge0", workers["edge0"].address, None, asked))
        await asyncio.sleep(0.05)
        async with coordinator(plan_of(PLAIN), cluster(tmp_path, workers)):
            with pytest.raises(ClovenError) as caught:
                await measuring
        return str(caught.value)

    assert "is busy with run" in within(60, run())
    assert not accounted(send(PLAIN, cluster(tmp_path, workers), images("lenet5", 4)))


def test_one_measurement_at_a_time(workers: dict[str, Machine]) -> None:
    address = workers["edge1"].address

    async def run() -> Any:
        both = (link_echo.measured(("coordinator", "edge1"), address, None, lambda: None) for _ in range(2))
        return await asyncio.gather(*both, return_exceptions=True)

    found = within(60, run())
    assert sorted(type(one).__name__ for one in found) == ["LinkMeasurement", "PartyError"]
    assert any("edge1 is measuring another link" in str(one) for one in found)


def test_a_party_outside_the_plan_is_refused(workers: dict[str, Machine]) -> None:
    address = workers["edge0"].address
    request = MeasureRequest(cloven=VERSION, party="edge9", address="192.0.2.1:7001")

    for asked in (
        link_echo.measured(("edge9", "edge0"), address, None, lambda: None),
        measure("edge0", address, None, request),
    ):
        with pytest.raises(ClovenError, match="in this plan, edge9 does not measure a link with edge0"):
            within(20, asked)


def test_an_address_must_be_a_host_and_a_port() -> None:
    with pytest.raises(ValidationError, match="expected HOST:PORT"):
        MeasureRequest(cloven=VERSION, party="edge1", address="unix:/run/some.sock")


def told(machine: Machine, messages: list[bytes]) -> str:
    """Return the reason why a worker refuses the messages of an exchange."""

    async def run() -> str:
        async with grpc.aio.insecure_channel(machine.address) as to:
            call: Any = to.stream_stream(ECHO)()
            for message in messages:
                await call.write(message)
            while True:
                message = await call.read()
                if b"refused" in message:
                    return str(json.loads(message)["refused"])

    return within(20, run())


def request(up: int, down: int) -> bytes:
    return json.dumps({"cloven": VERSION, "from": "edge1", "to": "edge0", "up": up, "down": down}).encode()


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([b"{}"], "malformed message from the dialer: cloven: Field required"),
        ([request(2**22 + 1, 0)], "up: Input should be less than or equal to 4194304"),
        ([request(0, -1)], "down: Input should be greater than or equal to 0"),
        ([request(100, 0), bytes(101)], "the dialer sent 101 bytes of an exchange; expected 100"),
        ([request(100, 0), b""], "the dialer sent 0 bytes of an exchange; expected 100"),
        ([request(0, 0), b"\0"], "malformed message from the dialer: the message is not valid JSON"),
    ],
)
def test_a_wrong_exchange_is_refused(workers: dict[str, Machine], messages: list[bytes], reason: str) -> None:
    assert reason in told(workers["edge0"], messages)


def test_a_coordinator_with_keys_is_required(tmp_path: Path) -> None:
    """A device cannot make another one measure, and cannot pretend to be the coordinator."""
    with machines(MUTUAL, tmp_path, with_keys(keys())) as made:
        address, device = made["edge1"].address, read(keys() / "edge0")
        asked = MeasureRequest(cloven=VERSION, party="edge0", address=made["edge0"].address)

        with pytest.raises(ClovenError, match="the certificate is of edge0; expected coordinator"):
            within(20, measure("edge1", address, device, asked))
        with pytest.raises(ClovenError, match="the certificate is of edge0; expected coordinator"):
            within(20, link_echo.measured(("coordinator", "edge1"), address, device, lambda: None))
