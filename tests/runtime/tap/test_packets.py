"""TCP over all link types, and the counts of other packets."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloven.errors import ClovenError
from cloven.runtime.tap.captures import Packet, Tally
from cloven.runtime.tap.flows import survey
from cloven.runtime.tap.packets import LINKS, TcpSegment, segment, segments
from tests.runtime.tap.wire import ACK, PUSH, capture, ethernet, ip

FOUR = ip(b"content", 77, ACK | PUSH)
SIX = ip(b"content", 77, ACK | PUSH, hosts=("fe80::1", "fe80::2"))


def of(content: bytes, link: int = 1, size: int | None = None) -> tuple[TcpSegment | None, Tally]:
    tally = Tally()
    return segment(Packet(link, len(content) if size is None else size, content), tally), tally


def kind(packet: bytes) -> bytes:
    return b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"


def pppoe(packet: bytes) -> bytes:
    """Return a PPPoE session packet: type, version and code, session, length, PPP protocol."""
    protocol = b"\x00\x21" if packet[0] >> 4 == 4 else b"\x00\x57"
    return b"\x88\x64\x11\x00\x00\x07" + struct.pack(">H", len(packet) + 2) + protocol + packet


ON: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "Ethernet": (1, ethernet),
    "VLAN": (1, lambda p: bytes(12) + b"\x81\x00\x00\x07" + kind(p) + p),
    "VLAN in VLAN": (1, lambda p: bytes(12) + b"\x88\xa8\x00\x07\x81\x00\x00\x08" + kind(p) + p),
    "VLAN of VLANs, old": (1, lambda p: bytes(12) + b"\x91\x00\x00\x07\x81\x00\x00\x08" + kind(p) + p),
    "MPLS": (1, lambda p: bytes(12) + b"\x88\x47\x00\x01\x01\x40" + p),
    "MPLS, three labels": (
        1,
        lambda p: bytes(12) + b"\x88\x47" + b"\x00\x01\x00\x40" * 2 + b"\x00\x01\x01\x40" + p,
    ),
    "MPLS in VLAN": (1, lambda p: bytes(12) + b"\x81\x00\x00\x07\x88\x47\x00\x01\x01\x40" + p),
    "PPPoE": (1, lambda p: bytes(12) + pppoe(p)),
    "PPPoE in VLAN": (1, lambda p: bytes(12) + b"\x81\x00\x00\x07" + pppoe(p)),
    "cooked PPPoE": (113, lambda p: bytes(14) + pppoe(p)),
    "cooked": (113, lambda p: bytes(14) + kind(p) + p),
    "cooked 2": (276, lambda p: kind(p) + bytes(18) + p),
    "raw": (101, lambda p: p),
    "raw, old": (12, lambda p: p),
    "BSD loopback": (0, lambda p: b"\x02\0\0\0" + p),
    "OpenBSD loopback": (108, lambda p: b"\0\0\0\x18" + p),
}


@pytest.mark.parametrize("packet", [FOUR, SIX], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("name", ON)
def test_a_segment_is_found_on_every_link(name: str, packet: bytes) -> None:
    link, put = ON[name]

    found, tally = of(put(packet), link)

    assert found
    assert (found.sequence, found.flags, bytes(found.data)) == (77, ACK | PUSH, b"content")
    assert found.flow[-4:] == struct.pack(">HH", 40000, 7001)
    assert found.flow[:-4] == (packet[12:20] if packet is FOUR else packet[8:40])
    assert tally == Tally()


def test_padding_of_short_packets_is_not_content() -> None:
    found, _ = of(ethernet(FOUR) + bytes(30))

    assert found
    assert bytes(found.data) == b"content"


def test_joined_packets_without_a_length_are_taken_whole() -> None:
    found, tally = of(ethernet(FOUR[:2] + b"\0\0" + FOUR[4:] + bytes(70_000)))

    assert found
    assert len(found.data) == 70_007
    assert not tally.truncated


def test_options_of_ip_and_tcp_are_no_content() -> None:
    tcp = dpkt.tcp.TCP(sport=1, dport=2, seq=3, flags=ACK, opts=bytes(12), off=8, data=b"content")
    packet = dpkt.ip.IP(src=bytes(4), dst=bytes(4), p=6, opts=bytes(8), hl=7, data=tcp)
    packet.len = 28 + len(tcp)

    found, _ = of(bytes(packet), 101)

    assert found
    assert bytes(found.data) == b"content"


def test_headers_of_ipv6_before_tcp_are_gone_over() -> None:
    hops, authentication = b"\x33\x00" + bytes(6), b"\x2c\x01" + bytes(10)
    atomic = b"\x06\x00\x00\x00" + bytes(4)
    extra = hops + authentication + atomic
    packet = SIX[:4] + struct.pack(">H", len(SIX) - 40 + len(extra)) + b"\0" + SIX[7:40] + extra + SIX[40:]

    found, tally = of(packet, 101)

    assert found
    assert bytes(found.data) == b"content"
    assert tally == Tally()


def test_what_is_not_taken_is_counted() -> None:
    fragment = FOUR[:6] + b"\x20\x00" + FOUR[8:]
    rest = FOUR[:6] + b"\x00\x10" + FOUR[8:]
    fragment6 = SIX[:6] + b"\x2c" + SIX[7:40] + b"\x06\x00\x00\x01" + bytes(4) + SIX[40:]
    udp = FOUR[:9] + b"\x11" + FOUR[10:]

    assert of(ethernet(fragment)) == of(ethernet(rest)) == (None, Tally(fragments=1))
    assert of(fragment6, 101) == (None, Tally(fragments=1))
    assert of(ethernet(udp)) == (None, Tally(other=1))
    assert of(bytes(12) + b"\x08\x06" + bytes(28)) == (None, Tally(other=1))
    assert of(b"\x13" + FOUR, 101) == (None, Tally(other=1))
    assert of(b"", 101) == (None, Tally(other=1))
    assert of(b"anything", 999)[1].unknown == {999: 1}


def protocol(number: int, content: bytes) -> bytes:
    """Return an IPv4 packet of another protocol."""
    return bytes(dpkt.ip.IP(src=bytes(4), dst=bytes(4), p=number, data=content, len=20 + len(content)))


def udp(port: int, content: bytes) -> bytes:
    return struct.pack(">HHHH", 5, port, 8 + len(content), 0) + content


INSIDE = {
    "VXLAN": protocol(17, udp(4789, b"\x08" + bytes(7) + ethernet(FOUR))),
    "Geneve": protocol(17, udp(6081, bytes(8) + ethernet(FOUR))),
    "GRE": protocol(47, b"\x00\x00\x08\x00" + FOUR),
    "IP in IP": protocol(4, FOUR),
    "IPv6 in IP": protocol(41, SIX),
    "ESP": protocol(50, bytes(40)),
}


@pytest.mark.parametrize("name", INSIDE)
def test_packets_within_packets_are_counted_by_kind(name: str) -> None:
    packet = INSIDE[name]
    six = SIX[:4] + struct.pack(">H", len(packet) - 20) + packet[9:10] + SIX[7:40] + packet[20:]

    assert of(ethernet(packet)) == of(six, 101) == (None, Tally(tunnels=Counter({name: 1})))
    assert of(bytes(12) + pppoe(packet)) == (None, Tally(tunnels=Counter({name: 1})))


def test_skipped_packets_are_reported_by_kind(here: Path) -> None:
    path = capture(here / "a.pcap", [ethernet(p) for p in (FOUR, INSIDE["VXLAN"], INSIDE["GRE"], INSIDE["VXLAN"])])

    found = survey(path)

    assert found.warnings == ["3 tunnelled packets were skipped (GRE 1, VXLAN 2): record inside the tunnel"]
    assert found.report().tunnels == {"VXLAN": 2, "GRE": 1}
    assert len(found.flows) == 1


def test_other_packets_of_pppoe_and_mpls_are_no_tcp() -> None:
    lcp = b"\x88\x64\x11\x00\x00\x07\x00\x04\xc0\x21\x00\x00"
    pseudowire = b"\x88\x47\x00\x01\x01\x40" + bytes(4) + ethernet(FOUR)
    endless = b"\x88\x47" + b"\x00\x01\x00\x40" * 300

    for packet in (lcp, pseudowire, endless):
        assert of(bytes(12) + packet) == (None, Tally(other=1))


def test_of_a_packet_recorded_in_part_the_part_is_taken() -> None:
    whole = ethernet(FOUR)

    found, tally = of(whole[:-3], size=len(whole))

    assert found
    assert bytes(found.data) == b"cont"
    assert tally.truncated == 1
    assert "2 packets were recorded in part" in Tally(truncated=2).warnings()[0]
    assert of(whole[:40], size=len(whole)) == (None, Tally(truncated=1))


@given(st.sampled_from(sorted(LINKS)), st.binary(max_size=120))
def test_no_bytes_crash_it(link: int, content: bytes) -> None:
    of(content, link)
    of(b"\x45" + content, link)
    of(b"\x60" + bytes(3) + content, link)
    of(bytes(12) + b"\x86\xdd\x60" + content)


def test_a_file_of_unknown_links_only_is_refused(here: Path) -> None:
    path = capture(here / "usb.pcap", [b"what"], link=189)

    with pytest.raises(ClovenError, match=r"all packets have link types \[189\]; expected 1, 113, 276"):
        list(segments(path, Tally()))


def test_only_wanted_flows_are_given(here: Path) -> None:
    path = capture(here / "a.pcap", [ethernet(FOUR), ethernet(SIX)])
    six = segment(Packet(101, len(SIX), SIX), Tally())

    assert six
    assert [found.flow for found in segments(path, Tally(), {six.flow})] == [six.flow]
