"""The network of a lab: one network namespace per party, and a link between every two parties that communicate.

Every party has a single address, on its loopback, and a host route to each of its peers through a separate
interface: a listener on an interface sees exactly one link. Parties without a link have no route to each other, and
none has a route to the outside.

    bandwidth   tbf, in the kernel, at both ends, like a network card of that speed: TCP adapts and loses nothing.
                After an idle period, up to 1 ms of the rate (at least four frames) leaves at once; a relay evens
                that out
    delay, loss netem if the kernel has it; else a pair of TAP devices joined by a process (see relay.py)

Nothing is written to disk and the namespaces have no names: everything ends with this process, see guards.py.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.partition.program import Link
from cloven.runtime.lab.guards import Process, ready, start_guard, start_relay, stop
from cloven.runtime.lab.host import check, has_netem, inside, run
from cloven.runtime.lab.relay import WAKING

LONGEST_NAME = 15
"""The longest interface name, in characters."""
MOST = 2**16 - 2
CHUNK = 0.25e-3
"""TCP may pass on packets of this many seconds of the rate, so that a few thousand per second carry any rate."""
FRAME, LARGEST = 1600, 65536
"""The smallest size of these packets, which fits a frame of 1514 bytes, and the largest."""
BURST = 4
"""Packets that may leave at once after an idle period; with fewer, late timers cost up to 10 % of the rate."""
BACKLOG = 4 * 2**20
"""The queue of a busy link, in bytes. One TCP connection keeps only about 2 ms of the rate in it."""


class LabLink(Document):
    """A link of a laboratory; interfaces and addresses are in the order of the parties, the delay is one way.

    ``loss`` is the share of packets that are lost in each direction.
    """

    link: tuple[str, str]
    interfaces: tuple[str, str]
    addresses: tuple[str, str]
    bandwidth_bits: int | None
    delay_ms: float
    loss: float = 0.0
    carrier: str


RELAYED = "tap + relay process"


@dataclass(frozen=True)
class LinkQuality:
    """The properties of a link.

    Attributes:
        bandwidth: bits per second in each direction, including Ethernet headers; None for no limit.
        delay: seconds, one way. Without netem, a delay that is shorter than a relay's own is not added.
        loss: the probability with which each packet is lost, in each direction; TCP sends it again.
    """

    bandwidth: int | None = None
    delay: float = 0.0
    loss: float = 0.0

    @property
    def carrier(self) -> str:
        """Return the implementation: "veth", "veth + tbf", "veth + netem" or "tap + relay process"."""
        if (self.delay > 0 or self.loss > 0) and has_netem():
            return "veth + netem"
        if self.delay > WAKING or self.loss > 0:
            return RELAYED
        return "veth" if self.bandwidth is None else "veth + tbf"

    @property
    def chunk(self) -> int:
        """Return the size of the largest packet that TCP passes on for segmentation, in bytes.

        On a link with losses, that is a single segment, since packets are lost whole.
        """
        if self.loss > 0:
            return FRAME
        return LARGEST if self.bandwidth is None else max(FRAME, min(LARGEST, int(self.bandwidth / 8 * CHUNK)))

    @property
    def discipline(self) -> str:
        """Return the queueing discipline of each end, in the syntax of tc(8)."""
        if self.carrier == "veth + netem":
            rate = f" rate {self.bandwidth}bit" if self.bandwidth else ""
            loss = f" loss {100 * self.loss:g}%" if self.loss else ""
            return f"netem delay {self.delay * 1e6:.0f}us{loss} limit 100000{rate}"
        if self.bandwidth is None:
            return "pfifo limit 10000"
        return f"tbf rate {self.bandwidth}bit burst {BURST * self.chunk} limit {BACKLOG}"


@dataclass(frozen=True)
class Party:
    """A party of the network: its addresses, the name of the interfaces that lead to it, the pid of its guard."""

    address: str
    hardware: str
    interface: str
    pid: int


@dataclass(frozen=True)
class Network:
    """A running network; see `network`."""

    parties: Mapping[str, Party]
    qualities: Mapping[Link, LinkQuality]
    started: list[subprocess.Popen[Any]] = field(default_factory=list, repr=False)

    def address(self, party: str) -> str:
        """Return the party's only address, such as 10.77.0.1."""
        return self._party(party).address

    def interface(self, of: str, to: str) -> str:
        """Return the name, in the namespace of one party, of the interface that leads to the other.

        Raises:
            ClovenError: if the two have no link.
        """
        self.quality(of, to)
        return self.parties[to].interface

    def quality(self, one: str, other: str) -> LinkQuality:
        """Return the properties of the link between two parties.

        Raises:
            ClovenError: if the two have no link.
        """
        found = self.qualities.get((one, other)) or self.qualities.get((other, one))
        if found is None:
            links = ", ".join("-".join(pair) for pair in self.qualities) or "none"
            raise ClovenError(f"there is no link {one}-{other} in the lab; its links are: {links}")
        return found

    def command(self, party: str, argv: Sequence[str]) -> list[str]:
        """Return a command that runs another one in a party's namespace."""
        return inside(self._party(party).pid, argv)

    def popen(self, party: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process in a party's namespace; the options are those of `subprocess.Popen`.

        The process and all its children are killed when the network ends, at the latest. Ctrl-C in a terminal does
        not reach them, unless ``start_new_session=False``.
        """
        options.setdefault("start_new_session", True)
        self.started.append(subprocess.Popen(self.command(party, argv), **options))  # noqa: S603 (the caller's)
        return self.started[-1]

    def links(self) -> tuple[LabLink, ...]:
        """Return the description of each link."""
        found = []
        for pair, quality in self.qualities.items():
            a, b = (self.parties[name] for name in pair)
            link = LabLink(
                link=pair,
                interfaces=(b.interface, a.interface),
                addresses=(a.address, b.address),
                bandwidth_bits=quality.bandwidth,
                delay_ms=quality.delay * 1e3,
                loss=quality.loss,
                carrier=quality.carrier,
            )
            found.append(link)
        return tuple(found)

    def _party(self, name: str) -> Party:
        if name not in self.parties:
            raise ClovenError(f"{name!r} is not a party of the lab; they are: {', '.join(self.parties)}")
        return self.parties[name]


@contextmanager
def network(parties: Sequence[str], links: Mapping[Link, LinkQuality]) -> Iterator[Network]:
    """Create a network, and remove it at the end, even if this process is killed.

    Args:
        parties: their names, without duplicates.
        links: the properties of each link, by its two parties in either order, without duplicates.

    Raises:
        ClovenError: lists every wrong name or pair, else every requirement that the machine does not meet.
    """
    _check_names(parties, list(links))
    check(rate=any(q.bandwidth for q in links.values()), relay=any(q.delay or q.loss for q in links.values()))
    guards: list[Process] = []
    relays: list[Process] = []
    started: list[subprocess.Popen[Any]] = []
    try:
        guards += (start_guard() for _ in parties)
        for guard in guards:
            ready(guard)
        places = _places(parties, [guard.pid for guard in guards])
        made = Network(places, links, started)
        for (a, b), quality in links.items():
            if quality.carrier == RELAYED:
                relays.append(_relay(places[a], places[b], quality))
        for relay in relays:
            ready(relay)
        _join(made)
        for name in parties:
            _configure(made, name)
        yield made
    finally:
        stop(guards, [*relays, *started])


def interfaces(parties: Sequence[str]) -> list[str]:
    """Return unique names, of at most 15 characters, for the interfaces that lead to these parties."""
    names: list[str] = []
    for i, party in enumerate(parties):
        name = "to-" + re.sub(r"[^A-Za-z0-9_.-]", "-", party)
        short = name[:LONGEST_NAME]
        names.append(name[: LONGEST_NAME - len(f"~{i}")] + f"~{i}" if name != short or short in names else short)
    return names


def _check_names(parties: Sequence[str], pairs: Sequence[Link]) -> None:
    problems: list[str] = []
    if len(set(parties)) < len(parties) or len(parties) > MOST:
        problems.append(f"the parties are {', '.join(parties)}; expected different names, at most {MOST}")
    links = [frozenset(pair) for pair in pairs]
    if len(set(links)) < len(links) or any(len(link) < 2 for link in links):
        problems.append(f"the pairs are {', '.join(map('-'.join, pairs))}; expected different pairs of two parties")
    unknown = sorted(set(chain.from_iterable(pairs)) - set(parties))
    if unknown:
        problems.append(f"the pairs name {', '.join(unknown)}; the parties are {', '.join(parties)}")
    if problems:
        raise ClovenError(problems)


def _places(parties: Sequence[str], pids: Sequence[int]) -> dict[str, Party]:
    numbers = [divmod(i, 256) for i in range(1, len(parties) + 1)]
    return {
        name: Party(f"10.77.{high}.{low}", f"02:4d:00:00:{high:02x}:{low:02x}", interface, pid)
        for name, interface, pid, (high, low) in zip(parties, interfaces(parties), pids, numbers, strict=True)
    }


def _relay(a: Party, b: Party, quality: LinkQuality) -> Process:
    """Start a relay, which creates both devices in its own namespace; `_join` moves the far one."""
    return start_relay(a.pid, b.interface, _far(b), quality.delay, quality.bandwidth, quality.loss)


def _far(b: Party) -> str:
    """Return the temporary name of a device before it moves to a party's namespace."""
    return b.interface.replace("to-", "at-", 1)


def _join(made: Network) -> None:
    """Put a device in each of the two namespaces of each pair."""
    for pair, quality in made.qualities.items():
        a, b = (made.parties[name] for name in pair)
        if quality.carrier == RELAYED:
            run(inside(a.pid, ["ip", "link", "set", _far(b), "netns", str(b.pid), "name", a.interface]))
        else:
            ends = f"{b.interface} netns {a.pid} type veth peer name {a.interface} netns {b.pid}"
            run(["ip", "link", "add", *ends.split()])


def _configure(made: Network, name: str) -> None:
    """Set the addresses, routes and queues of one party. Neighbours are static, which keeps ARP off the links."""
    mine = made.parties[name]
    pairs = [pair for pair in made.qualities if name in pair]
    peers = [(made.parties[a if b == name else b], made.qualities[a, b]) for a, b in pairs]
    lines = ["link set lo up", f"addr add {mine.address}/32 dev lo"]
    for peer, quality in peers:
        lines += [
            f"link set {peer.interface} address {mine.hardware} gso_max_size {quality.chunk} txqueuelen 4096",
            f"link set {peer.interface} up",
            f"route add {peer.address}/32 dev {peer.interface} src {mine.address}",
            f"neigh add {peer.address} lladdr {peer.hardware} dev {peer.interface} nud permanent",
        ]
    run(inside(mine.pid, ["ip", "-batch", "-"]), lines)
    run(inside(mine.pid, ["tc", "-batch", "-"]), [_discipline(peer, quality.discipline) for peer, quality in peers])


def _discipline(peer: Party, words: str) -> str:
    return f"qdisc replace dev {peer.interface} root {words}"
