"""Decode packets to TCP segments: IPv4 and IPv6 over Ethernet, cooked, raw and loopback links.

VLAN tags, MPLS labels and PPPoE before IP are skipped. Tunnelled packets (VXLAN, GRE, IP in IP, ...) are not
decoded but counted by the tunnel's name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import NamedTuple

from cloven.errors import ClovenError
from cloven.runtime.tap.captures import Packet, Tally, packets

FIN, SYN, ACK = 0x01, 0x02, 0x10
"""TCP flags."""
IP_TCP, IP_UDP = 6, 17
"""IP protocol numbers."""
IPV4 = struct.Struct(">BxHxxHxB")
IPV6 = struct.Struct(">4xHB")
TCP = struct.Struct(">4xI4xBB")
SIZED = {0, 43, 60}
"""IPv6 headers that may precede TCP and give their length in units of 8 bytes; 51 uses units of 4."""
AUTHENTICATION = 51
FRAGMENT = 44
TUNNELS = {4: "IP in IP", 41: "IPv6 in IP", 47: "GRE", 50: "ESP", 115: "L2TP", 137: "MPLS in IP"}
"""IP protocols of tunnels."""
UDP_TUNNELS = {4789: "VXLAN", 8472: "VXLAN", 6081: "Geneve", 2152: "GTP", 6635: "MPLS in UDP", 4500: "ESP"}
"""UDP ports of tunnels."""


class TcpSegment(NamedTuple):
    """The TCP segment of one packet.

    Attributes:
        flow: source, target and their ports, as in the packet: 12 bytes for IPv4, 36 for IPv6.
        sequence: the TCP sequence number of the first byte.
        flags: the TCP flags.
        data: the content; incomplete if the packet was recorded in part.
    """

    flow: bytes
    sequence: int
    flags: int
    data: memoryview


def segments(path: Path, tally: Tally, only: Container[bytes] | None = None) -> Iterator[TcpSegment]:
    """Yield the TCP segments of a capture in the order recorded; other packets are counted.

    Args:
        path: a pcap or pcapng file.
        tally: updated with the counts.
        only: the flows to select; all by default.

    Raises:
        ClovenError: if the file cannot be read, is not a capture, or contains only packets of unknown link types.
    """
    for packet in packets(path, tally):
        found = segment(packet, tally)
        if found is not None and (only is None or found.flow in only):
            yield found
    if tally.unknown and tally.unknown.total() == tally.packets:
        known = ", ".join(map(str, LINKS))
        raise ClovenError(f"{path}: all packets have link types {sorted(tally.unknown)}; expected {known}")


def segment(packet: Packet, tally: Tally) -> TcpSegment | None:
    """Return the TCP segment of a packet; None if there is none, in which case the reason is counted."""
    start = LINKS.get(packet.link)
    if start is None:
        tally.unknown[packet.link] += 1
        return None
    content = packet.content
    try:
        at = start(content)
        version = content[at] >> 4 if at >= 0 else 0
        if version == 4:
            return _ipv4(packet, at, tally)
        if version == 6:
            return _ipv6(packet, at, tally)
    except (IndexError, struct.error):
        # The packet ends within its headers.
        if len(content) < packet.size:
            tally.truncated += 1
            return None
    tally.other += 1
    return None


def _ipv4(packet: Packet, at: int, tally: Tally) -> TcpSegment | None:
    first, total, fragment, protocol = IPV4.unpack_from(packet.content, at)
    if protocol != IP_TCP:
        _other(packet.content, protocol, at + (first & 15) * 4, tally)
        return None
    if fragment & 0x3FFF:
        tally.fragments += 1
        return None
    # A packet of more than 64 KB, merged by the network card, does not give its length.
    end = at + total if total else packet.size
    return _tcp(packet.content, at + 12, at + 20, at + (first & 15) * 4, end, tally)


def _ipv6(packet: Packet, at: int, tally: Tally) -> TcpSegment | None:
    content = packet.content
    total, kind = IPV6.unpack_from(content, at)
    end = at + 40 + total if total else packet.size
    inner = at + 40
    while kind != IP_TCP:
        if kind in SIZED:
            size = 8 * (content[inner + 1] + 1)
        elif kind == AUTHENTICATION:
            size = 4 * (content[inner + 1] + 2)
        elif kind == FRAGMENT and not (content[inner + 2] | content[inner + 3] & 0xF9):
            size = 8
        elif kind == FRAGMENT:
            tally.fragments += 1
            return None
        else:
            _other(content, kind, inner, tally)
            return None
        kind, inner = content[inner], inner + size
    return _tcp(content, at + 8, at + 40, inner, end, tally)


def _other(content: bytes, protocol: int, at: int, tally: Tally) -> None:
    """Count a packet of another protocol than TCP; its content begins at offset ``at``."""
    port = int.from_bytes(content[at + 2 : at + 4]) if protocol == IP_UDP else None
    name = UDP_TUNNELS.get(port) if port is not None else TUNNELS.get(protocol)
    if name is None:
        tally.other += 1
    else:
        tally.tunnels[name] += 1


def _tcp(content: bytes, first: int, last: int, at: int, end: int, tally: Tally) -> TcpSegment:
    """Return the segment at offset ``at`` of a packet that ends at ``end``; addresses are at ``first:last``."""
    sequence, size, flags = TCP.unpack_from(content, at)
    tally.truncated += end > len(content)
    data = memoryview(content)[at + (size >> 4) * 4 : end]
    return TcpSegment(content[first:last] + content[at : at + 4], sequence, flags, data)


def _typed(kind: int, start: int) -> Callable[[bytes], int]:
    """Return a function that finds IP on a link with EtherTypes at offset `kind` and content from `start`."""

    def find(content: bytes) -> int:
        carried, at = content[kind : kind + 2], start
        while carried in TAGS:
            carried, at = content[at + 2 : at + 4], at + 4
        if carried in LABELS:
            # One bit marks the last label of a stack.
            while not content[at + 2] & 1:
                at += 4
            return at + 4
        if carried == PPPOE:
            return at + 8 if content[at + 6 : at + 8] in PPP_CARRIED else -1
        return at if carried in CARRIED else -1

    return find


def _bare(start: int) -> Callable[[bytes], int]:
    """Return a function that finds IP at a fixed offset."""
    return lambda _: start


CARRIED = {b"\x08\x00", b"\x86\xdd"}
"""EtherTypes of IPv4 and IPv6."""
TAGS = {b"\x81\x00", b"\x88\xa8", b"\x91\x00"}
"""EtherTypes of VLAN tags."""
LABELS = {b"\x88\x47", b"\x88\x48"}
"""EtherTypes of MPLS."""
PPPOE = b"\x88\x64"
PPP_CARRIED = {b"\x00\x21", b"\x00\x57"}
"""PPP protocol numbers of IPv4 and IPv6."""
NULL, ETHERNET, RAW, LOOP, COOKED, IPV4_ONLY, IPV6_ONLY, COOKED_2 = 0, 1, 101, 108, 113, 228, 229, 276
OTHER_RAW = 12, 14
"""pcap's link types; some systems wrote other numbers for raw IP."""
LINKS: dict[int, Callable[[bytes], int]] = {
    ETHERNET: _typed(12, 14),
    COOKED: _typed(14, 16),
    COOKED_2: _typed(0, 20),
    NULL: _bare(4),
    LOOP: _bare(4),
    **dict.fromkeys((RAW, *OTHER_RAW, IPV4_ONLY, IPV6_ONLY), _bare(0)),
}
"""Functions that return the offset of IP (-1 if there is none), by link type."""
