from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import pytest

from cloven.errors import ClovenError
from cloven.partition.program import Link
from cloven.runtime.lab import network as module
from cloven.runtime.lab.host import has_netem, inside
from cloven.runtime.lab.network import LabLink, LinkQuality, Network, interfaces, network
from tests.runtime.lab.programs import (
    ASK,
    LISTEN,
    PYTHON,
    SERVE,
    ask,
    in_namespaces,
    quickest,
    root,
    running,
    set_link,
)

PARTIES = ["coordinator", "edge0", "edge1"]
PAIRS = [("coordinator", "edge0"), ("edge0", "edge1")]
MBIT = 10**6


def links(pairs: Sequence[Link], bandwidth: int | None = None, delay: float = 0.0) -> dict[Link, LinkQuality]:
    """Return the same properties for all pairs."""
    return dict.fromkeys(pairs, LinkQuality(bandwidth, delay))


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """A chain of three parties without limits: coordinator and edge1 have no link."""
    with network(PARTIES, links(PAIRS)) as made:
        yield made


@pytest.fixture(params=["relay", "netem"])
def delayed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two implementations of a delay, by its name in `LabLink`."""
    if request.param == "netem" and not has_netem():
        pytest.skip("this kernel has no netem")
    monkeypatch.setattr(module, "has_netem", lambda: request.param == "netem")
    return "veth + netem" if request.param == "netem" else "tap + relay process"


def namespaces(net: Network) -> set[int]:
    return {Path(f"/proc/{party.pid}/ns/net").stat().st_ino for party in net.parties.values()}


@root
def test_two_parties_talk_over_their_link(net: Network) -> None:
    with running(net, "edge1", SERVE, net.address("edge1")):
        assert len(ask(net, "edge0", "edge1", 100_000, 3)) == 3


@root
def test_a_party_has_one_address_whoever_it_talks_to(net: Network) -> None:
    assert [net.address(party) for party in PARTIES] == ["10.77.0.1", "10.77.0.2", "10.77.0.3"]
    with running(net, "edge0", SERVE, net.address("edge0")):
        for peer in ("coordinator", "edge1"):
            ask(net, peer, "edge0", 10, 1)


@root
@pytest.mark.parametrize("delay", [0.0, 1e-3])
def test_every_two_of_four_can_talk(delay: float) -> None:
    parties = ["coordinator", "edge0", "edge1", "edge2"]
    with network(parties, links(list(combinations(parties, 2)), bandwidth=100 * MBIT, delay=delay)) as net:
        for a, b in combinations(parties, 2):
            with running(net, b, SERVE, net.address(b)):
                ask(net, a, b, 1000, 1)


@root
def test_parties_without_a_pair_have_no_route(net: Network) -> None:
    with running(net, "edge1", SERVE, net.address("edge1")):
        argv = net.command("coordinator", [*PYTHON, ASK, net.address("edge1"), "1", "1"])
        done = subprocess.run(argv, capture_output=True, text=True)

    assert "Network is unreachable" in done.stderr


@root
def test_a_listener_on_an_interface_sees_one_link_and_no_noise(net: Network) -> None:
    with (
        running(net, "edge1", SERVE, net.address("edge1")),
        running(net, "coordinator", SERVE, net.address("coordinator")),
        running(net, "edge0", LISTEN, net.interface("edge0", "edge1")) as listener,
    ):
        ask(net, "edge0", "coordinator", 5000, 2)
        ask(net, "edge0", "edge1", 5000, 2)
        seen, _ = listener.communicate("x")

    frames = {tuple(line.split()) for line in seen.splitlines()}
    assert frames == {("0800", "10.77.0.2", "10.77.0.3"), ("0800", "10.77.0.3", "10.77.0.2")}


@root
def test_the_lab_leaves_the_machines_own_network_alone() -> None:
    before = subprocess.run(["ip", "addr"], capture_output=True, check=True).stdout
    with network(["a", "b"], links([("a", "b")], bandwidth=10 * MBIT, delay=1e-3)):
        assert subprocess.run(["ip", "addr"], capture_output=True, check=True).stdout == before


@root
@pytest.mark.parametrize("rate", [50 * MBIT, 200 * MBIT])
@pytest.mark.parametrize("delay", [0.0, 2e-3])
def test_a_long_transfer_takes_what_the_bandwidth_says(rate: int, delay: float) -> None:
    with (
        network(["a", "b"], links([("a", "b")], bandwidth=rate, delay=delay)) as net,
        running(net, "b", SERVE, net.address("b")),
    ):
        seconds = quickest(net, "a", "b", rate // 8 // 3, enough=1 / 3 / 0.9)

    assert 0.9 * rate <= rate / 3 / seconds <= rate


@root
def test_both_directions_carry_the_bandwidth_at_once() -> None:
    rate = 100 * MBIT
    with (
        network(["a", "b"], links([("a", "b")], bandwidth=rate, delay=1e-3)) as net,
        running(net, "a", SERVE, net.address("a")),
        running(net, "b", SERVE, net.address("b")),
    ):
        words = [*PYTHON, ASK, net.address("b"), str(rate // 8 // 3), "9"]
        other = net.popen("a", words, stdout=subprocess.PIPE, text=True)
        mine = ask(net, "b", "a", rate // 8 // 3, 9)[0]
        theirs = min(map(float, other.communicate()[0].split()))

    assert all(0.8 * rate <= rate / 3 / seconds <= rate for seconds in (mine, theirs))


@root
@pytest.mark.parametrize("delay", [1e-3, 5e-3])
def test_a_round_trip_takes_twice_the_delay(delayed: str, delay: float) -> None:
    with network(["a", "b"], links([("a", "b")], delay=delay)) as net:
        assert net.links()[0].carrier == delayed
        with running(net, "b", SERVE, net.address("b")):
            seconds = ask(net, "a", "b", 10, 60)

    # The two clocks of a virtual machine may differ by 0.1 ms at times: the lower bound holds for most round trips.
    assert statistics.median(seconds) - 2 * delay >= -0.1e-3
    assert seconds[0] - 2 * delay <= 0.5e-3


@root
def test_a_message_takes_its_bits_and_the_delay(delayed: str) -> None:
    """A few kilobytes after an idle period take the line's time: tbf's burst does not shorten it."""
    with (
        network(["a", "b"], links([("a", "b")], bandwidth=10 * MBIT, delay=5e-3)) as net,
        running(net, "b", SERVE, net.address("b")),
    ):
        seconds = ask(net, "a", "b", 5 * 1448 - 8, 30)[0]

    wire = (5 * 1514 + 67) * 8 / (10 * MBIT)
    assert -0.5e-3 <= seconds - wire - 2 * 5e-3 <= 1e-3


ECHO = """
import socket, sys
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind((sys.argv[1], 7002))
print("ready", flush=True)
came = 0
while (message := here.recvfrom(9))[0] != b"end":
    came += 1
    here.sendto(*message)
print(came, flush=True)
"""
"""Answers datagrams; prints how many came before one that says "end"."""

COUNT = """
import socket, sys
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer.settimeout(0.05)
came = 0
for _ in range(100):
    for _ in range(20):
        peer.sendto(b"there", (sys.argv[1], 7002))
    try:
        while peer.recv(9):
            came += 1
    except TimeoutError:
        pass
for _ in range(20):
    peer.sendto(b"end", (sys.argv[1], 7002))
print(came)
"""
"""Sends 2,000 datagrams; prints how many were answered."""


@root
def test_a_link_loses_packets_in_both_directions(delayed: str) -> None:
    pair = ("edge0", "edge1")
    with network(PARTIES, {pair: LinkQuality(100 * MBIT, loss=0.1)}) as net:
        with running(net, "edge1", ECHO, net.address("edge1")) as echo:
            argv = net.command("edge0", [*PYTHON, COUNT, net.address("edge1")])
            answered = int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
            assert echo.stdout
            came = int(echo.stdout.readline())
        with running(net, "edge1", SERVE, net.address("edge1")):
            assert len(ask(net, "edge0", "edge1", 100_000, 2)) == 2  # TCP sends again what is lost
        (row,) = net.links()

    assert abs(came - 0.9 * 2000) < 4.5 * (2000 * 0.1 * 0.9) ** 0.5
    assert abs(answered - 0.9 * came) < 4.5 * (came * 0.1 * 0.9) ** 0.5
    assert (row.loss, row.carrier) == (0.1, delayed)


@root
@pytest.mark.parametrize("delay", [0.0, 1e-3])
def test_a_cut_link_is_silent_and_tcp_survives_it(delay: float) -> None:
    with (
        network(PARTIES, links(PAIRS, bandwidth=100 * MBIT, delay=delay)) as net,
        running(net, "edge1", SERVE, net.address("edge1")),
        running(net, "coordinator", SERVE, net.address("coordinator")),
    ):
        words = [*PYTHON, ASK, net.address("edge1"), "10", "200"]
        asking = net.popen("edge0", words, stdout=subprocess.PIPE, text=True)
        assert asking.stdout
        asking.stdout.readline()
        set_link(net, "edge1", "edge0", up=False)
        time.sleep(0.5)
        ask(net, "edge0", "coordinator", 10, 1)
        set_link(net, "edge0", "edge1", up=True)
        seconds = sorted(map(float, asking.stdout.read().split()))
        assert asking.wait() == 0

    assert len(seconds) == 199
    assert seconds[-1] > 0.45
    assert seconds[-2] < 0.1


@root
def test_the_end_of_the_network_ends_what_runs_in_it() -> None:
    with network(["a", "b"], links([("a", "b")], delay=1e-3)) as net:
        process = net.popen("a", ["sh", "-c", "sleep 1000 & sleep 1000 & echo up; wait"], stdout=subprocess.PIPE)
        inodes = namespaces(net)
        assert process.stdout
        process.stdout.readline()
        assert len(in_namespaces(inodes)) == 6  # two guards, a relay, the shell and its two

    assert in_namespaces(inodes) == []
    assert process.returncode == -signal.SIGKILL


HOLD = """
import os, subprocess, time
from cloven.runtime.lab.network import LinkQuality, network
with network(["a", "b", "c"], dict.fromkeys([("a", "b"), ("b", "c")], LinkQuality(10**7, DELAY))) as net:
    command = net.popen("c", ["sh", "-c", "echo up; sleep 1000 & sleep 1000"], stdout=subprocess.PIPE)
    command.stdout.readline()
    print(*(os.stat(f"/proc/{p.pid}/ns/net").st_ino for p in net.parties.values()), flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def host() -> Iterator[list[str]]:
    """The command prefix for a host whose interfaces nothing else changes."""
    alone = ["unshare", "--net", "sh", "-c", "echo up; exec sleep 1000"]
    with subprocess.Popen(alone, stdout=subprocess.PIPE) as namespace:
        assert namespace.stdout
        namespace.stdout.readline()
        yield inside(namespace.pid, [])
        namespace.kill()


@root
@pytest.mark.parametrize("delay", ["0.0", "0.001"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_a_lab_that_is_killed(host: list[str], end: signal.Signals, delay: str) -> None:
    before = subprocess.run([*host, "ip", "link"], capture_output=True, check=True).stdout
    program = [*host, sys.executable, "-c", HOLD.replace("DELAY", delay)]
    with subprocess.Popen(program, stdout=-1, stderr=subprocess.DEVNULL, text=True) as lab:
        assert lab.stdout
        inodes = set(map(int, lab.stdout.readline().split()))
        held = in_namespaces(inodes)
        lab.send_signal(end)

    assert len(inodes) == 3
    assert len(held) >= 4  # the guards and the command at least
    limit = time.monotonic() + 2
    while in_namespaces(inodes) and time.monotonic() < limit:
        time.sleep(0.01)
    assert in_namespaces(inodes) == []
    assert subprocess.run([*host, "ip", "link"], capture_output=True, check=True).stdout == before


@root
def test_a_failure_on_the_way_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    def fail(made: Network, name: str) -> None:
        pids.extend(party.pid for party in made.parties.values())
        raise ClovenError("no")

    monkeypatch.setattr(module, "_configure", fail)
    with pytest.raises(ClovenError, match="no"), network(["a", "b"], links([("a", "b")], delay=1e-3)):
        pass

    assert pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@root
def test_rows_say_what_carries_each_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_netem", lambda: False)
    with network(PARTIES, links(PAIRS, bandwidth=100 * MBIT, delay=2e-3)) as net:
        rows = net.links()

    assert rows[1] == LabLink(
        link=("edge0", "edge1"),
        interfaces=("to-edge1", "to-edge0"),
        addresses=("10.77.0.2", "10.77.0.3"),
        bandwidth_bits=100 * MBIT,
        delay_ms=2.0,
        loss=0.0,
        carrier="tap + relay process",
    )
    assert [row.link for row in rows] == list(PAIRS)


@root
def test_each_link_has_its_own_bandwidth_and_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over one party, some links are delayed and others are not; both carry messages."""
    monkeypatch.setattr(module, "has_netem", lambda: False)
    parties, slow, late = ["a", "b", "c"], LinkQuality(10 * MBIT), LinkQuality(None, 5e-3)
    with network(parties, {("a", "b"): slow, ("b", "c"): late, ("a", "c"): LinkQuality(None, 20e-6)}) as net:
        assert [(row.bandwidth_bits, row.delay_ms, row.carrier) for row in net.links()] == [
            (10 * MBIT, 0.0, "veth + tbf"),
            (None, 5.0, "tap + relay process"),
            (None, 0.02, "veth"),  # shorter than what a relay itself takes
        ]
        with running(net, "b", SERVE, net.address("b")), running(net, "c", SERVE, net.address("c")):
            assert ask(net, "a", "b", 125_000, 1)[0] > 0.08
            assert ask(net, "b", "c", 10, 1)[0] > 9.8e-3
            ask(net, "a", "c", 10, 1)


@root
def test_unknown_names_are_answered_with_the_known_ones(net: Network) -> None:
    with pytest.raises(ClovenError, match="'edge7' is not a party of the lab; they are: coordinator, edge0, edge1"):
        net.address("edge7")
    with pytest.raises(
        ClovenError, match=r"no link coordinator-edge1 .* links are: coordinator-edge0, edge0-edge1"
    ):
        net.interface("coordinator", "edge1")


def test_wrong_names_and_pairs_are_reported_at_once() -> None:
    pairs = [("a", "b"), ("b", "a"), ("a", "c")]

    with pytest.raises(ClovenError) as refused, network(["a", "b", "b"], links(pairs)):
        pass

    assert refused.value.problems == (
        "the parties are a, b, b; expected different names, at most 65534",
        "the pairs are a-b, b-a, a-c; expected different pairs of two parties",
        "the pairs name c; the parties are a, b, b",
    )


def test_interfaces_are_short_readable_and_different() -> None:
    parties = [
        "edge0",
        "a-long-name-of-a-device-1",
        "a-long-name-of-a-device-2",
        "exactly12345",
        "a b",
        "a/b",
        "é:",
    ]

    names = interfaces(parties)

    assert names == [
        "to-edge0",
        "to-a-long-nam~1",
        "to-a-long-nam~2",
        "to-exactly12345",
        "to-a-b",
        "to-a-b~5",
        "to---",
    ]


def test_the_kernels_own_delay_gets_the_bandwidth_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_netem", lambda: True)

    assert LinkQuality(10**8, 1.5e-3).discipline == "netem delay 1500us limit 100000 rate 100000000bit"
    assert LinkQuality(None, 2e-3).discipline == "netem delay 2000us limit 100000"
    assert LinkQuality(None, 2e-3, 0.01).discipline == "netem delay 2000us loss 1% limit 100000"
